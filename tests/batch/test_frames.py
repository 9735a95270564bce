"""What `predict` takes as a DataFrame: a request a row, or one conversation that is spread over its rows."""

from __future__ import annotations

import json
from typing import Any

import numpy
import pandas
import pytest

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.batch.frames import is_frame, requests, requests_of
from mlflow_agent_target.batch.tables import Rows
from mlflow_agent_target.batch.values import question
from tests.conftest import user

HI, YO = user("hi"), user("yo")
REQUESTS: dict[str, tuple[dict[str, list[Any]], list[Any]]] = {
    "a list a row": ({"input": [[HI], [HI, YO]]}, [{"input": [HI]}, {"input": [HI, YO]}]),
    "a text a row": ({"messages": ["hi", "yo"]}, [{"messages": [HI]}, {"messages": [YO]}]),
    "a number a row": ({"input": [7, 1.5]}, ["7", "1.5"]),
    "a payload a row, as JSON": ({"input": [json.dumps({"messages": [HI]})]}, [{"messages": [HI]}]),
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
    "each in its own schema": (
        {"input": ["hi", None], "messages": [None, "yo"]},
        ["hi", {"messages": [YO]}],
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
    "a request a row, and its settings": (
        {"inputs": [{"question": "hi"}, "yo"], "custom_inputs": [{"a": 1}, {"a": 2}], "expectations": [{}] * 2},
        [{"input": [HI], "custom_inputs": {"a": 1}}, {"input": [YO], "custom_inputs": {"a": 2}}],
    ),
    "a question beside what the right answer is": ({"question": ["hi"], "expected_response": ["ho"]}, ["hi"]),
    "nothing": ({"input": []}, []),
}


@pytest.mark.parametrize(("columns", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_the_rows_of_a_table_are_requests(columns: dict[str, list[Any]], expected: list[Any]) -> None:
    assert requests(columns) == expected


@pytest.mark.parametrize("columns", [{"input": ["hi", None]}, {"inputs": ["hi", None]}, {"q": ["hi", " "]}])
def test_a_row_without_a_question_is_a_bad_row(columns: dict[str, list[Any]]) -> None:
    asked, bad = requests(columns)
    assert asked == "hi"
    with pytest.raises(InvalidInputError, match=r"The row asks nothing: its 'inp.* is empty"):
        raise bad


@pytest.mark.parametrize(
    "columns",
    [
        {"input": ["hi", 7]},
        {"input": [json.dumps([HI]), "[1] why?"], "temperature": [0.5, None]},
        {"messages": ["hi", "yo"], "expected_response": ["a", "b"]},
        {"inputs": [{"question": "hi"}, {"messages": [YO]}], "custom_inputs": [{"a": 1}, None], "id": [1, 2]},
    ],
)
def test_a_row_is_what_it_is_in_a_batch(columns: dict[str, list[Any]]) -> None:
    frame = pandas.DataFrame(columns)
    assert requests_of(frame) == [row.inputs for row in Rows(frame)]


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


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ({"input": [[HI], [YO]], "top_k": [1.0, numpy.nan]}, [{"input": [HI], "top_k": 1.0}, {"input": [YO]}]),
        (
            {"input": ["hi", "yo"], "context": [pandas.NaT, pandas.NA], "custom_inputs": [None, {"a": None}]},
            ["hi", {"input": [YO], "custom_inputs": {"a": None}}],
        ),
        ({"question": ["hi", "yo"], "id": [7, 8]}, ["hi", "yo"]),
        ({0: ["hi", "yo"]}, ["hi", "yo"]),
        ({0: [7]}, ["7"]),
        ({"role": ["user", "user"], "content": ["hi", "yo"], "id": ["m1", None]}, [[{**HI, "id": "m1"}, YO]]),
        ({"input": []}, []),
        (
            {"messages": [[HI], [YO]], "custom_inputs": [{"a": None}, {"a": ()}]},
            [{"messages": [HI], "custom_inputs": {"a": None}}, {"messages": [YO], "custom_inputs": {"a": []}}],
        ),
    ],
)
def test_the_rows_of_a_frame_are_requests(frame: dict[Any, Any], expected: list[Any]) -> None:
    assert requests_of(pandas.DataFrame(frame)) == expected


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
