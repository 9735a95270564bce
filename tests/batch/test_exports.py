"""What comes of a batch, as pandas, JSON lines and Parquet have it, and what predict makes of a DataFrame."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow.deployments.cli
import pandas
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from mlflow_agent_target import AgentResponse, AgentTargetClient, AuthenticationError, BatchResult, InvalidInputError
from mlflow_agent_target.batch.exports import check_writable
from mlflow_agent_target.batch.journal import Journal
from mlflow_agent_target.batch.records import Claim, answer_outcome
from mlflow_agent_target.server import LocalServer
from tests.conftest import user
from tests.counting_server import CountingServer
from tests.scripted import ScriptedServer, whole

COLUMNS = [
    *("index", "id", "status", "response", "output_text", "error", "error_message", "attempts", "seconds"),
    *("input_tokens", "output_tokens", "total_tokens", "request_id"),
]
KEPT = ["question"]
HALF = chr(0xD800)  # half of a surrogate pair


def check(frame: pandas.DataFrame) -> None:
    assert list(frame.columns) == KEPT + COLUMNS
    assert list(frame["question"].fillna("")) == ["row 0", "", "row 2"]
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
    assert (list(frame["id"]), frame["id"].dtype) == ([10, 20, 30], "int64")
    assert json.loads(frame["response"][0])["id"] == "r1"


def test_answers_join_to_their_questions(counting: CountingServer, tmp_path: Path) -> None:
    """By id, in whatever holds them, and by the index of the frame."""
    asked = pandas.DataFrame({"id": ["C1", "C2"], "q": ["row 1", "row 2"], "truth": [1.5, None]}, index=["x", "y"])
    results = AgentTargetClient(counting.target_uri).predict_batch("instant", asked, column="q")
    for name in ("a.parquet", "a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.csv.gz", "a.jsonl.gz"):
        results.write(tmp_path / name)
        read = {
            ".parquet": pandas.read_parquet,
            ".csv": pandas.read_csv,
            ".tsv": lambda path: pandas.read_csv(path, sep="\t"),
        }.get(Path(name.removesuffix(".gz")).suffix, lambda path: pandas.read_json(path, lines=True))
        joined = asked.merge(read(tmp_path / name), on="id")
        assert list(joined["output_text"]) == ["answer to row 1", "answer to row 2"], name
        assert list(joined["q_y"]) == ["row 1", "row 2"]
    frame = results.to_pandas()
    assert list(asked.join(frame[["output_text"]]).loc["y", ["q", "output_text"]]) == ["row 2", "answer to row 2"]
    assert list(frame["truth"].fillna(0.0)) == [1.5, 0.0]
    assert list(results.failed.to_pandas().index) == []
    assert results[1].columns == {"q": "row 2", "truth": None}


def test_no_two_columns_become_one(counting: CountingServer) -> None:
    record = {"input": "row 1", "status": 1, "input_status": 2, "input_input_status": 3, "input_other": 4}
    results = AgentTargetClient(counting.target_uri).predict_batch("instant", [record], keep_columns=True)
    [row] = results.to_pandas().to_dict("records")
    names = ("status", "input_status", "input_input_status", "input_input_input_status", "input_other", "input")
    assert [row[name] for name in names] == ["ok", 1, 2, 3, 4, "row 1"]


def test_kept_columns_have_their_own_types_and_names(counting: CountingServer, tmp_path: Path) -> None:
    records = [
        {"id": 1, "input": "row 1", "status": "new", "n": 1, "x": 1, "b": True, "l": [1], "m": 1, "big": 1},
        {
            "id": "two",
            "input": "row 2",
            "status": "old",
            "n": 2,
            "x": 1.5,
            "b": None,
            "l": [2],
            "m": "a",
            "big": 1 << 70,
        },
    ]
    results = AgentTargetClient(counting.target_uri).predict_batch("instant", records, keep_columns=True)
    results.to_parquet(tmp_path / "a.parquet")
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    assert list(frame["status"]) == ["ok", "ok"]
    assert list(frame["input_status"]) == ["new", "old"]
    assert [str(frame[name].dtype) for name in ("n", "x")] == ["int64", "float64"]
    assert list(frame["b"]) == [True, None]
    assert list(frame["l"]) == ["[1]", "[2]"]
    assert list(frame["m"]) == ["1", '"a"']
    assert list(frame["big"]) == ["1", str(1 << 70)]
    assert list(frame["id"]) == ["1", '"two"']
    results.to_csv(tmp_path / "a.csv")
    assert list(pandas.read_csv(tmp_path / "a.csv")["l"]) == ["[1]", "[2]"]
    unkept = AgentTargetClient(counting.target_uri).predict_batch("instant", records)
    assert list(unkept.to_pandas().columns) == COLUMNS


def test_numbers_that_a_float_cannot_hold_are_written_as_they_are(counting: CountingServer, tmp_path: Path) -> None:
    large = (1 << 53) + 1
    records = [{"id": 1, "input": "row 1", "a": large, "b": large}, {"id": 2, "input": "row 2", "a": 1.5, "b": 1}]
    results = AgentTargetClient(counting.target_uri).predict_batch("instant", records, keep_columns=True)
    results.to_parquet(tmp_path / "a.parquet")
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    assert list(frame["a"]) == [str(large), "1.5"]
    assert list(frame["b"]) == [large, 1]


NO_JSON: dict[str, tuple[Any, Any]] = {
    "no number": (float("nan"), None),
    "infinity": ([float("inf"), {"a": -float("inf"), "b": 1.5}], [None, {"a": None, "b": 1.5}]),
    "half of a pair": ({"a": f"ä{HALF}"}, {"a": f"ä{HALF}"}),
    "a word": ("NaN and Infinity", "NaN and Infinity"),
}


@pytest.mark.parametrize(("said", "read"), NO_JSON.values(), ids=NO_JSON)
def test_every_program_can_read_what_is_written(said: Any, read: Any, tmp_path: Path) -> None:
    answer = AgentResponse({"output": [], "said": said})
    journal = Journal(tmp_path / "j.db", {})
    claim = Claim(0, b"d", json.dumps(HALF), json.dumps({"k": [float("nan")]}))
    journal.write([answer_outcome(claim, answer, 1)], [], [])
    journal.close()
    results = BatchResult(tmp_path / "j.db")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        results.write(tmp_path / name)
    (line,) = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    written = json.loads(line, parse_constant=refuse)
    assert (written["response"], written["k"], written["id"]) == ({"output": [], "said": read}, [None], HALF)
    for frame in (pandas.read_csv(tmp_path / "a.csv"), pandas.read_parquet(tmp_path / "a.parquet")):
        assert json.loads(frame["response"][0], parse_constant=refuse) == {"output": [], "said": read}
        assert json.loads(frame["k"][0], parse_constant=refuse) == [None]
    assert json.loads(pandas.read_parquet(tmp_path / "a.parquet")["id"][0]) == HALF


def test_a_pipe_is_written_to_and_not_replaced(results: BatchResult, tmp_path: Path) -> None:
    """Nor is a device, such as /dev/null."""
    pipe = tmp_path / "a.jsonl"
    os.mkfifo(pipe)
    check_writable(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text, encoding="utf-8")
        results.write(pipe)
        assert len(read.result(60).splitlines()) == 3
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_compressed_file_names_what_is_in_it(results: BatchResult, tmp_path: Path) -> None:
    results.write(tmp_path / "a.csv.gz")
    assert b"a.csv\0" in (tmp_path / "a.csv.gz").read_bytes()[:20]


def test_csv_may_have_any_name(results: BatchResult, tmp_path: Path) -> None:
    results.to_csv(tmp_path / "a.txt")
    assert list(pandas.read_csv(tmp_path / "a.txt")["id"]) == [10, 20, 30]


def test_a_standard_output_of_text_only_has_them_too(results: BatchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a notebook."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    results.write("-")
    assert [json.loads(line)["index"] for line in out.getvalue().splitlines()] == [0, 1, 2]


UNKNOWN = "name a file of .jsonl, .ndjson, .csv, .tsv, .parquet"
UNWRITABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another format": (lambda folder: folder / "a.xlsx", UNKNOWN),
    "no format": (lambda folder: folder / "a", UNKNOWN),
    "compressed Parquet": (lambda folder: folder / "a.parquet.gz", UNKNOWN),
    "compressed nothing": (lambda folder: folder / "a.gz", UNKNOWN),
    "no folder": (lambda folder: folder / "none" / "a.csv", "can't be written: No such file"),
    "a folder": (lambda folder: folder, UNKNOWN),
    "a folder of a file's name": (lambda folder: make_folder(folder / "a.csv"), "it is a folder"),
}


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(("make", "said"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_cannot_be_written_is_found_before(make: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(InvalidInputError, match=said):
        check_writable(path)


def test_a_file_that_is_tried_is_left_as_it_was(results: BatchResult, tmp_path: Path) -> None:
    target, link, part = tmp_path / "a.jsonl", tmp_path / "link.jsonl", tmp_path / "link.jsonl.part"
    target.write_text("old", encoding="utf-8")
    target.chmod(0o640)
    part.write_text("the user's own", encoding="utf-8")
    link.symlink_to(target)
    check_writable(link)
    check_writable(Path("-"))
    assert target.read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 3
    results.write(link)
    assert link.is_symlink()
    assert len(target.read_text(encoding="utf-8").splitlines()) == 3
    assert target.stat().st_mode & 0o777 == 0o640
    assert part.read_text(encoding="utf-8") == "the user's own"
    mask = os.umask(0o022)
    try:
        results.write(tmp_path / "new.csv")
    finally:
        os.umask(mask)
    assert (tmp_path / "new.csv").stat().st_mode & 0o777 == 0o644


def test_standard_output_has_lines_of_json(results: BatchResult, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    results.write("-")
    lines = capfdbinary.readouterr().out.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2]


def test_large_rows_make_small_groups(
    counting: CountingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_agent_target.batch.exports._BYTES_IN_A_GROUP", 20_000)
    results = AgentTargetClient(counting.target_uri).predict_batch("instant", [f"row {n}" for n in range(200)])
    results.to_parquet(tmp_path / "a.parquet")
    assert 2 < pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups < 50
    assert list(pandas.read_parquet(tmp_path / "a.parquet")["index"]) == list(range(200))


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
