"""DataFrames as inputs: by `predict`, and by MLflow's command line, which makes them of JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.deployments.cli
import numpy
import pandas  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

from mlflow_agent_target import AgentTargetClient, AuthenticationError, InvalidInputError
from mlflow_agent_target.batch.tables import is_frame, requests_of
from mlflow_agent_target.server import LocalServer
from tests.conftest import user
from tests.scripted import ScriptedServer, whole

HI, YO = user("hi"), user("yo")


@pytest.mark.parametrize(
    ("frame", "requests"),
    [
        ({"input": [HI, YO]}, [{"input": [HI, YO]}]),
        ({"messages": [HI, YO], "temperature": 0.5}, [{"messages": [HI, YO], "temperature": 0.5}]),
        ({"input": [[HI], [HI, YO]]}, [{"input": [HI]}, {"input": [HI, YO]}]),
        (
            {"input": [[HI], [YO]], "custom_inputs": [{"a": 1}, None]},
            [{"input": [HI], "custom_inputs": {"a": 1}}, {"input": [YO]}],
        ),
        ({"input": [[HI], [YO]], "top_k": [1.0, numpy.nan]}, [{"input": [HI], "top_k": 1.0}, {"input": [YO]}]),
        ({"messages": ["hi", "yo"]}, [{"messages": [HI]}, {"messages": [YO]}]),
        ({"question": ["hi", "yo"], "id": [7, 8]}, [{"input": [HI]}, {"input": [YO]}]),
        ({0: ["hi", "yo"]}, [{"input": [HI]}, {"input": [YO]}]),
        ({0: [7]}, [{"input": [user("7")]}]),
        ({"role": ["user", "user"], "content": ["hi", "yo"], "id": ["m1", None]}, [[{**HI, "id": "m1"}, YO]]),
        (
            {"inputs": [{"input": [HI]}, {"messages": [YO]}], "expectations": [{}, {}]},
            [{"input": [HI]}, {"messages": [YO]}],
        ),
        ({"input": []}, []),
        (
            {"role": ["assistant"], "content": ["b"], "status": ["completed"], "type": [None]},
            [[{"role": "assistant", "content": "b", "status": "completed"}]],
        ),
        (
            {"messages": [[HI], [YO]], "custom_inputs": [{"a": None}, {"a": ()}]},
            [{"messages": [HI], "custom_inputs": {"a": None}}, {"messages": [YO], "custom_inputs": {"a": []}}],
        ),
    ],
)
def test_the_rows_of_a_frame_are_requests(frame: dict[Any, Any], requests: list[Any]) -> None:
    assert requests_of(pandas.DataFrame(frame)) == requests


TRUTH = {
    "expectations": [{"expected_response": "ho"}] * 2,
    "expected_response": ["ho", "ho"],
    "label": [1, 2],
    "id": [1, 2],
    "stream": [True, True],
    "tags": [{}, {}],
}


@pytest.mark.parametrize("asked", [{"input": ["hi", "yo"]}, {"messages": [[HI], [YO]]}, {"input": [HI, YO]}])
def test_only_settings_go_with_a_question(asked: dict[str, list[Any]]) -> None:
    settings = {"custom_inputs": [{"a": 1}] * 2, "temperature": [0.5] * 2}
    without = requests_of(pandas.DataFrame({**asked, **settings}))
    assert requests_of(pandas.DataFrame({**TRUTH, **asked, **settings})) == without
    assert [request["custom_inputs"] for request in without] == [{"a": 1}] * len(without)


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


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (pandas.DataFrame({"question": ["hi"], "answer": ["yo"]}), "'question', 'answer'"),
        (pandas.DataFrame([["hi", "yo"]], columns=["input", "input"]), "the same name"),
        (pandas.DataFrame({"input": [HI, [YO]]}), "Some rows"),
        (pandas.DataFrame({"role": ["user"], "content": ["hi"], "expected_response": ["ho"]}), "'expected_response'"),
        (pandas.DataFrame({"input": [HI, YO], "temperature": [0.1, 0.2]}), "temperature"),
    ],
)
def test_a_frame_that_is_not_clear_is_refused(frame: pandas.DataFrame, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        requests_of(frame)


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
