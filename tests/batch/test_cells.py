"""What a cell or a record means: a payload, a question, a setting that goes along, an id."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import numpy
import pytest

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.batch.cells import (
    Row,
    columns_of,
    inputs_of,
    plain,
    question,
    requests,
    row_of_item,
    row_of_line,
)
from tests.conftest import user

HI, YO = user("hi"), user("yo")
PAYLOAD = {"input": [HI], "custom_inputs": {"k": None}}

CELLS: dict[str, tuple[Any, Any]] = {
    "text": ("one", "one"),
    "text that only looks like JSON": ("[1] why?", "[1] why?"),
    "a list of no messages as JSON": ("[1]", "[1]"),
    "a list of which one is a message": ('[1, {"a": 2}]', '[1, {"a": 2}]'),
    "an empty list as JSON": ("[]", "[]"),
    "a number as JSON": ("7", "7"),
    "a text as JSON": ('"7"', '"7"'),
    "JSON that is broken": ("{broken", "{broken"),
    "JSON that is too deep": ("[" * 100_000, "[" * 100_000),
    "a payload as JSON": (json.dumps(PAYLOAD), PAYLOAD),
    "messages as JSON": (json.dumps([HI, YO]), [HI, YO]),
    "JSON after a space": (f"\n {json.dumps([HI])}", [HI]),
    "a payload": (PAYLOAD, PAYLOAD),
    "messages": ([HI, YO], [HI, YO]),
    "messages in an array": (numpy.array([HI, YO], dtype=object), [HI, YO]),
    "a question under a name": ({"question": "one"}, "one"),
    "a question under a name as JSON": ('{"question": "one"}', "one"),
    "messages under a name": ({"conversation": [HI]}, [HI]),
    "a number under a name": ({"question": 7}, {"question": 7}),
    "two fields": ({"a": "x", "b": "y"}, {"a": "x", "b": "y"}),
    "no field": ({}, {}),
    "a request's key alone": ({"input": "one"}, {"input": "one"}),
    "the other key alone": ({"messages": [HI]}, {"messages": [HI]}),
    "nothing": (None, None),
    "a number": (1.5, 1.5),
}


@pytest.mark.parametrize(("cell", "inputs"), CELLS.values(), ids=CELLS)
def test_a_cell_is_what_predict_takes(cell: Any, inputs: Any) -> None:
    assert inputs_of(cell) == inputs


class SparkRow(tuple[Any, ...]):
    """As pyspark.sql.Row: a tuple that knows its fields."""

    def asDict(self) -> dict[str, Any]:  # noqa: N802
        return dict(zip("ab", self, strict=True))


KEPT, DROPPED = {"a": 1, "b": None}, {"a": 1}
# What comes of a value when nulls are kept, dropped in structs, and dropped.
PLAIN: dict[str, tuple[Any, Any, Any, Any]] = {
    "Python's own": (KEPT, KEPT, KEPT, DROPPED),
    "in a list": ([KEPT], [KEPT], [KEPT], [DROPPED]),
    "in a tuple": (((KEPT,), 2), [[KEPT], 2], [[KEPT], 2], [[DROPPED], 2]),
    "in an array": (numpy.array([KEPT], dtype=object), [KEPT], [DROPPED], [DROPPED]),
    "in a list in an array": (
        numpy.array([[KEPT], None], dtype=object),
        [[KEPT], None],
        [[DROPPED], None],
        [[DROPPED], None],
    ),
    "a Spark row": (SparkRow((1, None)), KEPT, DROPPED, DROPPED),
    "in a Spark row": (
        SparkRow((1, [KEPT])),
        {"a": 1, "b": [KEPT]},
        {"a": 1, "b": [DROPPED]},
        {"a": 1, "b": [DROPPED]},
    ),
    "a Spark row in a dict": (
        {"c": SparkRow((1, None)), "d": None},
        {"c": KEPT, "d": None},
        {"c": DROPPED, "d": None},
        {"c": DROPPED},
    ),
    "an array in a dict": (
        {"c": numpy.array([1, 2]), "d": None},
        {"c": [1, 2], "d": None},
        {"c": [1, 2], "d": None},
        {"c": [1, 2]},
    ),
    "numpy's text": (numpy.str_("a"), "a", "a", "a"),
    "numpy's number": (numpy.float64(1.5), 1.5, 1.5, 1.5),
    "nothing": (None, None, None, None),
}


@pytest.mark.parametrize(("value", "kept", "in_structs", "dropped"), PLAIN.values(), ids=PLAIN)
def test_values_are_made_plain(value: Any, kept: Any, in_structs: Any, dropped: Any) -> None:
    assert plain(value) == kept
    assert plain(value, "drop_in_structs") == in_structs
    assert plain(value, "drop") == dropped
    assert "numpy" not in type(plain(value)).__module__


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
    "another one twice": (["input", "x", "x"], None, None, ("input", None)),
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


NAMED = MappingProxyType({"q": '{"input": []}', "n": numpy.int64(7), "id": 8})
RECORD = {"inputs": {"question": "one"}, "id": 8, "n": 9, "expectations": {}}
PAYLOAD_WITH_INPUTS = {"input": [HI], "inputs": "label", "id": 8}
# An object, the columns that the caller named, and the row that it is in an iterable and in a file.
RECORDS: dict[str, tuple[Any, str | None, str | None, Row, Row]] = {
    "text": ("one", None, None, Row(None, "one"), Row(None, "one")),
    "text, where an id is named": ("one", None, "n", Row(None, "one"), Row(None, "one")),
    "messages": ([HI], None, None, Row(None, [HI]), Row(None, [HI])),
    "a payload": (PAYLOAD, None, None, Row(None, PAYLOAD), Row(None, PAYLOAD)),
    "a payload with an id": ({"id": 8, **PAYLOAD}, None, None, Row(None, {"id": 8, **PAYLOAD}), Row(8, PAYLOAD)),
    "a payload with a named id": ({"n": 9, **PAYLOAD}, None, "n", Row(9, {"n": 9, **PAYLOAD}), Row(9, PAYLOAD)),
    "a payload beside `inputs`": (
        PAYLOAD_WITH_INPUTS,
        None,
        None,
        Row(None, PAYLOAD_WITH_INPUTS),
        Row(8, {"input": [HI], "inputs": "label"}),
    ),
    "a chat's payload beside `inputs`": (
        {"messages": [HI], "inputs": 1},
        None,
        None,
        Row(None, {"messages": [HI], "inputs": 1}),
        Row(None, {"messages": [HI], "inputs": 1}),
    ),
    "an evaluation record": (RECORD, None, None, Row(None, "one"), Row(8, "one")),
    "an evaluation record with a named id": (RECORD, None, "n", Row(9, "one"), Row(9, "one")),
    "a named column": ({"q": "one", "id": 8}, "q", None, Row(None, "one"), Row(8, "one")),
    "a named column and id": ({"q": "one", "n": 7}, "q", "n", Row(7, "one"), Row(7, "one")),
    "an id that is not there": ({"q": "one"}, "q", "n", Row(None, "one"), Row(None, "one")),
}


@pytest.mark.parametrize(("value", "column", "id_column", "in_iterable", "in_file"), RECORDS.values(), ids=RECORDS)
def test_a_record_is_a_row(
    value: Any, column: str | None, id_column: str | None, in_iterable: Row, in_file: Row
) -> None:
    before = json.dumps(value)
    assert row_of_item(value, column, id_column) == in_iterable
    assert row_of_line(value, column, id_column) == in_file
    assert json.dumps(value) == before


def test_any_mapping_is_a_record() -> None:
    row = row_of_item(NAMED, "q", "n")
    assert row == Row(7, {"input": []})
    assert type(row.id) is int


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"b": 1, "a": 2}, r"The row has no 'q', but \['a', 'b'\]"),
        ("text", "The row has no 'q', but str"),
    ],
)
def test_a_record_without_the_column_is_a_bad_row(value: Any, said: str) -> None:
    row = row_of_item(value, "q", None)
    assert row.id is None
    with pytest.raises(InvalidInputError, match=said):
        raise row.inputs


REQUESTS: dict[str, tuple[dict[str, list[Any]], list[Any]]] = {
    "a list a row": ({"input": [[HI], [HI, YO]]}, [{"input": [HI]}, {"input": [HI, YO]}]),
    "a text a row": ({"messages": ["hi", "yo"]}, [{"messages": [HI]}, {"messages": [YO]}]),
    "a number a row": ({"input": [7, 1.5]}, [{"input": [user("7")]}, {"input": [user("1.5")]}]),
    "one conversation": ({"input": [HI, YO]}, [{"input": [HI, YO]}]),
    "one conversation of one message": ({"input": [HI]}, [{"input": [HI]}]),
    "one conversation of items": ({"input": [HI, {"type": "reasoning"}]}, [{"input": [HI, {"type": "reasoning"}]}]),
    "one conversation with its settings": (
        {"messages": [HI, YO], "temperature": [0.5, 0.5]},
        [{"messages": [HI, YO], "temperature": 0.5}],
    ),
    "settings go with their row": (
        {"input": [[HI], [YO]], "custom_inputs": [{"a": 1}, None]},
        [{"input": [HI], "custom_inputs": {"a": 1}}, {"input": [YO]}],
    ),
    "a setting that is false": ({"input": ["hi"], "store": [False]}, [{"input": [HI], "store": False}]),
    "a row without a question": ({"input": ["hi", None]}, [{"input": [HI]}, {}]),
    "each in its own schema": (
        {"input": ["hi", None], "messages": [None, "yo"]},
        [{"input": [HI]}, {"messages": [YO]}],
    ),
    "the one other column is the question": (
        {"custom_inputs": [{"a": 1}], "question": ["hi"], "id": [7]},
        [{"custom_inputs": {"a": 1}, "input": [HI]}],
    ),
    "a message a row": (
        {"role": ["user", "user"], "content": ["hi", "yo"], "id": ["m1", None]},
        [[{**HI, "id": "m1"}, YO]],
    ),
    "a message that knows its state": (
        {"role": ["assistant"], "content": ["b"], "status": ["completed"], "type": [None]},
        [[{"role": "assistant", "content": "b", "status": "completed"}]],
    ),
    "no message": ({"role": [], "content": []}, []),
    "a request a row, beside labels": (
        {"inputs": [{"input": [HI]}, {"messages": [YO]}, "hi", 7], "expectations": [{}] * 4},
        [{"input": [HI]}, {"messages": [YO]}, "hi", "7"],
    ),
    "nothing": ({"input": []}, []),
}


@pytest.mark.parametrize(("columns", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_the_rows_of_a_table_are_requests(columns: dict[str, list[Any]], expected: list[Any]) -> None:
    assert requests(columns) == expected


TRUTH = {
    "expectations": [{"expected_response": "ho"}] * 2,
    "expected_response": ["ho", "ho"],
    "label": [1, 2],
    "id": [1, 2],
    "stream": [True, True],
    "tags": [{}, {}],
}
SETTINGS = (
    *("custom_inputs", "context", "databricks_options", "client_request_id", "usage_context", "temperature", "top_p"),
    *("top_k", "stop", "max_tokens", "max_completion_tokens", "max_output_tokens", "max_tool_calls", "metadata"),
    *("tools", "tool_choice", "parallel_tool_calls", "reasoning", "reasoning_effort", "previous_response_id"),
    *("instructions", "include", "background", "store", "text", "response_format", "truncation", "user"),
    *("frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "seed", "n"),
)


@pytest.mark.parametrize("asked", [{"input": ["hi", "yo"]}, {"messages": [[HI], [YO]]}, {"input": [HI, YO]}])
def test_only_settings_go_with_a_question(asked: dict[str, list[Any]]) -> None:
    settings = {name: [1, 1] for name in SETTINGS}
    asked_with = requests({**TRUTH, **asked, **settings})
    assert asked_with == requests({**asked, **settings})
    for request in asked_with:
        assert request.keys() - asked.keys() == set(SETTINGS)


MESSAGE_FIELDS = (
    *("role", "content", "type", "id", "name", "status", "tool_calls", "tool_call_id", "refusal", "attachments"),
    *("call_id", "arguments", "output", "summary", "encrypted_content", "server_label", "approval_request_id"),
    *("approve", "reason"),
)


def test_all_that_messages_and_items_have_is_part_of_them() -> None:
    message = dict.fromkeys(MESSAGE_FIELDS, "x")
    assert requests({name: [value] for name, value in message.items()}) == [[message]]


UNCLEAR: dict[str, tuple[dict[str, list[Any]], str]] = {
    "two questions": (
        {"question": ["hi"], "answer": ["yo"]},
        "has the columns 'question', 'answer', and it is not clear",
    ),
    "only settings": ({"temperature": [0.5], "id": [1]}, "not clear which of them is the question. Name it 'input'"),
    "messages and others": ({"input": [HI, [YO]]}, "Some rows of the DataFrame hold a message"),
    "messages and none": ({"input": [HI, None]}, "Some rows"),
    "messages in both schemas": ({"input": [HI, None], "messages": [None, YO]}, "Some rows"),
    "a label beside messages": (
        {"role": ["user"], "content": ["hi"], "z": [1], "expected_response": ["ho"]},
        "messages, of which 'expected_response', 'z' is no part",
    ),
    "settings that differ": (
        {"input": [HI, YO], "temperature": [0.1, 0.2], "seed": [1, 1]},
        r"one conversation \(column 'input'\), but they differ in other columns \(seed, temperature\)",
    ),
    "settings that only some have": ({"input": [HI, YO], "temperature": [0.1, None]}, r"\(temperature\)"),
}


@pytest.mark.parametrize(("columns", "says"), UNCLEAR.values(), ids=UNCLEAR)
def test_a_table_that_is_not_clear_is_refused(columns: dict[str, list[Any]], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        requests(columns)


@pytest.mark.parametrize(("cell", "inputs"), [("hi", "hi"), (7, "7"), (1.5, "1.5"), (None, None), ([HI], [HI])])
def test_a_number_is_a_question_that_looked_like_one(cell: Any, inputs: Any) -> None:
    assert question(cell) == inputs
