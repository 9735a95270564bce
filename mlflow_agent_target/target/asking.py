"""A question that may take long, asked once for all threads that wait: each as long as its own time limit lets it."""

from __future__ import annotations

import contextvars
import copy
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class TookTooLongError(Exception):
    """No answer came within the time limit of the one who waited."""


class Asking(Generic[_T]):
    """Asks one question in a thread of its own, so that whoever waits for the answer may give up waiting.

    Args:
        asks_anew: Whether the next one asks again when somebody has waited in vain: the question may then be asked a
            second time beside the first, which may never end.
    """

    def __init__(self, asks_anew: bool) -> None:
        self._asks_anew = asks_anew
        self._lock = threading.Lock()
        self._answer: Future[_T] | None = None

    def ask(self, question: Callable[[], _T], seconds: float) -> _T:
        """Return the answer: this question's, or that of the one that is being asked already.

        Raises:
            TookTooLongError: There is none within so many seconds.
            Exception: What the question ended in; a copy for each who waits, as what is told of it differs.
        """
        with self._lock:
            answer = self._answer
            if answer is None:
                answer = self._answer = Future()
                # A login may depend on the caller's context, such as whose behalf it is on.
                run = contextvars.copy_context().run
                threading.Thread(
                    target=run, args=(self._find, question, answer), name="agent-target login", daemon=True
                ).start()
        if not wait([answer], min(max(seconds, 0.0), threading.TIMEOUT_MAX)).done:
            if self._asks_anew:
                self._forget(answer)
            raise TookTooLongError
        error = answer.exception()
        if error is not None:
            raise copy.copy(error) from error.__cause__
        return answer.result()

    def _find(self, question: Callable[[], _T], answer: Future[_T]) -> None:
        try:
            found = question()
        except BaseException as error:
            self._forget(answer)
            answer.set_exception(error)
        else:
            self._forget(answer)
            answer.set_result(found)

    def _forget(self, answer: Future[Any]) -> None:
        with self._lock:
            if self._answer is answer:
                self._answer = None
