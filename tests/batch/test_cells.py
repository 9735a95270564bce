"""What a cell or a record means: a payload, a question, a setting that goes along, an id."""

from __future__ import annotations

import json
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy
import pandas
import pytest

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.batch.cells import (
    Row,
    columns_of,
    request_of_fields,
    row_of,
)
from tests.conftest import user

HI, YO = user("hi"), user("yo")
PAYLOAD = {"input": [HI], "custom_inputs": {"k": None}}

CELLS: dict[str, tuple[Any, Any]] = {
    "text": ("one", "one"),
    "text that only looks like JSON": ("[1] why?", "[1] why?"),
    "a list of no messages as JSON": ("[1]", "[1]"),
    "a list of which one is a message": (f"[1, {json.dumps(HI)}]", f"[1, {json.dumps(HI)}]"),
    "an empty list as JSON": ("[]", "[]"),
    "a number as JSON": ("7", "7"),
    "a text as JSON": ('"7"', '"7"'),
    "JSON that is broken": ("{broken", "{broken"),
    "JSON that is too deep": ("[" * 100_000, "[" * 100_000),
    "JSON that is the question": ('{"error": "timeout"}', '{"error": "timeout"}'),
    "a list of dicts that is": ('[{"a": "b"}]', '[{"a": "b"}]'),
    "a payload as JSON": (json.dumps(PAYLOAD), PAYLOAD),
    "a chat's payload as JSON": (json.dumps({"messages": [HI]}), {"messages": [HI]}),
    "messages as JSON": (json.dumps([HI, YO]), [HI, YO]),
    "items as JSON": ('[{"type": "reasoning"}]', [{"type": "reasoning"}]),
    "JSON after a space": (f"\n {json.dumps([HI])}", [HI]),
    "a payload": (PAYLOAD, PAYLOAD),
    "messages": ([HI, YO], [HI, YO]),
    "messages in an array": (numpy.array([HI, YO], dtype=object), [HI, YO]),
    "a question under a name": ({"question": "one"}, {"input": [user("one")]}),
    "a question beside custom inputs": (
        {"question": "one", "custom_inputs": {"k": 1}},
        {"input": [user("one")], "custom_inputs": {"k": 1}},
    ),
    "a number": (1.5, "1.5"),
    "numpy's number": (numpy.int64(7), "7"),
    "a decimal": (Decimal("1.50"), "1.50"),
    "true, which is no number": (True, True),
}


@pytest.mark.parametrize(("cell", "inputs"), CELLS.values(), ids=CELLS)
def test_a_cell_is_what_predict_takes(cell: Any, inputs: Any) -> None:
    assert row_of({"q": cell}, "q", None) == Row(None, inputs)


NOTHING = "The row asks nothing: its 'q' is empty"
BAD_CELLS: dict[str, tuple[Any, str]] = {
    "nothing": (None, NOTHING),
    "no text": (" \n", NOTHING),
    "no number": (float("nan"), NOTHING),
    "no date": (pandas.NaT, NOTHING),
    "not available": (pandas.NA, NOTHING),
    "two fields": ({"a": "x", "b": "y"}, r"2 fields that could be the question, of \['a', 'b'\]"),
    "a number under a name": ({"question": 7}, "0 fields that could be the question"),
}


@pytest.mark.parametrize(("cell", "said"), BAD_CELLS.values(), ids=BAD_CELLS)
def test_a_cell_without_a_question_is_a_bad_row(cell: Any, said: str) -> None:
    row = row_of({"q": cell, "id": 7}, "q", None, keeps=True)
    assert (row.id, set(row.columns or ())) == (7, {"q"})
    with pytest.raises(InvalidInputError, match=said):
        raise row.inputs


