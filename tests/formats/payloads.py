"""What callers give, and what is sent for it."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target import InterfaceMismatchError
from mlflow_agent_target.formats.conversion import encode
from mlflow_agent_target.formats.inputs import read_inputs
from mlflow_agent_target.formats.interface import Interface
from tests.conftest import user

HI = [user("hi")]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL_TURN = [*HI, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "4"}]
ITEMS = [*HI, {"type": "function_call_output", "call_id": "c", "output": "4"}]
ADD = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
MUL = {"id": "c2", "type": "function", "function": {"name": "mul", "arguments": "{}"}}
ADD_ITEM = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
MUL_ITEM = {"type": "function_call", "call_id": "c2", "name": "mul", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "1"}
IMAGE = {"url": "https://x/y.png", "detail": "low"}
IMAGE_PART = {"type": "input_image", "image_url": IMAGE["url"], "detail": "low"}

SCHEMA = {"name": "n", "schema": {"type": "object", "properties": {}}, "strict": True}
FORMATS = [
    ({"type": "text"}, {"type": "text"}),
    ({"type": "json_object"}, {"type": "json_object"}),
    ({"type": "json_schema", "json_schema": SCHEMA}, {"type": "json_schema", **SCHEMA}),
]


def sent(inputs: Any, interface: type[Interface] | None = None) -> dict[str, Any]:
    return encode(read_inputs(inputs), interface)


def refuses(inputs: dict[str, Any], interface: type[Interface], names: str) -> None:
    """Check that what has no counterpart is an error that names it."""
    with pytest.raises(InterfaceMismatchError) as caught:
        sent(inputs, interface)
    assert names in str(caught.value)
    assert interface.name in str(caught.value)
    assert caught.value.may_have_run is False


def cycle() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    return loop


def deep() -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    return value
