"""Rows that wait to be sent again: which comes next, under which run, and what they are if it never comes to that."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlflow_agent_target import (
    AgentError,
    EndpointUnavailableError,
    InvalidInputError,
    RateLimitError,
    RequestTimeoutError,
)
from mlflow_agent_target.batch.records import Claim, error_outcome
from mlflow_agent_target.batch.retries import Retries
from mlflow_agent_target.batch.workers import Task

ID: dict[str, Any] = {"invocation_id": "5b403556-777c-54ce-bbf6-46cbdc15036d", "may_have_run": True}


def task(position: int) -> Task:
    made = Task(Claim(position, b"d", "null", run=3), "hi", 2)
    made.attempts = 2
    return made


def test_the_first_that_is_due_comes_first_and_none_before_its_time() -> None:
    retries = Retries()
    assert (len(retries), retries.due, retries.take(1e9)) == (0, math.inf, None)
    tasks = [task(number) for number in range(4)]
    for due, waiting in zip((5.0, 3.0, 5.0, 4.0), tasks, strict=True):
        retries.put(due, waiting, ValueError())
    assert (len(retries), retries.due, retries.take(2.9)) == (4, 3.0, None)
    assert [retries.take(5.0) for _ in range(5)] == [tasks[1], tasks[3], tasks[0], tasks[2], None]


# What a row waits after: the number of the run that it is sent as, after 3, and whether it failed if it is not sent.
ENDS: dict[str, tuple[BaseException, int, bool]] = {
    "a run that failed": (AgentError("failed", **ID), 4, True),
    "a run that may be going on": (RequestTimeoutError("slow", **ID), 3, False),
    "a run whose state could not be asked": (RateLimitError("429", **ID), 3, False),
    "a refusal": (RateLimitError("429"), 3, False),
    "an agent that may have run, and has no ids": (EndpointUnavailableError("reset", may_have_run=True), 3, True),
    "an agent that failed, and has no ids": (AgentError("boom", attempts=1), 3, True),
    "a payload that was not sent": (InvalidInputError("nan"), 3, True),
    "an error of none of ours": (ValueError("?"), 3, True),
}


@pytest.mark.parametrize(("error", "run", "has_failed"), ENDS.values(), ids=ENDS)
def test_which_run_it_is_sent_as_and_what_it_is_if_not(error: BaseException, run: int, has_failed: bool) -> None:
    retries, waiting = Retries(), task(7)
    retries.put(0.0, waiting, error)
    expected = [error_outcome(waiting.claim, error, 2, None)] if has_failed else []
    assert list(retries.give_up()) == expected
    assert (len(retries), list(retries.give_up())) == (0, [])
    retries.put(0.0, waiting, error)
    assert retries.take(0.0) is waiting
    assert waiting.claim == Claim(7, b"d", "null", run=run)
