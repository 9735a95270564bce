"""What a DurableAgentServer is asked, for all that a caller may give."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from mlflow.types.agent import ChatAgentMessage, ChatAgentRequest
from mlflow.types.llm import ChatCompletionRequest, ChatMessage
from mlflow.types.responses import ResponsesAgentRequest

from mlflow_agent_target.errors import InterfaceMismatchError, InvalidInputError
from mlflow_agent_target.formats.invocations import Invocation, read_invocation
from tests.conftest import user

ID = "0b6ee2c0-6f0e-4f1c-9d8a-0f4d5f6a7b8c"
DEFAULT = uuid.UUID(ID)
HI = {"messages": [user("hi")]}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "1"}
RESUME = {"resume": {"decisions": [{"type": "approve"}]}}


@pytest.mark.parametrize(
    ("given", "value", "session"),
    [
        ("hi", HI, ID),
        ([user("hi")], HI, ID),
        (HI, HI, ID),
        ({"input": "hi"}, HI, ID),
        ({"input": [user("hi")]}, HI, ID),
        ({"input": [user([{"type": "input_text", "text": "hi"}])]}, HI, ID),
        ({"messages": [user([{"type": "text", "text": "h"}, {"type": "text", "text": "i"}])]}, HI, ID),
        (
            {"input": [user("hi"), CALLED, RESULT]},
            {
                "messages": [
                    user("hi"),
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "content": "1", "tool_call_id": "c"},
                ]
            },
            ID,
        ),
        (ResponsesAgentRequest(input=[user("hi")]), HI, ID),
        (ChatCompletionRequest(messages=[ChatMessage(role="user", content="hi")]), HI, ID),
        (HI | {"custom_inputs": {"k": 1}}, HI | {"k": 1}, ID),
        (HI | {"custom_inputs": {}, "context": None, "stream": False, "background": True, "tools": None}, HI, ID),
        (HI | {"context": {"conversation_id": "s", "user_id": "u"}}, HI | {"actor": "u"}, "s"),
        (HI | {"context": {"conversation_id": None, "user_id": None}}, HI, ID),
        (HI | {"session_id": "s"}, HI, "s"),
        (HI | {"session_id": "s", "context": {"conversation_id": "s"}}, HI, "s"),
        (HI | {"actor": "u", "context": {"user_id": "u"}}, HI | {"actor": "u"}, ID),
        (RESUME, RESUME, ID),
        (RESUME | {"session_id": "s"}, RESUME, "s"),
        (RESUME | {"context": {"conversation_id": "s", "user_id": "u"}}, RESUME | {"actor": "u"}, "s"),
        ({"input": {"question": "q"}}, {"question": "q"}, ID),
        ({"input": HI, "session_id": "s", "context": {"user_id": "u"}}, HI | {"actor": "u"}, "s"),
        ({"question": "q", "context": [1], "session_id": 7}, {"question": "q", "context": [1], "session_id": 7}, ID),
    ],
)
def test_what_is_given_becomes_the_runs_input(given: Any, value: Any, session: str) -> None:
    before = repr(given)
    assert read_invocation(given, DEFAULT) == Invocation(ID, value, session)
    assert repr(given) == before


def test_ids_of_messages_travel_along() -> None:
    request = ChatAgentRequest(messages=[ChatAgentMessage(role="user", content="hi", id="m")])
    assert read_invocation(request, DEFAULT).input == {"messages": [user("hi") | {"id": "m"}]}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"id": ID.upper(), "input": [1]}, (ID, [1], None)),
        ({"id": f"urn:uuid:{ID}", "input": None, "session_id": None}, (ID, None, None)),
        ({"id": ID.replace("-", ""), "input": HI, "session_id": "s", "stream": True}, (ID, HI, "s")),
        ({"id": uuid.UUID(ID), "input": "bare"}, (ID, "bare", None)),
    ],
)
def test_a_whole_envelope_is_sent_as_it_is(given: Any, wanted: tuple[Any, ...]) -> None:
    assert read_invocation(given, uuid.uuid4()) == Invocation(*wanted, is_callers=True)


def test_ids_are_new_unless_given() -> None:
    first, second = read_invocation("hi"), read_invocation("hi")
    assert first.id != second.id
    assert first.session_id == first.id
    assert not first.is_callers
    given = read_invocation("hi", DEFAULT, id_=f"{{{ID}}}", session_id="s")
    assert given == Invocation(ID, HI, "s", is_callers=True)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (HI | {"temperature": 0.5}, "'temperature'"),
        (HI | {"model": "m"}, "'model'"),
        (HI | {"databricks_options": {"return_trace": True}}, "'databricks_options'"),
        (HI | {"id": ID}, "'id'"),
        (HI | {"stream": "yes"}, "'stream'"),
        (HI | {"context": {"app": 1}}, "context.app"),
        (HI | {"actor": "a", "context": {"user_id": "b"}}, "context.user_id"),
        (HI | {"custom_inputs": {"messages": []}}, "custom_inputs.messages"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0] of type 'reasoning'"),
        ({"id": ID, "input": [], "custom_inputs": {"a": 1}}, "'custom_inputs'"),
        ({"input": {"a": 1}, "custom_inputs": {"b": 1}}, "'custom_inputs'"),
    ],
)
def test_what_has_no_counterpart_is_named(given: Any, named: str) -> None:
    with pytest.raises(InterfaceMismatchError, match=r"DurableAgentServer.*custom_inputs") as caught:
        read_invocation(given)
    assert named in caught.value.message
    assert caught.value.may_have_run is False


@pytest.mark.parametrize(
    ("given", "more", "said"),
    [
        ("hi", {"id_": "abc"}, "must be a UUID, .*'abc'"),
        ("hi", {"id_": 7}, "must be a UUID"),
        ({"id": "abc", "input": []}, {}, "must be a UUID"),
        ({"id": ID, "input": []}, {"id_": str(uuid.uuid4())}, "Two ids of a run"),
        (HI | {"session_id": ""}, {}, "session_id must be a string that is not empty"),
        (HI | {"context": {"conversation_id": 7}}, {}, "context.conversation_id must be a string"),
        (HI, {"session_id": 7}, "session_id must be a string"),
        (HI | {"session_id": "a"}, {"session_id": "b"}, "Two sessions of a run"),
        (None, {}, "it is None"),
        ({}, {}, "neither 'input' nor 'messages'"),
        ([], {}, "list of messages is empty"),
        (HI | {"messages": "hi"}, {}, "messages: must be a list"),
        ({"input": user("hi")}, {}, "input: must be a list"),
        (7, {}, "it is int 7"),
    ],
)
def test_what_can_not_be_sent_is_refused(given: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        read_invocation(given, **more)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": float("nan")}, "input.a is nan"),
        ({"a": [float("inf")]}, r"input.a\[0\] is inf"),
        ({"a": [{"b": "x\0"}]}, r"input.a\[0\].b holds U\+0000"),
        ({"a": {"k\0": 1}}, r"a key in input.a holds U\+0000"),
        ({"a": "\ud800"}, "half of a surrogate pair"),
        ({"a": object()}, "input.a is a object"),
    ],
)
def test_what_its_store_can_not_keep_is_refused(value: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        Invocation(ID, value, "s").envelope(background=True)


@pytest.mark.parametrize(
    ("invocation", "is_old", "envelope"),
    [
        (Invocation(ID, HI, "s"), False, {"id": ID, "input": HI, "session_id": "s"}),
        (Invocation(ID, HI, None), False, {"id": ID, "input": HI}),
        (Invocation(ID, {"a": "\\u0000"}, "s"), False, {"id": ID, "input": {"a": "\\u0000"}, "session_id": "s"}),
        (Invocation(ID, HI, "s"), True, {"id": ID, "input": HI | {"session_id": "s"}}),
        (Invocation(ID, {"session_id": "own"}, "s"), True, {"id": ID, "input": {"session_id": "own"}}),
        (Invocation(ID, [1], ID), True, {"id": ID, "input": [1]}),
        (Invocation(ID, [1], None), True, {"id": ID, "input": [1]}),
    ],
)
def test_the_envelope(invocation: Invocation, is_old: bool, envelope: dict[str, Any]) -> None:
    assert json.loads(invocation.envelope(is_old, stream=True)) == envelope | {"stream": True}


def test_an_old_server_has_no_place_for_a_session_beside_a_list() -> None:
    with pytest.raises(InterfaceMismatchError, match="session_id"):
        Invocation(ID, [1], "s").envelope(is_old=True)


@pytest.mark.parametrize(
    ("session", "key"),
    [
        ("s-1", "s-1"),
        ("s" * 128, "s" * 128),
        ("s" * 129, None),
        ("ä", None),
        ("a\nb", None),
        (" a", None),
        (None, None),
    ],
)
def test_the_session_routes_where_a_header_can_say_it(session: str | None, key: str | None) -> None:
    assert Invocation(ID, HI, session).routing_key == key


@pytest.mark.parametrize(
    ("value", "may"),
    [
        ({"a": [1e23]}, True),
        (-(2.0**53), True),
        (2.0**53 - 1, False),
        (2**60, False),
        ({"a": "1e23", "b": [None, True]}, False),
    ],
)
def test_large_floats_may_change_in_the_store(value: Any, may: bool) -> None:
    assert Invocation(ID, value, None).may_change_in_store() is may
