"""Output items of the Responses format: drafts, of which only pieces have come, and what whole items say. Pure."""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.formats.pieces import LONG_PIECE, PIECES_APART, GrowingText, content_text, dicts, rest

# The events that bring pieces, without their last word (`delta` or `done`). For each: the type of the item and of the
# part that its text belongs to, and the event's keys for the whole text and for the number of the part.
PIECES = {
    "response.output_text": ("message", "output_text", "text", "content_index"),
    "response.refusal": ("message", "refusal", "refusal", "content_index"),
    "response.function_call_arguments": ("function_call", "arguments", "arguments", ""),
    "response.reasoning_summary_text": ("reasoning", "summary_text", "text", "summary_index"),
    "response.reasoning_text": ("reasoning", "reasoning_text", "text", "content_index"),
}
# How the types of output items end.
_ITEM_TYPES = ("message", "reasoning", "_call", "_output", "_request", "_response", "mcp_list_tools")
# Is equal to no id that an event may have, null among them.
_NO_ITEM = object()


class _Draft:
    """An item of which only pieces have come: the texts of its parts, and what else is known of it."""

    def __init__(self, kind: str, item: dict[str, Any]) -> None:
        self.kind = kind
        self.item = item
        self._texts: dict[tuple[str, Any], GrowingText] = {}

    def text(self, part: str, index: Any = None) -> GrowingText:
        """Return the growing text of a part, by the part's type and number."""
        key = (part, index if isinstance(index, int) else 0)
        if (buffer := self._texts.get(key)) is None:
            buffer = self._texts[key] = GrowingText()
        return buffer

    def put(self, text: str, part: str, index: Any) -> str:
        """Set the whole text of a part, and return what its pieces had not said yet."""
        said = self.text(part, index).whole()
        self._texts[part, index if isinstance(index, int) else 0] = GrowingText(text)
        return rest(text, said)

    def has_id_of(self, item: dict[str, Any]) -> bool:
        """Return whether a whole item has the same id. That proves little: different items may share a placeholder."""
        if (call_id := self.item.get("call_id")) and item.get("call_id"):
            return bool(call_id == item["call_id"])
        return as_id(self.item.get("id")) == as_id(item.get("id"))

    def has_text_of(self, item: dict[str, Any]) -> bool:
        """Return whether one of the two texts, this draft's and a whole item's, begins with the other.

        The ids may differ all the same: some servers give pieces other ids than the item.
        """
        said, full = item_text(self.as_item()).strip(), item_text(item).strip()
        return bool(said and full) and (full.startswith(said) or said.startswith(full))

    def as_item(self) -> dict[str, Any]:
        """Return what has come of it, as an item."""
        texts = [(part, buffer.whole()) for (part, _), buffer in list(self._texts.items())]
        if self.kind == "function_call":
            return {**self.item, "arguments": "".join(text for _, text in texts) or self.item.get("arguments") or ""}
        if self.kind == "reasoning":
            return {**self.item, "summary": [{"type": part, "text": text} for part, text in texts]}
        content = [
            {"type": part, "refusal": text} if part == "refusal" else {"type": part, "text": text, "annotations": []}
            for part, text in texts
        ]
        return {**self.item, "role": "assistant", "content": content}


