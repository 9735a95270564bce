"""A server that counts what it is asked, and a small batch that it has answered."""

from __future__ import annotations

from collections.abc import Iterator

import pandas
import pytest

from mlflow_agent_target import AgentTargetClient, BatchResult
from tests.counting_server import CountingServer

QUESTIONS = pandas.DataFrame({"id": [10, 20, 30], "question": ["row 0", None, "row 2"]})


@pytest.fixture(scope="session")
def counting_server() -> Iterator[CountingServer]:
    server = CountingServer()
    yield server
    server.stop()


@pytest.fixture
def counting(counting_server: CountingServer) -> CountingServer:
    counting_server.reset()
    return counting_server


@pytest.fixture
def results(counting: CountingServer) -> BatchResult:
    return AgentTargetClient(counting.target_uri).predict_batch("instant", QUESTIONS, column="question")
