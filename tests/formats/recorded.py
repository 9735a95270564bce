"""Streamed answers without a network, and what they are made of."""

from __future__ import annotations

import json
from typing import Any


class Recorded:
    """A recorded body, in place of one from the network."""

    content_type = "text/event-stream"
    ends_by_itself = True
    request_id = None
    attempts = 1

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = [chunk for chunk in chunks if chunk]

    def redact(self, said: Any) -> Any:
        return said

    def read(self, timeout: float) -> bytes:
        return self.chunks.pop(0) if self.chunks else b""

    def finish(self) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


def frames(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def message(item_id: str, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": item_id, "role": "assistant", "content": content}


def delta(text: str, item_id: str = "m") -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": item_id, "delta": text}


def choice(**said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, **said}]}


def done(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": item}


CALL = {"type": "function_call", "id": "__fake_id__", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}


CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
