"""Every interface: a stream adds up to what `predict` would have given, with its text once and its events unchanged."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_target import AgentResponse
from mlflow_agent_target.streams.stream import AgentStream
from tests.formats.recorded import CALL, CHAT_CALL, Recorded, choice, delta, done, frames, message

STREAMS = Path(__file__).parent.parent / "streams"
TRACE = {"info": {"trace_id": "tr-1"}, "data": {"spans": []}}
REAL_CALL = {**CALL, "id": "fc"}


def completion(said: dict[str, Any], finish_reason: str, usage: int | None = None) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": finish_reason}
    tokens = {} if usage is None else {"prompt_tokens": 1, "completion_tokens": usage, "total_tokens": 1 + usage}
    return {
        "object": "chat.completion",
        "id": "cc",
        "model": "m",
        "choices": [choice],
        **({"usage": tokens} if tokens else {}),
    }


WHOLE_ANSWERS: dict[str, dict[str, Any]] = {
    "responses_minimum": {
        "object": "response",
        "output": [message("msg_1", "Hello ✓")],
        "id": "req-1",
        "databricks_output": {"trace": TRACE, "databricks_request_id": "req-1"},
    },
    "responses_text_only_in_done": {"object": "response", "output": [message("msg_1", "Hello")]},
    "responses_two_inner_responses": {
        "object": "response",
        "id": "resp_placeholder",
        "output": [
            CALL,
            {"type": "function_call_output", "call_id": "c1", "output": "2"},
            message("__fake_id__", "It is 2."),
        ],
        "usage": {"input_tokens": 30, "output_tokens": 9, "total_tokens": 39},
    },
    "responses_openai_framing_without_done": {
        "object": "response",
        "id": "r1",
        "status": "completed",
        "model": "g",
        "output": [message("m", "Hi")],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
    },
    "responses_agent_server_trace_id": {
        "object": "response",
        "output": [message("m", "Hi")],
        "metadata": {"trace_id": "tr-9"},
    },
    "responses_keep_alives": {"object": "response", "output": [message("m", "H\u2028i")]},
    "chat_agent_tools": {
        "messages": [
            {"role": "assistant", "content": "", "id": "m1", "tool_calls": [CHAT_CALL]},
            {"role": "tool", "content": "42", "id": "m2", "name": "f", "tool_call_id": "c1"},
            {"role": "assistant", "content": "It is 42.", "id": "m3"},
        ],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "custom_outputs": {"k": 1},
        "databricks_output": {"trace": TRACE, "databricks_request_id": "req-2"},
    },
    "chat_completions_usage_chunk": {
        "object": "chat.completion",
        "id": "cc",
        "model": "m",
        "created": 1,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    },
    "responses_supervisor_steps": {
        "object": "response",
        "id": "r",
        "output": [
            message("m", "Asking Genie."),
            REAL_CALL,
            {"type": "function_call_output", "call_id": "c1", "output": ["42"], "name": "add"},
            message("n", "It is 42."),
            {"type": "task_continue_request", "id": "continue_1", "step": 3},
        ],
    },
    "responses_call_done_before_message": {
        "object": "response",
        "id": "x",
        "output": [message("m", "Let me see."), REAL_CALL],
        "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    },
    "responses_arguments_in_pieces": {
        "object": "response",
        "output": [
            REAL_CALL,
            {"type": "function_call", "id": "other", "call_id": "c2", "name": "sub", "arguments": '{"b": 2}'},
        ],
    },
    "responses_only_in_completed": {
        "object": "response",
        "id": "b",
        "status": "completed",
        "output": [
            REAL_CALL,
            {"type": "function_call_output", "call_id": "c1", "output": "2"},
            message("m", "Two."),
        ],
        "usage": {"input_tokens": 3, "output_tokens": 3, "total_tokens": 6},
    },
    "responses_reasoning_and_refusal": {
        "object": "response",
        "output": [
            {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "Hm, hm."}]},
            {**message("m", ""), "content": [{"type": "refusal", "refusal": "I can't."}]},
        ],
    },
    "responses_mcp_approval": {
        "object": "response",
        "output": [
            {"type": "mcp_approval_response", "id": "x", "approval_request_id": "mcpr_0", "approve": True},
            {"type": "mcp_approval_request", "id": "mcpr_1", "name": "drop", "arguments": "{}", "server_label": "db"},
        ],
        "databricks_output": {"databricks_request_id": "q"},
    },
    "responses_openai_framing_trailing_metadata": {
        "object": "response",
        "id": "r",
        "status": "completed",
        "output": [message("m", "Hi")],
        "metadata": {"trace_id": "tr-1"},
        "databricks_output": {"databricks_request_id": "q"},
    },
    "responses_odd_framing": {
        "object": "response",
        "output": [{**message("m", ""), "content": "a\u2028\u2029\u0085é😀"}],
    },
    "responses_numbers_again": {"object": "response", "output": [message("msg_1", "hello")]},
    "responses_langchain_dump": {
        "output": [
            {
                "content": "That is three words.",
                "additional_kwargs": {},
                "response_metadata": {},
                "type": "ai",
                "name": None,
                "id": "lc_run--01a214f6-a989-7170-a5aa-2b316ff86084-0",
                "tool_calls": [],
                "invalid_tool_calls": [],
                "usage_metadata": {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14},
            }
        ]
    },
    "responses_new_id_with_each_event": {
        "object": "response",
        "id": "r",
        "status": "completed",
        "output": [message("id-6", "It is 12.")],
    },
    "responses_text_without_its_item": {
        "object": "response",
        "id": "r",
        "status": "completed",
        "output": [
            message("T", "Let me look."),
            {"type": "function_call", "id": "F", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            message("U", " It is 42."),
        ],
    },
    "responses_item_only_in_completed": {
        "object": "response",
        "id": "r",
        "status": "completed",
        "output": [
            {"type": "mcp_list_tools", "id": "a", "server_label": "a", "tools": []},
            {"type": "mcp_list_tools", "id": "b", "server_label": "b", "tools": []},
            message("m", "Here."),
        ],
    },
    "chat_completions_signed_reasoning": completion(
        {
            "content": [
                {
                    "type": "reasoning",
                    "summary": [{"type": "summary_text", "text": "alpha", "signature": "SIG-1"}],
                },
                {
                    "type": "reasoning",
                    "summary": [{"type": "summary_text", "text": "beta", "signature": "SIG-2"}],
                },
                {"type": "text", "text": "Hello"},
            ]
        },
        "stop",
    ),
    "chat_completions_blank_last_chunk": completion({"content": "Hello"}, "stop", usage=2),
    "chat_agent_without_ids": {
        "messages": [
            {"role": "assistant", "content": "Hm."},
            {"role": "tool", "content": "1", "name": "f", "tool_call_id": "c1"},
            {"role": "tool", "content": "2", "name": "f", "tool_call_id": "c2"},
            {"role": "assistant", "content": "Ok"},
        ],
        "databricks_output": {"databricks_request_id": "q"},
    },
    "chat_completions_usage_on_every_chunk": completion({"content": "Hello"}, "stop", usage=3),
    "chat_completions_usage_on_last_chunk": {
        **completion({"content": "Hello"}, "stop", usage=2),
        "databricks_output": {"databricks_request_id": "q"},
    },
    "chat_completions_reasoning_parts": completion(
        {
            "content": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm, hm."}]},
                {"type": "text", "text": "Hello"},
            ]
        },
        "stop",
    ),
    "chat_completions_calls_all_numbered_0": completion(
        {
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": '{"a": 1}'}},
            ]
        },
        "tool_calls",
    ),
    "chat_completions_tool_call_in_pieces": {
        "object": "chat.completion",
        "id": "cc",
        "model": "m",
        "created": 1,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
    },
}


def test_every_recorded_stream_has_its_whole_answer_here() -> None:
    assert sorted(WHOLE_ANSWERS) == sorted(path.stem for path in STREAMS.glob("*.txt"))


@pytest.mark.parametrize("name", WHOLE_ANSWERS)
def test_a_recorded_stream_adds_up_to_the_whole_answer(name: str) -> None:
    assert AgentStream(Recorded((STREAMS / f"{name}.txt").read_bytes())).get_final_response() == WHOLE_ANSWERS[name]


@pytest.mark.parametrize("name", WHOLE_ANSWERS)
@given(split=st.data())
def test_streamed_text_is_the_whole_answers_text_once_however_it_is_cut(name: str, split: st.DataObject) -> None:
    body = (STREAMS / f"{name}.txt").read_bytes()
    cuts = sorted(split.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    stream = AgentStream(Recorded(*chunks))
    assert "".join(stream.text_stream) == stream.get_final_response().output_text
    assert stream.get_final_response() == WHOLE_ANSWERS[name]


def test_adding_up_costs_the_same_however_long_the_text_is() -> None:
    """A text of megabytes in small pieces: were it copied for each, this would take minutes."""
    for event in (delta("some text "), {"delta": {"id": "m", "content": "some text "}}):
        stream = AgentStream(Recorded(*[frames(*[event] * 1000).removesuffix(b"data: [DONE]\n\n")] * 200, frames()))
        assert len(stream.get_final_response().output_text) == 2_000_000


LONG = "x" * 1000
SIZE = 20_000 * len(LONG)
PIECES = {
    "ResponsesAgent": delta(LONG),
    "ChatAgent": {"delta": {"id": "m", "content": LONG}},
    "ChatModel": choice(delta={"content": LONG}),
    "arguments of a call": {"type": "response.function_call_arguments.delta", "item_id": "fc", "delta": LONG},
}


def streamed(event: dict[str, Any], *last: dict[str, Any]) -> AgentStream:
    piece = frames(event).removesuffix(b"data: [DONE]\n\n")
    return AgentStream(Recorded(*[piece] * 20_000, frames(*last)))


def traced(stream: AgentStream) -> tuple[AgentResponse, float, float]:
    """Return a stream's answer, and for each character of its text the bytes that are kept, and were at most."""
    tracemalloc.start()
    try:
        answer = stream.get_final_response()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return answer, kept / SIZE, peak / SIZE


