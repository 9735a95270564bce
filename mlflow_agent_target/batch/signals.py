"""Ctrl-C and SIGTERM while a batch runs, and rows that are waited for in vain.

Only the main thread of a program handles signals. It is also where rows are read, when it runs the batch: a source of
rows that blocks would hold up everything, so that a handler breaks off the reading. In another thread that is not
possible, and a stop is noticed when the next row comes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

# Wakes the main thread. By default it is ignored, and others send it too: the runtime of Go does, all the time.
_WAKE = getattr(signal, "SIGURG", None)


class _StopReading(BaseException):
    """Raised where a row is waited for. No `except Exception` of a generator takes it for its own."""


class Signals:
    """Handles signals, and reads rows so that one can break that off."""

    def __init__(self) -> None:
        self._stop: Callable[[str], None] = lambda _: None
        self._is_reading = False
        self._is_stopped = False
        self._received: set[int] = set()
        self._before: dict[int, Any] = {}

    @contextlib.contextmanager
    def handled(self, stop: Callable[[str], None]) -> Iterator[None]:
        """Handle signals. A program's own handlers are left alone.

        Args:
            stop: Called with "Ctrl-C" or "SIGTERM" at the first of them. A second Ctrl-C raises KeyboardInterrupt, a
                second SIGTERM ends the program.
        """
        self._stop = stop
        self._take()
        try:
            yield
        finally:
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._handle:  # the source of the rows may have set one of its own
                    signal.signal(number, handler)

    def _take(self) -> None:
        if threading.current_thread() is threading.main_thread():
            defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
            if _WAKE is not None:
                defaults[_WAKE] = signal.SIG_DFL
            for number, default in defaults.items():
                if signal.getsignal(number) is default:
                    self._before[number] = default
                    signal.signal(number, self._handle)

    def each(self, rows: Iterator[T]) -> Iterator[T]:
        """Yield rows, until there are no more or `break_off` is called."""
        try:
            while not self._is_stopped:
                self._is_reading = True
                if self._is_stopped:  # between the two lines before
                    return
                row = next(rows, None)
                self._is_reading = False
                if row is None:
                    return
                yield row
        except _StopReading:
            return
        finally:
            self._is_reading = False

    def break_off(self) -> None:
        """Read no more, even if a row is being waited for. Any thread may call it."""
        self._is_stopped = True
        if self._is_reading and _WAKE in self._before:
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)

    def _handle(self, number: int, frame: Any) -> None:
        if number in self._received:
            if number == signal.SIGINT:
                signal.default_int_handler(number, frame)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if number != _WAKE:
            self._received.add(number)
            self._stop("Ctrl-C" if number == signal.SIGINT else "SIGTERM")
            self._is_stopped = True
        elif not self._is_stopped:
            return  # `break_off` has not sent it
        if self._is_reading:
            self._is_reading = False
            raise _StopReading