COLUMNS: dict[str, tuple[list[Any], str | None, str | None, tuple[Any, Any] | str]] = {
    "a known one": (["input", "x"], None, None, ("input", None)),
    "the other request's": (["x", "messages"], None, None, ("messages", None)),
    "an evaluation dataset's, and an id": (["id", "inputs"], None, None, ("inputs", "id")),
    "named ones": (["input", "q", "id", "n"], "q", "n", ("q", "n")),
    "a named one beside the known id": (["q", "id"], "q", None, ("q", "id")),
    "no such column": (["a", 7], "q", None, r"The table has no column 'q'; it has \['a', 7\]"),
    "no such id": (["input"], None, "n", "has no column 'n'"),
    "no known one": (["a"], None, None, r"none of the columns 'input', 'messages', 'inputs'; it has \['a'\]. Name the"),
    "two known ones": (["input", "messages"], None, None, "has more than one of the columns"),
    "two known ones of which one is named": (["input", "messages"], "input", None, ("input", None)),
    "a column twice": (["q", "q"], "q", None, "The table has more than one column 'q'"),
    "an id twice": (["input", "id", "id"], None, None, "more than one column 'id'"),
    "another one twice": (["input", "x", "y", "x", "y"], None, None, "more than one column 'x', 'y'"),
}


@pytest.mark.parametrize(("names", "column", "id_column", "found"), COLUMNS.values(), ids=COLUMNS)
def test_which_columns_hold_the_inputs_and_the_ids(
    names: list[Any], column: str | None, id_column: str | None, found: tuple[Any, Any] | str
) -> None:
    if isinstance(found, tuple):
        assert columns_of(names, column, id_column, "The table") == found
    else:
        with pytest.raises(InvalidInputError, match=found):
            columns_of(names, column, id_column, "The table")


SETTINGS = {"custom_inputs": {"k": 1}, "temperature": 0.5}
LABELS = {"expectations": {"a": 1}, "expected_response": "ho", "guidelines": ["be kind"], "tags": {}}
# A record, the columns that the caller named, and its row.
RECORDS: dict[str, tuple[dict[str, Any], str | None, str | None, Row]] = {
    "a payload": (PAYLOAD, None, None, Row(None, PAYLOAD)),
    "a payload with an id": ({"id": 8, **PAYLOAD}, None, None, Row(8, PAYLOAD)),
    "a payload with a named id": ({"n": 9, **PAYLOAD}, None, "n", Row(9, PAYLOAD)),
    "a question": ({"id": 8, "input": "one"}, None, None, Row(8, "one")),
    "a chat's question": ({"messages": "one"}, None, None, Row(None, {"messages": [user("one")]})),
    "a chat's messages": ({"messages": [HI]}, None, None, Row(None, {"messages": [HI]})),
    "a question and its settings": (
        {"input": "one", **SETTINGS},
        None,
        None,
        Row(None, {"input": [user("one")], **SETTINGS}),
    ),
    "a chat's question and its settings": (
        {"messages": "one", **SETTINGS},
        None,
        None,
        Row(None, {"messages": [user("one")], **SETTINGS}),
    ),
    "settings that are missing": (
        {"input": "one", "temperature": None, "top_p": float("nan"), "user": ""},
        None,
        None,
        Row(None, "one"),
    ),
    "settings of false and nothing": (
        {"input": "one", "store": False, "seed": 0},
        None,
        None,
        Row(None, {"input": [user("one")], "store": False, "seed": 0}),
    ),
    "labels": ({"input": "one", **LABELS, "label": 1, "id": 8}, None, None, Row(8, "one")),
    "an evaluation record": (
        {"inputs": {"question": "one"}, "id": 8, **LABELS},
        None,
        None,
        Row(8, {"input": [user("one")]}),
    ),
    "one as JSON": ({"inputs": '{"question": "one"}'}, None, None, Row(None, {"input": [user("one")]})),
    "one that is a payload": ({"inputs": PAYLOAD}, None, None, Row(None, PAYLOAD)),
    "one of text": ({"inputs": "one"}, None, None, Row(None, "one")),
    "one of messages": ({"inputs": [HI]}, None, None, Row(None, [HI])),
    "one with settings beside it": (
        {"inputs": {"question": "one", "temperature": 1}, "temperature": 0.5, "top_p": 0.1},
        None,
        None,
        Row(None, {"input": [user("one")], "temperature": 1, "top_p": 0.1}),
    ),
    "a named column": ({"q": "one", "id": 8, "input": "label"}, "q", None, Row(8, "one")),
    "a named column of messages": ({"q": [HI], **SETTINGS}, "q", None, Row(None, {"input": [HI], **SETTINGS})),
    "a named column and id": ({"q": "one", "n": numpy.int64(7), "id": 8}, "q", "n", Row(7, "one")),
    "an id that is missing": ({"input": "one", "id": float("nan")}, None, None, Row(None, "one")),
    "an empty id": ({"input": "one", "id": ""}, None, None, Row(None, "one")),
    "an id of a column that misses one": ({"input": "one", "id": 7.0}, None, None, Row(7, "one")),
    "a number of a column that misses one": (
        {"input": "one", "max_tokens": 7.0, "temperature": 1.0},
        None,
        None,
        Row(None, {"input": [user("one")], "max_tokens": 7, "temperature": 1.0}),
    ),
    "settings that are pairs, as pandas has a map": (
        {"input": "one", "custom_inputs": [("k", 1)], "context": []},
        None,
        None,
        Row(None, {"input": [user("one")], "custom_inputs": {"k": 1}, "context": {}}),
    ),
    "an id that is not there": ({"q": "one"}, "q", "n", Row(None, "one")),
    "two questions": (
        {"input": [HI], "messages": [YO], "id": 8},
        None,
        None,
        Row(8, {"input": [HI], "messages": [YO]}),
    ),
    "no question": ({"a": 1, "id": 8}, None, None, Row(8, {"a": 1})),
}


