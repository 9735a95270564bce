"""The stream of a chat model."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target.formats.chat_completions import ChatCompletions
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
    answer = ChatCompletions()
    said = [
        answer.add({"choices": [{"index": index, "delta": {"content": text}} for index, text in choices]})
        for choices in ([(1, "x")], [(0, "a"), (1, "y")], [(0, "b")])
    ]
    assert said[1:] == ["a", "b"]
    choices = answer.answer()["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(0, "ab"), (1, "xy")]
    assert ChatCompletions.text(answer.answer()) == "ab"
