"""The command that scores a file, agent-target score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from click.testing import CliRunner, Result

from mlflow_agent_target.cli import commands
from tests.counting_server import CountingServer


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
