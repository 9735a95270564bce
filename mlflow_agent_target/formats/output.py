"""The output items of a stream in the Responses format, added up from its pieces and its whole items. Pure."""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.formats.drafts import (
    LIKE_BY_ID,
    LIKE_BY_NUMBER,
    PIECES,
    Draft,
    as_id,
    as_number,
    assistant_text,
    item_text,
    same_again,
    same_content,
    same_id,
    same_kind,
)
from mlflow_agent_target.formats.growing_text import GrowingText
from mlflow_agent_target.formats.order import Order
from mlflow_agent_target.formats.pieces import dicts, rest


class Output:
    """All items of a stream, in the order in which they began, each result after its call.

    An agent may pass on what several models answer, each as a response within its own. In such an inner response items
    are numbered (`output_index`), and its end lists them in their order.

    Attributes:
        open_part: The part that the last piece of a message's text went to: what such a piece says of it, its
            `item_id`, `output_index` and `content_index`. Most events bring a piece to the same part as the one before.
        open_text: The text of that part.
    """

    def __init__(self) -> None:
        self._order = Order()
        # Those that have not come whole, and those that the next piece may belong to: by kind, and number or id.
        self._unfinished: dict[int, Draft] = {}
        self._latest: dict[tuple[str, Any], Draft] = {}
        # Whether an event has said that the open inner response has begun.
        self._is_announced = False
        self.open_part: tuple[Any, ...] | None = None
        self.open_text = GrowingText()

    def open(self, event: dict[str, Any], part: tuple[Any, ...]) -> None:
        """Open the part of a message that an event's piece of text goes to."""
        self.open_text = self._draft("message", event).part("output_text", event.get("content_index"))
        self.open_part = part

    def add_piece(self, name: str, step: str, event: dict[str, Any]) -> str:
        """Add a `delta` or `done` event of `PIECES` and return the assistant's text that it adds."""
        kind, part, key, index = PIECES[name]
        text = event.get("delta" if step == "delta" else key)
        if not isinstance(text, str):
            return ""
        if step == "done":
            return self._end_part(event, text)
        draft = self._draft(kind, event)
        draft.item.update(_known(event))
        draft.part(part, event.get(index)).write(text)
        return text if part == "output_text" else ""

    def begin(self, item: dict[str, Any], index: Any = None) -> None:
        """Begin an item of which more will come."""
        draft = Draft(dict(item), as_number(index))
        if not any(draft.is_as_empty_as(other) for other in self._unfinished.values()):
            self._latest[draft.kind, ""] = self._start(draft)  # pieces without an id are its own

    def end(self, item: dict[str, Any], index: Any = None) -> str:
        """Add an item that has come whole, and return the assistant's text that its pieces have not said."""
        return self._end(item, as_number(index))[1]

    def begin_response(self) -> None:
        """Begin an inner response. What of the one before is unfinished stays as it is."""
        for draft in self._unfinished.values():
            draft.is_open = False
            draft.index = None
        self._latest.clear()
        self._close_part()
        self._order.begin_response()
        self._is_announced = True

    def end_response(self, output: Any) -> str:
        """Add an inner response, which its end repeats, and return the assistant's text that is new with it.

        Items that have come are recognised by what they say, then by their ids, then by their types alone. All take
        the order that they have there; what is not there stays behind what it came after.
        """
        items = self._new_here(dicts(output))
        drafts: list[Draft | None] = [None] * len(items)
        whole = [draft for draft in self._order.here if draft.is_whole]
        for same in (same_content, same_id, same_kind):
            for place, item in enumerate(items):
                if drafts[place] is None and (twin := next((d for d in whole if same(d.item, item)), None)):
                    whole.remove(twin)
                    drafts[place] = twin
        text = ""
        for place, item in enumerate(items):
            if drafts[place] is None:
                drafts[place], new = self._end(item, None)
                text += new
        self._order.arrange([draft for draft in drafts if draft is not None])
        self.begin_response()
        self._is_announced = False
        return text

    def items(self) -> list[dict[str, Any]]:
        """Return all items, those of which only pieces have come as drafts."""
        # A copy of the list: another thread may close the stream, and ask for this, while one still adds to it.
        return [draft.as_item() for draft in list(self._order.drafts) if draft.is_told]

    def _new_here(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the items of an inner response without those of earlier ones.

        Agents that pass on what models answer may end with a response of their own, which lists all again.
        """
        here, before = self._order.here, [] if self._is_announced else self._order.before
        return [
            item
            for item in items
            if any(draft.is_whole and same_content(draft.item, item) for draft in here)
            or not any(draft.is_whole and same_again(draft.item, item) for draft in before)
        ]

    def _draft(self, kind: str, event: dict[str, Any]) -> Draft:
        """Return the draft that a piece belongs to: by its number, else by its id."""
        index, item_id = as_number(event.get("output_index")), as_id(event.get("item_id"))
        draft = self._latest.get((kind, item_id if index is None else index))
        if draft is None and index is not None:
            draft = self._latest.get((kind, item_id))
            if draft is not None and draft.index is None:
                draft.index = index
                self._latest[kind, index] = draft
            else:
                draft = None
        if draft is None:
            return self._start(Draft({"type": kind, **({"id": item_id} if item_id else {})}, index))
        draft.is_open = draft.is_shown = True
        return draft

    def _start(self, draft: Draft) -> Draft:
        self._close_part()
        self._order.begin(draft)
        if not draft.is_whole:
            self._await(draft)
        return draft

    def _await(self, draft: Draft) -> None:
        """Keep a draft as one that more pieces or a whole item may come for."""
        self._unfinished[id(draft)] = draft
        self._latest[draft.kind, as_id(draft.item.get("id"))] = draft
        if draft.index is not None:
            self._latest[draft.kind, draft.index] = draft

    def _end_part(self, event: dict[str, Any], text: str) -> str:
        """Take in the whole text of a part, and return the assistant's text that its pieces have not said."""
        kind, part, _, index = PIECES[event["type"].rpartition(".")[0]]
        number = as_number(event.get("output_index"))
        key = as_id(event.get("item_id")) if number is None else number
        if (kind, key) not in self._latest and (drafts := self._adding_up(kind, text, number)):
            draft, said = self._joined(drafts), text
            draft.put(text, part, event.get(index))
        else:
            draft = self._draft(kind, event)
            said = draft.part(part, event.get(index)).whole()
        draft.item.update(_known(event))
        if not said.endswith(text):  # else it is the end of what items with one id have said
            draft.put(text, part, event.get(index))
        self._close_part()
        new = rest(text, said)
        return new if part == "output_text" else ""

    def _end(self, item: dict[str, Any], index: int | None) -> tuple[Draft, str]:
        full = item_text(item)
        drafts = self._drafts_of(item, full, index)
        if not drafts:
            draft = self._start(Draft(item, index, is_whole=True))
            self._order.end(index)
            return draft, assistant_text(item)
        said = "".join([draft.said() for draft in drafts])
        left_over = rest("".join([draft.text() for draft in drafts]), full) if full else ""
        draft = self._joined(drafts)
        del self._unfinished[id(draft)]
        for key in [key for key, latest in self._latest.items() if latest is draft]:
            del self._latest[key]
        self._close_part()
        if draft.is_open:
            draft.index = index if draft.index is None else draft.index
            self._order.end(draft.index)
        if draft.kind == "message" and left_over.strip():
            self._keep(left_over, draft)
        draft.end(item)
        return draft, rest(assistant_text(item), said)

    def _drafts_of(self, item: dict[str, Any], full: str, index: int | None) -> list[Draft]:
        """Return the draft of an item that has come whole, or several that add up to it."""
        kind = item.get("type", "message")
        best, most, begun = None, 0, None
        for draft in self._unfinished.values():
            likeness = draft.likeness(item, full, index) if draft.kind == kind else 0
            if likeness > most:
                best, most = draft, likeness
            if begun is None and likeness in (LIKE_BY_ID, LIKE_BY_NUMBER) and not draft.has_text:
                begun = draft
        found = {id(best), id(begun)}
        if best is None or best.text() != full:
            pieces = self._adding_up(kind, full, index, item.get("call_id"))
            if best is None or not best.has_text or any(draft is best for draft in pieces):
                found |= {id(draft) for draft in pieces}
        return [draft for draft in self._unfinished.values() if id(draft) in found]

    def _adding_up(self, kind: Any, full: str, index: int | None, call_id: Any = None) -> list[Draft]:
        """Return the drafts whose texts add up to a whole one: some servers give each piece an id of its own."""
        found: list[Draft] = []
        at = 0
        for draft in self._unfinished.values():
            other_index = index is not None and draft.index not in (None, index)
            if draft.kind == kind and not other_index and not (call_id and draft.item.get("call_id")):
                text = draft.text()
                if text and full.startswith(text, at):
                    found.append(draft)
                    at += len(text)
        return found if full and at == len(full) else []

    def _joined(self, drafts: list[Draft]) -> Draft:
        """Make one draft, the first, of several."""
        first, *others = drafts
        gone = {id(draft) for draft in others}
        self._latest = {key: first if id(draft) in gone else draft for key, draft in self._latest.items()}
        for draft in others:
            draft.drop()
            del self._unfinished[id(draft)]
        return first

    def _keep(self, left_over: str, draft: Draft) -> None:
        """Keep what pieces have said beyond their whole item: it may be of another one that shares its id."""
        other = Draft({key: draft.item[key] for key in ("type", "id") if key in draft.item}, draft.index)
        other.put(left_over, "output_text")
        other.is_open = other.is_shown = False
        self._order.put_behind(other, draft)
        self._await(other)

    def _close_part(self) -> None:
        self.open_part = None
        self.open_text = GrowingText()  # a text that a whole item has brought again must not be kept here, too


def _known(event: dict[str, Any]) -> dict[str, Any]:
    return {key: event[key] for key in ("call_id", "name") if event.get(key) is not None}
