"""Output items of the Responses format, as far as they have come, and what whole items say. Pure."""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.formats.growing_text import GrowingText
from mlflow_agent_target.formats.pieces import content_text, dicts, role

# The events that bring pieces, without their last word (`delta` or `done`). For each: the type of the item and of the
# part that its text belongs to, and the event's keys for the whole text and for the number of the part.
PIECES = {
    "response.output_text": ("message", "output_text", "text", "content_index"),
    "response.refusal": ("message", "refusal", "refusal", "content_index"),
    "response.function_call_arguments": ("function_call", "arguments", "arguments", ""),
    "response.reasoning_summary_text": ("reasoning", "summary_text", "text", "summary_index"),
    "response.reasoning_text": ("reasoning", "reasoning_text", "text", "content_index"),
}
# How much an id or a number alone speaks for a draft. What an item says counts more.
LIKE_BY_ID, LIKE_BY_NUMBER = 4, 5
# How the types of output items end.
_ITEM_TYPES = ("message", "reasoning", "_call", "_output", "_request", "_response", "mcp_list_tools")


class Draft:
    """An item, whole or of which only pieces have come: the texts of its parts, and what else is known of it.

    Attributes:
        kind: Its type.
        item: The whole item, or what is known of it.
        index: Its number in its inner response; None where that was not said.
        is_whole: Whether it has come whole.
        is_open: Whether pieces are known by its id or number alone. If not, its inner response has ended.
        is_shown: Whether it is a part of the answer. Text that an item which came whole left out is not, but may be
            that of an item which comes later.
    """

    def __init__(self, item: dict[str, Any], index: int | None = None, is_whole: bool = False) -> None:
        self.kind: Any = item.get("type", "message")
        self.item = item
        self.index = index
        self.is_whole = is_whole
        self.is_open = self.is_shown = True
        self._texts: dict[tuple[str, Any], GrowingText] = {}

    @property
    def has_text(self) -> bool:
        """Whether a piece has come."""
        return bool(self._texts)

    def part(self, part: str, index: Any = None) -> GrowingText:
        """Return the growing text of a part, by the part's type and number."""
        key = (part, index if isinstance(index, int) else 0)
        if (buffer := self._texts.get(key)) is None:
            buffer = self._texts[key] = GrowingText()
        return buffer

    def put(self, text: str, part: str, index: Any = None) -> None:
        """Set the whole text of a part."""
        self._texts[part, index if isinstance(index, int) else 0] = GrowingText(text)

    def end(self, item: dict[str, Any]) -> None:
        """Put the whole item in place of its pieces."""
        self.item = item
        self.is_whole = self.is_shown = True
        self._texts = {}

    def drop(self) -> None:
        """Forget what has come of it: it is another draft's."""
        self.is_shown = False
        self._texts = {}

    def is_as_empty_as(self, other: Draft) -> bool:
        """Return whether two items have begun under the same names, with nothing to tell them apart."""
        return (self.kind, self.index, self.item.get("id"), self.item.get("call_id"), False, other.is_open) == (
            (other.kind, other.index, other.item.get("id"), other.item.get("call_id"), other.has_text, True)
        )

    def text(self) -> str:
        """Return what its pieces add up to."""
        return "".join([text for _, text in self._parts()])

    def said(self) -> str:
        """Return what of its pieces is the assistant's text."""
        return "".join([text for part, text in self._parts() if part == "output_text"])

    def likeness(self, item: dict[str, Any], full: str, index: int | None) -> int:
        """Return how much speaks for it that this is the draft of a whole item; 0 for nothing.

        An id alone proves little: different items may share a placeholder, and some servers give the pieces of an item
        other ids than the item. What both say counts more.

        Args:
            item: The item.
            full: Its text, as `item_text` gives it.
            index: Its number, where it was said.
        """
        if (ours := self.item.get("call_id")) and (theirs := item.get("call_id")):
            return 9 if ours == theirs else 0
        same_index = index is not None and index == self.index
        other_index = index is not None and self.index is not None and not same_index
        same_id = as_id(self.item.get("id")) == as_id(item.get("id"))
        if self._texts and self._says_the_same(full, same_id):
            if other_index:
                return 2 if same_id or self.text() == full else 0
            return 8 if same_index else 7 if same_id else 6
        if not self.is_open or other_index:
            return 0
        return LIKE_BY_NUMBER if same_index else LIKE_BY_ID if same_id else 0 if self._texts else 1

    def _says_the_same(self, full: str, same_id: bool) -> bool:
        text = self.text()
        if text == full:
            return True
        said, wanted = text.strip(), full.strip()
        if not said or not wanted:
            return False
        # What is left over was said of no item yet, and what a response left unfinished may be short by chance.
        is_told = self.is_shown and not self.is_open
        return said.startswith(wanted) or (wanted.startswith(said) and (same_id or not is_told))

    def as_item(self) -> dict[str, Any]:
        """Return what has come of it, as an item."""
        texts = self._parts()  # before it is looked whether it is whole: another thread may just end it
        if self.is_whole:
            return self.item
        if self.kind == "function_call":
            return {**self.item, "arguments": "".join(text for _, text in texts) or self.item.get("arguments") or ""}
        if self.kind == "reasoning":
            return {**self.item, "summary": [{"type": part, "text": text} for part, text in texts]}
        if self.kind != "message":
            return self.item
        content = [
            {"type": part, "refusal": text} if part == "refusal" else {"type": part, "text": text, "annotations": []}
            for part, text in texts
        ]
        return {**self.item, "role": "assistant", "content": content}

    @property
    def is_told(self) -> bool:
        """Whether it says anything yet."""
        if self.is_whole or self.kind not in ("message", "reasoning"):
            return self.is_shown
        return self.is_shown and self.text() != ""

    def _parts(self) -> list[tuple[str, str]]:
        # A copy of the list: another thread may close the stream, and ask for this, while one still adds to it.
        return [(part, buffer.whole()) for (part, _), buffer in list(self._texts.items())]


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


def as_number(index: Any) -> int | None:
    """Return the number of an item or a part as it is, and anything else as none."""
    return index if isinstance(index, int) else None


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


def same_again(known: dict[str, Any], item: dict[str, Any]) -> bool:
    """Return whether two items of different inner responses are the same."""
    call_id = item.get("call_id")
    return known == item or (bool(call_id) and (known.get("type"), known.get("call_id")) == (item.get("type"), call_id))


def same_id(known: dict[str, Any], item: dict[str, Any]) -> bool:
    """Return whether two items of one inner response are the same, by their ids."""
    return known.get("type") == item.get("type") and bool(as_id(item.get("id"))) and known.get("id") == item["id"]


def same_kind(known: dict[str, Any], item: dict[str, Any]) -> bool:
    """Return whether two items of one inner response may be the same though they differ in words and ids."""
    told_apart = known.get("call_id") and item.get("call_id")
    return known.get("type") == item.get("type") and not told_apart


def assistant_text(item: Any) -> str:
    """Return the text of an item that is an assistant's message; "" for all others."""
    if not isinstance(item, dict) or role(item) != "assistant":
        return ""
    is_message = "role" not in item or item.get("type") in (None, "message")
    return content_text(item.get("content")) if is_message else ""
