"""Whole answers read the same whatever the interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlflow_agent_target import AgentError, AgentResponse, AgentTargetError, InvalidResponseError
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.formats.answers import whole_answer
from tests.formats.recorded import CALL, CHAT_CALL, message


@pytest.mark.parametrize(
    ("answer", "text", "usage"),
    [
        pytest.param(
            {
                "output": [message("a", "one "), CALL, message("b", "two")],
                "usage": {"input_tokens": 1, "output_tokens": 2},
            },
            "one two",
            {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            id="ResponsesAgent",
        ),
        pytest.param(
            {
                "messages": [
                    {"role": "assistant", "content": "one ", "tool_calls": [CHAT_CALL], "id": "1"},
                    {"role": "tool", "content": "no", "id": "2"},
                    {"role": "assistant", "content": "two", "id": "3"},
                ],
                "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
            },
            "one two",
            {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            id="ChatAgent",
        ),
        pytest.param(
            {
                "choices": [
                    {"message": {"content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}}
                ]
            },
            "one two",
            None,
            id="ChatModel with content parts",
        ),
        pytest.param({"predictions": ["one ", "two"]}, "one two", None, id="predictions"),
        pytest.param({"predictions": {"output": [message("a", "one two")]}}, "one two", None, id="a wrapped answer"),
        pytest.param({"final_response": "one two"}, "one two", None, id="final_response"),
        pytest.param({"output": "one two"}, "one two", None, id="output that is text"),
        pytest.param(
            {
                "output": [
                    {"type": "human", "content": "no"},
                    {"type": "ai", "content": "one "},
                    {"type": "tool", "content": "no"},
                    {"type": "AIMessageChunk", "content": [{"type": "text", "text": "t"}, "wo"]},
                ]
            },
            "one two",
            None,
            id="LangChain's dumps",
        ),
        pytest.param(
            {"messages": [{"type": "human", "content": "no"}, {"type": "ai", "content": "one two"}]},
            "one two",
            None,
            id="LangGraph's state",
        ),
        pytest.param({"something": 1}, "", None, id="nothing known"),
        pytest.param({"output": None, "messages": None, "usage": None}, "", None, id="explicit nulls"),
        pytest.param(
            {"output": [], "usage": {"input_tokens": "7", "prompt_tokens": 2, "output_tokens": None}},
            "",
            {"input_tokens": 2, "output_tokens": 0, "total_tokens": 2},
            id="counts that are none",
        ),
        pytest.param(
            {"output": [], "usage": {"prompt_tokens": 3.0, "completion_tokens": 2.0, "total_tokens": float("inf")}},
            "",
            {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
            id="counts that are floats",
        ),
    ],
)
def test_answers_read_the_same_whatever_the_interface(answer: dict[str, Any], text: str, usage: Any) -> None:
    response = AgentResponse(answer)
    assert response == answer
    assert response.output_text == text
    assert response.usage == usage


LANGCHAIN_CALL = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}


def test_tool_calls_read_the_same_whatever_the_interface() -> None:
    expected = [("c1", "add", '{"a": 1}')]
    chat_call = {**CHAT_CALL, "function": {"name": "add", "arguments": '{"a": 1}'}}
    for answer in (
        {"output": [CALL]},
        {"messages": [{"role": "assistant", "tool_calls": [chat_call]}]},
        {"choices": [{"message": {"role": "assistant", "tool_calls": [chat_call]}}]},
        {"output": [{"type": "ai", "content": "", "tool_calls": [LANGCHAIN_CALL]}]},
        {"messages": [{"type": "ai", "content": "", "tool_calls": [LANGCHAIN_CALL]}]},
    ):
        assert [(c["call_id"], c["name"], c["arguments"]) for c in AgentResponse(answer).tool_calls] == expected


def test_pending_approvals_are_those_that_nobody_answered() -> None:
    asked = [{"type": "mcp_approval_request", "id": name, "name": "f", "arguments": "{}"} for name in "ab"]
    answered = {"type": "mcp_approval_response", "approval_request_id": "a", "approve": True}
    assert AgentResponse({"output": [*asked, answered]}).pending_approvals == [asked[1]]


def test_an_older_function_call_is_a_tool_call() -> None:
    message = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    expected = {"type": "function_call", "call_id": None, "name": "f", "arguments": "{}"}
    assert AgentResponse({"choices": [{"message": message}]}).tool_calls == [expected]


ITEM = message("m", "Hello")
NO_ANSWERS = {
    "queued": ({"id": "r", "status": "queued", "status_url": "/r"}, InvalidResponseError, "'queued'.* 'background'"),
    "in progress": (
        {"id": "r", "object": "response", "status": "in_progress", "error": None, "output": []},
        InvalidResponseError,
        "'in_progress'.* 'background'",
    ),
    "in progress, with items": ({"status": "in_progress", "output": [ITEM]}, InvalidResponseError, "'in_progress'"),
    "cancelled": ({"id": "r", "status": "cancelled", "output": []}, InvalidResponseError, "'cancelled'.*cancelled"),
    "a status alone": ({"status": "running"}, InvalidResponseError, "'running'"),
    "failed": ({"id": "r", "status": "failed"}, AgentError, "failed"),
    "failed, with an error": ({"id": "r", "status": "failed", "error": {"message": "boom"}}, AgentError, "boom"),
    "nothing": ({}, InvalidResponseError, "nothing"),
    "nulls": ({"output": None, "messages": None}, InvalidResponseError, "nothing"),
    "only an id": ({"id": "r", "object": "response", "usage": {}}, InvalidResponseError, "nothing"),
    "only a trace": ({"databricks_output": {"trace": {}}}, InvalidResponseError, "nothing"),
    "FastAPI's words": ({"detail": "Not found"}, InvalidResponseError, "Not found"),
    "FastAPI's list": (
        {"detail": [{"loc": ["body"], "msg": "Field required"}]},
        InvalidResponseError,
        "Field required",
    ),
    "a problem": ({"type": "about:blank", "title": "T", "status": 502, "detail": "Bad"}, InvalidResponseError, "Bad"),
    "null": (None, InvalidResponseError, "None"),
}


@pytest.mark.parametrize(("answer", "kind", "says"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_says_that_it_is_no_answer_is_an_error(answer: Any, kind: type[AgentTargetError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        whole_answer(answer, Facts("a", status=200))
    assert (caught.value.endpoint, caught.value.body) == ("a", answer)


@pytest.mark.parametrize(
    "answer",
    [
        {"output": []},
        {"output": [ITEM], "status": "completed"},
        {"output": [ITEM], "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
        {"predictions": ["failed"], "status": "failed"},
        {"messages": [], "status": "in_progress", "id": "x"},
        {"choices": [], "id": "x"},
        {"custom_outputs": {"a": 1}},
        {"order": 7, "status": "cancelled"},
        {"answer": "42", "detail": "from the manual"},
        {"something": 1},
    ],
)
def test_what_a_custom_model_answers_is_an_answer(answer: dict[str, Any]) -> None:
    assert whole_answer(answer, Facts("a", status=200)) == answer


@pytest.mark.parametrize("answer", ["", "Hello", [], ["a"]])
def test_a_bare_prediction_is_an_answer(answer: Any) -> None:
    assert whole_answer(answer, Facts("a", status=200)) == {"predictions": answer}


HALF = {"output": [message("m", "a\ud83d"), message("n", "b\ude00 \U0001f600é")]}


def test_half_a_character_is_written_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("earlier")
    path.chmod(0o640)
    AgentResponse(HALF).to_json(path)
    assert json.loads(path.read_text(encoding="utf-8")) == HALF
    assert "\\ud83d" in path.read_text(encoding="utf-8")
    assert "😀é" in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o640
    assert json.loads(AgentResponse(HALF).to_json() or "") == HALF
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("earlier")

    def is_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TypeError):
        AgentResponse({"output": [object()]}).to_json(path)
    monkeypatch.setattr(Path, "write_text", is_full)
    with pytest.raises(OSError, match="No space"):
        AgentResponse(HALF).to_json(path)
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("a.json")
    AgentResponse(HALF).to_json(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "a.json").read_text()) == HALF


def test_a_device_is_written_to() -> None:
    AgentResponse(HALF).to_json("/dev/null")
    assert not Path("/dev/null").is_file()
