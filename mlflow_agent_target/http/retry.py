"""When to try again, and how long to wait. Pure: the clock and the randomness are passed in."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from mlflow_agent_target.errors import AgentTargetError, EndpointNotFoundError, EndpointUnavailableError
from mlflow_agent_target.target.settings import Backoff

# Somebody is waiting to hear that the address is wrong; a gateway's 503 can pass, a closed port seldom does.
_UNREACHABLE_RETRIES = 2
_LONGEST_BACKOFF_SECONDS = 60.0
# A server that asks for a shorter wait has none in mind.
_SHORTEST_WAIT_SECONDS = 1.0
# How often an endpoint is asked that is waited for.
_SHORTEST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.1, 10.0


def seconds_until_retry(
    policy: Backoff,
    error: AgentTargetError,
    *,
    attempt: int,
    remaining: float,
    idempotent: bool,
    random: float,
    readiness: float | None = None,
) -> float | None:
    """Return the seconds to wait before sending the request again, or None to give up.

    A request is sent again only when the agent can't have run, unless the caller said that running twice is safe.

    The wait before retry n (1, 2, ...) is `factor * 2 ** (n - 1)` seconds plus up to `jitter` seconds, 60 s at most, or
    what the server asked for with `Retry-After`. With MLflow's defaults: 2 to 3 s, 4 to 5 s, ...

    Args:
        policy: How often, and how patiently.
        error: What the last attempt ended in.
        attempt: Attempts made so far, 1 or more.
        remaining: Seconds left of the time for all attempts together.
        idempotent: Whether the agent may safely run twice.
        random: A number in [0, 1) that spreads the waits.
        readiness: Seconds left of the time that a starting endpoint is waited for; None where the usual retries are
            to do.
    """
    if not error.retryable or (error.may_have_run and not idempotent):
        return None
    asked: float | None = getattr(error, "retry_after", None)
    backoff = min(policy.factor * 2 ** min(attempt - 1, 16), _LONGEST_BACKOFF_SECONDS)
    backoff += policy.jitter * random
    if readiness is not None and is_not_ready(error):
        seconds = min(max(backoff, _SHORTEST_POLL_SECONDS), _LONGEST_POLL_SECONDS) if asked is None else asked
        return min(seconds, readiness) if readiness > 0 else None
    limit = policy.max_retries
    if isinstance(error, EndpointUnavailableError):
        if error.cut_off and attempt == 1 and policy.max_retries:
            return 0.0  # a connection that had been kept alive for too long: a new one will do
        if error.unreachable:
            limit = min(limit, _UNREACHABLE_RETRIES)
    # "At once" is no licence to use up all retries in a moment.
    seconds = backoff if asked is None or asked < _SHORTEST_WAIT_SECONDS else asked
    return seconds if attempt <= limit and seconds < remaining else None


def is_not_ready(error: AgentTargetError) -> bool:
    """Return whether an error is what an endpoint answers, or doesn't, that is starting or scaled to zero."""
    if isinstance(error, EndpointUnavailableError):
        return error.status_code == 503 or error.unreachable
    return isinstance(error, EndpointNotFoundError) and error.retryable


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait, or None when it says nothing readable.

    Args:
        value: The header: seconds, or an HTTP date (RFC 9110, section 10.2.3).
        now: The current time, in seconds since the epoch.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        seconds = (date - datetime.fromtimestamp(now, tz=timezone.utc)).total_seconds()
    return max(seconds, 0.0) if seconds == seconds and seconds != float("inf") else None
