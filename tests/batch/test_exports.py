"""What comes of a batch, as pandas, JSON lines and Parquet have it, and what predict makes of a DataFrame."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.deployments.cli
import pandas
import pytest
from click.testing import CliRunner

from mlflow_agent_target import AgentTargetClient, AuthenticationError, BatchResult, InvalidInputError
from mlflow_agent_target.server import LocalServer
from tests.conftest import user
from tests.counting_server import CountingServer
from tests.scripted import ScriptedServer, whole

COLUMNS = [
    *("index", "id", "status", "response", "output_text", "error", "error_message", "attempts", "seconds"),
    *("input_tokens", "output_tokens", "total_tokens", "request_id"),
]


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


def test_a_frame_is_answered_by_a_frame(client: AgentTargetClient) -> None:
    frame = pandas.DataFrame({"id": ["x", "y", "z"], "input": ["b a", None, "d c"]}, index=[5, 6, 7])
    before = frame.copy(deep=True)
    scored = client.predict(endpoint="chat_agent", inputs=frame)
    pandas.testing.assert_frame_equal(frame, before)
    assert list(scored.columns) == ["id", "output_text", "response", "error", "request_id"]
    assert list(scored.index) == [5, 6, 7]
    assert list(scored["id"]) == ["x", "y", "z"]
    assert list(scored["output_text"]) == ["a b", None, "c d"]
    assert scored.loc[5, "response"]["messages"][0]["content"] == "a b"
    assert scored.loc[6, "error"].startswith("InvalidInputError: ")
    assert scored.loc[5, "error"] is None


def test_a_row_that_its_agent_cannot_be_told_is_recorded(client: AgentTargetClient) -> None:
    approval = [{"type": "mcp_approval_request", "id": "1"}]
    scored = client.predict(endpoint="chat_agent", inputs=pandas.DataFrame({"input": [approval, "b a"]}))
    assert scored["error"][0].startswith("InterfaceMismatchError: input[0] of type 'mcp_approval_request'")
    assert scored["output_text"].tolist() == [None, "a b"]


def test_what_every_row_would_meet_is_raised(scripted: Callable[..., ScriptedServer]) -> None:
    refusing = scripted(whole({}, 401))
    with pytest.raises(AuthenticationError):
        AgentTargetClient(f"agent-target:{refusing.url}").predict(
            endpoint="a", inputs=pandas.DataFrame({"input": ["a", "b"]})
        )


@pytest.mark.parametrize(
    ("file", "answers"),
    [
        ({"input": [user("x"), user("b a")]}, ["a b x"]),
        ({"messages": [user("x"), user("b a")], "temperature": 0.5}, ["a b x"]),
        ({"input": ["b a", "d c"]}, ["a b", "c d"]),
        ({"input": {"0": "b a", "1": "d c"}}, ["a b", "c d"]),
        ([{"input": [user("b a")]}, {"input": [user("d c")], "custom_inputs": {"k": 1}}], ["a b", "c d"]),
        ([user("x"), user("b a")], ["a b x"]),
        (["b a", "d c"], ["a b", "c d"]),
    ],
)
def test_mlflows_command_line_scores_a_file(file: Any, answers: list[str], server: LocalServer, tmp_path: Path) -> None:
    asked, answered = tmp_path / "asked.json", tmp_path / "answered.json"
    asked.write_text(json.dumps(file), encoding="utf-8")
    command = ["predict", "-t", server.target_uri, "--endpoint", "chat_agent", "-I", str(asked)]
    printed = CliRunner().invoke(mlflow.deployments.cli.commands, command, catch_exceptions=False)
    assert printed.exit_code == 0, printed.output
    assert list(json.loads(printed.stdout[printed.stdout.index("{") :])["output_text"].values()) == answers
    written = CliRunner().invoke(
        mlflow.deployments.cli.commands, [*command, "-O", str(answered)], catch_exceptions=False
    )
    assert written.exit_code == 0, written.output
    assert list(json.loads(answered.read_text(encoding="utf-8"))["output_text"].values()) == answers
