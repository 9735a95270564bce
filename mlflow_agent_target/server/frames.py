"""What the platform adds to an agent's stream: the run's trace, and the agent's failure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlflow_agent_target.formats.chat_agent import ChatAgent
from mlflow_agent_target.formats.chat_completions import ChatCompletions
from mlflow_agent_target.formats.interface import Interface

Event = dict[str, Any]


class Frames:
    """The events of a stream, of which the last waits for the trace that is known only when the agent has ended.

    Args:
        interface: The agent's.
        request_id: The platform's id of the request.
        holds: Whether there will be a trace to wait for.
    """

    def __init__(self, interface: type[Interface], request_id: str, holds: bool) -> None:
        self._interface = interface
        self._request_id = request_id
        self._holds = holds
        self._held: list[Event] = []
        self._latest: Event = {}

    def add(self, event: Event) -> Iterator[Event]:
        """Add an event of the agent's, and yield those that can be sent now."""
        self._latest = event
        ends = bool(self._interface.ends(event))
        if not (ends and len(self._held) == 1 and "item" in self._held[0]):
            yield from self._release()
        if self._held or (self._holds and (ends or _may_be_the_last_item(event))):
            self._held.append(event)
        else:
            yield event

    def end(self, output: Event) -> Iterator[Event]:
        """Yield what is left when the agent has ended.

        Args:
            output: The `databricks_output` of the answer, with the trace or an error.
        """
        failure = output.get("error")
        if self._held and failure is None:
            # Databricks' clients look for a ResponsesAgent's trace beside its last item.
            self._held[0] = {**self._held[0], "databricks_output": output}
            yield from self._release()
        else:
            yield from self._release()
            if self._holds or failure is not None:
                yield {**self._empty(failure), "databricks_output": output}

    def _release(self) -> Iterator[Event]:
        yield from self._held
        self._held = []

    def _empty(self, failure: Event | None) -> Event:
        """Return an event that says nothing, in the interface's shape: readers look for its keys in all events."""
        if self._interface is ChatAgent:
            latest = (self._latest.get("delta") or {}).get("id") or self._request_id
            return {"id": self._request_id, "delta": {"role": "assistant", "content": "", "id": latest}}
        if self._interface is ChatCompletions:
            same: Event = {key: self._latest[key] for key in ("id", "created", "model") if key in self._latest}
            choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            return {"id": self._request_id, "object": "chat.completion.chunk", **same, "choices": [choice]}
        if failure is not None:
            return {"type": "error", "code": failure["error_code"], "message": failure["message"]}
        return {"type": "response.databricks_output"}


def _may_be_the_last_item(event: Event) -> bool:
    """Return whether an event completes an item that may be the answer's last.

    A call of a tool seldom is, and its result may take long: it is shown at once.
    """
    item = event.get("item")
    if event.get("type") != "response.output_item.done" or not isinstance(item, dict):
        return False
    return item.get("type") != "function_call"
