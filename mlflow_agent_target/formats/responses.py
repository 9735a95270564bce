"""ResponsesAgent: `input` items in, `output` items out, typed events in between. Pure."""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.formats.drafts import PIECES, assistant_text, is_item
from mlflow_agent_target.formats.failures import ERROR_KEYS, why_not
from mlflow_agent_target.formats.growing_text import LONG_PIECE, PIECES_APART
from mlflow_agent_target.formats.interface import Answer, Event, Interface
from mlflow_agent_target.formats.output import Output
from mlflow_agent_target.formats.pieces import as_list, dicts, function_calls, keep, sum_usage
from mlflow_agent_target.formats.repeats import Repeats

# Events that end an inner response.
_COMPLETES = ("response.completed", "responses.completed", "response.incomplete")
_CLOSES = (*_COMPLETES, "response.failed")
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
        self._output = Output()
        self._repeats = Repeats()
        # The usage that other events than the end of an inner response told.
        self._usage: Any = None

    @staticmethod
    def text(answer: Answer) -> str:
        return "".join(assistant_text(item) for item in as_list(answer.get("output")))

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        items = dicts(answer.get("output"))
        calls = [[item] if item.get("type") == "function_call" else function_calls(item) for item in items]
        return [call for several in calls for call in several]

    @staticmethod
    def approvals(answer: Answer) -> list[dict[str, Any]]:
        items = dicts(answer.get("output"))
        answered = {item.get("approval_request_id") for item in items if item.get("type") == "mcp_approval_response"}
        return [i for i in items if i.get("type") == "mcp_approval_request" and i.get("id") not in answered]

    @staticmethod
    def speaks(event: Event) -> bool:
        kind = event.get("type")
        return isinstance(kind, str) and (kind.startswith("response") or is_item(event))

    @staticmethod
    def ends(event: Event) -> bool | None:
        return event["type"] in _COMPLETES if ResponsesAgent.speaks(event) else None

    def add_text(self, event: Event) -> str | None:
        text = event.get("delta")
        if event.get("type") != "response.output_text.delta" or type(text) is not str:
            return None
        if not _ON_ANY_EVENT.isdisjoint(event):
            return None
        if "sequence_number" in event:
            number = event["sequence_number"]
            repeats = self._repeats
            if type(number) is int and number > repeats.highest:
                repeats.highest = number
                repeats.recent.append(event)
            elif repeats.has(event):
                return ""
        output = self._output
        part = (event.get("item_id"), event.get("output_index"), event.get("content_index"))
        if part != output.open_part:
            output.open(event, part)
        # As `GrowingText.write` does, without its call.
        buffer = output.open_text
        pieces = buffer.pieces
        pieces.append(text)
        if len(pieces) >= PIECES_APART or len(text) >= LONG_PIECE:
            buffer.join()
        if "id" in event:
            keep(self._extras, event, ["id"])
        return text

    def starts_again(self, event: Event) -> bool:
        # LongRunningAgentServer, when another worker takes over a run.
        return event.get("type") == "response.resumed"

    def add(self, event: Event) -> str:
        kind = event.get("type")
        text = ""
        if self._repeats.has(event):
            return ""
        if not isinstance(kind, str):
            keep(self._extras, event, [key for key in event if key != "usage"])
        elif kind.startswith("response"):
            text = self._add_typed(kind, event)
        elif is_item(event):
            # Some agents send an item as it is, without the event around it.
            return self._output.end(event)
        keep(self._extras, event, ["id", "custom_outputs", "databricks_output", "trace_id"])
        self._usage = event.get("usage") or self._usage
        return text

    def _add_typed(self, kind: str, event: Event) -> str:
        name, _, step = kind.rpartition(".")
        if name in PIECES and step in ("delta", "done"):
            return self._output.add_piece(name, step, event)
        if kind == "response.created":
            self._repeats.begin(event)
            self._output.begin_response()
        elif kind == "response.output_item.added" and isinstance(item := event.get("item"), dict):
            self._output.begin(item, event.get("output_index"))
        elif kind == "response.output_item.done" and isinstance(item := event.get("item"), dict):
            return self._output.end(item, event.get("output_index"))
        elif kind in _CLOSES and isinstance(response := event.get("response"), dict):
            self._repeats.begin(event)
            return self._close(kind, response)
        return ""

    def _close(self, kind: str, response: dict[str, Any]) -> str:
        # The last inner response says whether the answer is complete.
        for key in ("status", "incomplete_details"):
            self._extras.pop(key, None)
        if kind == "response.incomplete":
            self._extras["status"] = "incomplete"
        keep(self._extras, response, [key for key in response if key not in ("output", "usage")])
        if isinstance(usage := response.get("usage"), dict):
            self._extras["usage"] = sum_usage(self._extras.get("usage"), usage)
        return self._output.end_response(response.get("output"))

    def no_answer(self) -> str:
        return why_not(self._extras.get("status"))

    def answer(self) -> Answer:
        usage = {} if self._usage is None else {"usage": self._usage}
        return {"object": "response", "output": self._output.items(), **usage, **self._extras}