@pytest.mark.parametrize("event", PIECES.values(), ids=PIECES)
def test_each_piece_of_text_is_kept_once(event: dict[str, Any]) -> None:
    _, kept, peak = traced(streamed(event))
    assert 1 <= kept < 1.05
    assert peak < 1.2


def test_a_text_that_comes_again_whole_is_kept_once() -> None:
    stream = streamed(delta(LONG), done(message("m", LONG * 20_000)))
    answer, kept, _ = traced(stream)
    assert len(answer.output_text) == SIZE
    assert 1 <= kept < 1.05


def test_events_are_never_changed() -> None:
    piece = {"role": "assistant", "content": [{"type": "text", "text": "a"}], "tool_calls": [CHAT_CALL]}
    stream = AgentStream(Recorded(frames(*[{"choices": [{"index": 0, "delta": piece}]}] * 3)))
    seen = list(stream)
    stream.get_final_response()
    assert seen == [{"choices": [{"index": 0, "delta": piece}]}] * 3


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_text.delta", "item_id": ["x"], "content_index": {}, "delta": "a"},
        {
            "type": "response.output_item.done",
            "item": {"type": "message", "id": {}, "role": "assistant", "content": "a"},
        },
        {"delta": {"role": "assistant", "content": "a", "id": {"x": 1}}},
        {"delta": {"role": ["assistant"], "content": {"a": 1}, "tool_calls": "x"}},
        {"choices": [{"index": "0", "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}, 5]},
        {
            "choices": [
                {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": 5}, {"index": 0, "function": {}}]}}
            ]
        },
        {"type": "response.completed", "response": {"output": [5, {"type": 5}], "usage": 5}},
        {"type": "response.output_text.done", "text": 5},
        {"databricks_output": 5, "usage": "x", "trace_id": {}},
    ],
)
def test_what_no_format_allows_is_passed_on_all_the_same(event: dict[str, Any]) -> None:
    stream = AgentStream(Recorded(frames(event, event)))
    assert list(stream) == [event, event]
    response = stream.get_final_response()
    assert isinstance(response.output_text, str)
    assert isinstance(response.tool_calls, list)
