"""The rows of a batch, from whatever holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.batch.cells import Row
from mlflow_agent_target.batch.tables import Rows
from tests.conftest import user

HI, YO = user("hi"), user("yo")
MESSAGES = [user("hi"), {"role": "assistant", "content": "yes?"}, user("and?")]
FRAME = pandas.DataFrame({"id": ["a", "b"], "question": ["one", "two"], "other": [1.5, None]})

HELD: dict[str, tuple[Any, dict[str, Any], list[tuple[Any, Any]]]] = {
    "an array of Arrow's": (pyarrow.array(["one", "two"]), {}, [(None, "one"), (None, "two")]),
    "a list": (["one", MESSAGES, {"input": MESSAGES}], {}, [(None, x) for x in ("one", MESSAGES, {"input": MESSAGES})]),
    "a Series": (FRAME["question"], {}, [(None, "one"), (None, "two")]),
    "a frame's named column": (FRAME, {"column": "question"}, [("a", "one"), ("b", "two")]),
    "a frame's named id": (
        FRAME,
        {"column": "question", "id_column": "other"},
        [(1.5, "one"), (None, "two")],
    ),
    "messages in numpy arrays": (
        pandas.DataFrame({"messages": [numpy.array(MESSAGES, dtype=object)]}),
        {},
        [(None, {"messages": MESSAGES})],
    ),
    "JSON in cells": (
        pandas.DataFrame({"input": [json.dumps(MESSAGES), "[1] why?"]}),
        {},
        [(None, {"input": MESSAGES}), (None, "[1] why?")],
    ),
    "an evaluation dataset's column": (
        pandas.DataFrame({"inputs": [{"question": "one"}, {"messages": MESSAGES}, {"a": "x", "b": 1}]}),
        {},
        [(None, {"input": [user("one")]}), (None, {"messages": MESSAGES}), (None, {"input": [user("x")], "b": 1})],
    ),
    "evaluation records": (
        [{"inputs": {"question": "one"}, "expectations": {}}],
        {},
        [(None, {"input": [user("one")]})],
    ),
    "records": ([{"q": "one", "n": 7}], {"column": "q", "id_column": "n"}, [(7, "one")]),
}


@pytest.mark.parametrize(("inputs", "columns", "rows"), HELD.values(), ids=HELD)
def test_rows_are_read(inputs: Any, columns: dict[str, Any], rows: list[tuple[Any, Any]]) -> None:
    read = Rows(inputs, **columns)
    assert read.size == len(rows)
    assert [row[:2] for row in read] == rows


def write_csv(path: Path) -> None:
    path.write_text('\ufeffid,question\na,one\nb,"two,\nlines"\n', encoding="utf-8")


def write_jsonl(path: Path) -> None:
    lines = [{"id": "a", "question": "one"}, {"id": "b", "question": "two,\nlines"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")


def write_parquet(path: Path) -> None:
    pandas.DataFrame({"id": ["a", "b"], "question": ["one", "two,\nlines"], "x": [1, 2]}).to_parquet(path)


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
@pytest.mark.parametrize("as_text", [True, False])
def test_files_are_read_by_name(write: Any, as_text: bool, tmp_path: Path) -> None:
    path = tmp_path / f"questions.{write.__name__.removeprefix('write_')}"
    write(path)
    named = str(path) if as_text else path
    assert [row[:2] for row in Rows(named, "question")] == [("a", "one"), ("b", "two,\nlines")]
    assert [row[:2] for row in Rows(named, "question", limit=1)] == [("a", "one")]


def test_payloads_in_files_are_whole(tmp_path: Path) -> None:
    payload = {"input": [user("hi")], "custom_inputs": {"k": None}}
    path = tmp_path / "payloads.jsonl"
    path.write_text(json.dumps({"id": 7, **payload}) + "\n" + json.dumps("text") + "\n", encoding="utf-8")
    assert [row[:2] for row in Rows(path)] == [(7, payload), (None, "text")]
    parquet = tmp_path / "messages.parquet"
    calls = [{"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]}]
    pandas.DataFrame({"messages": [MESSAGES, calls]}).to_parquet(parquet)
    found = [row.inputs["messages"] for row in Rows(parquet)]
    assert found == [MESSAGES, [{k: v for k, v in calls[0].items() if v is not None}]]


def test_a_broken_line_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('"one"\n{broken\n"three"\n{"q": 1}\n', encoding="utf-8")
    one, broken, three, other = Rows(path)
    assert (one.inputs, three.inputs, other.inputs) == ("one", "three", {"q": 1})
    assert isinstance(broken.inputs, InvalidInputError)
    assert "Line 2 of" in str(broken.inputs)
    missing = list(Rows(path, "p"))[3]
    assert "has no 'p'" in str(missing.inputs)


def bytes_file(name: str, content: bytes) -> Any:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no such column": (
        FRAME,
        {"column": "q"},
        r"The DataFrame has no column 'q'; it has \['id', 'question', 'other'\]",
    ),
    "no such id": (FRAME, {"column": "question", "id_column": "n"}, "has no column 'n'"),
    "no known column": (FRAME, {}, "has none of the columns 'input', 'messages', 'inputs'.*Name the one"),
    "two known columns": (pandas.DataFrame({"input": [1], "messages": [2]}), {}, "has more than one of"),
    "a column twice": (pandas.DataFrame([[1, 2]], columns=["q", "q"]), {"column": "q"}, "more than one column 'q'"),
    "a header twice": (bytes_file("a.csv", b"input,id,id\na,b,c\n"), {}, "more than one column 'id'"),
    "a number": (3, {}, "must be many.* not int 3"),
    "another file": (Path("rows.xlsx"), {}, "name a file of .csv, .tsv, .jsonl"),
    "no CSV": (bytes_file("a.csv", b"input\n\xff\xfe\n"), {}, "can't be read"),
    "no Parquet": (bytes_file("a.parquet", b"no"), {}, "can't be read"),
}


@pytest.mark.parametrize(("inputs", "columns", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_says_why(inputs: Any, columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=said):
        list(Rows(inputs(tmp_path) if callable(inputs) else inputs, **columns))


RECORD = {"id": 7, "input": "A?", "custom_inputs": {"user": "ann"}, "expected_response": "THE TRUTH", "nr": 1}
ROW = (7, {"input": [user("A?")], "custom_inputs": {"user": "ann"}})


class SparkFrame:
    """As pyspark.sql.DataFrame."""

    columns = tuple(RECORD)

    def toLocalIterator(self) -> Any:  # noqa: N802
        return iter([SparkRow()])


class SparkRow:
    """As pyspark.sql.Row."""

    def asDict(self, recursive: bool = False) -> dict[str, Any]:  # noqa: N802
        assert recursive
        return dict(RECORD)


def polars_frame() -> Any:
    return polars.DataFrame([RECORD])


HOLDERS: dict[str, Any] = {
    "a list": lambda: [RECORD],
    "a generator": lambda: iter([RECORD]),
    "Spark's rows": lambda: [SparkRow()],
    "a frame": lambda: pandas.DataFrame([RECORD]),
    "a frame of polars": polars_frame,
    "a frame of Spark": SparkFrame,
    "a table of Arrow": lambda: pyarrow.Table.from_pylist([RECORD]),
    "a batch of Arrow": lambda: pyarrow.RecordBatch.from_pylist([RECORD]),
}


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_the_same_record_is_the_same_row_whatever_holds_it(make: Any) -> None:
    [row] = Rows(make())
    assert row[:2] == ROW
    [kept] = Rows(make(), keep_columns=True)
    assert kept.columns == {key: value for key, value in RECORD.items() if key != "id"}
    [unkept] = Rows(make(), keep_columns=False)
    assert unkept.columns is None


def test_the_same_record_in_files(tmp_path: Path) -> None:
    frame = pandas.DataFrame([RECORD])
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.assign(custom_inputs=[json.dumps(RECORD["custom_inputs"])]).to_csv(tmp_path / "b.csv", index=False)
    (tmp_path / "a.jsonl").write_text(json.dumps(RECORD), encoding="utf-8")
    for path in sorted(tmp_path.iterdir()):
        [row] = Rows(path)
        assert row[:2] == ROW, path.name
        assert (row.columns is not None) == (path.suffix == ".parquet")


def test_what_is_not_sent_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    list(Rows([RECORD, {**RECORD, "m": 1}, RECORD]))
    assert [record.getMessage()[:17] for record in caplog.records] == ["The rows have 'nr", "The rows have 'm'"]


@pytest.mark.parametrize("missing", [float("nan"), numpy.float64("nan"), None, "", " ", pandas.NA, pandas.NaT])
def test_a_row_that_is_missing_is_a_bad_row(missing: Any) -> None:
    one, bad = Rows([7, missing])
    assert one.inputs == "7"
    assert "asks nothing" in str(bad.inputs)


def test_a_lazy_frame_is_to_be_collected() -> None:
    frame = polars_frame().lazy()
    with pytest.raises(InvalidInputError, match=r"give frame.collect\(\)"):
        Rows(frame)


def test_the_labels_of_a_frames_rows_are_known() -> None:
    frame = pandas.DataFrame({"input": ["a"]}, index=["x"])
    assert list(Rows(frame).index) == ["x"]
    assert list(Rows(frame["input"]).index) == ["x"]
    assert Rows(["a"]).index is None


def test_a_map_of_arrow_is_a_dict(tmp_path: Path) -> None:
    maps = pyarrow.array([[("user", "ann")]], pyarrow.map_(pyarrow.string(), pyarrow.string()))
    table = pyarrow.table({"input": ["A?"], "custom_inputs": maps})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for inputs in (table, table.to_pandas(), tmp_path / "a.parquet"):
        [row] = Rows(inputs)
        assert row.inputs == {"input": [user("A?")], "custom_inputs": {"user": "ann"}}


def test_messages_that_pandas_wrote_are_read_back(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"messages": [MESSAGES], "custom_inputs": [{"k": None}]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert list(Rows(tmp_path / "a.csv", keep_columns=False)) == list(Rows(frame, keep_columns=False))


def test_what_is_a_row_already_is_sent_as_it_is() -> None:
    row = Row(7, {"input": MESSAGES, "of the caller's": 1})
    assert list(Rows([row])) == [row]
