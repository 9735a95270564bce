"""What a caller may give, and what is sent for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.types.agent import ChatAgentMessage, ChatAgentRequest
from mlflow.types.llm import ChatCompletionRequest, ChatMessage
from mlflow.types.responses import ResponsesAgentRequest

from mlflow_agent_target import InterfaceMismatchError, InvalidInputError
from mlflow_agent_target.conversion import encode, read_inputs
from mlflow_agent_target.interfaces import INTERFACES, ChatAgent, ChatCompletions, Interface, ResponsesAgent
from mlflow_agent_target.payload import encode_json
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


def test_a_single_text_part_is_a_messages_text() -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    assert sent({"input": [item]}, ChatAgent) == {"messages": HI}


@pytest.mark.parametrize(
    ("inputs", "interface", "names"),
    [
        ({"messages": TOOL_TURN}, ResponsesAgent, "messages[1].tool_calls"),
        ({"messages": [{"role": "tool", "content": "4"}]}, ResponsesAgent, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            ResponsesAgent,
            "messages[0].content",
        ),
        ({"input": ITEMS}, ChatAgent, "input[1] of type 'function_call_output'"),
        ({"input": [user([{"type": "input_image", "image_url": "u"}])]}, ChatCompletions, "input[0].content"),
        (
            {"input": [user([{"type": "output_text", "text": "a", "annotations": [1]}])]},
            ChatAgent,
            "content[0].annotations",
        ),
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


plain_messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text()},
        optional={"id": st.text(min_size=1), "unknown": st.integers()},
    ),
    max_size=5,
)
extras = st.fixed_dictionaries(
    {},
    optional={
        "custom_inputs": st.dictionaries(st.text(), st.integers()),
        "stop": st.text(),
        "max_tokens": st.integers(),
    },
)


@given(messages=plain_messages, extra=extras, interface=st.sampled_from([ChatAgent, ChatCompletions]))
def test_there_and_back_is_the_same(
    messages: list[dict[str, Any]], extra: dict[str, Any], interface: type[Interface]
) -> None:
    payload = {"messages": messages, **extra}
    assert sent(sent(payload, ResponsesAgent), interface) == payload


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
    ],
)
def test_what_json_cannot_say_is_refused_by_its_path(value: Any, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_json(value)
    assert says in str(caught.value)


def test_text_is_sent_as_utf8() -> None:
    assert encode_json({"a": "é✓\u2028"}) == '{"a":"é✓\u2028"}'.encode()
