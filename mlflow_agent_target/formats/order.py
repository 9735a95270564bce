"""The order in which the output items of a stream stand. Pure."""

from __future__ import annotations

from mlflow_agent_target.formats.drafts import Draft


class Order:
    """A list of items in the order in which they began, each result after its call.

    Within an inner response, items that are numbered stand in the order of their numbers.

    Attributes:
        drafts: The items.
    """

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        # Where in the list the open inner response began, and from where on its items stand in the order of their
        # numbers; which numbers were given to items that have come whole since.
        self._response = self._ordered = 0
        self._ended: set[int | None] = set()

    @property
    def here(self) -> list[Draft]:
        """The items of the open inner response."""
        return self.drafts[self._response :]

    @property
    def before(self) -> list[Draft]:
        """The items of earlier ones."""
        return self.drafts[: self._response]

    def begin_response(self) -> None:
        """Begin an inner response."""
        self._response = len(self.drafts)
        self._begin_numbers()

    def begin(self, draft: Draft) -> None:
        """Put an item that begins where it belongs."""
        place = self._place(draft)
        self._insert(draft, place, beside=place)
        if draft.kind == "function_call_output":
            self._begin_numbers()  # no model says it, so its response is over

    def end(self, number: int | None) -> None:
        """Note that the item with a number has come whole."""
        self._ended.add(number)

    def put_behind(self, draft: Draft, known: Draft) -> None:
        """Put an item right behind another."""
        beside = next(place for place, other in enumerate(self.drafts) if other is known)
        self._insert(draft, beside + 1, beside)

    def arrange(self, listed: list[Draft]) -> None:
        """Put the items of the open inner response in the order of a list, all others behind what they came after."""
        behind: dict[int, list[Draft]] = {id(draft): [] for draft in listed}
        arranged: list[Draft] = []
        latest = arranged
        here = self.here
        for draft in here:
            if id(draft) in behind:
                latest = behind[id(draft)]
            else:
                latest.append(draft)
        ids = {id(draft) for draft in here}
        for draft in listed:
            if id(draft) in ids:
                arranged += [draft, *behind[id(draft)]]
        self.drafts[self._response :] = arranged

    def _begin_numbers(self) -> None:
        self._ordered, self._ended = len(self.drafts), set()

    def _insert(self, draft: Draft, place: int, beside: int) -> None:
        self.drafts.insert(place, draft)
        self._response += beside < self._response
        self._ordered += beside < self._ordered

    def _place(self, draft: Draft) -> int:
        drafts, index = self.drafts, draft.index
        if draft.kind == "function_call" and (call_id := draft.item.get("call_id")):
            for place, other in enumerate(drafts):
                if other.kind == "function_call_output" and other.item.get("call_id") == call_id:
                    return place
        if index in self._ended:
            self._begin_numbers()  # another inner response has begun, without a word
        place = len(drafts)
        if index is None:
            return place
        for before in range(place - 1, self._ordered - 1, -1):
            other_index = drafts[before].index
            if other_index is not None:
                if other_index <= index:
                    break
                place = before
        return place