@pytest.mark.parametrize(("record", "column", "id_column", "row"), RECORDS.values(), ids=RECORDS)
def test_a_record_is_a_row(record: dict[str, Any], column: str | None, id_column: str | None, row: Row) -> None:
    before = repr(record)
    found = row_of(MappingProxyType(record), column, id_column)
    assert found == row
    assert type(found.id).__module__ == "builtins"
    assert json.dumps(found.inputs, sort_keys=True) == json.dumps(row.inputs, sort_keys=True)  # 1 is no 1.0
    assert repr(record) == before


def test_a_record_without_the_column_is_a_bad_row() -> None:
    row = row_of({"b": 1, "a": 2}, "q", None)
    with pytest.raises(InvalidInputError, match=r"The row has no 'q', but \['a', 'b'\]"):
        raise row.inputs


def test_unknown_columns_are_told_of() -> None:
    told: list[set[str]] = []
    row_of({"input": "one", "x": 1, "id": 2, **SETTINGS, **LABELS}, None, None, drops=told.append)
    assert told == [{"x"}]


TEXT_SETTINGS: dict[str, tuple[str, str, Any]] = {
    "a dict": ("custom_inputs", '{"k": 1}', {"k": 1}),
    "a list": ("tools", "[]", []),
    "a dict as Python writes it": ("custom_inputs", "{'k': True, 'l': None}", {"k": True, "l": None}),
    "a whole number": ("max_output_tokens", "7", 7),
    "a number": ("temperature", "0.5", 0.5),
    "true": ("store", "True", True),
    "false": ("store", "false", False),
    "text": ("user", "ann", "ann"),
    "text of digits": ("user", "7", "7"),
    "text or a list": ("stop", "END", "END"),
    "a list or text": ("stop", '["END"]', ["END"]),
}


@pytest.mark.parametrize(("name", "text", "value"), TEXT_SETTINGS.values(), ids=TEXT_SETTINGS)
def test_settings_are_read_from_text(name: str, text: str, value: Any) -> None:
    row = row_of({"input": "one", name: text}, None, None, is_text=True)
    assert row.inputs == {"input": [user("one")], name: value}
    assert type(row.inputs[name]) is type(value)
    elsewhere = row_of({"input": "one", name: text}, None, None).inputs[name]
    assert elsewhere == (value if name in ("custom_inputs", "tools") else text)  # those can't be text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            ("custom_inputs", text)
            for text in ("{broken", "7", "[]", "{'k'", "{[1]: 2}", "{'a': {[1]: 2}}", "[" * 100_000)
        ),
        *(("temperature", text) for text in ("hot", "nan", "inf", "9" * 5000)),
        ("stop", "[1"),
    ],
)
def test_settings_that_cannot_be_read_make_a_bad_row(name: str, text: str) -> None:
    row = row_of({"input": "one", name: text}, None, None, is_text=True)
    with pytest.raises(InvalidInputError, match=f"The row's '{name}' can't be read"):
        raise row.inputs


