"""The rows of a batch, from whatever holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.batch.tables import Rows, is_frame, requests_of
from tests.conftest import user

HI, YO = user("hi"), user("yo")
MESSAGES = [user("hi"), {"role": "assistant", "content": "yes?"}, user("and?")]
FRAME = pandas.DataFrame({"id": ["a", "b"], "question": ["one", "two"], "other": [1.5, None]})

HELD: dict[str, tuple[Any, dict[str, Any], list[tuple[Any, Any]]]] = {
    "a list": (["one", MESSAGES, {"input": MESSAGES}], {}, [(None, x) for x in ("one", MESSAGES, {"input": MESSAGES})]),
    "a Series": (FRAME["question"], {}, [(None, "one"), (None, "two")]),
    "a frame's named column": (FRAME, {"column": "question"}, [("a", "one"), ("b", "two")]),
    "a frame's named id": (
        FRAME,
        {"column": "question", "id_column": "other"},
        [(1.5, "one"), (pytest.approx(float("nan"), nan_ok=True), "two")],
    ),
    "messages in numpy arrays": (
        pandas.DataFrame({"messages": [numpy.array(MESSAGES, dtype=object)]}),
        {},
        [(None, MESSAGES)],
    ),
    "JSON in cells": (
        pandas.DataFrame({"input": [json.dumps(MESSAGES), "[1] why?"]}),
        {},
        [(None, MESSAGES), (None, "[1] why?")],
    ),
    "an evaluation dataset's column": (
        pandas.DataFrame({"inputs": [{"question": "one"}, {"messages": MESSAGES}, {"a": "x", "b": "y"}]}),
        {},
        [(None, "one"), (None, {"messages": MESSAGES}), (None, {"a": "x", "b": "y"})],
    ),
    "evaluation records": ([{"inputs": {"question": "one"}, "expectations": {}}], {}, [(None, "one")]),
    "records": ([{"q": "one", "n": 7}], {"column": "q", "id_column": "n"}, [(7, "one")]),
}


@pytest.mark.parametrize(("inputs", "columns", "rows"), HELD.values(), ids=HELD)
def test_rows_are_read(inputs: Any, columns: dict[str, Any], rows: list[tuple[Any, Any]]) -> None:
    read = Rows(inputs, **columns)
    assert read.size == len(rows)
    assert [tuple(row) for row in read] == rows


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
    assert [tuple(row) for row in Rows(named, "question")] == [("a", "one"), ("b", "two,\nlines")]
    assert [tuple(row) for row in Rows(named, "question", limit=1)] == [("a", "one")]


def test_payloads_in_files_are_whole(tmp_path: Path) -> None:
    payload = {"input": [user("hi")], "custom_inputs": {"k": None}}
    path = tmp_path / "payloads.jsonl"
    path.write_text(json.dumps({"id": 7, **payload}) + "\n" + json.dumps("text") + "\n", encoding="utf-8")
    assert [tuple(row) for row in Rows(path)] == [(7, payload), (None, "text")]
    parquet = tmp_path / "messages.parquet"
    calls = [{"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]}]
    pandas.DataFrame({"messages": [MESSAGES, calls]}).to_parquet(parquet)
    assert [row.inputs for row in Rows(parquet)] == [MESSAGES, [{k: v for k, v in calls[0].items() if v is not None}]]


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
    "another file": (Path("rows.xlsx"), {}, "name a file of .csv, .jsonl, .parquet"),
    "no CSV": (bytes_file("a.csv", b"input\n\xff\xfe\n"), {}, "can't be read"),
    "no Parquet": (bytes_file("a.parquet", b"no"), {}, "can't be read"),
}


@pytest.mark.parametrize(("inputs", "columns", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_says_why(inputs: Any, columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=said):
        list(Rows(inputs(tmp_path) if callable(inputs) else inputs, **columns))


@pytest.mark.parametrize(
    ("frame", "requests"),
    [
        ({"input": [[HI], [YO]], "top_k": [1.0, numpy.nan]}, [{"input": [HI], "top_k": 1.0}, {"input": [YO]}]),
        (
            {"input": ["hi", "yo"], "context": [pandas.NaT, pandas.NA], "custom_inputs": [None, {"a": None}]},
            [{"input": [HI]}, {"input": [YO], "custom_inputs": {"a": None}}],
        ),
        ({"question": ["hi", "yo"], "id": [7, 8]}, [{"input": [HI]}, {"input": [YO]}]),
        ({0: ["hi", "yo"]}, [{"input": [HI]}, {"input": [YO]}]),
        ({0: [7]}, [{"input": [user("7")]}]),
        ({"role": ["user", "user"], "content": ["hi", "yo"], "id": ["m1", None]}, [[{**HI, "id": "m1"}, YO]]),
        ({"input": []}, []),
        (
            {"messages": [[HI], [YO]], "custom_inputs": [{"a": None}, {"a": ()}]},
            [{"messages": [HI], "custom_inputs": {"a": None}}, {"messages": [YO], "custom_inputs": {"a": []}}],
        ),
    ],
)
def test_the_rows_of_a_frame_are_requests(frame: dict[Any, Any], requests: list[Any]) -> None:
    assert requests_of(pandas.DataFrame(frame)) == requests


class Row(tuple[Any, ...]):
    """As pyspark.sql.Row: a tuple that knows its fields."""

    fields: tuple[str, ...]

    @classmethod
    def of(cls, **values: Any) -> Row:
        row = cls(values.values())
        row.fields = tuple(values)
        return row

    def asDict(self) -> dict[str, Any]:  # noqa: N802
        return dict(zip(self.fields, self, strict=True))


@pytest.mark.parametrize(
    "messages",
    [
        numpy.array([{**HI, "type": None, "tool_calls": None}, YO], dtype=object),
        numpy.array([{**HI, "tool_calls": None}, {**YO, "tool_calls": numpy.array([], dtype=object)}], dtype=object),
        [Row.of(role="user", content="hi", type=None), Row.of(role="user", content="yo")],
        ({"role": "user", "content": numpy.str_("hi")}, YO),
    ],
)
def test_what_arrow_and_spark_make_of_lists_of_structs_is_made_plain(messages: Any) -> None:
    frame = pandas.DataFrame({"messages": [messages]})
    [request] = requests_of(frame)
    sent = [{key: value for key, value in message.items() if value != []} for message in request["messages"]]
    assert sent == [HI, YO]
    assert type(sent[0]["content"]) is str
    assert type(request["messages"]) is list


def test_a_struct_within_a_struct_is_made_plain() -> None:
    calls = numpy.array([{"id": "c", "function": {"name": "f", "arguments": None}}], dtype=object)
    frame = pandas.DataFrame({"messages": [numpy.array([{**HI, "tool_calls": calls}], dtype=object)]})
    [request] = requests_of(frame)
    assert request == {"messages": [{**HI, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}]}


def test_a_series_is_a_request_a_row() -> None:
    assert requests_of(pandas.Series(["hi", {"input": [HI]}])) == ["hi", {"input": [HI]}]


def test_only_frames_are_frames() -> None:
    assert all(map(is_frame, (pandas.DataFrame(), pandas.Series([1]))))
    assert not any(map(is_frame, ({}, [], "hi", None, numpy.array([1]))))


def test_columns_of_the_same_name_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="columns of the same name: 'input', 'input'"):
        requests_of(pandas.DataFrame([["hi", "yo"]], columns=["input", "input"]))
