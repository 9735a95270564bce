"""What the platform adds to streams: in the interface's shape, and where its clients look for it."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow.types.agent import ChatAgentChunk
from mlflow.types.llm import ChatCompletionChunk
from mlflow.types.responses import ResponsesAgentStreamEvent

from mlflow_agent_target.formats.chat_agent import ChatAgent
from mlflow_agent_target.formats.chat_completions import ChatCompletions
from mlflow_agent_target.formats.responses import ResponsesAgent
from mlflow_agent_target.server.frames import Frames

OUTPUT = {"databricks_request_id": "r", "trace": {"info": {}}}
ERROR = {"databricks_request_id": "r", "error": {"error_code": "BAD_REQUEST", "message": "broken"}}


def done(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": {"type": kind, "id": "i", **more}}


DELTA = {"type": "response.output_text.delta", "item_id": "i", "delta": "a"}
MESSAGE = done("message", role="assistant", content=[{"type": "output_text", "text": "a", "annotations": []}])
CALL = done("function_call", name="f", arguments="{}", call_id="c")
RESULT = done("function_call_output", call_id="c", output="1")
COMPLETED = {"type": "response.completed", "response": {"output": [MESSAGE["item"]]}}
CHUNK = {"id": "x", "delta": {"role": "assistant", "content": "a", "id": "m"}}
LAST_CHUNK = {**CHUNK, "finish_reason": "stop"}
CHOICE = {"id": "c", "created": 7, "model": "m", "choices": [{"index": 0, "delta": {"content": "a"}}]}
LAST_CHOICE = {**CHOICE, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
MODELS: dict[Any, Any] = {
    ResponsesAgent: ResponsesAgentStreamEvent.model_validate,
    ChatAgent: ChatAgentChunk.model_validate,
    ChatCompletions: ChatCompletionChunk.from_dict,
}


def sent(interface: Any, events: list[dict[str, Any]], output: dict[str, Any], holds: bool = True) -> list[Any]:
    """All that is sent, by when: what each event lets go, and what the end does."""
    frames = Frames(interface, "r", holds)
    return [*[list(frames.add(event)) for event in events], list(frames.end(output))]


@pytest.mark.parametrize(
    ("interface", "events", "at_once", "carrier"),
    [
        (ResponsesAgent, [DELTA, MESSAGE], [1, 0], 0),
        (ResponsesAgent, [MESSAGE, MESSAGE], [0, 1], 0),
        (ResponsesAgent, [MESSAGE, DELTA, MESSAGE], [0, 2, 0], 0),
        (ResponsesAgent, [CALL, RESULT], [1, 0], 0),
        (ResponsesAgent, [RESULT, MESSAGE, COMPLETED], [0, 1, 0], 0),
        (ResponsesAgent, [COMPLETED], [0], 0),
        (ResponsesAgent, [CALL], [1], 0),
        (ResponsesAgent, [MESSAGE, DELTA], [0, 2], 0),
        (ChatAgent, [CHUNK, LAST_CHUNK], [1, 0], 0),
        (ChatAgent, [CHUNK], [1], 0),
        (ChatAgent, [], [], 0),
        (ChatCompletions, [CHOICE, LAST_CHOICE], [1, 0], 0),
        (ChatCompletions, [CHOICE], [1], 0),
    ],
    ids=str,
)
def test_the_trace_comes_with_the_last_of_what_the_agent_says(
    interface: Any, events: list[Any], at_once: list[int], carrier: int
) -> None:
    *before, last = sent(interface, events, OUTPUT)
    assert [len(frames) for frames in before] == at_once
    flat = [frame for frames in [*before, last] for frame in frames]
    assert [event for event in flat if "databricks_output" in event] == [last[carrier]]
    assert last[carrier]["databricks_output"] == OUTPUT
    said = [{key: value for key, value in event.items() if key != "databricks_output"} for event in flat]
    assert said[: len(events)] == events
    for frame in flat:
        MODELS[interface](dict(frame))


@pytest.mark.parametrize(
    ("interface", "events"),
    [
        (ResponsesAgent, [DELTA]),
        (ResponsesAgent, [MESSAGE]),
        (ResponsesAgent, [MESSAGE, COMPLETED]),
        (ChatAgent, [CHUNK]),
        (ChatAgent, [LAST_CHUNK]),
        (ChatAgent, []),
        (ChatCompletions, [CHOICE]),
        (ChatCompletions, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("holds", [True, False])
def test_a_failure_has_a_frame_of_its_own_and_is_the_last(interface: Any, events: list[Any], holds: bool) -> None:
    frames = [frame for part in sent(interface, events, ERROR, holds) for frame in part]
    assert frames[:-1] == events
    assert frames[-1]["databricks_output"] == ERROR
    MODELS[interface](dict(frames[-1]))


@pytest.mark.parametrize("events", [[DELTA, MESSAGE, COMPLETED], [CALL, RESULT]])
def test_nothing_waits_where_no_trace_is_to_come(events: list[Any]) -> None:
    assert sent(ResponsesAgent, events, {}, holds=False) == [*[[event] for event in events], []]


@pytest.mark.parametrize(
    ("interface", "events", "names"),
    [
        (ChatAgent, [CHUNK], {"id": "r", "delta": {"role": "assistant", "content": "", "id": "m"}}),
        (ChatAgent, [], {"id": "r", "delta": {"role": "assistant", "content": "", "id": "r"}}),
        (ChatCompletions, [CHOICE], {"id": "c", "created": 7, "model": "m"}),
        (ChatCompletions, [], {"id": "r", "object": "chat.completion.chunk"}),
    ],
    ids=str,
)
def test_an_added_frame_belongs_to_the_last_message(interface: Any, events: list[Any], names: dict[str, Any]) -> None:
    (frame,) = sent(interface, events, OUTPUT)[-1]
    assert names.items() <= frame.items()
