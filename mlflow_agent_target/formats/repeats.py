"""Events that a server sends again, known by their numbers. Pure."""

from __future__ import annotations

from collections import deque
from typing import Any

# As many events are remembered: a server sends again what came last.
_REMEMBERED = 256


class Repeats:
    """Finds events that have come before, by `sequence_number`.

    The number alone proves nothing: each inner response may begin again at 0, and some servers say 0 of every event. So
    the whole event is compared. Where it differs, another numbering has begun.

    Attributes:
        highest: The highest number since the numbering began. An event with a higher one is new: whoever finds that,
            to save the call, sets it and puts the event into `recent`.
        recent: The last events.
    """

    def __init__(self) -> None:
        self.highest = -1
        self.recent: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)

    def has(self, event: dict[str, Any]) -> bool:
        """Return whether an event has come before, and remember it."""
        number = event.get("sequence_number")
        if type(number) is not int:
            return False
        if number <= self.highest:
            if any(known["sequence_number"] == number and known == event for known in self.recent):
                return True
            self.recent.clear()
        self.highest = number
        self.recent.append(event)
        return False

    def begin(self, event: dict[str, Any]) -> None:
        """Forget all that came before an event: another numbering begins with it."""
        self.recent.clear()
        self.highest = -1
        self.has(event)
