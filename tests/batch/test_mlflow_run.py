"""What an MLflow run shows of a batch."""

from __future__ import annotations

from typing import Any

import mlflow
import pytest

from mlflow_agent_target import AgentTargetClient
from tests.batch.conftest import QUESTIONS
from tests.counting_server import CountingServer


def logged(run_id: str) -> tuple[dict[str, str], dict[str, float], set[str]]:
    run = mlflow.get_run(run_id)
    artifacts = {file.path for file in mlflow.MlflowClient().list_artifacts(run_id, "batch")}
    return run.data.params, run.data.metrics, artifacts


@pytest.mark.parametrize("is_active", [True, False])
def test_a_run_shows_the_batch(is_active: bool, counting: CountingServer) -> None:
    client = AgentTargetClient(counting.target_uri)

    def score(**options: Any) -> None:
        client.predict_batch("instant", QUESTIONS, column="question", **options)

    if is_active:
        with mlflow.start_run() as run:
            score()
        run_id = run.info.run_id
    else:
        score(mlflow_run=True)
        run_id = mlflow.last_active_run().info.run_id
    params, metrics, artifacts = logged(run_id)
    assert params == {
        "batch.endpoint": "instant",
        "batch.target": counting.url,
        "batch.concurrency": "adaptive",
        "batch.requests_per_minute": "None",
    }
    assert (metrics["batch/ok"], metrics["batch/failed"], metrics["batch/rows_done"]) == (2, 1, 3)
    assert metrics["batch/latency_p50"] > 0
    assert metrics["batch/total_tokens"] == 14
    assert artifacts == {f"batch/{name}" for name in ("results.json", *(f"{n}.png" for n in FIGURES))}
    assert mlflow.get_run(run_id).info.status == "FINISHED"


FIGURES = ("latency", "throughput", "concurrency", "errors")


def test_nothing_is_logged_unasked(counting: CountingServer) -> None:
    client = AgentTargetClient(counting.target_uri)
    before = len(mlflow.search_runs())
    client.predict_batch("instant", ["row 0"])
    assert len(mlflow.search_runs()) == before
    with mlflow.start_run() as run:
        client.predict_batch("instant", ["row 0"], mlflow_run=False)
    assert logged(run.info.run_id) == ({}, {}, set())
