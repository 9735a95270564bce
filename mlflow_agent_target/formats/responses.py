"""ResponsesAgent: `input` items in, `output` items out, typed events in between. Pure."""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.formats.drafts import (
    PIECES,
    Drafts,
    assistant_text,
    is_item,
    same_content,
    same_id,
    same_kind,
)
from mlflow_agent_target.formats.failures import ERROR_KEYS
from mlflow_agent_target.formats.interface import Answer, Event, Interface
from mlflow_agent_target.formats.pieces import as_list, dicts, keep, rest, sum_usage

# Events that end an inner response.
_CLOSES = ("response.completed", "responses.completed", "response.incomplete", "response.failed")
# Keys that may come on any event, so beside a piece of text too.
_ON_ANY_EVENT = ERROR_KEYS | {"usage", "custom_outputs", "trace_id"}


class ResponsesAgent(Interface):
    """`input` items in, `output` items out, typed events in between."""

    name = "ResponsesAgent"
    tasks = ("agent/v1/responses", "agent/v2/responses")
    request_key = "input"
    response_key = "output"

    def __init__(self, extras: Answer | None = None) -> None:
        super().__init__(extras)
        self._items: list[Any] = []
        # Items of which only pieces have come so far. An item that is done comes again, with its whole text.
        self._drafts = Drafts()
        # An agent may pass on what several models answer, each as a response within its own. Of these inner responses:
        # the items of the one that is open, and why the last one is incomplete, if it is.
        self._done: list[dict[str, Any]] = []
        self._cut_short = ""
        # The usage that other events than the end of an inner response told.
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
            # Some agents send an item as it is, without the event around it.
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
        """Add an inner response, which its end repeats: its usage, and those items that have not come before.

        Items that have come are recognised by what they say, then by their ids, then by their types alone.
        """
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
