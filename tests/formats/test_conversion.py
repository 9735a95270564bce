"""What a caller may give, and what is sent for it."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy
import pandas  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.types.agent import ChatAgentMessage, ChatAgentRequest
from mlflow.types.chat import Function, ToolCall
from mlflow.types.llm import ChatCompletionRequest, ChatMessage
from mlflow.types.responses import ResponsesAgentRequest
from mlflow.utils import AttrDict
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageFunctionToolCall
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputText
from pydantic import BaseModel

from mlflow_agent_target import InterfaceMismatchError, InvalidInputError
from mlflow_agent_target.formats.chat_agent import ChatAgent
from mlflow_agent_target.formats.chat_completions import ChatCompletions
from mlflow_agent_target.formats.conversion import encode
from mlflow_agent_target.formats.inputs import read_inputs
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.registry import INTERFACES
from mlflow_agent_target.formats.responses import ResponsesAgent
from mlflow_agent_target.text import encode_json
from tests.conftest import user

HI = [user("hi")]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL_TURN = [*HI, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "4"}]
ITEMS = [*HI, {"type": "function_call_output", "call_id": "c", "output": "4"}]


def sent(inputs: Any, interface: type[Interface] | None = None) -> dict[str, Any]:
    return encode(read_inputs(inputs), interface)


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


EXTRAS = {
    "custom_inputs": {"a": [1]},
    "context": {"conversation_id": "c", "user_id": "u"},
    "databricks_options": {"return_trace": True},
    "temperature": 0.5,
    "nobody_knows": {"x": None},
}


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("key", ["input", "messages"])
def test_plain_messages_go_to_every_interface_with_every_key(key: str, interface: type[Interface]) -> None:
    inputs = {key: [{"role": "system", "content": "be brief"}, *HI, {"role": "assistant", "content": "ho", "id": "m1"}]}
    before = copy.deepcopy(inputs)
    assert sent({**inputs, **EXTRAS}, interface) == {interface.request_key: inputs[key], **EXTRAS}
    assert inputs == before


def test_the_limit_on_tokens_is_called_by_the_name_it_has_there() -> None:
    assert sent({"messages": HI, "max_tokens": 5}, ResponsesAgent) == {"input": HI, "max_output_tokens": 5}
    assert sent({"input": HI, "max_output_tokens": 5}, ChatAgent) == {"messages": HI, "max_tokens": 5}
    assert sent({"messages": HI, "max_tokens": 5}, ChatCompletions) == {"messages": HI, "max_tokens": 5}


def test_the_newer_name_of_the_limit_on_tokens_is_known_too() -> None:
    chat = {"messages": HI, "max_completion_tokens": 5}
    assert sent(chat, ResponsesAgent) == {"input": HI, "max_output_tokens": 5}
    assert sent(chat, ChatCompletions) == chat
    assert sent({**chat, "max_tokens": None}, ResponsesAgent) == {"input": HI, "max_output_tokens": 5}


@pytest.mark.parametrize("interface", [None, ChatAgent, ChatCompletions])
def test_a_null_context_is_left_out_of_a_messages_payload(interface: type[Interface] | None) -> None:
    given = {"messages": HI, "context": None, "custom_inputs": None}
    assert sent(given, interface) == {"messages": HI, "custom_inputs": None}
    assert "context" in given
    if interface is not None:
        assert sent({"input": HI, "context": None}, interface) == {"messages": HI}


def test_a_null_context_goes_to_a_responses_agent_as_it_is() -> None:
    given = {"input": HI, "context": None}
    assert sent(given, ResponsesAgent) == sent(given) == given


SCHEMA = {"name": "n", "schema": {"type": "object", "properties": {}}, "strict": True}
FORMATS = [
    ({"type": "text"}, {"type": "text"}),
    ({"type": "json_object"}, {"type": "json_object"}),
    ({"type": "json_schema", "json_schema": SCHEMA}, {"type": "json_schema", **SCHEMA}),
]


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


def test_a_single_text_part_is_a_messages_text() -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    assert sent({"input": [item]}, ChatAgent) == {"messages": HI}


ADD = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
MUL = {"id": "c2", "type": "function", "function": {"name": "mul", "arguments": "{}"}}
ADD_ITEM = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
MUL_ITEM = {"type": "function_call", "call_id": "c2", "name": "mul", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "1"}
APPROVAL = {"type": "mcp_approval_request", "id": "a", "name": "f", "arguments": "{}", "server_label": "s"}
IMAGE = {"url": "https://x/y.png", "detail": "low"}
IMAGE_PART = {"type": "input_image", "image_url": IMAGE["url"], "detail": "low"}

# Interface of the messages, messages, the items that say the same.
COUNTERPARTS = [
    pytest.param(
        ChatAgent,
        [
            *HI,
            {"role": "assistant", "content": "", "id": "m2", "tool_calls": [ADD, MUL]},
            {"role": "tool", "content": "42", "name": "add", "tool_call_id": "c1", "id": "m3"},
            {"role": "tool", "content": "7", "name": "mul", "tool_call_id": "c2"},
            {"role": "assistant", "content": "It is 42.", "id": "m4"},
        ],
        [
            *HI,
            {**ADD_ITEM, "id": "m2"},
            MUL_ITEM,
            {"type": "function_call_output", "call_id": "c1", "output": "42", "id": "m3"},
            {"type": "function_call_output", "call_id": "c2", "output": "7"},
            {"role": "assistant", "content": "It is 42.", "id": "m4"},
        ],
        id="a ChatAgent's parallel calls and their results",
    ),
    pytest.param(
        ChatCompletions,
        [
            {"role": "assistant", "content": None, "tool_calls": [ADD]},
            {"role": "tool", "content": "1", "tool_call_id": "c1"},
        ],
        [ADD_ITEM, RESULT],
        id="a ChatModel's call",
    ),
    pytest.param(
        ChatAgent,
        [{"role": "assistant", "content": "Let me see.", "id": "m1", "tool_calls": [{**ADD, "item_id": "fc_1"}]}],
        [{"role": "assistant", "content": "Let me see.", "id": "m1"}, {**ADD_ITEM, "id": "fc_1"}],
        id="text and a call",
    ),
    pytest.param(
        ChatAgent,
        [{"role": "assistant", "content": "", "id": "fc_1", "tool_calls": [ADD, {**MUL, "item_id": "fc_2"}]}],
        [{**ADD_ITEM, "id": "fc_1"}, {**MUL_ITEM, "id": "fc_2"}],
        id="calls with ids of their own",
    ),
    pytest.param(
        ChatAgent,
        [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [ADD]}],
        [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": ""}, ADD_ITEM],
        id="a message that only calls, right after another",
    ),
    pytest.param(
        ChatAgent,
        [{"role": "assistant", "content": "", "nobody_knows": 1, "tool_calls": [{**ADD, "status": "completed"}]}],
        [{"role": "assistant", "content": "", "nobody_knows": 1}, {**ADD_ITEM, "status": "completed"}],
        id="keys that nobody knows",
    ),
    pytest.param(
        ChatAgent,
        [{"role": "tool", "content": "4", "name": "f", "tool_call_id": "gone"}],
        [{"type": "function_call_output", "call_id": "gone", "output": "4", "name": "f"}],
        id="a result without its call",
    ),
    pytest.param(
        ChatCompletions,
        [user([{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": IMAGE}])],
        [user([{"type": "input_text", "text": "what is it?"}, IMAGE_PART])],
        id="text and an image",
    ),
    pytest.param(
        ChatCompletions,
        [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}],
        id="what the assistant said",
    ),
]


@pytest.mark.parametrize(("interface", "messages", "items"), COUNTERPARTS)
def test_each_schema_says_it_in_its_own_way(
    interface: type[Interface], messages: list[dict[str, Any]], items: list[dict[str, Any]]
) -> None:
    before = copy.deepcopy((messages, items))
    assert sent({"messages": messages}, ResponsesAgent) == {"input": items}
    assert sent({"input": items}, interface) == {"messages": messages}
    assert (messages, items) == before


def test_an_agents_own_answer_can_be_sent_on_to_one_of_the_other_interface() -> None:
    text = {"type": "output_text", "text": "ho", "annotations": []}
    answer = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}]
    assert sent([*HI, *answer], ChatAgent)["messages"][1] == {
        "role": "assistant",
        "id": "m",
        "status": "completed",
        "content": "ho",
    }


def test_an_answer_with_null_for_no_calls_can_be_sent_on() -> None:
    said = {"role": "assistant", "content": "a", "tool_calls": None}
    assert sent([*HI, said, ADD_ITEM], ChatAgent)["messages"][1] == {
        "role": "assistant",
        "content": "a",
        "tool_calls": [ADD],
    }


def test_the_objects_of_clients_within_messages_become_dicts() -> None:
    call = ToolCall(id="c1", type="function", function=Function(name="add", arguments='{"a": 1}'))
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert sent({"messages": [*HI, said]}) == {"messages": [*HI, {**said, "tool_calls": [ADD]}]}
    assert said["tool_calls"] == [call]


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


# Messages, what of them a ResponsesAgent's items can't say.
UNSAYABLE_IN_ITEMS = [
    ({"role": "tool", "content": "4"}, "messages[0] without 'tool_call_id'"),
    ({"role": "tool", "content": [], "tool_call_id": "c"}, "messages[0].content"),
    ({**user("a"), "attachments": {"a": "b"}}, "messages[0].attachments"),
    ({"role": "assistant", "refusal": "no"}, "messages[0].refusal"),
    (user([{"type": "input_audio", "x": 1}]), "messages[0].content[0] of type 'input_audio'"),
    ({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}, "messages[0].tool_calls[0]"),
    ({"role": "assistant", "tool_calls": [{**ADD, "id": None}]}, "messages[0].tool_calls[0].id"),
    ({"role": "assistant", "tool_calls": [{**ADD, "id": ["c"]}]}, "messages[0].tool_calls[0].id"),
    ({"role": "assistant", "tool_calls": [{**ADD, "function": {"name": "f"}}]}, "function.arguments"),
    ({"role": "assistant", "content": "a", "tool_calls": "x"}, "messages[0].tool_calls"),
    ({"role": "tool", "content": "4", "tool_call_id": {"c": 1}}, "messages[0] without 'tool_call_id'"),
]


@pytest.mark.parametrize(
    ("inputs", "interface", "names"),
    [
        *(({"messages": [message]}, ResponsesAgent, names) for message, names in UNSAYABLE_IN_ITEMS),
        ({"messages": HI, "tools": [{"type": "web_search"}]}, ResponsesAgent, "tools[0]"),
        ({"messages": HI, "max_tokens": 1, "max_output_tokens": 2}, ResponsesAgent, "'max_tokens'"),
        ({"messages": HI, "max_tokens": 1, "max_completion_tokens": 2}, ResponsesAgent, "'max_completion_tokens'"),
        ({"messages": HI, "max_completion_tokens": 1, "max_output_tokens": 2}, ResponsesAgent, "'max_output_tokens'"),
        ({"input": HI, "max_output_tokens": 1, "max_tokens": 2}, ChatAgent, "'max_output_tokens' beside"),
        ({"messages": HI, "stop": ["\n"]}, ResponsesAgent, "'stop'"),
        ({"messages": HI, "response_format": {"type": "grammar"}}, ResponsesAgent, "response_format"),
        ({"messages": HI, "response_format": "json"}, ResponsesAgent, "response_format"),
        ({"messages": HI, "response_format": {"type": "json_schema", **SCHEMA}}, ResponsesAgent, "response_format"),
        ({"messages": HI, "response_format": FORMATS[0][0], "text": {}}, ResponsesAgent, "'text'"),
        ({"input": HI, "text": {"verbosity": "low"}}, ChatCompletions, "text.verbosity"),
        ({"input": HI, "text": {"format": FORMATS[2][1], "x": 1}}, ChatAgent, "text.x"),
        ({"input": HI, "text": {"format": {"type": "grammar"}}}, ChatAgent, "text.format"),
        ({"input": HI, "text": {"format": "json"}}, ChatAgent, "text.format"),
        ({"input": HI, "text": "short"}, ChatAgent, "text (not a dict)"),
        ({"input": HI, "text": {}, "response_format": FORMATS[0][0]}, ChatAgent, "'text'"),
        ({"input": HI, "tools": [{"type": "web_search"}]}, ChatAgent, "tools[0]"),
        ({"input": HI, "tool_choice": {"type": "web_search"}}, ChatAgent, "tool_choice"),
        ({"input": [RESULT]}, ChatAgent, "input[0] without the call"),
        ({"input": [{**ADD_ITEM, "call_id": {}}]}, ChatAgent, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, ChatAgent, "input[0].arguments"),
        ({"input": [{**RESULT, "call_id": None, "name": "f"}]}, ChatCompletions, "input[0].call_id"),
        ({"input": [{"role": "assistant", "content": "a", "tool_calls": "x"}]}, ChatAgent, "input[0].tool_calls"),
        ({"input": [ADD_ITEM, {**RESULT, "output": {"a": 1}}]}, ChatAgent, "input[1].output"),
        ({"input": [*HI, APPROVAL]}, ChatAgent, "input[1] of type 'mcp_approval_request'"),
        ({"input": [{"type": "reasoning", "summary": []}]}, ChatCompletions, "input[0] of type 'reasoning'"),
        ({"input": [user([{"type": "input_image", "image_url": "u"}])]}, ChatAgent, "input[0].content"),
        ({"input": [user([{"type": "input_text", "text": t} for t in "ab"])]}, ChatAgent, "input[0].content"),
        ({"input": [user([{"type": "input_file", "file_id": "f"}])]}, ChatCompletions, "input[0].content[0]"),
        ({"input": [user([{"type": "output_text", "text": "a", "annotations": [1]}])]}, ChatAgent, "annotations"),
    ],
)
def test_what_has_no_counterpart_is_an_error_that_names_it(
    inputs: dict[str, Any], interface: type[Interface], names: str
) -> None:
    with pytest.raises(InterfaceMismatchError) as caught:
        sent(inputs, interface)
    assert names in str(caught.value)
    assert interface.name in str(caught.value)
    assert caught.value.may_have_run is False


spoken = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": st.text()},
    optional={"id": st.text(min_size=1), "name": st.text(min_size=1), "unknown": st.integers()},
)
texts = st.fixed_dictionaries({"text": st.text()}, optional={"unknown": st.integers()})
images = st.fixed_dictionaries({"url": st.text()}, optional={"detail": st.sampled_from(["low", "high", "auto"])})
chat_parts = st.one_of(
    texts.map(lambda text: {"type": "text", **text}),
    images.map(lambda image: {"type": "image_url", "image_url": image}),
)
item_parts = st.one_of(
    texts.map(lambda text: {"type": "input_text", **text}),
    images.map(lambda image: {"type": "input_image", "image_url": image.pop("url"), **image}),
)


def seen(parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Messages of the user's in parts, of which a ChatAgent has none."""
    several = st.lists(parts, min_size=1, max_size=3)
    return st.builds(lambda item, content: {**item, "role": "user", "content": content}, spoken, several)


