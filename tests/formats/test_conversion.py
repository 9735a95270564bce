"""From one schema to the other and back: the same is said, and nothing is lost."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_target.formats.chat_agent import ChatAgent
from mlflow_agent_target.formats.chat_completions import ChatCompletions
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.registry import INTERFACES
from mlflow_agent_target.formats.responses import ResponsesAgent
from tests.conftest import user
from tests.formats.payloads import (
    ADD,
    ADD_ITEM,
    FORMATS,
    HI,
    IMAGE,
    IMAGE_PART,
    MUL,
    MUL_ITEM,
    RESULT,
    refuses,
    sent,
)

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


def test_a_single_text_part_is_a_messages_text() -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    assert sent({"input": [item]}, ChatAgent) == {"messages": HI}


APPROVAL = {"type": "mcp_approval_request", "id": "a", "name": "f", "arguments": "{}", "server_label": "s"}


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


CALLED = {"role": "assistant", "content": "", "tool_calls": [ADD]}
TOLD = {"role": "tool", "content": "1", "tool_call_id": "c1"}
IMAGE_MESSAGE = user([{"type": "image_url", "image_url": {"url": "u", "type": "x"}}])
# Keys that nobody knows there, but that say something else in the other schema.
TAKEN_IN_ITEMS = [
    ([CALLED, {**TOLD, "output": "x"}], "messages[1].output"),
    ([CALLED, {**TOLD, "call_id": "x"}], "messages[1].call_id"),
    ([CALLED, {**TOLD, "tool_calls": [ADD]}], "messages[1].tool_calls"),
    ([user("a") | {"tool_call_id": "x"}], "messages[0].tool_call_id"),
    ([user("a") | {"type": "human"}], "messages[0].type"),
    ([{**CALLED, "tool_calls": [{**ADD, "call_id": "x"}]}], "messages[0].tool_calls[0].call_id"),
    ([{**CALLED, "tool_calls": [{**ADD, "arguments": "x"}]}], "messages[0].tool_calls[0].arguments"),
    ([IMAGE_MESSAGE], "messages[0].content[0].type"),
    ([user([{"type": "image_url", "image_url": IMAGE, "detail": "high"}])], "messages[0].content[0].detail"),
]
TAKEN_IN_MESSAGES = [
    ([ADD_ITEM, {**RESULT, "content": "x"}], "input[1].content"),
    ([ADD_ITEM, {**RESULT, "tool_call_id": "x"}], "input[1].tool_call_id"),
    ([ADD_ITEM, {**RESULT, "role": "x"}], "input[1].role"),
    ([{**ADD_ITEM, "function": "x"}], "input[0].function"),
    ([{**ADD_ITEM, "item_id": "x"}], "input[0].item_id"),
]


@pytest.mark.parametrize(
    ("inputs", "interface", "names"),
    [
        *(({"messages": [message]}, ResponsesAgent, names) for message, names in UNSAYABLE_IN_ITEMS),
        ({"input": [RESULT]}, ChatAgent, "input[0] without the call"),
        ({"input": [{**ADD_ITEM, "call_id": {}}]}, ChatAgent, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, ChatAgent, "input[0].arguments"),
        ({"input": [{**RESULT, "call_id": None, "name": "f"}]}, ChatCompletions, "input[0].call_id"),
        ({"input": [{"role": "assistant", "content": "a", "tool_calls": "x"}]}, ChatAgent, "input[0].tool_calls"),
        ({"input": [ADD_ITEM, {**RESULT, "output": {"a": 1}}]}, ChatAgent, "input[1].output"),
        ({"input": [*HI, APPROVAL]}, ChatAgent, "input[1] of type 'mcp_approval_request'"),
        ({"input": [{"type": "reasoning", "summary": []}]}, ChatCompletions, "input[0] of type 'reasoning'"),
        ({"input": [user([{"type": "input_image", "image_url": "u"}])]}, ChatAgent, "input[0].content"),
        ({"input": [user([{"type": "input_text", "text": "a"}, IMAGE_PART])]}, ChatAgent, "input[0].content"),
        ({"input": [user([{"type": "input_text", "text": "a", "k": 1}])]}, ChatAgent, "input[0].content"),
        ({"input": [ADD_ITEM, {**RESULT, "output": [IMAGE_PART]}]}, ChatCompletions, "input[1].output"),
        ({"input": [ADD_ITEM, {**RESULT, "output": []}]}, ChatCompletions, "input[1].output"),
        *(({"messages": messages}, ResponsesAgent, names) for messages, names in TAKEN_IN_ITEMS),
        *(({"input": items}, ChatCompletions, names) for items, names in TAKEN_IN_MESSAGES),
        ({"input": [user([{"type": "input_file", "file_id": "f"}])]}, ChatCompletions, "input[0].content[0]"),
    ],
)
def test_what_has_no_counterpart_is_an_error_that_names_it(
    inputs: dict[str, Any], interface: type[Interface], names: str
) -> None:
    refuses(inputs, interface, names)


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


def texts(kind: str, **more: Any) -> list[dict[str, Any]]:
    return [{"type": kind, "text": text, **more} for text in ("one ", "two")]


NAMED = {"role": "tool", "content": "one two", "name": "add", "tool_call_id": "c1"}


@pytest.mark.parametrize(
    ("items", "interface", "last"),
    [
        pytest.param([user(texts("input_text"))], ChatAgent, user("one two"), id="a question"),
        pytest.param(
            [{"role": "assistant", "content": texts("output_text", annotations=[])}],
            ChatAgent,
            {"role": "assistant", "content": "one two"},
            id="an answer",
        ),
        pytest.param(
            [{"role": "assistant", "content": texts("output_text", annotations=[], logprobs=None)}],
            ChatCompletions,
            {"role": "assistant", "content": "one two"},
            id="an answer, to a ChatModel",
        ),
        pytest.param([ADD_ITEM, {**RESULT, "output": texts("input_text")}], ChatAgent, NAMED, id="a result"),
        pytest.param(
            [ADD_ITEM, {**RESULT, "output": texts("output_text", annotations=[])}],
            ChatCompletions,
            {key: value for key, value in NAMED.items() if key != "name"},
            id="a result, to a ChatModel",
        ),
    ],
)
def test_parts_that_are_only_text_are_one_text_where_a_schema_takes_strings(
    items: list[dict[str, Any]], interface: type[Interface], last: dict[str, Any]
) -> None:
    assert sent({"input": items}, interface)["messages"][-1] == last


def test_a_result_in_parts_that_are_only_text_is_one_text_to_a_responses_agent() -> None:
    messages = [CALLED, {**TOLD, "content": texts("text")}]
    assert sent({"messages": messages}, ResponsesAgent)["input"][-1] == {**RESULT, "output": "one two"}


def test_an_empty_message_whose_first_call_has_another_id_keeps_its_own() -> None:
    message = {**CALLED, "id": "m1", "tool_calls": [{**ADD, "item_id": "fc_1"}]}
    items = [{"role": "assistant", "content": "", "id": "m1"}, {**ADD_ITEM, "id": "fc_1"}]
    assert sent({"messages": [message]}, ResponsesAgent) == {"input": items}
    assert sent({"input": items}, ChatAgent) == {"messages": [message]}


@pytest.mark.parametrize("interface", [None, *INTERFACES])
@pytest.mark.parametrize("key", ["previous_response_id", "conversation", "instructions", "prompt"])
def test_a_key_that_agents_drop_is_sent_and_warned_of_once(
    key: str, interface: type[Interface] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_agent_target.formats.conversion._warned", set())
    with pytest.warns(UserWarning, match=f"drop '{key}' without a word: send ") as caught:
        made = [sent({"input": HI, key: "x"}, interface) for _ in range(3)]
    assert [payload[key] for payload in made] == ["x"] * 3
    assert len(caught) == 1


def test_a_key_that_says_nothing_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_agent_target.formats.conversion._warned", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sent({"input": HI, "previous_response_id": None}, ResponsesAgent)
