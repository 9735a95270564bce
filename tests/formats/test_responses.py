"""A ResponsesAgent's stream: what is said is in the answer once, whichever events bring it."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target.formats.responses import ResponsesAgent
from mlflow_agent_target.streams.stream import AgentStream
from tests.formats.recorded import CALL, Recorded, choice, delta, done, frames, message


@pytest.mark.parametrize(
    ("events", "pieces"),
    [
        pytest.param([delta("a"), delta("b"), done(message("m", "ab"))], ["a", "b"], id="deltas, then the done item"),
        pytest.param([delta("a"), done(message("m", "ab"))], ["a", "b"], id="the done item knows more"),
        pytest.param([delta("a", "x"), done(message("y", "a"))], ["a"], id="the done item has another id"),
        pytest.param([delta("a"), done(message("m", "A"))], ["a"], id="the done item says it otherwise"),
        pytest.param(
            [delta("a"), {"type": "response.output_text.done", "item_id": "m", "text": "ab"}, done(message("m", "ab"))],
            ["a", "b"],
            id="the text is done before the item",
        ),
        pytest.param(
            [delta("a"), done(message("m", "a")), delta("b"), done(message("m", "b"))],
            ["a", "b"],
            id="two messages share a placeholder id",
        ),
        pytest.param(
            [delta("a"), {"type": "response.completed", "response": {"output": [message("m", "a")]}}],
            ["a"],
            id="only response.completed brings the item",
        ),
        pytest.param([delta("a")], ["a"], id="no done item ever comes"),
        pytest.param(
            [delta("a"), {"type": "response.output_text.done", "item_id": "m", "text": "ab"}, delta("c")],
            ["a", "b", "c"],
            id="a piece comes after the text was done",
        ),
        pytest.param([delta("a ", "x"), done(message("y", "a"))], ["a "], id="another id, and other spaces"),
        pytest.param(
            [done(CALL), {"type": "response.completed", "response": {"output": [CALL, message("m", "a")]}}],
            ["a"],
            id="response.completed brings what no done item has brought",
        ),
        pytest.param(
            [done(message("m", "a")), {"type": "response.completed", "response": {"output": [message("n", "a")]}}],
            ["a"],
            id="response.completed knows the item by another id",
        ),
        pytest.param(
            [delta("a"), {"type": "response.created"}, delta("b", "n"), done(message("n", "b"))],
            ["a", "b"],
            id="an inner response without its done item",
        ),
        pytest.param([{"type": "keepalive"}, delta("a")], ["a"], id="an event of no interface comes first"),
        pytest.param([choice(message={"content": "ab"})], ["ab"], id="a chat model that can't stream"),
        pytest.param(
            [choice(delta={"content": "a"}), choice(delta={"content": "b"}, message={"content": "abc"})],
            ["a", "bc"],
            id="the whole message beside its last piece",
        ),
    ],
)
def test_text_is_never_said_twice_and_never_lost(events: list[dict[str, Any]], pieces: list[str]) -> None:
    stream = AgentStream(Recorded(frames(*events)))
    assert list(stream.text_stream) == pieces
    final = stream.get_final_response().output_text
    assert final.lower().strip() == "".join(pieces).strip()


def part(kind: str, index: int, **text: str) -> dict[str, Any]:
    return {"type": f"response.output_text.{kind}", "item_id": "m", "content_index": index, **text}


def test_the_parts_of_a_message_are_kept_apart() -> None:
    events = [part("delta", 0, delta="One."), part("done", 0, text="One."), part("done", 1, text="Two.")]
    stream = AgentStream(Recorded(frames(*events)))
    assert list(stream.text_stream) == ["One.", "Two."]
    content = stream.get_final_response()["output"][0]["content"]
    assert [text["text"] for text in content] == ["One.", "Two."]
    both = {**message("m", ""), "content": [{"type": "output_text", "text": text} for text in ("One.", "Two.")]}
    stream = AgentStream(Recorded(frames(*events, done(both))))
    assert list(stream.text_stream) == ["One.", "Two."]
    assert stream.get_final_response()["output"] == [both]


def test_a_message_without_text_is_there_once() -> None:
    stream = AgentStream(Recorded(frames(delta(""), done(message("m", "")))))
    assert stream.get_final_response()["output"] == [message("m", "")]


def added(call_id: str) -> dict[str, Any]:
    item = {"type": "function_call", "id": "__fake_id__", "call_id": call_id, "name": "f"}
    return {"type": "response.output_item.added", "item": item}


def completed(*output: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"output": list(output)}}


OTHER_CALL = {**CALL, "call_id": "c2"}


@pytest.mark.parametrize(
    ("events", "output"),
    [
        pytest.param(
            [done(message("m", "a")), completed(message("x", "b"), message("m", "a"))],
            [message("x", "b"), message("m", "a")],
            id="an item is known by what it says before it is by its type",
        ),
        pytest.param(
            [done(CALL), completed({**OTHER_CALL, "id": "n"})],
            [CALL, {**OTHER_CALL, "id": "n"}],
            id="another call is another item",
        ),
        pytest.param(
            [delta("ab", "x"), done(message("y", "a"))], [message("y", "a")], id="the item says less than its pieces"
        ),
        pytest.param(
            [added("c1"), added("c2"), done(OTHER_CALL)],
            [{**added("c1")["item"], "arguments": ""}, OTHER_CALL],
            id="calls that share a placeholder id",
        ),
    ],
)
def test_each_item_is_there_once(events: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    answer = ResponsesAgent()
    for event in events:
        answer.add(event)
    assert answer.answer()["output"] == output


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([{**delta("a"), "id": "r"}], {"id": "r"}),
        ([delta("a"), {"model": "m", "usage": {"input_tokens": 1}}], {"model": "m", "usage": {"input_tokens": 1}}),
        ([{"type": "response.incomplete", "response": {"status": "incomplete"}}], {"status": "incomplete"}),
        ([], {"custom_outputs": {"a": 1}}),
    ],
)
def test_what_events_say_of_the_whole_answer_is_kept(events: list[dict[str, Any]], says: dict[str, Any]) -> None:
    answer = ResponsesAgent({"custom_outputs": {"a": 1}})
    for event in events:
        if answer.add_text(event) is None:
            answer.add(event)
    assert answer.answer().items() >= says.items()


REASON = {"reason": "max_output_tokens"}


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (["incomplete"], {"status": "incomplete", "incomplete_details": REASON}),
        (["incomplete", "completed"], {"status": None, "incomplete_details": None}),
        (["completed", "incomplete"], {"status": "incomplete", "incomplete_details": REASON}),
    ],
)
def test_the_last_inner_response_says_whether_the_answer_is_incomplete(kinds: list[str], says: dict[str, Any]) -> None:
    answer = ResponsesAgent()
    for kind in kinds:
        details = {"incomplete_details": REASON} if kind == "incomplete" else {}
        answer.add({"type": f"response.{kind}", "response": details})
    assert {key: answer.answer().get(key) for key in says} == says
