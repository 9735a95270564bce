"""Whole answers read the same whatever the interface."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target import AgentResponse
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
        pytest.param({"something": 1}, "", None, id="nothing known"),
        pytest.param({"output": None, "messages": None, "usage": None}, "", None, id="explicit nulls"),
        pytest.param(
            {"output": [], "usage": {"input_tokens": "7", "prompt_tokens": 2, "output_tokens": None}},
            "",
            {"input_tokens": 2, "output_tokens": 0, "total_tokens": 2},
            id="counts that are none",
        ),
    ],
)
def test_answers_read_the_same_whatever_the_interface(answer: dict[str, Any], text: str, usage: Any) -> None:
    response = AgentResponse(answer)
    assert response == answer
    assert response.output_text == text
    assert response.usage == usage


def test_tool_calls_read_the_same_whatever_the_interface() -> None:
    expected = [("c1", "add", '{"a": 1}')]
    chat_call = {**CHAT_CALL, "function": {"name": "add", "arguments": '{"a": 1}'}}
    for answer in (
        {"output": [CALL]},
        {"messages": [{"role": "assistant", "tool_calls": [chat_call]}]},
        {"choices": [{"message": {"role": "assistant", "tool_calls": [chat_call]}}]},
    ):
        assert [(c["call_id"], c["name"], c["arguments"]) for c in AgentResponse(answer).tool_calls] == expected


def test_pending_approvals_are_those_that_nobody_answered() -> None:
    asked = [{"type": "mcp_approval_request", "id": name, "name": "f", "arguments": "{}"} for name in "ab"]
    answered = {"type": "mcp_approval_response", "approval_request_id": "a", "approve": True}
    assert AgentResponse({"output": [*asked, answered]}).pending_approvals == [asked[1]]
