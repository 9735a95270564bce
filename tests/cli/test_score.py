"""The command that scores a file, agent-target score."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
from click.testing import CliRunner, Result

from mlflow_agent_target import BatchResult
from mlflow_agent_target.batch.journal import Journal
from mlflow_agent_target.batch.records import FAILED, Outcome
from mlflow_agent_target.cli import commands
from mlflow_agent_target.cli.score import _default_target, _show_errors
from tests.counting_server import CountingServer
from tests.scripted import whole


@pytest.fixture
def score(counting: CountingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
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
    said = "1 row failed with InvalidInputError, such as row 20, id 99: The row asks nothing: its 'question' is empty."
    assert said in result.stderr


def test_only_the_commonest_errors_are_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", {})
    kinds = ["A", "B", "C", "C", "C", "D", "D", "D", "D", "B"]
    message = "first line\nsecond " + "x" * 2000
    outcomes = [
        Outcome(n, b"", "null", None, 0, FAILED, error=kind, error_message=message) for n, kind in enumerate(kinds)
    ]
    journal.write(outcomes, [], [])
    journal.close()
    result = BatchResult(tmp_path / "j.db")
    _show_errors(result, result.summary()["errors"])
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in said] == [
        "4 rows failed with D",
        "3 rows failed with C",
        "2 rows failed with B",
        "1 more kind of errors are in the results.",
    ]
    assert "row 5: first line second x" in said[0]
    assert max(map(len, said)) < 700


ITEM = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}
OK = whole({"object": "response", "output": [ITEM]})


def test_a_failure_of_all_rows_says_where_the_answers_are(scripted: Any, tmp_path: Path) -> None:
    server = scripted(OK, OK, whole({"message": "expired"}, 401), OK, OK)
    (tmp_path / "q.jsonl").write_text('"row"\n' * 4, encoding="utf-8")
    given = ["score", "-t", server.target_uri, "-i", str(tmp_path / "q.jsonl"), "-o", str(tmp_path / "a.csv")]
    result = CliRunner().invoke(commands, [*given, "--concurrency", "1"])
    assert result.exit_code == 2
    assert f"What was answered is in '{tmp_path / 'a.csv.journal'}' (2 rows)." in result.stderr
    assert not (tmp_path / "a.csv").exists()
    other = ["-o", str(tmp_path / "b.csv"), "--concurrency", "1"]
    refused = scripted(whole({"message": "expired"}, 401))
    nothing = CliRunner().invoke(commands, ["score", "-t", refused.target_uri, *given[3:5], *other])
    assert (nothing.exit_code, "What was answered" in nothing.stderr) == (2, False)
    changed = ["score", "-t", refused.target_uri, *given[3:], "--concurrency", "1"]
    assert "What was answered" not in CliRunner().invoke(commands, changed).stderr  # the journal is another batch's
    assert CliRunner().invoke(commands, given).exit_code == 0
    assert len(pandas.read_csv(tmp_path / "a.csv")) == 4


def test_answers_that_cannot_be_written_are_kept(
    score: Any, counting: CountingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "replace", full)
        result = score("--input", "q.jsonl", "--output", "a.jsonl")
    assert result.exit_code == 2
    assert "No space left on device. No answer is lost" in result.stderr
    again = score("--input", "q.jsonl", "--output", "b.jsonl", "--journal", "a.jsonl.journal")
    assert (again.exit_code, set(counting.counts()["asked"].values())) == (0, {1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl.journal", "b.jsonl", "q.jsonl"]


def test_lines_without_a_terminal_are_about_the_batch_not_each_refusal(score: Any) -> None:
    result = score("--input", "q.jsonl", "--output", "a.jsonl", "--endpoint", "bucket-40-2-exact")
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert len(lines) == 2, lines
    assert "20 of 20 rows, " in lines[0]
    assert json.loads(lines[1].partition(": ")[2])["attempts"] > 20


def test_a_ceiling_is_told_and_the_same_command_goes_on(score: Any, tmp_path: Path) -> None:
    with (tmp_path / "q.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"question": null}' * 20)
    given = ["--input", "q.jsonl", "--output", "a.csv", "--concurrency", "1", "--price-per-million", "1", "2.5"]
    result = score(*given, "--max-failures", "10%")
    assert result.exit_code == 1
    assert "Stopped before all rows were sent (max_failures=0.1: 3 of 23 rows failed)" in result.stderr
    assert '"cost": 0.00026' in result.stderr
    assert len(pandas.read_csv(tmp_path / "a.csv")) == 23
    assert score(*given, "--max-failures", "40").exit_code == 1
    assert len(pandas.read_csv(tmp_path / "a.csv")) == 40
    stopped = score("--input", "q.jsonl", "--output", "b.csv", "--concurrency", "1", "--max-tokens", "20")
    assert "max_tokens=20" in stopped.stderr


def test_standard_input_and_output(counting: CountingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", counting.target_uri)
    arguments = ["score", "-e", "instant", "-i", "-", "-o", "-", "--keep-columns"]
    done = subprocess.run(
        [Path(sys.executable).with_name("agent-target"), *arguments],
        input='{"id": 7, "input": "row 7", "note": "n"}\n"row 8"\n',
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["output_text"] for answer in answers] == ["answer to row 7", "answer to row 8"]
    assert (answers[0]["id"], answers[0]["note"]) == (7, "n")
    assert "2 of 2 rows" in done.stderr or "2 rows" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("named", "target"), [("databricks", "agent-target"), ("agent-target://prod", None), ("", "agent-target")]
)
def test_the_target_is_the_environments_where_it_is_ours(
    named: str, target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", named)
    assert _default_target() == (target or named)


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
        (["--input", "q.jsonl", "--output", "a.xlsx"], "name a file of .jsonl"),
        (["--input", "q.xlsx", "--output", "a.jsonl"], "name a file of .csv"),
        (["--input", "q.jsonl", "--output", "a.jsonl", "--max-failures", "many"], "neither a number of rows nor"),
        (["--input", "q.jsonl", "--output", "a.jsonl", "--max-failures", "0"], "max_failures must be"),
        (["--input", "q.jsonl", "--output", "./q.jsonl"], "must be another file"),
        (["--input", "q.jsonl", "--output", "a.jsonl", "--journal", "a.jsonl"], "must be another file"),
        (["--input", "q.jsonl", "--output", "none/a.jsonl"], "can't be written: No such file"),
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
