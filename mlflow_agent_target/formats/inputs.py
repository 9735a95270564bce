"""What a caller gives, as a checked request in the schema it is written in. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.formats.interface import RequestKey
from mlflow_agent_target.formats.schemas import ChatRequest, ResponsesRequest, check
from mlflow_agent_target.text import printable

_ACCEPTED = (
    "Accepted are {'input': [...]} (ResponsesAgent), {'messages': [...]} (ChatAgent, ChatModel), a string (one user "
    "message), a list of messages or items, or MLflow's ResponsesAgentRequest, ChatAgentRequest, ChatCompletionRequest"
)


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
    inputs = as_plain(inputs)
    if isinstance(inputs, str):
        return Request("input", {"input": [{"role": "user", "content": inputs}]})
    if isinstance(inputs, (list, tuple)):
        items = [_plain_message(item) for item in inputs]
        if not items:
            raise InvalidInputError(f"The list of messages is empty. {_ACCEPTED}.")
        is_chat = any(
            isinstance(item, dict) and (item.get("role") == "tool" or item.get("tool_calls")) for item in items
        )
        inputs = {"messages" if is_chat else "input": items}
    if not isinstance(inputs, dict):
        given = "None" if inputs is None else f"{type(inputs).__name__} {printable(repr(inputs), 60)}"
        raise InvalidInputError(f"The payload can't be sent: it is {given}. {_ACCEPTED}.")
    payload = dict(inputs)
    if isinstance(extra := payload.get("extra_body"), Mapping):
        # The documentation's REST samples hold it literally; the OpenAI client merges its argument of that name.
        warnings.warn("'extra_body' belongs to the OpenAI client; its keys are sent at the top level.", stacklevel=4)
        del payload["extra_body"]
        payload |= extra
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
    if isinstance(payload[keys[0]], dict) and not payload[keys[0]].keys() & {"role", "type"}:
        raise InvalidInputError(
            f"The payload can't be sent: {keys[0]}: must be a list, not dict {payload[keys[0]]!r:.60}. A dict there is "
            "for a DurableAgentServer: if it is one, say client.with_options(interface='DurableAgentServer')."
        )
    if isinstance(payload[keys[0]], (list, tuple)):
        payload[keys[0]] = [_plain_message(item) for item in payload[keys[0]]]
    if keys == ["input"]:
        check(ResponsesRequest, payload)
        return Request("input", payload)
    check(ChatRequest, payload)
    return Request("messages", payload)


def _plain_message(item: Any) -> Any:
    """Return a message or item as a dict, with the objects that clients put into one as dicts too."""
    item = as_plain(item)
    if isinstance(item, dict):
        lists = {k: v for k in ("tool_calls", "content") if isinstance(v := item.get(k), (list, tuple))}
        if any(isinstance(v, tuple) or not all(isinstance(value, dict) for value in v) for v in lists.values()):
            return {**item, **{key: [as_plain(value) for value in values] for key, values in lists.items()}}
    return item


def as_plain(value: Any) -> Any:
    """Return mappings, and MLflow's and OpenAI's message and request objects, as dicts; anything else as it is."""
    if isinstance(value, (dict, list, str)) or value is None:
        return value
    if isinstance(value, Mapping):
        return dict(value)
    for dump in ("model_dump", "to_dict"):
        # A DataFrame has a to_dict too, of another meaning.
        if callable(getattr(value, dump, None)) and not hasattr(value, "columns"):
            return value.model_dump(exclude_none=True) if dump == "model_dump" else value.to_dict()
    return value
