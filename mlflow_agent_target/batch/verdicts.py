"""What a failure in a batch means: its row is sent again or has failed, or no row would fare better. Pure."""

from __future__ import annotations

import random

from mlflow_agent_target.batch.policy import BatchOptions
from mlflow_agent_target.errors import (
    AgentTargetError,
    AuthenticationError,
    EndpointNotFoundError,
    InterfaceMismatchError,
    InvalidInputError,
    PermissionDeniedError,
)
from mlflow_agent_target.http.retry import seconds_until_retry

# Tries of an address where nothing has answered yet: it is likely wrong.
_FIRST_TRIES = 3


def is_refusal(error: BaseException) -> bool:
    """Return whether the agent has not run, and the endpoint may take the same request later."""
    return isinstance(error, AgentTargetError) and error.retryable and not error.may_have_run


def is_of_every_row(error: BaseException) -> bool:
    """Return whether every other row would fail the same way, without reaching the agent."""
    if isinstance(error, (AuthenticationError, PermissionDeniedError, EndpointNotFoundError)):
        return True
    if not isinstance(error, AgentTargetError) or isinstance(error, (InvalidInputError, InterfaceMismatchError)):
        return False
    # A redirect, a certificate that is not trusted, the key of the other interface.
    return not error.retryable and not error.may_have_run


class Judge:
    """Decides about failures, from the batch's options and from how long the endpoint has answered nothing.

    Args:
        options: How the batch is run.
    """

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        self._has_answered = False
        # Not since the last answer: rows that are slow to come are no fault of the endpoint.
        self._refusing_since: float | None = None

    def answered(self) -> None:
        """The endpoint answered, whatever it said, or was given time to."""
        self._refusing_since, self._has_answered = None, True

    def ends_the_run(self, error: BaseException, now: float, unavailable_in_a_row: int) -> bool:
        """Return whether a failure is not its row's, but every row's.

        Args:
            error: What an attempt ended in.
            now: When it did.
            unavailable_in_a_row: How often the endpoint was found unavailable since it last answered.
        """
        if not is_refusal(error):
            return is_of_every_row(error)
        if self._refusing_since is None:
            self._refusing_since = now
        is_new = not self._has_answered and unavailable_in_a_row >= _FIRST_TRIES
        is_wrong = is_new and getattr(error, "unreachable", False)
        return is_wrong or now - self._refusing_since > self._options.total_timeout

    def wait(self, error: BaseException, *, attempts: int, seconds: float) -> float | None:
        """Return the seconds to wait before a row is sent again, None where it has failed for good.

        A row that was refused waits for no time of its own: the limiter holds back every row.

        Args:
            error: What its last attempt ended in.
            attempts: Attempts made so far, 1 or more.
            seconds: Since the first of them.
        """
        options = self._options
        if is_refusal(error):
            most = options.retries.max_retries
            return None if most == 0 or (attempts > most and seconds > options.total_timeout) else 0.0
        named = isinstance(error, options.retry_on)
        if named and not (isinstance(error, AgentTargetError) and error.retryable):
            error = AgentTargetError("", retryable=True)  # the caller knows better
        if not isinstance(error, AgentTargetError):
            return None
        return seconds_until_retry(
            options.retries,
            error,
            attempt=attempts,
            remaining=options.total_timeout - seconds,
            idempotent=named or options.idempotent,
            random=random.random(),  # noqa: S311 (spreads the waits, guards nothing)
        )