functions = st.fixed_dictionaries({"name": st.sampled_from("abc"), "arguments": st.text()})
calls = functions.map(lambda function: {"id": f"call_{function['name']}", "type": "function", "function": function})
declared_tools = st.fixed_dictionaries(
    {"name": st.sampled_from("abc"), "parameters": st.just({"type": "object"})}, optional={"strict": st.booleans()}
).map(lambda function: {"type": "function", "function": function})
extras = st.fixed_dictionaries(
    {},
    optional={
        "custom_inputs": st.dictionaries(st.text(), st.integers()),
        "context": st.fixed_dictionaries({"conversation_id": st.text()}),
        "databricks_options": st.just({"return_trace": True}),
        "stop": st.sampled_from([None, "", []]),
        "max_tokens": st.integers(),
        "response_format": st.sampled_from([given for given, _ in FORMATS]),
        "tools": st.lists(declared_tools, max_size=2),
        "tool_choice": st.sampled_from(["auto", "none", {"type": "function", "function": {"name": "a"}}]),
    },
)


def called(content: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    tool_calls = st.lists(calls, min_size=1, max_size=3)
    required = {"role": st.just("assistant"), "content": content, "tool_calls": tool_calls}
    return st.fixed_dictionaries(required, optional={"id": st.text(min_size=1)})


def results(**named: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    # Of calls that are not there: where they are, the name is not said twice.
    required = {"role": st.just("tool"), "content": st.text(), "tool_call_id": st.text(min_size=7), **named}
    return st.fixed_dictionaries(required, optional={"id": st.text(min_size=1)})


CHAT_AGENT_TURNS = st.lists(st.one_of(spoken, called(st.text()), results(name=st.text(min_size=2))), max_size=6)
CHAT_MODEL_TURNS = st.lists(st.one_of(spoken, called(st.text(min_size=1)), results(), seen(chat_parts)), max_size=6)


@given(
    case=st.one_of(
        CHAT_AGENT_TURNS.map(lambda messages: (ChatAgent, messages)),
        CHAT_MODEL_TURNS.map(lambda messages: (ChatCompletions, messages)),
    ),
    extra=extras,
)
def test_messages_come_back_the_same(case: tuple[type[Interface], list[dict[str, Any]]], extra: dict[str, Any]) -> None:
    interface, messages = case
    payload = {"messages": messages, **extra}
    assert sent(sent(payload, ResponsesAgent), interface) == payload


item_calls = functions.flatmap(
    lambda function: st.fixed_dictionaries(
        {"type": st.just("function_call"), "call_id": st.just("call"), **{k: st.just(v) for k, v in function.items()}},
        optional={"id": st.text(min_size=1)},
    )
)
item_results = st.text().map(
    lambda output: {"type": "function_call_output", "call_id": "elsewhere", "output": output, "name": "else"}
)
# An empty message of the assistant's before a call is how messages keep apart what would run together as items.
said_items = spoken.filter(lambda item: item["content"])


item_extras = st.fixed_dictionaries(
    {},
    optional={
        "context": st.fixed_dictionaries({"conversation_id": st.text()}),
        "max_output_tokens": st.integers(),
        "text": st.sampled_from([{"format": given} for _, given in FORMATS]),
        "tools": st.lists(declared_tools.map(lambda tool: {"type": "function", **tool["function"]}), max_size=2),
        "tool_choice": st.sampled_from(["auto", {"type": "function", "name": "a"}]),
        "reasoning": st.just({"effort": "low"}),
    },
)
ITEMS_OF_TEXT = st.lists(st.one_of(said_items, item_calls, item_results), max_size=8)
ITEMS_OF_PARTS = st.lists(st.one_of(said_items, item_calls, item_results, seen(item_parts)), max_size=8)


@given(
    case=st.one_of(
        ITEMS_OF_TEXT.map(lambda items: (ChatAgent, items)), ITEMS_OF_PARTS.map(lambda items: (ChatCompletions, items))
    ),
    extra=item_extras,
)
def test_items_come_back_the_same(case: tuple[type[Interface], list[dict[str, Any]]], extra: dict[str, Any]) -> None:
    interface, items = case
    payload = {"input": items, **extra}
    assert sent(sent(payload, interface), ResponsesAgent) == payload


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


def cycle() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    return loop


def deep() -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [1, {"b": float("nan")}]}, "a[1].b is nan"),
        ({"a": float("-inf")}, "a is -inf"),
        ({"a": b"x"}, "a is a bytes"),
        ({"a": {1, 2}}, "a is a set"),
        ({"a": "\ud800"}, "a holds half of a surrogate pair"),
        ({"a": {"\ud800": 1}}, "holds half of a surrogate pair"),
        ({"a": {(1, 2): 1}}, "a key in a is tuple"),
        (cycle(), "again contains itself"),
        (deep(), "nested too deeply"),
    ],
)
def test_what_json_cannot_say_is_refused_by_its_path(value: Any, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_json(value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (numpy.int64(5), 5),
        (numpy.bool_(True), True),
        (numpy.float32(0.5), 0.5),
        (numpy.array([[1, 2]]), [[1, 2]]),
        (numpy.array([{"a": numpy.int8(1)}], dtype=object), [{"a": 1}]),
        (pandas.Series([1, 2]), [1, 2]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ((1, 2), [1, 2]),
    ],
)
def test_numpys_values_and_mappings_are_sent_as_pythons(value: Any, sent: Any) -> None:
    assert json.loads(encode_json({"a": value})) == {"a": sent}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (numpy.float64("nan"), "a is nan"),
        (numpy.array([1.0, float("nan")]), r"a[1] is nan"),
        (numpy.datetime64("2024-01-01"), "a is a date, which JSON has no word for: send text"),
        (pandas.Timestamp("2024-01-01"), "a is a Timestamp, which JSON has no word for: send text"),
        (pandas.NaT, "a is a NaTType"),
        (pandas.NA, "a is a NAType"),
        (numpy.complex64(1j), "a is a complex"),
        (memoryview(b"x"), "a is a memoryview"),
        (Decimal("1.1"), "a is a Decimal"),
        pytest.param(10**5000, "a is an integer of too many digits", id="huge"),
    ],
)
def test_what_numpy_and_pandas_hold_and_json_cannot_say_is_refused(value: Any, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_json({"a": value})
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


class Colour(Enum):
    RED = "red"


class Shade(str, Enum):
    DARK = "dark"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int


class Model(BaseModel):
    x: int


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (Shade.DARK, "dark"),
        (Level.HIGH, 3),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        (AttrDict({"a": {"b": 1}}), {"a": {"b": 1}}),
        ({Shade.DARK: 1}, {"dark": 1}),
        ({"": {"": ""}}, {"": {"": ""}}),
        (10**400, 10**400),
        ("\x00\n\U0001f600", "\x00\n\U0001f600"),
        pytest.param("x" * 10_000_000, "x" * 10_000_000, id="10 MB of text"),
        pytest.param([{"a": [0.5]}] * 500_000, [{"a": [0.5]}] * 500_000, id="10 MB of values"),
    ],
)
def test_what_json_can_say_is_sent(value: Any, sent: Any) -> None:
    request = read_inputs({"input": HI, "custom_inputs": {"a": value}})
    assert json.loads(encode_json(encode(request, ResponsesAgent)))["custom_inputs"] == {"a": sent}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Colour.RED, "is a Colour, which JSON has no word for: send its .value"),
        (Point(1), "is a Point, which JSON has no word for: send its dataclasses.asdict()"),
        (Model(x=1), "is a Model, which JSON has no word for: send its .model_dump()"),
        (UUID(int=1), "is a UUID, which JSON has no word for: send text"),
        (PurePosixPath("a"), "is a PurePosixPath, which JSON has no word for: send text"),
        (Decimal("1.1"), "is a Decimal, which JSON has no word for: send a float, or text"),
        (date(2024, 1, 1), "is a date, which JSON has no word for: send text, such as its .isoformat()"),
        (time(1), "is a time, which JSON has no word for: send text, such as its .isoformat()"),
        (timedelta(1), "is a timedelta, which JSON has no word for: send its .total_seconds()"),
        (object(), "is a object, which JSON has no word for"),
    ],
)
def test_what_json_cannot_say_is_refused_with_advice(value: Any, says: str) -> None:
    for at, inputs in (
        ("custom_inputs.a", {"input": HI, "custom_inputs": {"a": value}}),
        ("messages[0].content[0].x[0]", {"messages": [user([{"type": "text", "text": "a", "x": [value]}])]}),
    ):
        with pytest.raises(InvalidInputError) as caught:
            encode_json(sent(inputs))
        assert f"{at} {says}" in str(caught.value)


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


def test_text_is_sent_as_utf8() -> None:
    assert encode_json({"a": "é✓\u2028"}) == '{"a":"é✓\u2028"}'.encode()
