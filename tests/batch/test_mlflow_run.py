"""What an MLflow run shows of a batch."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest

from mlflow_agent_target import AgentTargetClient
from mlflow_agent_target.batch.mlflow_run import logged as logging_to_mlflow
from tests.batch.conftest import QUESTIONS
from tests.counting_server import CountingServer


def logged(run_id: str) -> tuple[dict[str, str], dict[str, float], set[str]]:
    run = mlflow.get_run(run_id)
    artifacts = {file.path for file in mlflow.MlflowClient().list_artifacts(run_id, "batch")}
    return run.data.params, run.data.metrics, artifacts


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "agent-target-mlflow"]


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


def test_a_second_batch_in_a_run_shows_its_own_numbers(counting: CountingServer) -> None:
    client = AgentTargetClient(counting.target_uri)
    with mlflow.start_run() as run:
        client.predict_batch("instant", [f"row {n}" for n in range(40)], price_per_million=(1.0, 1.0))
        client.predict_batch("after-600", ["row 1", None, "row 3"], concurrency=2, price_per_million=(1e6, 0.0))
        client.predict_batch("instant", ["row 1"])
    params, metrics, _ = logged(run.info.run_id)
    assert (params["batch.endpoint"], params["batch_2.endpoint"]) == ("instant", "after-600")
    assert (params["batch.concurrency"], params["batch_2.concurrency"]) == ("adaptive", "2")
    assert "batch_3.endpoint" not in params
    assert (metrics["batch/rows_done"], metrics["batch/ok"], metrics["batch/failed"]) == (1, 1, 0)
    assert (metrics["batch/total_tokens"], metrics["batch/errors/InvalidInputError"]) == (7, 0)
    assert math.isnan(metrics["batch/cost"])  # nobody has said the price of the third
    costs = mlflow.MlflowClient().get_metric_history(run.info.run_id, "batch/cost")
    assert 6.0 in [metric.value for metric in costs]  # of the second: two answers of three tokens
    steps = [m.step for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, "batch/rows_done")]
    assert steps == sorted(set(steps))
    table = mlflow.load_table("batch/results.json", run_ids=[run.info.run_id])
    assert list(table["output_text"]) == ["answer to row 1"]


@pytest.mark.parametrize(
    ("blocks", "seconds", "missing"),
    [
        ("get_run", 0.3, "parameters, last metrics, table of results, figures"),
        ("log_table", 4.0, "table of results, figures"),
    ],
)
def test_a_tracking_server_that_is_slow_holds_up_little(
    blocks: str,
    seconds: float,
    missing: str,
    counting: CountingServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = threading.Event()
    monkeypatch.setattr("mlflow_agent_target.batch.mlflow_run._SECONDS_AT_THE_END", seconds)
    with mlflow.start_run() as run, monkeypatch.context() as slow:
        slow.setattr(mlflow.MlflowClient, blocks, lambda *_, **__: released.wait(60))
        results = AgentTargetClient(counting.target_uri).predict_batch("instant", ["row 1"])
        released.set()
        for thread in threads():
            thread.join(30)
    assert [row.status for row in results] == ["ok"]
    assert f"does not show the batch's {missing}. No result is affected." in caplog.text
    assert logged(run.info.run_id)[2] == set()  # nor is it logged later, when the journal may be in use


def test_a_tracking_server_that_is_gone_is_said_once_for_each_thing(
    counting: CountingServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mlflow_agent_target.batch.mlflow_run._SECONDS_BETWEEN_METRICS", 0.0)
    with mlflow.start_run():
        for name in ("log_batch", "log_table", "log_figure"):
            monkeypatch.setattr(mlflow.MlflowClient, name, broken)
        result = AgentTargetClient(counting.target_uri).predict_batch("after-400", ["row 1"] * 4, concurrency=1)
    assert result.summary()["ok"] == 4
    said = [record.getMessage() for record in caplog.records if "gone" in record.getMessage()]
    whats = ("parameters", "metrics", "last metrics", "table of results", "figures")
    assert sorted(said) == sorted(f"The batch's {what} could not be logged to MLflow: gone" for what in whats)


def test_a_tracking_server_that_is_away_for_a_moment_shows_all_in_the_end(
    counting: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_run, asked = mlflow.MlflowClient.get_run, []

    def first_fails(client: mlflow.MlflowClient, run_id: str) -> Any:
        asked.append(run_id)
        return broken() if len(asked) == 1 else get_run(client, run_id)

    with mlflow.start_run() as run:
        monkeypatch.setattr(mlflow.MlflowClient, "get_run", first_fails)
        AgentTargetClient(counting.target_uri).predict_batch("instant", QUESTIONS, column="question")
    params, metrics, artifacts = logged(run.info.run_id)
    assert (params["batch.endpoint"], metrics["batch/ok"]) == ("instant", 2)
    assert "batch/results.json" in artifacts


def test_a_batch_that_fails_shows_how_far_it_got(counting: CountingServer) -> None:
    def rows() -> Iterator[str | None]:
        yield from ("row 0", None)
        time.sleep(0.7)  # it has been shown
        yield from (f"row {n}" for n in range(1, 50))
        while sum(counting.counts()["answered"].values()) < 50:
            time.sleep(0.1)
        raise LookupError("the source is gone")

    with pytest.raises(LookupError), mlflow.start_run() as run:
        AgentTargetClient(counting.target_uri).predict_batch("instant", rows())
    _, metrics, artifacts = logged(run.info.run_id)
    assert (metrics["batch/rows_done"], metrics["batch/errors/InvalidInputError"]) == (51, 1)
    assert (metrics["batch/in_flight"], artifacts) == (0, set())
    assert mlflow.get_run(run.info.run_id).info.status == "FAILED"
    assert threads() == []


def test_what_ends_all_at_once_leaves_no_thread() -> None:
    with mlflow.start_run(), pytest.raises(KeyboardInterrupt), logging_to_mlflow(None, {}):
        raise KeyboardInterrupt
    for thread in threads():
        thread.join(30)
    assert threads() == []


def broken(*_: Any, **__: Any) -> None:
    raise ConnectionError("gone")


def test_nothing_is_logged_unasked(counting: CountingServer) -> None:
    client = AgentTargetClient(counting.target_uri)
    before = len(mlflow.search_runs())
    client.predict_batch("instant", ["row 0"])
    assert len(mlflow.search_runs()) == before
    with mlflow.start_run() as run:
        client.predict_batch("instant", ["row 0"], mlflow_run=False)
    assert logged(run.info.run_id) == ({}, {}, set())
