"""DurableAgentServer: any JSON in and out, in a record of the run; events of the agent's own in between. Pure.

Of what agents make of it, this reads the two official templates' form (the OpenAI Agents SDK's and LangGraph's), and
answers of the other interfaces. https://docs.databricks.com/aws/en/agents/deploy/agent-server
"""

from __future__ import annotations

import json
import re
from typing import Any

from mlflow_agent_target.errors import InterfaceMismatchError
from mlflow_agent_target.formats.growing_text import GrowingText
from mlflow_agent_target.formats.interface import Answer, Event, Interface
from mlflow_agent_target.formats.pieces import content_text, dicts, function_calls, rest, role, sum_usage

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RECORD = frozenset({"id", "status", "output", "error", "session_id"})
_HAS_STARTED = "run.started"


class DurableAgentServer(Interface):
    """Any JSON in and out, in a record of the run; events of the agent's own in between.

    Args:
        extras: What is known of the answer as a whole.
        is_rest: Whether the events are only the last ones of a run.
    """

    name = "DurableAgentServer"
    tasks = ()
    request_key = "messages"
    response_key = "output"
    tells_failures = False

    def __init__(self, extras: Answer | None = None, is_rest: bool = False) -> None:
        super().__init__(extras)
        # What the agent has said whole: messages, and interrupts.
        self._items: list[dict[str, Any]] = []
        # Messages of which only pieces have come, by their ids.
        self._begun: dict[Any, GrowingText] = {}
        self._has_started = self._is_rest = is_rest

    @classmethod
    def mismatch(cls, what: str) -> InterfaceMismatchError:
        return InterfaceMismatchError(
            f"{what} has no counterpart in what the endpoint takes: it serves a {cls.name}, whose agent reads an input "
            "of its own. Leave it out, or put what the agent knows into 'custom_inputs', whose keys go into its input."
        )

    @classmethod
    def holds(cls, answer: Answer) -> bool:
        given = answer.get("id")
        return (
            "output" in answer
            and isinstance(answer.get("status"), str)
            and isinstance(given, str)
            and _UUID.fullmatch(given) is not None
            and answer.keys() <= _RECORD
        )

    @staticmethod
    def text(answer: Answer) -> str:
        output = answer.get("output")
        return output if isinstance(output, str) else "".join(map(_assistant_text, _items(output)))

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        items = _items(answer.get("output"))
        calls = [[item] if item.get("type") == "function_call" else function_calls(item) for item in items]
        return [call for several in calls for call in several]

    @staticmethod
    def usage(answer: Answer) -> Any:
        output = answer.get("output")
        if isinstance(output, dict) and isinstance(output.get("usage"), dict):
            return output["usage"]
        total: Any = None
        for item in _items(output):
            if isinstance(used := item.get("usage_metadata") or item.get("usage"), dict):
                total = sum_usage(total, used)
        return total

    @staticmethod
    def approvals(answer: Answer) -> list[dict[str, Any]]:
        items = _items(answer.get("output"))
        # An interrupt ends a turn. One that is followed by more has been answered.
        last = items[-1] if items and items[-1].get("type") == "interrupt" else {}
        value = last.get("value")
        requests = dicts(value.get("action_requests")) if isinstance(value, dict) else []
        return [
            {"type": "interrupt", "id": last.get("id"), **request, "arguments": _as_text(request.get("args"))}
            for request in requests
        ] or ([last] if last else [])

    @staticmethod
    def speaks(event: Event) -> bool:  # noqa: ARG004
        return False  # its events may look like any other's: whoever reads them knows whose they are

    @staticmethod
    def ends(event: Event) -> bool | None:  # noqa: ARG004
        return None  # the server's record of the run says so

    def starts_again(self, event: Event) -> bool:
        return self._has_started and event.get("type") == _HAS_STARTED

    def add_text(self, event: Event) -> str | None:
        text = event.get("content")
        if event.get("type") != "delta" or type(text) is not str:
            return None
        self._begun_message(event).write(text)
        return text

    def add(self, event: Event) -> str:
        kind = event.get("type")
        if kind == _HAS_STARTED:
            self._has_started = True
        elif kind == "delta":
            text = content_text(event.get("content"))
            self._begun_message(event).write(text)
            return text
        elif kind == "message" and isinstance(message := event.get("message"), dict):
            return self._end_message(message)
        elif kind == "interrupt":
            self._items.append(event)
        return ""

    def answer(self) -> Answer:
        begun = [{"role": "assistant", "content": text.whole()} for text in list(self._begun.values())]
        return {**self._extras, "output": {"output": [*self._items, *begun]}}

    def _begun_message(self, event: Event) -> GrowingText:
        given = event.get("id")
        return self._begun.setdefault(given if isinstance(given, str) else None, GrowingText())

    def _end_message(self, message: dict[str, Any]) -> str:
        """Take in a message that has come whole, and return the text that its pieces have not said."""
        self._items.append(message)
        if not (text := _assistant_text(message)):
            return ""
        given = message.get("id") if isinstance(message.get("id"), str) else None
        if given not in self._begun:  # the OpenAI template gives ids to pieces only
            given = next((key for key, begun in self._begun.items() if self._says(text, begun.whole())), None)
        begun = self._begun.pop(given, None)
        if begun is None:
            return text
        return "" if self._is_rest and text.endswith(begun.whole()) else rest(text, begun.whole())

    def _says(self, text: str, said: str) -> bool:
        """Return whether a whole text is the one that its pieces have said."""
        return text.startswith(said) or (self._is_rest and text.endswith(said))


def _items(output: Any) -> list[dict[str, Any]]:
    """Return the messages of an agent's output, and what else stands among them."""
    if not isinstance(output, dict):
        return dicts(output)
    for key in ("output", "messages"):
        if isinstance(output.get(key), list):
            return dicts(output[key])
    choices = [choice.get("message") for choice in dicts(output.get("choices"))[:1]]
    return dicts(choices)


def _assistant_text(item: dict[str, Any]) -> str:
    return content_text(item.get("content")) if role(item) == "assistant" else ""


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