class Drafts:
    """All drafts of a stream. A draft ends when its item comes whole, which repeats the text."""

    def __init__(self) -> None:
        self._drafts: dict[int, _Draft] = {}
        self._latest: dict[tuple[str, str], _Draft] = {}
        # The part that the last piece of a message's text went to, by the item's id and the part's number.
        self._open_item: Any = _NO_ITEM
        self._open_part: Any = None
        self._text = GrowingText()

    def write(self, event: dict[str, Any], text: str) -> None:
        """Add a piece of a message's text. Most events bring one, to the same part as the event before."""
        item_id, index = event.get("item_id"), event.get("content_index")
        if item_id != self._open_item or index != self._open_part:
            self._text = self.get("message", item_id).text("output_text", index)
            self._open_item, self._open_part = item_id, index
        pieces = self._text.pieces
        pieces.append(text)
        if len(pieces) >= PIECES_APART or len(text) >= LONG_PIECE:
            self._text.join()

    def _close(self) -> None:
        self._open_item = _NO_ITEM
        self._text = GrowingText()  # a text that a whole item has brought again must not be kept here, too

    def get(self, kind: str, item_id: Any) -> _Draft:
        """Return the draft that a piece belongs to."""
        key = (kind, as_id(item_id))
        return self._latest.get(key) or self.start({"type": kind, **({"id": item_id} if key[1] else {})})

    def start(self, item: dict[str, Any]) -> _Draft:
        """Begin a draft with what is known of its item."""
        draft = _Draft(item["type"], dict(item))
        self._close()
        self._drafts[id(draft)] = self._latest[draft.kind, as_id(item.get("id"))] = draft
        return draft

    def add_piece(self, name: str, step: str, event: dict[str, Any]) -> str:
        """Add a `delta` or `done` event of `PIECES` and return the assistant's text that it adds."""
        kind, part, key, index = PIECES[name]
        value = event.get("delta" if step == "delta" else key)
        if not isinstance(value, str):
            return ""
        draft = self.get(kind, event.get("item_id"))
        draft.item.update({k: event[k] for k in ("call_id", "name") if event.get(k) is not None})
        if step == "done":
            value = draft.put(value, part, event.get(index))
            self._close()
        else:
            draft.text(part, event.get(index)).write(value)
        return value if part == "output_text" else ""

    def take(self, item: dict[str, Any]) -> str:
        """End the draft of an item that has come whole, and return the assistant's text that its pieces have said.

        Where several drafts could be meant, one that says the same counts more than one that only has the same id.
        """
        ours = [draft for draft in self._drafts.values() if draft.kind == item.get("type", "message")]
        by_id = [draft for draft in ours if draft.has_id_of(item)]
        same = next(
            (draft for drafts in (by_id, ours) for draft in drafts if draft.has_text_of(item)),
            by_id[0] if by_id else None,
        )
        if same is None:
            return ""
        del self._drafts[id(same)]
        self._close()
        key = (same.kind, as_id(same.item.get("id")))
        if self._latest.get(key) is same:
            del self._latest[key]
        return assistant_text(same.as_item())

    def items(self) -> list[dict[str, Any]]:
        """Return the drafts as items, in the order in which they began."""
        # A copy of the list: another thread may close the stream, and ask for this, while one still adds to it.
        return [draft.as_item() for draft in list(self._drafts.values())]

    def take_all(self) -> list[dict[str, Any]]:
        """End all drafts, and return them as items."""
        items = self.items()
        self._drafts.clear()
        self._latest.clear()
        self._close()
        return items


def item_text(item: dict[str, Any]) -> str:
    """Return what the pieces of an item add up to: its text and refusals, its arguments, its reasoning."""
    if item.get("type") == "function_call":
        return str(item.get("arguments") or "")
    content = item.get("content")
    parts = [*dicts(item.get("summary")), *dicts(content)]
    texts = [part.get("text", part.get("refusal")) for part in parts]
    return "".join(text for text in [content, *texts] if isinstance(text, str))


def as_id(value: Any) -> str:
    """Return an id as it is, and anything else as none."""
    return value if isinstance(value, str) else ""


def is_item(event: dict[str, Any]) -> bool:
    """Return whether an event is an output item without the event around it."""
    kind = event.get("type")
    return isinstance(kind, str) and kind.endswith(_ITEM_TYPES) and not {"choices", "delta"} & event.keys()


def same_content(known: dict[str, Any], item: dict[str, Any]) -> bool:
    """Return whether two items of one inner response are the same, by what they say."""
    if known.get("type") != item.get("type"):
        return False
    by_call = known.get("call_id") is not None and known.get("call_id") == item.get("call_id")
    by_text = item.get("type") == "message" and item_text(known) == item_text(item)
    return by_call or by_text or known == item


def same_id(known: dict[str, Any], item: dict[str, Any]) -> bool:
    """Return whether two items of one inner response are the same, by their ids."""
    return known.get("type") == item.get("type") and bool(as_id(item.get("id"))) and known.get("id") == item["id"]


def same_kind(known: dict[str, Any], item: dict[str, Any]) -> bool:
    """Return whether two items of one inner response may be the same though they differ in words and ids."""
    told_apart = known.get("call_id") and item.get("call_id")
    return known.get("type") == item.get("type") and not told_apart


def assistant_text(item: Any) -> str:
    """Return the text of an item that is an assistant's message; "" for all others."""
    if not isinstance(item, dict) or item.get("type", "message") != "message" or item.get("role") != "assistant":
        return ""
    return content_text(item.get("content"))
