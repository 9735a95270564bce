"""ChatAgent: `messages` in, `messages` out, a `delta` in each event. Pure."""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.formats.interface import Answer, Event, Interface
from mlflow_agent_target.formats.pieces import (
    content_text,
    dicts,
    finished,
    function_calls,
    is_reason,
    keep,
    merge_delta,
    role,
)


class ChatAgent(Interface):
    """`messages` in, `messages` out, a `delta` in each event."""

    name = "ChatAgent"
    tasks = ("agent/v2/chat",)
    request_key = "messages"
    response_key = "messages"
    only_text = True
    names_tool_results = True

    def __init__(self, extras: Answer | None = None) -> None:
        super().__init__(extras)
        self._messages: list[dict[str, Any]] = []
        self._current: dict[str, dict[str, Any]] = {}
        self._last_id = ""

    @staticmethod
    def text(answer: Answer) -> str:
        messages = dicts(answer.get("messages"))
        return "".join(content_text(m.get("content")) for m in messages if role(m, "assistant") == "assistant")

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        return [call for message in dicts(answer.get("messages")) for call in function_calls(message)]

    @staticmethod
    def speaks(event: Event) -> bool:
        return isinstance(event.get("delta"), dict) and "choices" not in event

    @staticmethod
    def ends(event: Event) -> bool | None:
        if is_reason(event.get("finish_reason")):
            return True
        return False if isinstance(event.get("delta"), dict) else None

    def add(self, event: Event) -> str:
        keep(self._extras, event, [key for key in event if key != "delta"])
        if not isinstance(delta := event.get("delta"), dict):
            return ""
        # A chunk without an id continues the message before it. One id may be a placeholder that several messages
        # share: another role or another tool call is another message.
        self._last_id = str(delta.get("id") or self._last_id)
        message = self._current.get(self._last_id)
        if message is None or any(
            message.get(key) and delta.get(key) and message[key] != delta[key] for key in ("role", "tool_call_id")
        ):
            message = self._current[self._last_id] = {}
            self._messages.append(message)
        merge_delta(message, delta)
        return content_text(delta.get("content")) if role(message, "assistant") == "assistant" else ""

    def answer(self) -> Answer:
        return {"messages": finished(self._messages), **self._extras}
