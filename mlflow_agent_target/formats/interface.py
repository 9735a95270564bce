"""The agent interfaces: one class each, with its tasks, its keys, how its answers read and how its streams add up.

Pure. The formats are MLflow's (`mlflow.types.responses`, `mlflow.types.agent`, `mlflow.types.llm`), as Model Serving
sends them: https://docs.databricks.com/aws/en/generative-ai/agent-framework/query-agent. Servers leave out, repeat and
add more than the formats say, so everything here takes what is there and asks for nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from mlflow_agent_target.formats.drafts import (
    PIECES,
    Drafts,
    assistant_text,
    is_item,
    rest,
    same_content,
    same_id,
    same_kind,
)
from mlflow_agent_target.formats.failures import ERROR_KEYS
from mlflow_agent_target.formats.pieces import as_list, content_text, dicts, finished, keep, merge_delta, sum_usage

_CLOSES = ("response.completed", "responses.completed", "response.incomplete", "response.failed")
# What may come on any event, and so beside a text.
_ON_ANY_EVENT = ERROR_KEYS | {"usage", "custom_outputs", "trace_id"}

Answer = dict[str, Any]
Event = dict[str, Any]
RequestKey = Literal["input", "messages"]


class Interface(ABC):
    """An agent interface. An instance adds up the events of one streamed answer."""

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    request_key: ClassVar[RequestKey]
    response_key: ClassVar[str]

    def __init__(self, extras: Answer | None = None) -> None:
        # What belongs to the answer as a whole: usage, the trace, custom outputs.
        self._extras: Answer = {} if extras is None else extras

    @staticmethod
    @abstractmethod
    def text(answer: Answer) -> str:
        """Return all text that the assistant says in a whole answer."""

    @staticmethod
    @abstractmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        """Return the tool calls of a whole answer, as `function_call` items whatever the interface."""

    @staticmethod
    @abstractmethod
    def speaks(event: Event) -> bool:
        """Return whether a stream event is of this interface."""

    @staticmethod
    @abstractmethod
    def ends(event: Event) -> bool | None:
        """Return whether the answer is complete with this event; None where the event says nothing of the answer."""

    def add_text(self, event: Event) -> str | None:  # noqa: ARG002
        """Take in an event that brings a piece of text and can bring nothing else, no error either; return the text.

        None for all other events, which are for `add`. Most events of a stream are such: this is the short way.
        """
        return None

    @abstractmethod
    def add(self, event: Event) -> str:
        """Take in one event and return the text that it adds to what was said before."""

    def cut_short(self) -> str:
        """Return why the answer is not whole though it has ended, where an event said so."""
        return ""

    @abstractmethod
    def answer(self) -> Answer:
        """Return what has arrived so far, in the shape of a whole answer."""


class ResponsesAgent(Interface):
    """`input` items in, `output` items out, typed events in between."""

    name = "ResponsesAgent"
    tasks = ("agent/v1/responses", "agent/v2/responses")
    request_key = "input"
    response_key = "output"

    def __init__(self, extras: Answer | None = None) -> None:
        super().__init__(extras)
        self._items: list[Any] = []
        # Items of which only pieces have come. A done item brings its text again, whole.
        self._drafts = Drafts()
        # Agents pass several inner responses through: the items of the open one, and why the last was cut short.
        self._done: list[dict[str, Any]] = []
        self._cut_short = ""
        # Usage told on other events than the end of an inner response.
        self._usage: Any = None

    @staticmethod
    def text(answer: Answer) -> str:
        return "".join(assistant_text(item) for item in as_list(answer.get("output")))

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        return [item for item in dicts(answer.get("output")) if item.get("type") == "function_call"]

    @staticmethod
    def speaks(event: Event) -> bool:
        kind = event.get("type")
        return isinstance(kind, str) and (kind.startswith("response") or is_item(event))

    @staticmethod
    def ends(event: Event) -> bool | None:
        return event["type"] in ("response.completed", "responses.completed") if ResponsesAgent.speaks(event) else None

    def add_text(self, event: Event) -> str | None:
        if event.get("type") != "response.output_text.delta" or not _ON_ANY_EVENT.isdisjoint(event):
            return None
        text = event.get("delta")
        if not isinstance(text, str):
            return None
        self._drafts.write(event, text)
        if "id" in event:
            keep(self._extras, event, ["id"])
        return text

    def add(self, event: Event) -> str:
        kind = event.get("type")
        text = ""
        if not isinstance(kind, str):
            keep(self._extras, event, [key for key in event if key != "usage"])
        elif kind.startswith("response"):
            text = self._add_typed(kind, event)
        elif is_item(event):
            # Some agents send an item bare, without the event around it.
            return self._add_item(event)
        keep(self._extras, event, ["id", "custom_outputs", "databricks_output", "trace_id"])
        self._usage = event.get("usage") or self._usage
        return text

    def _add_typed(self, kind: str, event: Event) -> str:
        name, _, step = kind.rpartition(".")
        if name in PIECES and step in ("delta", "done"):
            return self._drafts.add_piece(name, step, event)
        if kind == "response.created":
            self._items += self._drafts.take_all()
            self._done = []
        elif kind == "response.output_item.added" and isinstance(item := event.get("item"), dict):
            if item.get("type") == "function_call":
                self._drafts.start(item)
        elif kind == "response.output_item.done" and isinstance(item := event.get("item"), dict):
            return self._add_item(item)
        elif kind in _CLOSES and isinstance(response := event.get("response"), dict):
            details = response.get("incomplete_details")
            reason = details.get("reason") if isinstance(details, dict) else None
            self._cut_short = str(reason or "the model gave no reason") if kind == "response.incomplete" else ""
            return self._close(response)
        return ""

    def _add_item(self, item: dict[str, Any]) -> str:
        self._items.append(item)
        self._done.append(item)
        return rest(assistant_text(item), self._drafts.take(item))

    def _close(self, response: dict[str, Any]) -> str:
        """Take in an inner response as its end tells it again: what no done item has brought, and what it cost."""
        keep(self._extras, response, [key for key in response if key not in ("output", "usage")])
        if isinstance(usage := response.get("usage"), dict):
            self._extras["usage"] = sum_usage(self._extras.get("usage"), usage)
        output = dicts(response.get("output"))
        for same in (same_content, same_id, same_kind):
            for item in list(output):
                if twin := next((known for known in self._done if same(known, item)), None):
                    self._done.remove(twin)
                    output.remove(item)
        text = "".join([self._add_item(item) for item in output])
        self._done = []
        return text

    def cut_short(self) -> str:
        return self._cut_short

    def answer(self) -> Answer:
        usage = {} if self._usage is None else {"usage": self._usage}
        return {"object": "response", "output": [*self._items, *self._drafts.items()], **usage, **self._extras}


class ChatAgent(Interface):
    """`messages` in, `messages` out, a `delta` in each event."""

    name = "ChatAgent"
    tasks = ("agent/v2/chat",)
    request_key = "messages"
    response_key = "messages"

    def __init__(self, extras: Answer | None = None) -> None:
        super().__init__(extras)
        self._messages: list[dict[str, Any]] = []
        self._current: dict[str, dict[str, Any]] = {}
        self._last_id = ""

    @staticmethod
    def text(answer: Answer) -> str:
        messages = dicts(answer.get("messages"))
        return "".join(content_text(m.get("content")) for m in messages if m.get("role", "assistant") == "assistant")

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        return [_function_call(c) for m in dicts(answer.get("messages")) for c in dicts(m.get("tool_calls"))]

    @staticmethod
    def speaks(event: Event) -> bool:
        return isinstance(event.get("delta"), dict) and "choices" not in event

    @staticmethod
    def ends(event: Event) -> bool | None:
        if isinstance(event.get("finish_reason"), str):
            return True
        return False if isinstance(event.get("delta"), dict) else None

    def add(self, event: Event) -> str:
        keep(self._extras, event, [key for key in event if key != "delta"])
        if not isinstance(delta := event.get("delta"), dict):
            return ""
        # A chunk without an id goes on with the message before it; an id may be a placeholder that messages share.
        self._last_id = str(delta.get("id") or self._last_id)
        message = self._current.get(self._last_id)
        if message is None or any(
            message.get(key) and delta.get(key) and message[key] != delta[key] for key in ("role", "tool_call_id")
        ):
            message = self._current[self._last_id] = {}
            self._messages.append(message)
        merge_delta(message, delta)
        return content_text(delta.get("content")) if message.get("role", "assistant") == "assistant" else ""

    def answer(self) -> Answer:
        return {"messages": finished(self._messages), **self._extras}


class ChatCompletions(Interface):
    """MLflow's ChatModel, and chat models as such: `messages` in, `choices` out."""

    name = "ChatModel"
    tasks = ("agent/v1/chat", "llm/v1/chat")
    request_key = "messages"
    response_key = "choices"

    def __init__(self, extras: Answer | None = None) -> None:
        super().__init__(extras)
        self._choices: dict[int, dict[str, Any]] = {}

    @staticmethod
    def text(answer: Answer) -> str:
        messages = [choice.get("message") for choice in dicts(answer.get("choices"))[:1]]
        return "".join(content_text(message.get("content")) for message in dicts(messages))

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        messages = dicts([choice.get("message") for choice in dicts(answer.get("choices"))[:1]])
        return [_function_call(call) for message in messages for call in dicts(message.get("tool_calls"))]

    @staticmethod
    def speaks(event: Event) -> bool:
        return isinstance(event.get("choices"), list)

    @staticmethod
    def ends(event: Event) -> bool | None:
        # A chunk without choices tells the usage, after the end as well.
        choices = dicts(event.get("choices"))
        return all(isinstance(choice.get("finish_reason"), str) for choice in choices) if choices else None

    def add(self, event: Event) -> str:
        keep(self._extras, event, [key for key in event if key not in ("choices", "object")])
        text = ""
        for choice in dicts(event.get("choices")):
            index = choice["index"] if isinstance(choice.get("index"), int) else 0
            known = self._choices.setdefault(
                index, {"index": index, "message": {"role": "assistant"}, "finish_reason": None}
            )
            added = ""
            if isinstance(delta := choice.get("delta"), dict):
                merge_delta(known["message"], delta)
                added = content_text(delta.get("content"))
            if isinstance(message := choice.get("message"), dict):
                # Whole, from a server that does not stream; with what was said before, if it does after all.
                said = content_text(finished(known["message"]).get("content"))
                known["message"] = {"role": "assistant"}
                merge_delta(known["message"], message)
                added += rest(content_text(message.get("content")), said)
            if index == min(self._choices):
                text += added
            for key, value in choice.items():
                if key == "logprobs" and isinstance(value, dict) and isinstance(known.setdefault(key, {}), dict):
                    merge_delta(known[key], value)
                elif key not in ("index", "delta", "message") and value is not None:
                    known[key] = value
        return text

    def answer(self) -> Answer:
        choices = [choice for _, choice in sorted(self._choices.items())]
        return {"object": "chat.completion", "choices": finished(choices), **self._extras}


INTERFACES: tuple[type[Interface], ...] = (ResponsesAgent, ChatAgent, ChatCompletions)


def interface_for_task(task: Any) -> type[Interface] | None:
    """Return the interface that an endpoint's `task` names, or None when it names none."""
    return next((interface for interface in INTERFACES if task in interface.tasks), None)


def interface_of_answer(answer: Answer) -> type[Interface] | None:
    """Return the interface that a whole answer is written in, or None when it is in none."""
    return next((interface for interface in INTERFACES if isinstance(answer.get(interface.response_key), list)), None)


def interface_of_event(event: Event) -> type[Interface] | None:
    """Return the interface that a stream event is written in, or None when it could be any."""
    return next((interface for interface in INTERFACES if interface.speaks(event)), None)


def interfaces_for_key(key: str) -> tuple[type[Interface], ...]:
    """Return the interfaces whose requests have `key`, the one that can say the least first."""
    return tuple(interface for interface in INTERFACES if interface.request_key == key)


def _function_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    return {
        "type": "function_call",
        "call_id": call.get("id"),
        "name": function.get("name"),
        "arguments": function.get("arguments"),
    }
