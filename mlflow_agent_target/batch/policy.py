"""How a batch is run, and what a row's end means for the row and for the run. Pure: the clock is passed in."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

from mlflow_agent_target.batch.records import IN_DOUBT, OK
from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    AuthenticationError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InterfaceMismatchError,
    InvalidInputError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
)
from mlflow_agent_target.http.retry import seconds_until_retry
from mlflow_agent_target.target.settings import Backoff, TimeLimits

# The platform limits a workspace's requests in flight, by region; this is the lowest of those limits.
_CEILING = 192
# A share of rows says nothing before so many have ended.
_FEWEST_OF_A_SHARE = 20
# So often an address is tried where nothing has answered yet: then it is likely wrong.
_TRIES_OF_A_NEW_ADDRESS = 3


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run.

    Attributes:
        concurrency: The most requests in flight; None to find out what the endpoint bears.
        requests_per_minute: The most requests in any minute; None for no limit.
        on_error: "record" a row that fails, or "raise" its error and stop.
        retry_on: Errors after which a row is sent again although the agent may have run for it.
        idempotent: Whether the agent may safely run twice, so that every passing failure is retried.
        rerun_in_doubt: Whether rows that were in flight when an earlier process ended are sent again.
        max_failures: Nothing more is sent when so many rows have failed in this run: a number, or a share of those that
            have ended, above 0 and below 1. None for no limit.
        max_tokens: Nothing more is sent when this run's answers have so many tokens; None for no limit.
        price_per_million: What a million tokens cost, of the input and of the output; None where that is not known.
        retries: When to try again after a failure that is not the endpoint's refusal.
        timeout: Seconds for one attempt.
        total_timeout: Seconds for all attempts of a row, and for an endpoint that answers nothing to come back.

    Raises:
        InvalidInputError: A value can't be used.
    """

    concurrency: int | None = None
    requests_per_minute: float | None = None
    on_error: Literal["record", "raise"] = "record"
    retry_on: tuple[type[Exception], ...] = ()
    idempotent: bool = False
    rerun_in_doubt: bool = True
    max_failures: float | None = None
    max_tokens: int | None = None
    price_per_million: tuple[float, float] | None = None
    retries: Backoff = field(default_factory=Backoff)
    timeout: float = TimeLimits.timeout
    total_timeout: float = TimeLimits.total_timeout

    def __post_init__(self) -> None:
        concurrency, rate = self.concurrency, self.requests_per_minute
        if concurrency is not None and (
            isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1
        ):
            raise InvalidInputError(f"concurrency must be a whole number, 1 or more, not {concurrency!r}.")
        if rate is not None and (type(rate) not in (int, float) or not 0 < rate < math.inf):
            raise InvalidInputError(f"requests_per_minute must be a number above 0, not {rate!r}.")
        self._check_ceilings()
        if self.on_error not in ("record", "raise"):
            raise InvalidInputError(f"on_error must be 'record' or 'raise', not {self.on_error!r}.")
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in self.retry_on):
            raise InvalidInputError(f"retry_on must be a class of errors or several, not {self.retry_on!r}.")

    def _check_ceilings(self) -> None:
        most, tokens, prices = self.max_failures, self.max_tokens, self.price_per_million
        if most is not None and not ((type(most) is int and most >= 1) or (type(most) is float and 0.0 < most < 1.0)):
            raise InvalidInputError(
                f"max_failures must be a whole number, 1 or more, or a share above 0 and below 1, not {most!r}."
            )
        if tokens is not None and (type(tokens) is not int or tokens < 1):
            raise InvalidInputError(f"max_tokens must be a whole number, 1 or more, not {tokens!r}.")
        if prices is not None and not (
            isinstance(prices, (tuple, list))
            and len(prices) == 2
            and all(type(price) in (int, float) and 0 <= price < math.inf for price in prices)
        ):
            raise InvalidInputError(
                "price_per_million must be two numbers, the price of a million input tokens and that of a million "
                f"output tokens, not {prices!r}."
            )

    @property
    def ceiling(self) -> int:
        """The most requests that are ever in flight."""
        return self.concurrency or _CEILING

    def enough(self, ended: int, failed: int, tokens: int) -> str | None:
        """Return why nothing more is to be sent, by the ceilings that the caller has set; None to go on.

        Args:
            ended: Rows that ended in this run.
            failed: How many of them failed.
            tokens: Tokens of this run's answers.
        """
        most = self.max_failures
        is_share = isinstance(most, float)
        if (
            most is not None
            and failed >= (most * ended if is_share else most)
            and (not is_share or ended >= _FEWEST_OF_A_SHARE)
        ):
            return f"max_failures={most}: {failed} of {ended} rows failed"
        if self.max_tokens is not None and tokens >= self.max_tokens:
            return f"max_tokens={self.max_tokens}: the answers of {ended} rows have {tokens} tokens"
        return None

    def sends_again(self, state: str) -> bool:
        """Return whether a row is sent again that an earlier run left in this state."""
        return state != OK and (state != IN_DOUBT or self.rerun_in_doubt)


class End(Enum):
    """The four ways in which a request ends."""

    ANSWERED = "answered"  # well, or with an error of the agent's own
    REFUSED = "refused"  # the agent has not run, and the endpoint may take the same request later
    LOST = "lost"  # no answer came, and the agent may have run
    NEVER_LEFT = "never left"  # what to send was wrong, so that the endpoint was not asked


class Ended(NamedTuple):
    """What the end of a request says of the endpoint.

    Attributes:
        kind: How it ended.
        is_rate: Whether it was refused because there were too many.
        retry_after: Seconds that the endpoint asks to wait; None where it does not say.
        timed_out: Whether it was lost because it took too long.
        is_doubtful: Whether the error could be the gateway's as well as the agent's.
    """

    kind: End
    is_rate: bool = False
    retry_after: float | None = None
    timed_out: bool = False
    is_doubtful: bool = False