@pytest.mark.parametrize("name", ["reasoning", "context", "text", "metadata", "tools"])
def test_a_label_with_the_name_of_a_setting_does_not_reach_the_agent(name: str) -> None:
    for is_text in (True, False):
        row = row_of({"id": 7, "input": "one", name: "2 + 2 = 4"}, None, None, is_text=is_text)
        assert row.id == 7
        with pytest.raises(InvalidInputError, match=f"'{name}' can't be read: '2 .* Name it otherwise"):
            raise row.inputs


PYTHON: dict[str, tuple[str, str, Any]] = {
    "messages": ("messages", str([HI]), {"messages": [HI]}),
    "a payload": ("q", str(PAYLOAD), PAYLOAD),
    "an evaluation record": ("inputs", str({"question": "it's one"}), {"input": [user("it's one")]}),
    "a dict that is the question": ("q", str({"a": "b"}), str({"a": "b"})),
    "no literal": ("q", "{'role': open('x')}", "{'role': open('x')}"),
    "no dict": ("q", "{'a', 'b'}", "{'a', 'b'}"),
    "too deep": ("q", "['" + "[" * 100_000, "['" + "[" * 100_000),
}


@pytest.mark.parametrize(("column", "text", "inputs"), PYTHON.values(), ids=PYTHON)
def test_text_as_pandas_writes_it_is_read_where_there_is_only_text(column: str, text: str, inputs: Any) -> None:
    assert row_of({column: text}, column, None, is_text=True).inputs == inputs
    if column == "q":
        assert row_of({column: text}, column, None).inputs == text


def test_a_row_that_is_nested_too_deeply_is_a_bad_row() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"k": deep}
    for keeps in (True, False):
        row = row_of({"id": 7, "input": "one", "custom_inputs": deep}, None, None, keeps=keeps)
        assert row.id == 7
        with pytest.raises(InvalidInputError, match="nested too deeply"):
            raise row.inputs


@pytest.mark.parametrize(
    ("text", "id_"),
    [
        ("9" * 18, int("9" * 18)),
        ("9" * 19, "9" * 19),
        ("9" * 5000, "9" * 5000),
        ("", None),
        ("7", 7),
        ("0", 0),
        ("007", "007"),
        ("-7", "-7"),
        ("C1", "C1"),
        ("7.0", "7.0"),
    ],
)
def test_an_id_of_digits_is_a_number_as_elsewhere(text: str, id_: Any) -> None:
    assert row_of({"input": "one", "id": text}, None, None, is_text=True).id == id_
    assert row_of({"input": "one", "id": text}, None, None).id == (text or None)


def test_what_the_result_carries_is_plain() -> None:
    record: dict[Any, Any] = {
        "id": 7,
        "input": "one",
        "n": numpy.float64(0.5),
        "nan": float("nan"),
        "na": pandas.NA,
        "at": pandas.Timestamp("2026-01-02 03:04"),
        "nothing": None,
        "empty": "",
        "list": numpy.array([1]),
        3: [float("nan"), float("inf"), pandas.Timestamp("2026-01-02"), {(1, 2): Decimal("1.50")}],
    }
    kept: dict[str, Any] = {"input": "one", "n": 0.5, "nan": None, "na": None, "at": "2026-01-02T03:04:00"}
    kept |= {"nothing": None, "empty": "", "list": [1], "3": [None, "inf", "2026-01-02T00:00:00", {"(1, 2)": "1.50"}]}
    found = row_of(record, None, None, keeps=True).columns
    assert found == kept
    assert json.loads(json.dumps(found, allow_nan=False)) == kept
    assert row_of(record, None, None).columns is None


def test_what_arrow_adds_to_structs_is_dropped() -> None:
    record = {"messages": [{**HI, "tool_calls": None}], "custom_inputs": {"k": None, "l": 1}}
    assert row_of(record, None, None, is_arrow=True).inputs == {"messages": [HI], "custom_inputs": {"l": 1}}
    assert row_of(record, None, None).inputs == record


def test_fields_that_are_a_request_stay_so() -> None:
    for fields in ({"input": "x", "a": 1}, {"messages": [HI]}):
        assert request_of_fields(dict(fields)) == fields
