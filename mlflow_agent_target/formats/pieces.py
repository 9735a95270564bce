"""Messages and their deltas, as chat APIs write them: read whatever their form, and added up. Pure."""

from __future__ import annotations

from typing import Any

# Keys of a delta that are said of the whole message. Under all other keys, texts and lists are pieces to be added up.
_SAID_ONCE = frozenset({"role", "id", "name", "tool_call_id", "type", "index"})
# The pieces of a growing text are joined when there are this many, or when one is this long.
PIECES_APART = 256
LONG_PIECE = 4096
# Blocks are not added to the text before they have this many characters, however short the text is.
_LONG_BLOCK = 65_536


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
    return "".join(part["text"] for part in dicts(content) if isinstance(part.get("text"), str))


def rest(text: str, said: str) -> str:
    """Return what follows `said` in `text`; "" where `text` does not begin with it."""
    return text[len(said) :] if text.startswith(said) else ""


def function_calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tool calls of a chat message as `function_call` items."""
    calls = []
    for call in dicts(message.get("tool_calls")):
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        calls.append(
            {
                "type": "function_call",
                "call_id": call.get("id"),
                "name": function.get("name"),
                "arguments": function.get("arguments"),
            }
        )
    return calls


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
            message[key] = value
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


class GrowingText:
    """A text that grows piece by piece and takes little more memory than its characters need.

    A list of all pieces would hold a small string for each, ten times as large as its text. Adding each piece to one
    long string might copy that string each time. So the last few pieces wait in a list, are joined to a block, and the
    blocks are added to the text when together they are a sixteenth of it.

    One thread adds pieces. Any thread, or a signal handler, may ask for the whole text meanwhile.
    """

    def __init__(self, text: str = "") -> None:
        self.pieces: list[str] = []
        """The last pieces. `write` adds one; whoever does so here, to save the call, calls `join` as `write` does."""
        # The whole text is `_text`, then `_blocks`, then `pieces`. Text moves from one to another in lines that hold no
        # call and no loop. CPython switches threads and runs signal handlers only at calls and loops, so nobody sees
        # text twice or not at all. `_changes` counts the moves: who finds it changed has been overtaken.
        self._text = text
        self._blocks: list[str] = []
        self._size_of_blocks = 0
        self._changes = 0

    def write(self, piece: str) -> None:
        """Add a piece."""
        self.pieces.append(piece)
        if len(self.pieces) >= PIECES_APART or len(piece) >= LONG_PIECE:
            self.join()

    def join(self) -> None:
        """Make one string of the pieces."""
        changes, count = self._changes, len(self.pieces)
        block = "".join(self.pieces[:count])
        size = len(block)
        if self._changes == changes:
            self._changes = changes + 1
            self._blocks += [block]
            self._size_of_blocks += size
            del self.pieces[:count]
        if self._size_of_blocks > max(_LONG_BLOCK, len(self._text) // 16):
            self._join_all()

    def _join_all(self) -> None:
        changes, blocks, pieces = self._changes, len(self._blocks), len(self.pieces)
        more = "".join([*self._blocks[:blocks], *self.pieces[:pieces]])
        if self._changes == changes:
            self._changes = changes + 1
            # CPython extends a string in place, without a second copy, if one local variable alone refers to it.
            text = self._text
            self._text = ""
            text += more
            self._text = text
            self._size_of_blocks = 0
            del self._blocks[:blocks]
            del self.pieces[:pieces]

    def whole(self) -> str:
        """Return the whole text, as the one string that is kept."""
        if self._blocks or self.pieces:
            self._join_all()
        return "".join([self._text, *self._blocks, *self.pieces])


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
    same_kind = "type" in part and part["type"] == last.get("type") and part.keys() <= last.keys()
    return same_kind and not {"text", "summary"}.isdisjoint(part)


def _merge_calls(calls: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add pieces of tool calls to the calls that they belong to: by `index` and `id`; without either, to the last."""
    for piece in new:
        index, call_id = piece.get("index"), piece.get("id") or None
        if index is None and call_id is None:
            same = calls[-1] if calls else None
        elif index is None:
            same = next((c for c in calls if c.get("id") == call_id), None)
        else:
            # Some servers give every call the index 0. Another id is another call.
            same = next((c for c in reversed(calls) if c.get("index") == index), None)
            if same is not None and call_id and same.get("id") not in (None, call_id):
                same = next((c for c in calls if c.get("id") == call_id), None)
        if same is None:
            same = {}
            calls.append(same)
        for key, value in piece.items():
            if key == "function" and isinstance(value, dict):
                _merge_function(same, value)
            elif value is not None and (key != "id" or value):
                same[key] = value
    return calls


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
        elif isinstance(known[key], int) and isinstance(new[key], int):
            total[key] = known[key] + new[key]
        elif new[key] is None:
            total[key] = known[key]
    return total


def keep(extras: dict[str, Any], event: dict[str, Any], keys: list[str]) -> None:
    """Put an event's values for `keys` into `extras`, over those of earlier events; nulls are left out."""
    for key in keys:
        value = event.get(key)
        if value is None:
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
