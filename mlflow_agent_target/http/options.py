"""How a call is made: its time limits, and when it is made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mlflow_agent_target.http.steps import Steps
from mlflow_agent_target.target.settings import Backoff, TimeLimits

NO_RETRIES = Backoff(max_retries=0)


class Clock(Protocol):
    """What an exchange needs of the `time` module."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...
    def time(self) -> float: ...


def _never() -> Steps[bool]:
    return False
    yield


class CallTime(NamedTuple):
    """How long a call may take, looking up what an endpoint serves included, and when it began (`time.monotonic`)."""

    limits: TimeLimits
    began: float


@dataclass(frozen=True)
class RequestOptions:
    """How one call is made. Times in seconds; None for what the environment says when the call is made.

    Attributes:
        endpoint: The endpoint's name, for errors and log records.
        timeout: For one attempt: until the answer, or a stream's first event, is there.
        total_timeout: For all attempts together.
        idle_timeout: The longest silence within a stream; None for as long as `timeout`.
        idempotent: Whether the agent may safely run twice.
        wait_until_ready: How long an endpoint is waited for that is starting or scaled to zero, beside `total_timeout`;
            None for the usual retries.
        exists: Asks whether an endpoint that answers 404 is there all the same, and so starting.
        headers: Sent beside the usual ones.
        backoff: When to try again.
        leaves_rate_limits: Asks whether the caller itself tries again what was refused with 429.
    """

    endpoint: str | None = None
    timeout: float | None = None
    total_timeout: float | None = None
    idle_timeout: float | None = None
    idempotent: bool = False
    wait_until_ready: float | None = None
    exists: Callable[[], Steps[bool]] = field(default=_never, compare=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    backoff: Backoff | None = None
    leaves_rate_limits: Callable[[], bool] = field(default=bool, compare=False)

    def begin(self, now: float) -> CallTime:
        """Return the time of a call that begins now."""
        return CallTime(self.limits(), now)

    def limits(self) -> TimeLimits:
        """Return the time limits of a call that is made now."""
        given = TimeLimits.read()
        if self.timeout is None and self.total_timeout is None:
            return given
        return TimeLimits(
            given.timeout if self.timeout is None else self.timeout,
            given.total_timeout if self.total_timeout is None else self.total_timeout,
        )
