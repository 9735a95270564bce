"""Messages that their deltas add up to."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target.formats.pieces import finished, merge_delta, sum_usage

TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "u"}}


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        pytest.param([{"content": "a"}, {"content": None}, {"content": "b"}], {"content": "ab"}, id="text"),
        pytest.param([{"role": "x", "id": "1"}, {"role": "x", "id": "1"}], {"role": "x", "id": "1"}, id="said once"),
        pytest.param([{"content": ""}, {"content": [IMAGE]}], {"content": [IMAGE]}, id="no text, then parts"),
        pytest.param(
            [{"content": "a"}, {"content": [TEXT]}],
            {"content": [{"type": "text", "text": "aa"}]},
            id="text, then parts",
        ),
        pytest.param(
            [{"content": [TEXT]}, {"content": [{**TEXT, "annotations": [1]}]}],
            {"content": [TEXT, {**TEXT, "annotations": [1]}]},
            id="a part that says more is another",
        ),
        pytest.param([{"content": ["a"]}, {"content": [""]}], {"content": ["a"]}, id="an empty part"),
        pytest.param(
            [
                {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]},
                {"tool_calls": [{"index": 0, "id": "", "function": {"name": "", "arguments": "}"}}]},
            ],
            {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            id="a call, and empty strings for what is known of it",
        ),
        pytest.param(
            [{"tool_calls": [{"id": "c", "type": "function"}]}, {"tool_calls": [{"function": {"arguments": "1"}}]}],
            {"tool_calls": [{"id": "c", "type": "function", "function": {"arguments": "1"}}]},
            id="a piece of the last call",
        ),
    ],
)
def test_deltas_add_up_to_a_message(deltas: list[dict[str, Any]], message: dict[str, Any]) -> None:
    made: dict[str, Any] = {}
    for delta in deltas:
        merge_delta(made, delta)
    assert finished(made) == message


@pytest.mark.parametrize(
    ("known", "new", "total"),
    [
        (None, {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 5}, {"a": 2, "c": 3}, {"a": 3, "b": 5, "c": 3}),
        ({"a": 1}, {"a": None}, {"a": 1}),
        ({"a": None}, {"a": 1}, {"a": 1}),
        ({"d": {"a": 1}}, {"d": {"a": 2}}, {"d": {"a": 3}}),
    ],
)
def test_usage_is_summed(known: Any, new: dict[str, Any], total: dict[str, Any]) -> None:
    assert sum_usage(known, new) == total
