"""When a request is sent again, and how long is waited before."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    AuthenticationError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InvalidInputError,
    RateLimitError,
    RequestTimeoutError,
    StreamInterruptedError,
)
from mlflow_agent_target.http.retry import is_not_ready, parse_retry_after, seconds_until_retry
from mlflow_agent_target.target.settings import Backoff

POLICY = Backoff(max_retries=3, factor=2.0, jitter=1.0)
NOW = 1_800_000_000.0


def wait(error: AgentTargetError, attempt: int = 1, remaining: float = 600, idempotent: bool = False) -> float | None:
    return seconds_until_retry(POLICY, error, attempt=attempt, remaining=remaining, idempotent=idempotent, random=0.5)


@pytest.mark.parametrize(
    ("error", "plainly", "idempotent"),
    [
        pytest.param(RateLimitError("429"), 2.5, 2.5, id="a rate limit"),
        pytest.param(EndpointUnavailableError("503"), 2.5, 2.5, id="not ready"),
        pytest.param(EndpointUnavailableError("refused", unreachable=True), 2.5, 2.5, id="a refused connection"),
        pytest.param(EndpointUnavailableError("502", may_have_run=True), None, 2.5, id="a bad gateway"),
        pytest.param(RequestTimeoutError("slow"), None, 2.5, id="a read timeout"),
        pytest.param(StreamInterruptedError("cut"), None, 2.5, id="a cut stream"),
        pytest.param(AgentError("500", may_have_run=True, retryable=True), None, 2.5, id="a failure of the server"),
        pytest.param(AgentError("400", may_have_run=True), None, None, id="a failure of the agent"),
        pytest.param(AuthenticationError("401"), None, None, id="bad credentials"),
        pytest.param(InvalidInputError("bad"), None, None, id="bad input"),
    ],
)
def test_only_what_may_pass_and_cannot_have_run_is_sent_again(
    error: AgentTargetError, plainly: float | None, idempotent: float | None
) -> None:
    assert wait(error) == plainly
    assert wait(error, idempotent=True) == idempotent


def test_waits_grow_and_end() -> None:
    assert [wait(RateLimitError("429"), attempt) for attempt in (1, 2, 3, 4)] == [2.5, 4.5, 8.5, None]


def test_a_backoff_has_an_upper_end() -> None:
    policy = Backoff(max_retries=5000, jitter=0)
    seconds = seconds_until_retry(
        policy, RateLimitError("429"), attempt=4000, remaining=600, idempotent=False, random=0.0
    )
    assert seconds == 60


def test_an_address_where_nothing_listens_is_given_up_on_soon() -> None:
    refused = EndpointUnavailableError("refused", unreachable=True)
    assert [wait(refused, attempt) for attempt in (1, 2, 3)] == [2.5, 4.5, None]


def test_what_the_server_asked_for_is_waited_and_no_longer_than_the_total_time() -> None:
    assert wait(RateLimitError("429", retry_after=7.0)) == 7
    assert wait(EndpointUnavailableError("503", retry_after=1.0)) == 1
    assert wait(RateLimitError("429", retry_after=7.0), remaining=6) is None
    assert wait(RateLimitError("429"), remaining=2) is None


@pytest.mark.parametrize("asked", [0.0, 0.99])
def test_at_once_is_no_licence_to_use_up_all_retries_in_a_moment(asked: float) -> None:
    assert [wait(RateLimitError("429", retry_after=asked), attempt) for attempt in (1, 2, 3)] == [2.5, 4.5, 8.5]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("Fri, 15 Jan 2027 08:00:30 -0000", 30.0),
        ("soon", None),
        ("Fri, 15 Jan 277770133335 08:00:30 GMT", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


@pytest.mark.parametrize(
    ("error", "not_ready"),
    [
        (EndpointUnavailableError("503", status_code=503), True),
        (EndpointUnavailableError("refused", unreachable=True), True),
        (EndpointUnavailableError("502", status_code=502), False),
        (EndpointUnavailableError("broken"), False),
        (EndpointNotFoundError("404", status_code=404, retryable=True), True),
        (EndpointNotFoundError("404", status_code=404), False),
        (RateLimitError("429", status_code=429), False),
    ],
)
def test_what_an_endpoint_that_is_starting_answers(error: AgentTargetError, not_ready: bool) -> None:
    assert is_not_ready(error) is not_ready
