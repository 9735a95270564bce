"""What may be chosen, and what failures mean for the row and for the run."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target import (
    AgentError,
    AgentTargetError,
    AuthenticationError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InterfaceMismatchError,
    InvalidInputError,
    InvalidResponseError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
)
from mlflow_agent_target.batch.policy import (
    BatchOptions,
    Decision,
    End,
    Ended,
    FailurePolicy,
    end_of,
    is_of_every_row,
    may_be_going_on,
)
from mlflow_agent_target.batch.records import CLAIMED, FAILED, IN_DOUBT, OK, RELEASED
from mlflow_agent_target.target.settings import Backoff

GOOD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"concurrency": 1, "requests_per_minute": 0.5},
    {"requests_per_minute": 1},
    {"on_error": "raise", "retry_on": (AgentError, ValueError)},
    {"max_failures": 1, "max_tokens": 1, "price_per_million": [0, 2.5]},
    {"max_failures": 0.01},
]
BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "none in flight": ({"concurrency": 0}, "concurrency must be a whole number, 1 or more, not 0"),
    "fewer than none": ({"concurrency": -1}, "not -1"),
    "half a request": ({"concurrency": 1.5}, "not 1.5"),
    "yes in flight": ({"concurrency": True}, "not True"),
    "no rate": ({"requests_per_minute": 0}, "requests_per_minute must be a number above 0, not 0"),
    "no number": ({"requests_per_minute": float("nan")}, "not nan"),
    "an endless rate": ({"requests_per_minute": float("inf")}, "not inf"),
    "a rate of yes": ({"requests_per_minute": True}, "not True"),
    "a rate as text": ({"requests_per_minute": "60"}, "not '60'"),
    "another word": ({"on_error": "ignore"}, "on_error must be 'record' or 'raise', not 'ignore'"),
    "no failure": ({"max_failures": 0}, "max_failures must be a whole number, 1 or more, or a share"),
    "all of them": ({"max_failures": 1.0}, "above 0 and below 1, not 1.0"),
    "a share of none": ({"max_failures": 0.0}, "not 0.0"),
    "failures of yes": ({"max_failures": True}, "not True"),
    "failures as text": ({"max_failures": "5%"}, "not '5%'"),
    "no token": ({"max_tokens": 0}, "max_tokens must be a whole number, 1 or more, not 0"),
    "half a token": ({"max_tokens": 1.5}, "not 1.5"),
    "tokens of yes": ({"max_tokens": True}, "not True"),
    "one price": ({"price_per_million": (1,)}, "price_per_million must be two numbers"),
    "a price": ({"price_per_million": 1.0}, "not 1.0"),
    "a price below nothing": ({"price_per_million": (1, -1)}, r"not \(1, -1\)"),
    "a price without end": ({"price_per_million": (float("inf"), 1)}, "two numbers"),
    "a price of yes": ({"price_per_million": (True, 1)}, "two numbers"),
    "an error's name": ({"retry_on": ("AgentError",)}, "retry_on must be a class of errors"),
    "an error itself": ({"retry_on": (AgentError("boom"),)}, "retry_on must be"),
    "another class": ({"retry_on": (AgentError, str)}, "retry_on must be"),
    "what ends a program": ({"retry_on": (KeyboardInterrupt,)}, "retry_on must be"),
}


@pytest.mark.parametrize("options", GOOD_OPTIONS)
def test_options_that_can_be_used(options: dict[str, Any]) -> None:
    assert BatchOptions(**options).ceiling == options.get("concurrency", 192)


@pytest.mark.parametrize(("options", "says"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_cannot_be_used_say_why(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        BatchOptions(**options)


def test_what_is_not_chosen() -> None:
    options = BatchOptions()
    assert (options.on_error, options.retry_on, options.idempotent, options.rerun_in_doubt) == (
        "record",
        (),
        False,
        True,
    )
    assert (options.retries, options.total_timeout) == (Backoff(), 600.0)


@pytest.mark.parametrize("rerun_in_doubt", [True, False])
def test_rows_of_earlier_runs_are_sent_again_unless_they_are_ok(rerun_in_doubt: bool) -> None:
    options = BatchOptions(rerun_in_doubt=rerun_in_doubt)
    sent_again = {state: options.sends_again(state) for state in (OK, FAILED, IN_DOUBT, CLAIMED, RELEASED)}
    assert sent_again == {OK: False, FAILED: True, IN_DOUBT: rerun_in_doubt, CLAIMED: True, RELEASED: True}


REFUSED, LOST, ANSWERED, NEVER_LEFT = End.REFUSED, End.LOST, End.ANSWERED, End.NEVER_LEFT
ASKED: dict[str, Any] = {"attempts": 1}
# An error, how its request ended, and whether every row would share it.
KINDS: dict[str, tuple[BaseException, Ended, bool]] = {
    "too many requests": (RateLimitError("429"), Ended(REFUSED, is_rate=True), False),
    "too many, for seconds": (
        RateLimitError("429", retry_after=7.5),
        Ended(REFUSED, is_rate=True, retry_after=7.5),
        False,
    ),
    "a gateway's 503": (EndpointUnavailableError("503", **ASKED), Ended(REFUSED), False),
    "a gateway's 503, for seconds": (
        EndpointUnavailableError("503", retry_after=3.0),
        Ended(REFUSED, retry_after=3.0),
        False,
    ),
    "nobody there": (EndpointUnavailableError("refused", unreachable=True), Ended(REFUSED), False),
    "an endpoint that starts": (EndpointNotFoundError("404", retryable=True), Ended(REFUSED), False),
    "a connection broken in mid-answer": (
        EndpointUnavailableError("reset", may_have_run=True, **ASKED),
        Ended(LOST),
        False,
    ),
    "a gateway's 502": (
        EndpointUnavailableError("502", may_have_run=True, status_code=502, **ASKED),
        Ended(LOST),
        False,
    ),
    "no answer in time": (RequestTimeoutError("slow", **ASKED), Ended(LOST, timed_out=True), False),
    "a gateway that waited in vain": (
        RequestTimeoutError("408", status_code=408, **ASKED),
        Ended(LOST, timed_out=True),
        False,
    ),
    "no login": (AuthenticationError("401", status_code=401, **ASKED), Ended(ANSWERED), True),
    "no login to be had": (AuthenticationError("none"), Ended(NEVER_LEFT), True),
    "no permission": (PermissionDeniedError("403", status_code=403, **ASKED), Ended(ANSWERED), True),
    "a wrong name": (EndpointNotFoundError("404", status_code=404, **ASKED), Ended(ANSWERED), True),
    "a login that is lost on the way": (AuthenticationError("401", may_have_run=True, **ASKED), Ended(ANSWERED), True),
    "a redirect": (InvalidResponseError("302", may_have_run=False, **ASKED), Ended(ANSWERED), True),
    "an answer that is none": (InvalidResponseError("html", **ASKED), Ended(ANSWERED), False),
    "an agent that fails": (AgentError("boom", **ASKED), Ended(ANSWERED), False),
    "one that refuses": (AgentError("400", status_code=400, **ASKED), Ended(ANSWERED), False),
    "one that fails, or its gateway": (
        AgentError("500", status_code=500, **ASKED),
        Ended(ANSWERED, is_doubtful=True),
        False,
    ),
    "what the endpoint would not take": (InvalidInputError("413", status_code=413, **ASKED), Ended(ANSWERED), False),
    "a payload that can't be sent": (InvalidInputError("nan"), Ended(NEVER_LEFT), False),
    "a payload of another interface": (InterfaceMismatchError("tool"), Ended(NEVER_LEFT), False),
    "an error of none of ours": (ValueError("?"), Ended(NEVER_LEFT), False),
}


@pytest.mark.parametrize(("error", "ended", "is_of_all"), KINDS.values(), ids=KINDS)
def test_what_an_end_says(error: BaseException, ended: Ended, is_of_all: bool) -> None:
    assert end_of(error) == ended
    decision = failed(error)
    if ended.kind is REFUSED:
        assert decision == Decision(wait=0.0, is_released=True)
    else:
        assert is_of_every_row(error) == is_of_all
        assert decision.ends_the_run == decision.is_released == is_of_all
    assert decision.fails_the_row == (ended.kind is not REFUSED and not is_of_all)


ID: dict[str, Any] = {"invocation_id": "5b403556-777c-54ce-bbf6-46cbdc15036d", "attempts": 1}
BEGUN: dict[str, Any] = {**ID, "may_have_run": True}
WAIT = 7.5
# Of a call to a DurableAgentServer: an error, how its request ended, and what follows for the row and for the run.
OF_RUNS: dict[str, tuple[AgentTargetError, Ended, Decision]] = {
    "refused before it began": (
        RateLimitError("429", status_code=429, **ID),
        Ended(REFUSED, is_rate=True),
        Decision(wait=0.0, is_released=True),
    ),
    "refused while it may be going on": (
        RateLimitError("429", status_code=429, retry_after=WAIT, **BEGUN),
        Ended(REFUSED, is_rate=True, retry_after=WAIT),
        Decision(wait=0.0),
    ),
    "refused for no stated time": (
        RateLimitError("429", status_code=429, **BEGUN),
        Ended(REFUSED, is_rate=True),
        Decision(wait=0.0),
    ),
    "its server says when it is there again": (
        EndpointUnavailableError("503", status_code=503, retry_after=WAIT, **BEGUN),
        Ended(REFUSED, retry_after=WAIT),
        Decision(wait=0.0),
    ),
    "its server does not say so": (
        EndpointUnavailableError("503", status_code=503, **BEGUN),
        Ended(LOST),
        Decision(wait=1.0),
    ),
    "a gateway in between": (
        EndpointUnavailableError("502", status_code=502, retry_after=WAIT, **BEGUN),
        Ended(LOST),
        Decision(wait=WAIT),
    ),
    "cut off": (EndpointUnavailableError("reset", **BEGUN), Ended(LOST), Decision(wait=1.0)),
    "no answer in time": (RequestTimeoutError("slow", **BEGUN), Ended(LOST, timed_out=True), Decision(wait=1.0)),
    "an answer in between that passes": (
        AgentError("500", status_code=500, retryable=True, **BEGUN),
        Ended(ANSWERED, is_doubtful=True),
        Decision(wait=1.0),
    ),
    "it failed": (AgentError("failed", **BEGUN), Ended(ANSWERED), Decision()),
    "it was forgotten": (InvalidResponseError("404", status_code=404, **BEGUN), Ended(ANSWERED), Decision()),
    "its tool lacked a permission": (
        AgentError("403", status_code=403, body={"error": {"code": "MCP_PERMISSION_DENIED"}}, **BEGUN),
        Ended(ANSWERED),
        Decision(),
    ),
    "its user is not logged in to a tool": (
        AgentError("401", status_code=401, body={"error": {"code": "MCP_AUTHORIZATION_REQUIRED"}}, **BEGUN),
        Ended(ANSWERED),
        Decision(),
    ),
    "the login ended meanwhile": (
        AuthenticationError("401", status_code=401, **BEGUN),
        Ended(ANSWERED),
        Decision(is_in_doubt=True, ends_the_run=True),
    ),
    "no login before it began": (
        AuthenticationError("401", status_code=401, **ID),
        Ended(ANSWERED),
        Decision(is_released=True, ends_the_run=True),
    ),
    # Without an id of ours nothing says that asking again is safe.
    "a 429 of which nobody knows": (
        RateLimitError("429", status_code=429, may_have_run=True, attempts=1),
        Ended(ANSWERED),
        Decision(),
    ),
    "a 503 of which nobody knows": (
        EndpointUnavailableError("503", status_code=503, retry_after=WAIT, may_have_run=True, attempts=1),
        Ended(LOST),
        Decision(),
    ),
}


@pytest.mark.parametrize(("error", "ended", "decision"), OF_RUNS.values(), ids=OF_RUNS)
def test_what_an_end_says_of_a_run_that_goes_on(error: AgentTargetError, ended: Ended, decision: Decision) -> None:
    assert end_of(error) == ended
    assert failed(error) == decision
    stays_in_doubt = error.invocation_id is not None and error.may_have_run and decision != Decision()
    assert may_be_going_on(error) == stays_in_doubt
    assert decision.fails_the_row == (decision == Decision())


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (RateLimitError("429", **BEGUN), Decision(is_in_doubt=True, ends_the_run=True)),
        (RateLimitError("429", **ID), Decision(is_released=True, ends_the_run=True)),
        (EndpointUnavailableError("reset", **BEGUN), Decision(is_in_doubt=True, ends_the_run=True)),
    ],
)
def test_a_server_that_is_gone_for_long_fails_no_row_whose_run_may_go_on(error: Exception, decision: Decision) -> None:
    policy = FailurePolicy(BatchOptions(total_timeout=600.0, on_error="raise"))
    ask(policy, error, 0.0)
    assert ask(policy, error, 600.1) == decision
    assert not decision.fails_the_row


def test_an_error_of_none_of_ours_is_of_no_run() -> None:
    assert not may_be_going_on(ValueError("?"))


FAST = Backoff(max_retries=2, factor=1.0, jitter=0.0)
RETRIED = Decision(wait=1.0)
HELD_BACK = Decision(wait=0.0, is_released=True)
THE_ROW_FAILED = Decision()
THE_RUN_ENDS = Decision(is_released=True, ends_the_run=True)


def failed(
    error: BaseException,
    now: float = 0.0,
    attempts: int = 1,
    seconds: float = 0.1,
    tries: int = 1,
    **options: Any,
) -> Decision:
    policy = FailurePolicy(BatchOptions(**{"retries": FAST, **options}))
    return policy.failed(error, end_of(error).kind, now, attempts=attempts, seconds=seconds, tries=tries)


BOOM, SLOW, BUSY = AgentError("boom", attempts=1), RequestTimeoutError("slow"), RateLimitError("429")
BUSY_RUN, LOST_RUN = RequestTimeoutError("slow", **BEGUN), AgentError("failed", **BEGUN)
NOBODY = EndpointUnavailableError("refused", unreachable=True)
DECISIONS: dict[str, tuple[BaseException, dict[str, Any], Decision]] = {
    "an agent that fails is not run again": (BOOM, {}, THE_ROW_FAILED),
    "nor if running twice is safe, since it would fail again": (BOOM, {"idempotent": True}, THE_ROW_FAILED),
    "but where the caller names its error": (BOOM, {"retry_on": (AgentError,)}, RETRIED),
    "another one that is named changes nothing": (BOOM, {"retry_on": (RateLimitError,)}, THE_ROW_FAILED),
    "a base class names all of its errors": (BOOM, {"retry_on": (ValueError, AgentTargetError)}, RETRIED),
    "the second wait is longer": (BOOM, {"retry_on": (AgentError,), "attempts": 2}, Decision(wait=2.0)),
    "named errors are retried so often": (BOOM, {"retry_on": (AgentError,), "attempts": 3}, THE_ROW_FAILED),
    "and only within the time": (BOOM, {"retry_on": (AgentError,), "seconds": 599.5}, THE_ROW_FAILED),
    "which counts from the first attempt": (BOOM, {"retry_on": (AgentError,), "seconds": 598.5}, RETRIED),
    "a time that ran out is not run again": (SLOW, {}, THE_ROW_FAILED),
    "but where running twice is safe": (SLOW, {"idempotent": True}, RETRIED),
    "or where it is named": (SLOW, {"retry_on": (RequestTimeoutError,)}, RETRIED),
    "an error of none of ours is not retried": (ValueError(), {"idempotent": True}, THE_ROW_FAILED),
    "but where it is named": (ValueError(), {"retry_on": (ValueError,)}, RETRIED),
    "a failed row ends the run if the caller says so": (BOOM, {"on_error": "raise"}, Decision(ends_the_run=True)),
    "but not while it is retried": (BOOM, {"on_error": "raise", "retry_on": (AgentError,)}, RETRIED),
    "a refusal doesn't end the run either": (BUSY, {"on_error": "raise"}, HELD_BACK),
    "a refused row is retried while there are retries": (BUSY, {"attempts": 2, "seconds": 601.0}, HELD_BACK),
    "or while there is time": (BUSY, {"attempts": 3, "seconds": 600.0}, HELD_BACK),
    "and has failed without either": (BUSY, {"attempts": 3, "seconds": 600.1}, THE_ROW_FAILED),
    "it ends the run, then, if the caller says so": (
        BUSY,
        {"attempts": 3, "seconds": 600.1, "on_error": "raise"},
        Decision(ends_the_run=True),
    ),
    "no retries are none of refusals": (BUSY, {"retries": Backoff(max_retries=0)}, THE_ROW_FAILED),
    "a single retry is one": (BUSY, {"retries": Backoff(max_retries=1)}, HELD_BACK),
    "an address where nobody listens": (NOBODY, {"tries": 3}, THE_RUN_ENDS),
    "which may be a moment's": (NOBODY, {"tries": 2}, HELD_BACK),
    "an address where somebody is busy": (EndpointUnavailableError("503"), {"tries": 3}, HELD_BACK),
    "an address that refuses too many": (BUSY, {"tries": 3}, HELD_BACK),
    "a run is asked for again so often": (BUSY_RUN, {"attempts": 2}, Decision(wait=2.0)),
    "and no more": (BUSY_RUN, {"attempts": 3}, THE_ROW_FAILED),
    "and within the time": (BUSY_RUN, {"seconds": 599.5}, THE_ROW_FAILED),
    "a run that failed is run anew where its error is named": (LOST_RUN, {"retry_on": (AgentError,)}, RETRIED),
    "but not because running twice is safe": (LOST_RUN, {"idempotent": True}, THE_ROW_FAILED),
    "what every row would share": (AuthenticationError("401"), {"retry_on": (AuthenticationError,)}, THE_RUN_ENDS),
}


@pytest.mark.parametrize(("error", "given", "decision"), DECISIONS.values(), ids=DECISIONS)
def test_what_follows_from_a_failure(error: BaseException, given: dict[str, Any], decision: Decision) -> None:
    assert failed(error, **given) == decision


@pytest.mark.parametrize("error", [EndpointUnavailableError("503"), RateLimitError("429"), NOBODY])
@pytest.mark.parametrize("heard", [FailurePolicy.answered, lambda policy: ask(policy, BOOM, 0.0)])
def test_only_an_endpoint_that_answers_nothing_for_long_ends_the_run(error: Exception, heard: Any) -> None:
    policy = FailurePolicy(BatchOptions(total_timeout=600.0))
    heard(policy)
    # The rows came slowly: nothing was asked in the hour before.
    assert not ask(policy, error, 3600.0).ends_the_run
    assert not ask(policy, error, 4200.0, tries=9).ends_the_run
    assert ask(policy, error, 4200.1, tries=10) == THE_RUN_ENDS
    heard(policy)
    assert not ask(policy, error, 9000.0).ends_the_run


RESET = EndpointUnavailableError("reset", may_have_run=True)


@pytest.mark.parametrize("error", [RESET, SLOW])
def test_so_does_one_that_loses_everything_for_long(error: Exception) -> None:
    policy = FailurePolicy(BatchOptions(total_timeout=600.0))
    assert ask(policy, error, 100.0) == THE_ROW_FAILED
    assert ask(policy, error, 700.0, tries=9) == THE_ROW_FAILED
    assert ask(policy, error, 700.1, tries=9) == Decision(ends_the_run=True)
    policy.answered()
    assert ask(policy, error, 9000.0) == THE_ROW_FAILED


def test_rows_that_never_left_say_nothing_of_the_endpoint() -> None:
    policy = FailurePolicy(BatchOptions(total_timeout=600.0))
    for error in (InvalidInputError("empty"), ValueError("?")):
        assert ask(policy, error, 0.0) == THE_ROW_FAILED
    assert ask(policy, NOBODY, 1.0, tries=3) == THE_RUN_ENDS


def test_what_every_row_would_share_is_no_answer() -> None:
    policy = FailurePolicy(BatchOptions())
    ask(policy, NOBODY, 0.0)
    assert ask(policy, PermissionDeniedError("403"), 1.0).ends_the_run
    assert ask(policy, NOBODY, 2.0, tries=3).ends_the_run


def test_an_agent_that_fails_ends_nothing() -> None:
    policy = FailurePolicy(BatchOptions())
    assert ask(policy, AgentError("boom"), 1e6, tries=0) == THE_ROW_FAILED


def ask(policy: FailurePolicy, error: BaseException, now: float, tries: int = 1) -> Decision:
    return policy.failed(error, end_of(error).kind, now, attempts=1, seconds=0.1, tries=tries)