ANSWERED = Ended(End.ANSWERED)
NEVER_LEFT = Ended(End.NEVER_LEFT)


def end_of(error: BaseException) -> Ended:
    """Return what a failed request says of the endpoint."""
    if not isinstance(error, AgentTargetError):
        return NEVER_LEFT  # such as what a caller's own object raises when it is read
    retry_after, is_rate = getattr(error, "retry_after", None), isinstance(error, RateLimitError)
    # Of a run that has begun, it is the question how it stands that can be refused.
    is_held_back = is_rate or (error.status_code == 503 and retry_after is not None)
    if error.retryable and (not error.may_have_run or (is_held_back and may_be_going_on(error))):
        return Ended(End.REFUSED, is_rate=is_rate, retry_after=retry_after)
    if isinstance(error, RequestTimeoutError):
        return Ended(End.LOST, timed_out=True)
    if isinstance(error, EndpointUnavailableError) and error.may_have_run:
        return Ended(End.LOST)
    if not error.attempts and error.status_code is None:
        return NEVER_LEFT
    return Ended(End.ANSWERED, is_doubtful=isinstance(error, AgentError) and (error.status_code or 0) >= 500)


def is_of_every_row(error: BaseException) -> bool:
    """Return whether every other row would fail the same way, without reaching the agent."""
    if isinstance(error, (AuthenticationError, PermissionDeniedError, EndpointNotFoundError)):
        return True
    if not isinstance(error, AgentTargetError) or isinstance(error, (InvalidInputError, InterfaceMismatchError)):
        return False
    # Such as a redirect, a certificate that is not trusted, a request that needs the other interface's key.
    return not error.retryable and not error.may_have_run


def may_be_going_on(error: BaseException) -> bool:
    """Return whether a run may be going on that the same id asks for: that row is in doubt, and has not failed."""
    if not isinstance(error, AgentTargetError) or error.invocation_id is None or not error.may_have_run:
        return False
    return error.retryable or is_of_every_row(error)


@dataclass(frozen=True)
class Decision:
    """What follows from a failed attempt.

    Attributes:
        wait: Seconds until the row is sent again; None where it is not, in this run.
        is_released: Whether the row is recorded as one for which the agent has not run, so that the next run may send
            it without a doubt.
        is_in_doubt: Whether the row stays claimed, so that the next run asks for the same run of the agent.
        ends_the_run: Whether nothing more is sent, and the error is raised.
    """

    wait: float | None = None
    is_released: bool = False
    is_in_doubt: bool = False
    ends_the_run: bool = False

    @property
    def fails_the_row(self) -> bool:
        """Whether the error is the row's outcome."""
        return self.wait is None and not self.is_released and not self.is_in_doubt


class FailurePolicy:
    """Decides what follows from failed attempts.

    Args:
        options: How the batch is run.
    """

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        self._has_answered = False
        # The first attempt in vain since the last answer. Time without requests doesn't count: rows that come slowly
        # are no fault of the endpoint.
        self._in_vain_since: float | None = None

    def answered(self) -> None:
        """The endpoint answered, whatever it said."""
        self._in_vain_since, self._has_answered = None, True

    def failed(
        self, error: BaseException, end: End, now: float, *, attempts: int, seconds: float, tries: int
    ) -> Decision:
        """Return what follows from a failed attempt.

        Args:
            error: What it ended in.
            end: How it ended, by `end_of`.
            now: When it ended.
            attempts: Attempts at its row so far, 1 or more.
            seconds: Since the first of them.
            tries: How often the endpoint was tried in vain since it was last there.
        """
        is_going_on = may_be_going_on(error)
        stop = Decision(is_released=not is_going_on, is_in_doubt=is_going_on, ends_the_run=True)
        if end is End.REFUSED:
            if self._is_out_of_reach(error, now, tries):
                return stop
            most = self._options.retries.max_retries
            if most and (attempts <= most or seconds <= self._options.total_timeout):
                # It waits for no time of its own: the limiter holds back every row.
                return Decision(wait=0.0, is_released=not is_going_on)
        elif is_of_every_row(error):
            return stop
        else:
            if end is End.ANSWERED:
                self.answered()
            if end is End.LOST and self._is_out_of_reach(error, now, tries):
                return Decision(is_in_doubt=is_going_on, ends_the_run=True)
            if (wait := self._wait(error, attempts, seconds)) is not None:
                return Decision(wait)
        return Decision(ends_the_run=self._options.on_error == "raise")

    def _is_out_of_reach(self, error: BaseException, now: float, tries: int) -> bool:
        if self._in_vain_since is None:
            self._in_vain_since = now
        is_new = not self._has_answered and tries >= _TRIES_OF_A_NEW_ADDRESS
        is_wrong = is_new and getattr(error, "unreachable", False)
        return is_wrong or now - self._in_vain_since > self._options.total_timeout

    def _wait(self, error: BaseException, attempts: int, seconds: float) -> float | None:
        """Return the seconds until a row is sent again for which the agent may have run; None for never."""
        options = self._options
        is_named = isinstance(error, options.retry_on)
        if is_named and not (isinstance(error, AgentTargetError) and error.retryable):
            error = AgentTargetError("", retryable=True)  # the caller knows better
        if not isinstance(error, AgentTargetError):
            return None
        return seconds_until_retry(
            options.retries,
            error,
            attempt=attempts,
            remaining=options.total_timeout - seconds,
            # Under the id of its run it is always safe to ask again.
            idempotent=is_named or options.idempotent or error.invocation_id is not None,
            random=random.random(),  # noqa: S311 (spreads the waits, guards nothing)
        )
