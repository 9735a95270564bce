"""Messages and their pieces, as chat APIs write them: read tolerantly, and added up. Pure."""

from __future__ import annotations

from typing import Any

# What a delta says of its message as a whole; its other texts and lists are pieces that follow each other.
_SAID_ONCE = ("role", "id", "name", "tool_call_id", "type")


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as an empty one."""
    return value if isinstance(value, list) else []


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return the dicts in a list."""
    return [item for item in as_list(value) if isinstance(item, dict)]


def content_text(content: Any) -> str:
    """Return the text of a message's content: a string, or parts of which those that hold `text` count."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in dicts(content) if isinstance(part.get("text"), str))


def merge_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a chunk's delta to the message it belongs to."""
    for key, value in delta.items():
        if value is None:
            continue
        known = message.get(key)
        if key == "tool_calls":
            message[key] = _merge_calls(dicts(known), dicts(value))
        elif _goes_on(key, known, value):
            message[key] = known + value
        else:
            message[key] = value


def finished(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message that pieces were added up to, without the numbering of the pieces."""
    if not (calls := dicts(message.get("tool_calls"))):
        return message
    return {**message, "tool_calls": [{k: v for k, v in call.items() if k != "index"} for call in calls]}


def _goes_on(key: str, known: Any, value: Any) -> bool:
    return key not in _SAID_ONCE and type(known) is type(value) and isinstance(value, (str, list))


def _merge_calls(known: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the pieces of tool calls to the calls they belong to, by `index` or by `id`."""
    calls = [dict(call) for call in known]
    for piece in new:
        index = piece.get("index")
        same = next(
            (c for c in calls if (c.get("index") == index if index is not None else c.get("id") == piece.get("id"))),
            None,
        )
        if same is None:
            calls.append(dict(piece))
            continue
        function = _function(same)
        for key, value in _function(piece).items():
            if key == "arguments" and isinstance(value, str) and isinstance(function.get(key), str):
                function[key] += value
            elif value is not None:
                function[key] = value
        same.update({k: v for k, v in piece.items() if v is not None})
        same["function"] = function
    return calls


def _function(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    return dict(function) if isinstance(function, dict) else {}


def sum_usage(known: Any, new: dict[str, Any]) -> dict[str, Any]:
    """Add the usage of one inner response to that of those before it."""
    if not isinstance(known, dict):
        return new
    total = {**known, **new}
    for key in known.keys() & new.keys():
        if isinstance(known[key], dict) and isinstance(new[key], dict):
            total[key] = sum_usage(known[key], new[key])
        elif isinstance(known[key], int) and isinstance(new[key], int):
            total[key] = known[key] + new[key]
    return total
