"""Rows that were read and not yet sent: enough that none is waited for, and no more than memory should hold.

One thread puts them in, and waits while there are enough; another takes them out.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

# Rows may be large: of those no more are kept ready than have so many bytes in all.
_MOST_BYTES = 16_000_000
_SECONDS_BETWEEN_LOOKS = 0.2

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """A queue of rows that is bounded by their number and their bytes.

    Args:
        most: The most rows.
        wake: Called when a row comes that the other side has waited for.
    """

    def __init__(self, most: int, wake: Callable[[], None]) -> None:
        self._most, self._few = most, most // 2
        self._wake = wake
        # A deque may be filled by one thread and emptied by another. So may a sum, if each changes one of its parts.
        self._rows: deque[tuple[T, int]] = deque()
        self._bytes_in = self._bytes_out = 0
        self._room = threading.Event()
        self._hungry = True  # whether the other side waits for a row

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, row: T, size: int, is_stopping: Callable[[], bool]) -> None:
        """Add a row of so many bytes, and wait while there are enough, unless it is stopping."""
        self._bytes_in += size
        self._rows.append((row, size))
        if self._hungry:
            self._hungry = False
            self._wake()
        if self._is_full(self._most):
            self._room.clear()
            while self._is_full(self._few) and not is_stopping():
                self._room.wait(_SECONDS_BETWEEN_LOOKS)

    def take(self) -> T | None:
        """Return the next row; None where none is ready."""
        if not self._rows:
            self._hungry = True
        if not self._rows:  # asked once more: a row that came before `_hungry` was set has woken nobody
            return None
        row, size = self._rows.popleft()
        self._bytes_out += size
        if not self._is_full(self._few):
            self._room.set()
        return row

    def release(self) -> None:
        """Let the thread go on that waits for room."""
        self._room.set()

    def _is_full(self, most: int) -> bool:
        return len(self._rows) > most or (len(self._rows) > 1 and self._bytes_in - self._bytes_out > _MOST_BYTES)
