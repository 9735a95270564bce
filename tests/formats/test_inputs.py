"""What a caller may give, and what is refused before anything is sent."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest
from mlflow.types.agent import ChatAgentMessage, ChatAgentRequest
from mlflow.types.chat import Function, ToolCall
from mlflow.types.llm import ChatCompletionRequest, ChatMessage
from mlflow.types.responses import ResponsesAgentRequest
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageFunctionToolCall
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputText

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.formats.chat_completions import ChatCompletions
from mlflow_agent_target.formats.inputs import read_inputs
from mlflow_agent_target.formats.responses import ResponsesAgent
from tests.conftest import user
from tests.formats.payloads import (
    ADD,
    ADD_ITEM,
    HI,
    IMAGE_PART,
    ITEMS,
    RESULT,
    TOOL_TURN,
    cycle,
    deep,
    sent,
)


@pytest.mark.parametrize(
    ("inputs", "payload"),
    [
        pytest.param("hi", {"input": HI}, id="a string"),
        pytest.param("", {"input": [user("")]}, id="an empty string"),
        pytest.param(HI, {"input": HI}, id="a list of messages"),
        pytest.param(ITEMS, {"input": ITEMS}, id="a list of items"),
        pytest.param(TOOL_TURN, {"messages": TOOL_TURN}, id="a list of messages with tool calls"),
        pytest.param({"input": HI}, {"input": HI}, id="an input payload"),
        pytest.param({"input": "hi"}, {"input": HI}, id="OpenAI's bare string"),
        pytest.param({"messages": HI}, {"messages": HI}, id="a messages payload"),
        pytest.param({"messages": TOOL_TURN}, {"messages": TOOL_TURN}, id="tool messages"),
        pytest.param(
            {"input": [{"type": "new_item", "x": 1}]}, {"input": [{"type": "new_item", "x": 1}]}, id="new item"
        ),
        pytest.param({"messages": [ChatMessage(role="user", content="hi")]}, {"messages": HI}, id="MLflow's message"),
        pytest.param([ChatAgentMessage(role="user", content="hi")], {"input": HI}, id="a list of MLflow's messages"),
        pytest.param(
            ResponsesAgentRequest(input=HI, custom_inputs={"a": 1}),
            {"input": HI, "custom_inputs": {"a": 1}},
            id="ResponsesAgentRequest",
        ),
    ],
)
def test_where_the_interface_is_unknown_the_payload_goes_as_it_is(inputs: Any, payload: dict[str, Any]) -> None:
    encoded = sent(inputs)
    if "type" not in str(payload):
        for item in encoded.get("input", []):
            item.pop("type", None)  # MLflow's own object says that a message is one
    assert encoded == payload


def test_a_literal_extra_body_is_merged_as_the_openai_client_does() -> None:
    inputs = {"input": HI, "extra_body": {"custom_inputs": {"a": 1}, "databricks_options": {"return_trace": True}}}
    before = copy.deepcopy(inputs)
    with pytest.warns(UserWarning, match="'extra_body'"):
        payload = sent(inputs)
    assert payload == {"input": HI, **before["extra_body"]}
    assert inputs == before


def test_mlflows_chat_requests_are_messages_payloads() -> None:
    agent = sent(ChatAgentRequest(messages=[ChatAgentMessage(role="user", content="hi")], custom_inputs={"a": 1}))
    assert agent["messages"] == HI
    assert agent["custom_inputs"] == {"a": 1}
    model = sent(ChatCompletionRequest(messages=[ChatMessage(role="user", content="hi")], max_tokens=5))
    assert model["messages"] == HI
    assert model["max_tokens"] == 5


def test_the_objects_of_clients_within_messages_become_dicts() -> None:
    call = ToolCall(id="c1", type="function", function=Function(name="add", arguments='{"a": 1}'))
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert sent({"messages": [*HI, said]}) == {"messages": [*HI, {**said, "tool_calls": [ADD]}]}
    assert said["tool_calls"] == [call]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (None, "it is None"),
        ({}, "neither 'input' nor 'messages'"),
        ({"input": HI, "messages": HI}, "both 'input' and 'messages'"),
        ({"question": "hi"}, "['question']"),
        ({1: 2}, "['1']"),
        ([], "empty"),
        (5, "int 5"),
        (b"hi", "bytes"),
        ({"input": None}, "input: must be a list, not None"),
        ({"input": {"messages": HI}}, "input: must be a list, not dict"),
        ({"input": [5]}, "input[0]: must be a dict, not int 5"),
        ({"input": [*HI, {"content": "hi"}]}, "input[1]: needs a 'role'"),
        ({"input": [{"role": 5, "content": "hi"}]}, "input[0].role: must be a string"),
        ({"input": [{"role": "user"}]}, "input[0]: is a message without 'content'"),
        ({"input": [user(5)]}, "input[0].content: must be text"),
        ({"input": [user(["hi"])]}, "input[0].content: part 0 must be a dict with a 'type'"),
        ({"input": [{"role": "tool", "content": "4"}]}, "function_call_output"),
        ({"messages": "hi"}, "messages: must be a list, not str 'hi'"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role: is missing"),
        ({"messages": [{"role": "", "content": "hi"}]}, "messages[0].role: must not be empty"),
        ({"messages": [{"role": "assistant"}]}, "messages[0]: needs 'content' or 'tool_calls'"),
        ({"messages": HI, "custom_inputs": 5}, "custom_inputs: must be a dict, not int 5"),
        ({"messages": HI, "context": "c"}, "context: must be a dict"),
        ({"messages": HI, "databricks_options": [1]}, "databricks_options: must be a dict"),
    ],
)
def test_bad_input_is_refused_saying_what_and_where(inputs: Any, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_inputs(inputs)
    assert says in str(caught.value)


def test_a_durable_servers_request_is_not_taken_for_an_agents() -> None:
    with pytest.raises(InvalidInputError, match="DurableAgentServer"):
        read_inputs({"input": {"messages": HI}})


def test_tuples_are_lists_and_mappings_dicts() -> None:
    assert read_inputs(tuple(HI)).payload == read_inputs({"input": tuple(HI)}).payload == {"input": HI}
    parts = [{"type": "input_text", "text": "a"}, IMAGE_PART]
    for content in (tuple(parts), list(map(MappingProxyType, parts)), tuple(map(OrderedDict, parts))):
        given = MappingProxyType({"role": "user", "content": content})
        for inputs in ([given], {"input": [given]}, MappingProxyType({"input": (given,)})):
            assert sent(inputs, ResponsesAgent) == {"input": [user(parts)]}
        assert given["content"] is content


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"input": HI, "custom_inputs": {1: 2}}, "a key in custom_inputs is int 1, not a string"),
        ({"input": HI, "custom_inputs": {"a": [{None: 2}]}}, "a key in custom_inputs.a[0] is NoneType None"),
        ({"input": HI, "custom_inputs": {"a": ({1.5: 2},)}}, "a key in custom_inputs.a[0] is float 1.5"),
        ({"input": HI, "custom_inputs": {"a": MappingProxyType({1: 2})}}, "a key in custom_inputs.a is int 1"),
        ({"input": HI, "context": {True: 2}}, "a key in context is bool True"),
        ({"input": HI, "metadata": {1: "a"}}, "a key in metadata is int 1"),
        ({"messages": HI, "tools": [{"function": {1: "a"}}]}, "a key in tools[0].function is int 1"),
        ({"messages": [{**HI[0], "attachments": {1: "a"}}]}, "a key in messages[0].attachments is int 1"),
        ({"input": [{"type": "new", "x": {1: "a"}}]}, "a key in input[0].x is int 1"),
        ({"input": [user([{"type": "new", "x": {1: "a"}}])]}, "a key in input[0].content[0].x is int 1"),
        ({"input": HI, 1: 2}, "[1]: Keys should be strings"),
        ({"input": HI, "custom_inputs": cycle()}, "custom_inputs.again contains itself"),
        pytest.param({"input": HI, "custom_inputs": deep()}, "nested too deeply", id="deep"),
    ],
)
def test_keys_that_json_would_rename_are_refused(inputs: Any, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_inputs(inputs)
    assert says in str(caught.value)


def test_openais_objects_within_messages_become_dicts() -> None:
    function = {"name": "add", "arguments": '{"a": 1}'}
    call = ChatCompletionMessageFunctionToolCall.model_validate({**ADD, "function": function})
    said = ChatCompletionMessage(role="assistant", content=None, tool_calls=[call])
    result = {"role": "tool", "content": "1", "tool_call_id": "c1"}
    assert sent([*HI, said, result], ResponsesAgent) == {"input": [*HI, ADD_ITEM, RESULT]}
    item = ResponseFunctionToolCall(**ADD_ITEM)
    answer = ResponseOutputText(type="output_text", text="ho", annotations=[])
    assert sent([item, RESULT, {"role": "assistant", "content": [answer]}], ChatCompletions) == {
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": [ADD]},
            result,
            {"role": "assistant", "content": "ho"},
        ]
    }
