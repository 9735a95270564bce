"""Messages and their deltas, as chat APIs write them: read whatever their form, and added up. Pure."""

from __future__ import annotations

import json
from typing import Any

from mlflow_agent_target.formats.growing_text import GrowingText, is_half

# Keys of a delta that are said of the whole message. Under all other keys, texts and lists are pieces to be added up.
_SAID_ONCE = frozenset({"role", "id", "name", "tool_call_id", "type", "index", "signature"})
# Keys of a delta whose value is a dict of pieces. Under all other keys, a dict is a value.
_PIECEWISE = frozenset({"function_call", "audio"})
# Keys of a content part that hold its text.
_TEXTS = ("text", "summary", "thinking")
# Where a message has a type in place of a role, as LangChain writes it.
_ROLES = {"ai": "assistant", "AIMessageChunk": "assistant", "human": "user", "system": "system", "tool": "tool"}
# Keys of an answer that a last chunk may leave empty.
_NEVER_EMPTY = ("usage", "created")


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as an empty one."""
    return value if isinstance(value, list) else []


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return the dicts in a list."""
    return [item for item in as_list(value) if isinstance(item, dict)]


def without(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return a dict without some of its keys."""
    return {key: value for key, value in values.items() if key not in keys}


def content_text(content: Any) -> str:
    """Return the text of a message's content, which is a string or a list of parts; parts without text are left out."""
    if isinstance(content, str):
        return content
    texts = [part.get("text") if isinstance(part, dict) else part for part in as_list(content)]
    return "".join(text for text in texts if isinstance(text, str))


def role(message: dict[str, Any], default: str = "") -> Any:
    """Return who says a message."""
    if (said := message.get("role")) is not None:
        return said
    kind = message.get("type")
    return _ROLES.get(kind, default) if isinstance(kind, str) else default


def rest(text: str, said: str) -> str:
    """Return what follows `said` in `text`; "" where `text` does not begin with it."""
    if is_half(said[-1:]):  # of a character, which is whole in `text`
        said = said[:-1]
    return text[len(said) :] if text.startswith(said) else ""


def is_reason(finish_reason: Any) -> bool:
    """Return whether a chunk's `finish_reason` is one: some servers say "" or "null" for none."""
    return isinstance(finish_reason, str) and finish_reason.lower() not in ("", "null", "none")


def function_calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tool calls of a chat message as `function_call` items."""
    calls = []
    for call in dicts(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict) or "args" not in call:
            calls.append(_function_call(call.get("id"), function if isinstance(function, dict) else {}))
        else:
            # As LangChain writes it.
            calls.append(
                _function_call(call.get("id"), {"name": call.get("name"), "arguments": _as_text(call["args"])})
            )
    if isinstance(older := message.get("function_call"), dict):
        calls.append(_function_call(None, older))
    return calls


def _function_call(call_id: Any, function: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": function.get("name"),
        "arguments": function.get("arguments"),
    }


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def merge_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a chunk's delta to the message that it belongs to.

    The message's texts become `GrowingText`s; `finished` returns it with strings.
    """
    for key, value in delta.items():
        if value is None:
            continue
        known = message.get(key)
        if key == "tool_calls":
            message[key] = _merge_calls(as_list(known), dicts(value))
        elif key in _SAID_ONCE:
            if value != "" or key not in message:
                message[key] = value
        elif key in _PIECEWISE and isinstance(value, dict):
            message[key] = known if isinstance(known, dict) else {}
            merge_delta(message[key], value)
        elif isinstance(value, str):
            if isinstance(known, GrowingText):
                known.write(value)
            elif isinstance(known, list):
                _merge_parts(known, [{"type": "text", "text": value}] if value else [])
            else:
                message[key] = GrowingText(value)
        elif isinstance(value, list):
            if isinstance(known, GrowingText):
                known = [{"type": "text", "text": known}] if known.whole() else None
            message[key] = parts = known if isinstance(known, list) else []
            _merge_parts(parts, value)
        else:
            message[key] = value


def finished(value: Any) -> Any:
    """Return what `merge_delta` has made so far as plain JSON values, which later deltas do not change."""
    if isinstance(value, GrowingText):
        return value.whole()
    if isinstance(value, list):
        return [finished(item) for item in value]
    if isinstance(value, dict):
        # The pieces of tool calls are numbered, whole calls are not.
        return {
            key: [_unnumbered(call) for call in finished(item)]
            if key == "tool_calls" and isinstance(item, list)
            else finished(item)
            for key, item in list(value.items())  # a copy: another thread may be adding to it
        }
    return value


def _unnumbered(call: Any) -> Any:
    return {key: value for key, value in call.items() if key != "index"} if isinstance(call, dict) else call


def _merge_parts(known: list[Any], new: list[Any]) -> None:
    """Add content parts to those before them. A part of the same type as the last one continues its text."""
    for part in new:
        last = known[-1] if known and isinstance(known[-1], dict) else {}
        if isinstance(part, dict) and _goes_on(last, part):
            merge_delta(last, part)
        elif isinstance(part, dict):
            known.append({})
            merge_delta(known[-1], part)
        elif part != "":
            known.append(part)


def _goes_on(last: dict[str, Any], part: dict[str, Any]) -> bool:
    said = {key for key, value in part.items() if value is not None}
    if part.get("type") is None or part["type"] != last.get("type") or said.isdisjoint((*_TEXTS, "signature")):
        return False
    if not said - {"signature"} <= last.keys():
        return False
    if any(key in said and part[key] != last.get(key) for key in ("index", "id")):
        return False
    # A signature ends a block of reasoning.
    return not _signature(last) or not (_signature(part) or any(_has_text(part.get(key)) for key in _TEXTS))


def _signature(part: dict[str, Any]) -> Any:
    """Return the signature of a block of reasoning, which may stand in its last summary."""
    summaries = dicts(part.get("summary"))
    return part.get("signature") or (summaries[-1].get("signature") if summaries else None)


def _has_text(value: Any) -> bool:
    if isinstance(value, list):
        return any(_has_text(item) for item in value)
    return any(_has_text(value.get(key)) for key in _TEXTS) if isinstance(value, dict) else bool(value)


def _merge_calls(calls: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add pieces of tool calls to the calls that they belong to: by `index` and `id`; without either, to the last."""
    for piece in new:
        index, call_id = piece.get("index"), piece.get("id") or None
        if index is None and call_id is None:
            same = calls[-1] if calls and not _is_another(calls[-1], piece) else None
        elif index is None:
            same = next((c for c in calls if c.get("id") == call_id), None)
        else:
            # Some servers give every call the index 0. Another id is another call.
            same = next((c for c in reversed(calls) if c.get("index") == index), None)
            if same is not None and call_id and same.get("id") not in (None, call_id):
                same = next((c for c in calls if c.get("id") == call_id), None)
            elif same is not None and not call_id and _is_another(same, piece):
                same = None
        if same is None:
            same = {}
            calls.append(same)
        for key, value in piece.items():
            if key == "function" and isinstance(value, dict):
                _merge_function(same, value)
            elif value is not None and (key != "id" or value):
                same[key] = value
    return calls


def _is_another(call: dict[str, Any], piece: dict[str, Any]) -> bool:
    """Return whether a piece without an id begins another call: it names a function when the call's is complete."""
    known, new = call.get("function"), piece.get("function")
    if not isinstance(known, dict) or not isinstance(new, dict) or not new.get("name") or not known.get("name"):
        return False
    said, more = finished(known.get("arguments")), new.get("arguments")
    if new["name"] != known["name"]:
        return bool(said)
    # Some servers name the function with every piece.
    return isinstance(said, str) and isinstance(more, str) and more.lstrip().startswith("{") and _is_json(said)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _merge_function(call: dict[str, Any], piece: dict[str, Any]) -> None:
    function = call.get("function")
    if not isinstance(function, dict):
        function = call["function"] = {}
    for key, value in piece.items():
        if key != "arguments" or not isinstance(value, str):
            if value or key not in function:
                function[key] = value
        elif isinstance(known := function.get(key), GrowingText):
            known.write(value)
        else:
            function[key] = GrowingText(value)


def sum_usage(known: Any, new: dict[str, Any]) -> dict[str, Any]:
    """Return the sum of the usage so far and that of one more inner response."""
    if not isinstance(known, dict):
        return new
    total = {**known, **new}
    for key in known.keys() & new.keys():
        if isinstance(known[key], dict) and isinstance(new[key], dict):
            total[key] = sum_usage(known[key], new[key])
        elif isinstance(known[key], (int, float)) and isinstance(new[key], (int, float)):
            total[key] = known[key] + new[key]
        elif new[key] is None:
            total[key] = known[key]
    return total


def keep(extras: dict[str, Any], event: dict[str, Any], keys: list[str]) -> None:
    """Put an event's values for `keys` into `extras`, over those of earlier events; what says nothing is left out."""
    for key in keys:
        value = event.get(key)
        if value is None or (key in extras and (value == "" or (not value and key in _NEVER_EMPTY))):
            continue
        if key == "finish_reason" and not is_reason(value):
            continue
        if key == "databricks_output" and isinstance(value, dict):
            known = extras.get(key)
            said = {k: v for k, v in value.items() if v is not None}
            extras[key] = {**known, **said} if isinstance(known, dict) else said
        elif key == "trace_id":
            # MLflow's AgentServer sends it as an event of its own; in a whole answer it is in the metadata.
            known = extras.get("metadata")
            extras["metadata"] = {**(known if isinstance(known, dict) else {}), "trace_id": value}
        else:
            extras[key] = value
