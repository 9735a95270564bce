"""What failures mean in a batch."""

from __future__ import annotations

import pytest

from mlflow_agent_target import AgentError, EndpointUnavailableError, RateLimitError
from mlflow_agent_target.batch.policy import BatchOptions, FailurePolicy


@pytest.mark.parametrize("error", [EndpointUnavailableError("503"), RateLimitError("429")])
def test_only_an_endpoint_that_answers_nothing_for_long_ends_the_run(error: Exception) -> None:
    policy = FailurePolicy(BatchOptions(total_timeout=600.0))
    policy.answered()
    # The rows came slowly: nothing was asked in the hour before.
    assert not policy.ends_the_run(error, now=3600.0, unavailable_in_a_row=1)
    assert not policy.ends_the_run(error, now=4200.0, unavailable_in_a_row=9)
    assert policy.ends_the_run(error, now=4200.1, unavailable_in_a_row=10)
    policy.answered()
    assert not policy.ends_the_run(error, now=9000.0, unavailable_in_a_row=1)


def test_an_agent_that_fails_ends_nothing() -> None:
    policy = FailurePolicy(BatchOptions())
    assert not policy.ends_the_run(AgentError("boom"), now=1e6, unavailable_in_a_row=0)
    assert policy.wait(AgentError("boom"), attempts=1, seconds=0.1) is None
