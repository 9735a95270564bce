"""Which interface a task, an answer, an event or a request's key belongs to."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target.formats.chat_agent import ChatAgent
from mlflow_agent_target.formats.chat_completions import ChatCompletions
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.registry import (
    interface_for_task,
    interface_of_answer,
    interface_of_event,
    interfaces_for_key,
)
from mlflow_agent_target.formats.responses import ResponsesAgent


@pytest.mark.parametrize(
    ("task", "interface"),
    [
        ("agent/v1/responses", ResponsesAgent),
        ("agent/v2/responses", ResponsesAgent),
        ("agent/v2/chat", ChatAgent),
        ("agent/v1/chat", ChatCompletions),
        ("llm/v1/chat", ChatCompletions),
        ("llm/v1/embeddings", None),
        ("agent/v1", None),
        (None, None),
        ([], None),
    ],
)
def test_a_task_names_an_interface(task: Any, interface: type[Interface] | None) -> None:
    assert interface_for_task(task) is interface


@pytest.mark.parametrize(
    ("answer", "interface"),
    [
        ({"output": []}, ResponsesAgent),
        ({"messages": []}, ChatAgent),
        ({"choices": []}, ChatCompletions),
        ({"output": [], "messages": []}, ResponsesAgent),
        ({"output": "x", "messages": []}, ChatAgent),
        ({"output": None}, None),
        ({"predictions": []}, None),
    ],
)
def test_an_answer_shows_its_interface(answer: dict[str, Any], interface: type[Interface] | None) -> None:
    assert interface_of_answer(answer) is interface


@pytest.mark.parametrize(
    ("event", "interface", "ends"),
    [
        ({"type": "response.created"}, ResponsesAgent, False),
        ({"type": "response.completed"}, ResponsesAgent, True),
        ({"type": "responses.completed"}, ResponsesAgent, True),
        ({"type": "response.incomplete"}, ResponsesAgent, True),
        ({"type": "response.failed"}, ResponsesAgent, False),
        ({"type": "message", "role": "assistant", "content": "a"}, ResponsesAgent, False),
        ({"type": "function_call"}, ResponsesAgent, False),
        ({"type": "message", "delta": {}}, ChatAgent, False),
        ({"type": "message", "choices": []}, ChatCompletions, None),
        ({"delta": {"content": "a"}}, ChatAgent, False),
        ({"delta": {}, "finish_reason": "stop"}, ChatAgent, True),
        ({"delta": {}, "finish_reason": ""}, ChatAgent, False),
        ({"delta": {}, "finish_reason": "null"}, ChatAgent, False),
        ({"choices": [{"finish_reason": ""}]}, ChatCompletions, False),
        ({"choices": [{"finish_reason": "null"}]}, ChatCompletions, False),
        ({"delta": {}, "choices": []}, ChatCompletions, None),
        ({"choices": [{"delta": {}}]}, ChatCompletions, False),
        ({"choices": [{"finish_reason": "stop"}]}, ChatCompletions, True),
        ({"choices": [{"finish_reason": "stop"}, {"delta": {}}]}, ChatCompletions, False),
        ({"choices": [], "usage": {}}, ChatCompletions, None),
        ({"type": "keepalive"}, None, None),
        ({"delta": "a"}, None, None),
        ({}, None, None),
    ],
)
def test_an_event_shows_its_interface_and_whether_the_answer_ends(
    event: dict[str, Any], interface: type[Interface] | None, ends: bool | None
) -> None:
    found = interface_of_event(event)
    assert found is interface
    assert found is None or found.ends(event) is ends


def test_a_key_has_the_interface_first_whose_messages_can_say_the_least() -> None:
    assert interfaces_for_key("input") == (ResponsesAgent,)
    assert interfaces_for_key("messages") == (ChatAgent, ChatCompletions)
    assert interfaces_for_key("prompt") == ()
