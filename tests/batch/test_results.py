"""What comes of a batch: its exports, its summary, what MLflow shows of it, the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas
import pytest
from click.testing import CliRunner, Result

from mlflow_agent_target import AgentTargetClient, BatchResult, InvalidInputError
from mlflow_agent_target.cli import commands
from tests.counting_server import CountingServer

COLUMNS = [
    *("index", "id", "status", "response", "output_text", "error", "error_message", "attempts", "seconds"),
    *("input_tokens", "output_tokens", "total_tokens", "request_id"),
]
QUESTIONS = pandas.DataFrame({"id": [10, 20, 30], "question": ["row 0", None, "row 2"]})


@pytest.fixture(scope="module")
def counting() -> Iterator[CountingServer]:
    server = CountingServer()
    yield server
    server.stop()


@pytest.fixture
def results(counting: CountingServer) -> BatchResult:
    return AgentTargetClient(counting.target_uri).predict_batch("instant", QUESTIONS, column="question")


def check(frame: pandas.DataFrame) -> None:
    assert list(frame.columns) == COLUMNS
    assert list(frame["index"]) == [0, 1, 2]
    assert list(frame["status"]) == ["ok", "failed", "ok"]
    assert list(frame["output_text"].fillna("")) == ["answer to row 0", "", "answer to row 2"]
    assert frame["error"][1] == "InvalidInputError"
    assert frame["total_tokens"][2] == 7


def test_a_frame(results: BatchResult) -> None:
    frame = results.to_pandas()
    check(frame)
    assert list(frame["id"]) == [10, 20, 30]
    assert frame["response"][0]["output"][0]["type"] == "message"


def test_lines_of_json(results: BatchResult, tmp_path: Path) -> None:
    results.to_jsonl(tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    check(pandas.DataFrame(lines))
    assert lines[2]["response"]["usage"] == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    with pytest.raises(InvalidInputError, match="can't be written"):
        results.to_jsonl(tmp_path / "none" / "a.jsonl")


def test_ids_that_json_does_not_know_are_text(counting: CountingServer, tmp_path: Path) -> None:
    ids = [7, float("nan"), float("inf"), {(1, 2): 3}, chr(0xD800)]
    records = [{"id": id_, "inputs": f"row {n}"} for n, id_ in enumerate(ids)]
    results = AgentTargetClient(counting.target_uri).predict_batch("instant", records, id_column="id")
    expected = [7, None, "inf", "{(1, 2): 3}", chr(0xD800)]
    assert [row.id for row in results] == expected
    results.to_jsonl(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == expected


def test_parquet(results: BatchResult, tmp_path: Path) -> None:
    results.to_parquet(tmp_path / "a.parquet")
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    check(frame)
    assert [json.loads(value) for value in frame["id"]] == [10, 20, 30]
    assert json.loads(frame["response"][0])["id"] == "r1"


def test_many_rows_are_exported_a_part_at_a_time(counting: CountingServer, tmp_path: Path) -> None:
    results = AgentTargetClient(counting.target_uri).predict_batch("instant", (f"row {n}" for n in range(700)))
    results.to_parquet(tmp_path / "a.parquet")
    assert list(pandas.read_parquet(tmp_path / "a.parquet")["index"]) == list(range(700))
    assert [row.index for row in results] == list(range(700))


def test_the_summary(results: BatchResult) -> None:
    summary = results.summary()
    assert [summary[key] for key in ("rows", "ok", "failed", "in_doubt")] == [3, 2, 1, 0]
    assert summary["tokens"] == {"input_tokens": 6, "output_tokens": 8, "total_tokens": 14}
    assert summary["errors"] == {"InvalidInputError": 1}
    assert list(summary["latency"]) == ["p50", "p90", "p95", "p99", "max"]
    assert 0 < summary["latency"]["p50"] <= summary["latency"]["max"]
    assert summary["rows_per_second"] > 0
    json.dumps(summary)


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


def test_a_bar_is_shown_only_where_it_is_wanted(counting: CountingServer, capsys: pytest.CaptureFixture[str]) -> None:
    client = AgentTargetClient(counting.target_uri)
    client.predict_batch("instant", ["row 0"] * 5)
    assert capsys.readouterr() == ("", "")
    client.predict_batch("instant", ["row 0"] * 5, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err
    assert "failed=0" in err


def test_an_observer_that_fails_ends_nothing(counting: CountingServer) -> None:
    def fails(_: object) -> None:
        raise ValueError("no")

    assert len(AgentTargetClient(counting.target_uri).predict_batch("instant", ["row 0"] * 5, progress=fails)) == 5


@pytest.fixture
def score(counting: CountingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    counting.reset()
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": n, "question": f"row {n}"}) for n in range(20)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def run(*arguments: str) -> Result:
        given = ["score", "--target", counting.target_uri, "--endpoint", "instant", "--column", "question", *arguments]
        return CliRunner().invoke(commands, given)

    return run


def test_the_command_scores_a_file(score: Any, counting: CountingServer, tmp_path: Path) -> None:
    trial = score("--input", "q.jsonl", "--output", "a.jsonl", "--limit", "5")
    assert trial.exit_code == 0
    assert len((tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()) == 5
    for _ in range(2):
        result = score("--input", "q.jsonl", "--output", "a.jsonl")
        assert (result.exit_code, result.stdout) == (0, "")
        assert '"ok": 20' in result.stderr
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["output_text"]) for row in answers] == [(n, f"answer to row {n}") for n in range(20)]
    assert set(counting.counts()["asked"].values()) == {1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.journal", "q.jsonl"]
    again = score("--input", "q.jsonl", "--output", "a.parquet", "--journal", "a.jsonl.journal", "--restart")
    assert again.exit_code == 0
    assert list(pandas.read_parquet(tmp_path / "a.parquet")["status"]) == ["ok"] * 20
    assert set(counting.counts()["asked"].values()) == {2}


def test_the_command_says_when_rows_failed(score: Any, tmp_path: Path) -> None:
    with (tmp_path / "q.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"id": 99, "question": null}')
    result = score("--input", "q.jsonl", "--output", "a.jsonl")
    assert result.exit_code == 1
    assert '"failed": 1' in result.stderr


def test_the_command_shows_what_it_would_send(score: Any, counting: CountingServer, tmp_path: Path) -> None:
    result = score("--input", "q.jsonl", "--dry-run")
    assert result.exit_code == 0
    decoder, text, shown = json.JSONDecoder(), result.stdout.strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        shown.append(value)
        text = text[end:].strip()
    assert shown == [{"input": [{"role": "user", "content": f"row {n}"}]} for n in range(3)]
    assert counting.counts()["asked"] == {}
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "none.csv", "--output", "a.jsonl"], "There is no file"),
        (["--input", "q.jsonl"], "--output must name"),
        (["--input", "q.jsonl", "--output", "a.xlsx"], "--output must name"),
        (["--input", "q.jsonl", "--output", "./q.jsonl"], "must be another file"),
        (["--input", "q.jsonl", "--output", "a.jsonl", "--journal", "a.jsonl"], "must be another file"),
        (["--input", "q.jsonl", "--output", "none/a.jsonl"], "There is no folder"),
        (["--input", "q.jsonl", "--output", "a.jsonl", "--target", "nope"], "not one of this package's"),
        (["--input", "q.jsonl", "--output", "a.jsonl", "--journal", "q.jsonl", "--restart"], "is no journal"),
        (["--input", "q.jsonl", "--output", "a.jsonl", "--concurrency", "0"], "concurrency must be"),
    ],
)
def test_the_command_that_cannot_run_exits_with_2(
    arguments: list[str], said: str, score: Any, counting: CountingServer
) -> None:
    result = score(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert counting.counts()["asked"] == {}
