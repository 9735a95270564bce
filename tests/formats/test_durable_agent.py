"""DurableAgentServer: what its answers say, in the dress of either official template, and how its events add up."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.formats.chat_agent import ChatAgent
from mlflow_agent_target.formats.durable_agent import DurableAgentServer
from mlflow_agent_target.formats.registry import interface_of_answer, interface_of_event, interfaces_for_key
from mlflow_agent_target.formats.responses import ResponsesAgent

ID = "eece35c4-3e85-47a8-8ae7-97d46fad8cd3"
USED = {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14}


def ai(content: Any, **more: Any) -> dict[str, Any]:
    """A message as LangChain dumps it."""
    return {"content": content, "additional_kwargs": {}, "type": "ai", "name": None, "id": "lc_1", **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


LANG_CALL = {"name": "word_count", "args": {"text": "one two"}, "id": "call_1", "type": "tool_call"}
LANGGRAPH = [
    ai("", tool_calls=[LANG_CALL], usage_metadata=USED),
    {"content": "2", "type": "tool", "name": "word_count", "tool_call_id": "call_1"},
    ai("Two words.", tool_calls=[], usage_metadata=USED),
]
OPENAI = [
    assistant("", tool_calls=[{"name": "word_count", "args": {"text": "one two"}}]),
    {"role": "tool", "name": None, "content": "2"},
    assistant([{"type": "reasoning", "summary": []}]),
    assistant("Two words."),
]
REQUEST = {"name": "send", "args": {"to": "Zoë"}, "call_id": "call_1"}
INTERRUPT = {"type": "interrupt", "id": "call_1", "value": {"action_requests": [REQUEST]}}


def call(call_id: str | None) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "word_count", "arguments": '{"text": "one two"}'}


def record(output: Any, status: str = "completed") -> AgentResponse:
    return AgentResponse({"id": ID, "status": status, "output": output})


@pytest.mark.parametrize(
    ("output", "text", "calls", "usage"),
    [
        ({"output": LANGGRAPH, "status": "completed"}, "Two words.", [call("call_1")], (18, 10, 28)),
        ({"output": OPENAI, "status": "completed"}, "Two words.", [call(None)], None),
        ({"output": [assistant("a"), assistant("b")]}, "ab", [], None),
        ({"output": [ai([{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "b"}])]}, "a", [], None),
        ({"output": [{"role": "user", "content": "not this"}, {"content": "nor this"}]}, "", [], None),
        ({"messages": [assistant("a chat agent's")]}, "a chat agent's", [], None),
        ({"choices": [{"message": assistant("first")}, {"message": assistant("second")}]}, "first", [], None),
        ({"output": [assistant("a")], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}, "a", [], (1, 2, 3)),
        ([assistant("a bare list"), call("c")], "a bare list", [call("c")], None),
        ("a bare text", "a bare text", [], None),
        ({"answer": 42}, "", [], None),
        (None, "", [], None),
        (42, "", [], None),
        (["no", "messages"], "", [], None),
    ],
)
def test_answers_read_as_any_agents(
    output: Any, text: str, calls: list[dict[str, Any]], usage: tuple[int, int, int] | None
) -> None:
    response = record(output)
    assert response == {"id": ID, "status": "completed", "output": output}
    assert response.output_text == text
    assert response.tool_calls == calls
    assert response.usage == (usage and dict(zip(USED, usage, strict=True)))
    assert response.pending_approvals == []
    assert response.invocation_id == response.request_id == ID


APPROVAL = {"type": "interrupt", "id": "call_1", **REQUEST, "arguments": '{"to": "Zoë"}'}


@pytest.mark.parametrize(
    ("items", "approvals"),
    [
        ([*OPENAI[:1], INTERRUPT], [APPROVAL]),
        ([INTERRUPT, assistant("It was answered.")], []),
        ([INTERRUPT, INTERRUPT | {"id": "call_2"}], [APPROVAL | {"id": "call_2"}]),
        (
            [INTERRUPT | {"value": {"action_requests": [REQUEST, {"name": "b"}]}}],
            [APPROVAL, {"type": "interrupt", "id": "call_1", "name": "b", "arguments": "{}"}],
        ),
        ([INTERRUPT | {"value": "which one?"}], [INTERRUPT | {"value": "which one?"}]),
        ([REQUEST], []),
        ([], []),
    ],
)
def test_an_interrupt_asks_for_an_approval(items: list[dict[str, Any]], approvals: list[dict[str, Any]]) -> None:
    assert record({"output": items, "status": "interrupted"}).pending_approvals == approvals


@pytest.mark.parametrize(
    ("answer", "interface"),
    [
        ({"id": ID, "status": "completed", "output": []}, DurableAgentServer),
        ({"id": ID, "status": "completed", "output": None}, DurableAgentServer),
        ({"id": ID, "status": "failed", "output": None, "error": "x"}, DurableAgentServer),
        ({"id": ID, "status": "completed", "messages": []}, ChatAgent),
        ({"id": ID, "status": "completed", "output": [], "object": "response"}, ResponsesAgent),
        ({"id": f"resp_{ID}", "status": "completed", "output": []}, ResponsesAgent),
        ({"id": f"{ID}0", "status": "completed", "output": []}, ResponsesAgent),
        ({"id": ID, "output": []}, ResponsesAgent),
        ({"id": 7, "status": "completed", "output": []}, ResponsesAgent),
        ({"id": ID, "status": "queued"}, None),
    ],
)
def test_a_record_of_a_run_is_told_from_other_answers(answer: dict[str, Any], interface: Any) -> None:
    assert interface_of_answer(answer) is interface
    assert (AgentResponse(answer).invocation_id == ID) == (interface is DurableAgentServer)


def test_the_session_stays_with_the_answer_and_out_of_it() -> None:
    response = AgentResponse({"id": ID, "status": "completed", "output": "x"}, session_id="s")
    for copy in (response, pickle.loads(pickle.dumps(response)), response.without("status")):
        assert copy.session_id == "s"
        assert "session_id" not in copy
    assert AgentResponse({"output": []}).session_id is None


def test_no_payload_and_no_event_shows_it() -> None:
    assert DurableAgentServer not in interfaces_for_key("messages")
    assert interface_of_event({"type": "run.started"}) is None


def delta(content: Any, message_id: Any = "m") -> dict[str, Any]:
    return {"type": "delta", "content": content, "id": message_id}


def message(said: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "message": said}


PARTS = [{"type": "text", "text": "a", "index": 0}]


@pytest.mark.parametrize(
    ("events", "texts", "items"),
    [
        ([delta("a"), delta("b")], ["a", "b"], [assistant("ab")]),
        ([delta("a"), message(assistant("a"))], ["a", ""], [assistant("a")]),
        ([delta("a"), message(assistant("ab"))], ["a", "b"], [assistant("ab")]),
        ([delta("a", "lc_1"), message(ai("a"))], ["a", ""], [ai("a")]),
        ([delta("a", "x"), delta("b", "y"), message(assistant("b"))], ["a", "b", ""], [assistant("b"), assistant("a")]),
        ([delta("a"), message(assistant("other"))], ["a", "other"], [assistant("other"), assistant("a")]),
        ([delta("a", "lc_1"), message(ai("other"))], ["a", ""], [ai("other")]),
        ([delta(PARTS), delta("b")], ["a", "b"], [assistant("ab")]),
        ([delta("a", None), delta("b", 7), message(assistant("ab"))], ["a", "b", ""], [assistant("ab")]),
        ([message(assistant("a")), message(assistant("b"))], ["a", "b"], [assistant("a"), assistant("b")]),
        ([message({"role": "tool", "content": "t"})], [""], [{"role": "tool", "content": "t"}]),
        ([message(assistant("a", id=["odd"]))], ["a"], [assistant("a", id=["odd"])]),
        ([INTERRUPT], [""], [INTERRUPT]),
        ([{"type": "run.started"}, {"type": "run.completed"}], ["", ""], []),
        ([{"type": "error", "error": "its own"}, {"type": None}, {}, {"type": "message", "message": 1}], [""] * 4, []),
    ],
)
def test_events_add_up(events: list[dict[str, Any]], texts: list[str], items: list[dict[str, Any]]) -> None:
    interface = DurableAgentServer({"id": ID, "status": "active"})
    said = []
    for event in events:
        text = interface.add_text(event)
        said.append(interface.add(event) if text is None else text)
    assert said == texts
    assert interface.answer() == {"id": ID, "status": "active", "output": {"output": items}}


def test_a_second_start_is_one_after_a_first() -> None:
    interface = DurableAgentServer()
    start = {"type": "run.started"}
    assert not interface.starts_again(start)
    interface.add(start)
    assert interface.starts_again(start)
    assert not interface.starts_again(delta("a"))
