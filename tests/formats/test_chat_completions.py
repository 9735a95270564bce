"""The stream of a chat model."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target.streams.stream import AgentStream
from tests.formats.recorded import Recorded, choice, frames


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([choice(logprobs=3), choice(logprobs={"content": [1]})], id="log probabilities"),
        pytest.param([choice(message="x"), choice(delta={"content": "a"})], id="a message"),
        pytest.param([choice(delta={"content": "a", "k": {"tool_calls": ["x"]}})], id="tool calls"),
    ],
)
def test_what_is_of_another_form_than_it_should_be_fails_nothing(events: list[dict[str, Any]]) -> None:
    assert AgentStream(Recorded(frames(*events))).get_final_response()["choices"]


def test_of_several_choices_the_first_is_the_text_and_all_are_in_the_answer() -> None:
    events = [
        {"choices": [{"index": index, "delta": {"content": text}} for index, text in choices]}
        for choices in ([(1, "x")], [(0, "a"), (1, "y")], [(0, "b")])
    ]
    stream = AgentStream(Recorded(frames(*events)))
    assert list(stream.text_stream) == ["a", "b"]
    final = stream.get_final_response()
    assert [(c["index"], c["message"]["content"]) for c in final["choices"]] == [(0, "ab"), (1, "xy")]
    assert final.output_text == "ab"


def test_choices_that_are_numbered_from_1_have_their_text_at_the_end() -> None:
    events = [{"choices": [{"index": index, "delta": {"content": text}}]} for index, text in ((2, "x"), (1, "a"))]
    stream = AgentStream(Recorded(frames(*events)))
    assert list(stream) == events
    assert list(stream.text_stream) == ["a"]
    assert list(stream.text_stream) == []
    assert stream.get_final_response().output_text == "a"


@pytest.mark.parametrize("reason", ["", "null", "None", None])
def test_a_finish_reason_that_is_none_is_none(reason: str | None) -> None:
    events = [choice(delta={"content": "a"}, finish_reason=reason)]
    final = AgentStream(Recorded(frames(*events))).get_final_response()
    assert final["choices"][0]["finish_reason"] is None
    events = [choice(delta={}, finish_reason="stop"), choice(delta={}, finish_reason=reason)]
    assert AgentStream(Recorded(frames(*events))).get_final_response()["choices"][0]["finish_reason"] == "stop"
