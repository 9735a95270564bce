"""A small batch that has been answered."""

from __future__ import annotations

import pandas
import pytest

from mlflow_agent_target import AgentTargetClient, BatchResult
from tests.counting_server import CountingServer

QUESTIONS = pandas.DataFrame({"id": [10, 20, 30], "question": ["row 0", None, "row 2"]})


@pytest.fixture
def results(counting: CountingServer) -> BatchResult:
    return AgentTargetClient(counting.target_uri).predict_batch("instant", QUESTIONS, column="question")
