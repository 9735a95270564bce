"""What a call waits for, as steps: decided in generators, performed by a driver.

A generator yields a step, and is sent what came of it, or is thrown what it ended in. So everything that decides
(when to log in, what an answer means, whether to ask again) knows of no thread and no event loop, and a driver for
another world than this thread's performs the same steps.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")


class Step(Protocol):
    """Something that takes time."""

    def perform(self) -> Any:
        """Do it in this thread, and return what came of it."""


Steps = Generator[Step, Any, _T]
"""A call: yields the steps that it waits for, and returns what came of it all."""


class Login(Protocol):
    """Who sends the requests."""

    def headers(self, seconds: float) -> Mapping[str, str]: ...


@dataclass(slots=True)
class LogIn:
    """Ask for the headers of one request, which may take another login: so many seconds at most. Gives the headers."""

    login: Login
    seconds: float

    def perform(self) -> Mapping[str, str]:
        return self.login.headers(self.seconds)


class Body(Protocol):
    """An answer's body, as it arrives."""

    def read(self, timeout: float) -> bytes: ...


@dataclass(slots=True)
class Read:
    """Wait for bytes of an answer's body, for so many seconds at most. Gives the bytes, b"" at its end."""

    body: Body
    seconds: float

    def perform(self) -> bytes:
        return self.body.read(self.seconds)


@dataclass(slots=True)
class Do:
    """Do something that may block, other than a request: find a login, renew it, exchange a token. Gives its result."""

    call: Callable[[], Any]

    def perform(self) -> Any:
        return self.call()


@dataclass(slots=True)
class Sleep:
    """Wait for so many seconds. Gives whether what waits says that it was woken, as the wait for an event does."""

    seconds: float
    sleep: Callable[[float], Any]

    def perform(self) -> bool:
        return bool(self.sleep(self.seconds))


@dataclass(slots=True)
class WaitFor:
    """Wait until another call has an outcome, for so many seconds at most. Gives whether it has."""

    outcome: concurrent.futures.Future[Any]
    seconds: float

    def perform(self) -> bool:
        return bool(concurrent.futures.wait([self.outcome], self.seconds).done)


def perform(steps: Steps[_T]) -> _T:
    """Perform a call's steps in this thread, and return what came of it."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = step.perform()
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as end:
        value: _T = end.value
        return value
