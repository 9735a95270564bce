"""The limit on tokens, the tools and the form of the answer, in each schema's own way."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlflow_agent_target.formats.chat_agent import ChatAgent
from mlflow_agent_target.formats.chat_completions import ChatCompletions
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.responses import ResponsesAgent
from tests.conftest import user
from tests.formats.payloads import (
    FORMATS,
    HI,
    SCHEMA,
    refuses,
    sent,
)


def test_the_limit_on_tokens_is_called_by_the_name_it_has_there() -> None:
    assert sent({"messages": HI, "max_tokens": 5}, ResponsesAgent) == {"input": HI, "max_output_tokens": 5}
    assert sent({"input": HI, "max_output_tokens": 5}, ChatAgent) == {"messages": HI, "max_tokens": 5}
    assert sent({"messages": HI, "max_tokens": 5}, ChatCompletions) == {"messages": HI, "max_tokens": 5}


def test_the_newer_name_of_the_limit_on_tokens_is_known_too() -> None:
    chat = {"messages": HI, "max_completion_tokens": 5}
    assert sent(chat, ResponsesAgent) == {"input": HI, "max_output_tokens": 5}
    assert sent(chat, ChatCompletions) == chat
    assert sent({**chat, "max_tokens": None}, ResponsesAgent) == {"input": HI, "max_output_tokens": 5}


@pytest.mark.parametrize(("response_format", "text_format"), FORMATS)
def test_the_format_of_the_answer_is_asked_for_in_each_schemas_own_way(
    response_format: dict[str, Any], text_format: dict[str, Any]
) -> None:
    chat = {"messages": HI, "response_format": response_format}
    responses = {"input": HI, "text": {"format": text_format}}
    before = copy.deepcopy((chat, responses))
    assert sent(chat, ResponsesAgent) == responses
    assert sent(responses, ChatCompletions) == chat
    assert sent(chat, ChatCompletions) == chat
    assert sent(responses, ResponsesAgent) == responses
    assert (chat, responses) == before


def test_no_format_of_the_answer_is_none_there_either() -> None:
    assert sent({"messages": HI, "response_format": None}, ResponsesAgent) == {"input": HI}
    for text in (None, {}, {"format": None, "verbosity": None}):
        assert sent({"input": HI, "text": text}, ChatAgent) == {"messages": HI}


def test_tools_are_declared_in_each_schemas_own_way() -> None:
    parameters = {"type": "object", "properties": {}}
    nested = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": parameters}}
    flat = {"type": "function", "name": "add", "description": "Adds.", "parameters": parameters}
    for chosen_nested, chosen_flat in (
        ("auto", "auto"),
        ({"type": "function", "function": {"name": "add"}}, {"type": "function", "name": "add"}),
    ):
        chat = {"messages": HI, "tools": [nested], "tool_choice": chosen_nested}
        responses = {"input": HI, "tools": [flat], "tool_choice": chosen_flat}
        assert sent(chat, ResponsesAgent) == responses
        assert sent(responses, ChatCompletions) == chat
    # Already in the other schema's way.
    assert sent({"messages": HI, "tools": [flat]}, ResponsesAgent) == {"input": HI, "tools": [flat]}
    assert sent({"input": HI, "tools": [nested]}, ChatAgent) == {"messages": HI, "tools": [nested]}


@pytest.mark.parametrize(
    ("inputs", "interface", "names"),
    [
        ({"messages": HI, "tools": [{"type": "web_search"}]}, ResponsesAgent, "tools[0]"),
        (
            {
                "messages": HI,
                "tools": [{"type": "function", "strict": True, "function": {"name": "f", "strict": False}}],
            },
            ResponsesAgent,
            "tools[0].strict",
        ),
        ({"messages": HI, "max_tokens": 1, "max_output_tokens": 2}, ResponsesAgent, "'max_tokens'"),
        ({"messages": HI, "max_tokens": 1, "max_completion_tokens": 2}, ResponsesAgent, "'max_completion_tokens'"),
        ({"messages": HI, "max_completion_tokens": 1, "max_output_tokens": 2}, ResponsesAgent, "'max_output_tokens'"),
        ({"input": HI, "max_output_tokens": 1, "max_tokens": 2}, ChatAgent, "'max_output_tokens' beside"),
        ({"messages": HI, "stop": ["\n"]}, ResponsesAgent, "'stop'"),
        ({"messages": HI, "response_format": {"type": "grammar"}}, ResponsesAgent, "response_format"),
        ({"messages": HI, "response_format": "json"}, ResponsesAgent, "response_format"),
        ({"messages": HI, "response_format": {"type": "json_schema", **SCHEMA}}, ResponsesAgent, "response_format"),
        ({"messages": HI, "response_format": {**FORMATS[2][0], "x": 1}}, ResponsesAgent, "response_format"),
        ({"messages": HI, "response_format": FORMATS[0][0], "text": {}}, ResponsesAgent, "'text'"),
        ({"input": HI, "text": {"verbosity": "low"}}, ChatCompletions, "text.verbosity"),
        ({"input": HI, "text": {"format": FORMATS[2][1], "x": 1}}, ChatAgent, "text.x"),
        ({"input": HI, "text": {"format": {"type": "grammar"}}}, ChatAgent, "text.format"),
        ({"input": HI, "text": {"format": "json"}}, ChatAgent, "text.format"),
        ({"input": HI, "text": "short"}, ChatAgent, "text (not a dict)"),
        ({"input": HI, "text": {}, "response_format": FORMATS[0][0]}, ChatAgent, "'text'"),
        ({"input": HI, "tools": [{"type": "web_search"}]}, ChatAgent, "tools[0]"),
        ({"input": HI, "tool_choice": {"type": "web_search"}}, ChatAgent, "tool_choice"),
        ({"input": [user([{"type": "output_text", "text": "a", "annotations": [1]}])]}, ChatAgent, "annotations"),
    ],
)
def test_what_has_no_counterpart_is_an_error_that_names_it(
    inputs: dict[str, Any], interface: type[Interface], names: str
) -> None:
    refuses(inputs, interface, names)
