"""From what a caller gives to what an endpoint takes: a payload's schema, and its counterpart in the other. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_agent_target.errors import InterfaceMismatchError, InvalidInputError
from mlflow_agent_target.interfaces import Interface, RequestKey
from mlflow_agent_target.payload import ChatRequest, ResponsesRequest, check

_ACCEPTED = (
    "Accepted are {'input': [...]} (ResponsesAgent), {'messages': [...]} (ChatAgent, ChatModel), a string (one user "
    "message), a list of messages or items, or MLflow's ResponsesAgentRequest, ChatAgentRequest, ChatCompletionRequest"
)
# The same setting under each schema's own name.
_COUNTERPARTS = {"max_tokens": "max_output_tokens"}
_MESSAGE_TYPES = (None, "message")


@dataclass(frozen=True)
class Request:
    """A caller's payload, checked: `key` says which of the two schemas it is in."""

    key: RequestKey
    payload: dict[str, Any]


def read_inputs(inputs: Any) -> Request:
    """Check what a caller gave and return it as a request in the schema it is written in. Not modified.

    Args:
        inputs: A dict of either schema, a string, a list of messages or items, or one of MLflow's request objects.

    Raises:
        InvalidInputError: It is none of these, or can't be sent; the error says where and why.
    """
    inputs = _as_plain(inputs)
    if isinstance(inputs, str):
        return Request("input", {"input": [{"role": "user", "content": inputs}]})
    if isinstance(inputs, list):
        items = [_as_plain(item) for item in inputs]
        if not items:
            raise InvalidInputError(f"The list of messages is empty. {_ACCEPTED}.")
        is_chat = any(
            isinstance(item, dict) and (item.get("role") == "tool" or item.get("tool_calls")) for item in items
        )
        inputs = {"messages" if is_chat else "input": items}
    if not isinstance(inputs, Mapping):
        given = "None" if inputs is None else f"{type(inputs).__name__} {inputs!r:.60}"
        raise InvalidInputError(f"The payload can't be sent: it is {given}. {_ACCEPTED}.")
    payload = dict(inputs)
    keys = [key for key in ("input", "messages") if key in payload]
    if len(keys) != 1:
        given = (
            "both 'input' and 'messages'"
            if keys
            else f"neither 'input' nor 'messages', but {sorted(map(str, payload))}"
        )
        raise InvalidInputError(f"The payload can't be sent: it has {given}. {_ACCEPTED}.")
    if isinstance(payload.get("input"), str):
        # OpenAI's API takes a bare string here; MLflow's schema, and so the endpoint, wants the list.
        payload["input"] = [{"role": "user", "content": payload["input"]}]
    if isinstance(payload[keys[0]], list):
        payload[keys[0]] = [_as_plain(item) for item in payload[keys[0]]]
    if keys == ["input"]:
        check(ResponsesRequest, payload)
        return Request("input", payload)
    check(ChatRequest, payload)
    return Request("messages", payload)


def encode(request: Request, interface: type[Interface] | None) -> dict[str, Any]:
    """Return the payload in the schema that the endpoint takes, with nothing dropped.

    Args:
        request: A checked request.
        interface: What the endpoint serves; None when that is not known, and the payload goes as it is.

    Raises:
        InterfaceMismatchError: Something in it has no counterpart there; the error names it.
    """
    if interface is None or interface.request_key == request.key:
        return request.payload
    payload = dict(request.payload)
    if request.key == "messages":
        items = [_to_item(m, f"messages[{i}]", interface) for i, m in enumerate(payload.pop("messages"))]
        return {"input": items, **_renamed(payload, _COUNTERPARTS)}
    messages = [_to_message(m, f"input[{i}]", interface) for i, m in enumerate(payload.pop("input"))]
    return {"messages": messages, **_renamed(payload, {new: old for old, new in _COUNTERPARTS.items()})}


def _to_item(message: dict[str, Any], where: str, interface: type[Interface]) -> dict[str, Any]:
    for key in ("tool_calls", "tool_call_id"):
        if message.get(key):
            raise _mismatch(f"{where}.{key}", interface)
    if message.get("role") == "tool":
        raise _mismatch(f"{where}.role 'tool'", interface)
    if not isinstance(message.get("content"), str):
        raise _mismatch(f"{where}.content (not a string)", interface)
    return dict(message)


def _to_message(item: dict[str, Any], where: str, interface: type[Interface]) -> dict[str, Any]:
    if item.get("type") not in _MESSAGE_TYPES:
        raise _mismatch(f"{where} of type '{item['type']}'", interface)
    message = {key: value for key, value in item.items() if key != "type"}
    content = item["content"]
    if isinstance(content, list):
        if len(content) != 1 or content[0].get("type") not in ("input_text", "output_text", "text"):
            raise _mismatch(f"{where}.content (parts that are not one text)", interface)
        if lost := [key for key, value in content[0].items() if value and key not in ("type", "text")]:
            raise _mismatch(f"{where}.content[0].{lost[0]}", interface)
        message["content"] = content[0].get("text")
    return message


def _renamed(payload: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in payload.items()}


def _mismatch(what: str, interface: type[Interface]) -> InterfaceMismatchError:
    key = interface.request_key
    return InterfaceMismatchError(
        f"{what} has no counterpart in '{key}', which the endpoint takes: it serves a {interface.name}. "
        f"Send a payload with '{key}'."
    )


def _as_plain(value: Any) -> Any:
    """Return MLflow's and OpenAI's message and request objects as dicts, anything else as it is."""
    if isinstance(value, (dict, list, str)) or value is None:
        return value
    for dump in ("model_dump", "to_dict"):
        # A DataFrame has a to_dict too, of another meaning.
        if callable(getattr(value, dump, None)) and not hasattr(value, "columns"):
            return value.model_dump(exclude_none=True) if dump == "model_dump" else value.to_dict()
    return value
