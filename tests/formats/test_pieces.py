"""A text that grows, and messages that their deltas add up to."""

from __future__ import annotations

import itertools
import sys
from types import FrameType
from typing import Any

import pytest

from mlflow_agent_target.formats.pieces import GrowingText, finished, merge_delta, sum_usage


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [""],
        ["a", "", "b"],
        pytest.param(["ab"] * 1000, id="many"),
        pytest.param(["a" * 5000, "b", "c" * 100_000, "d"], id="long and short"),
        pytest.param([char * 5000 for char in "aé✓😀" * 20], id="characters of every size"),
    ],
)
def test_a_growing_text_is_its_pieces_one_after_another(pieces: list[str]) -> None:
    text, last = GrowingText("so "), GrowingText("so ")
    for count, piece in enumerate(pieces, 1):
        text.write(piece)
        last.write(piece)
        assert text.whole() == "so " + "".join(pieces[:count])
    assert last.whole() == last.whole() == "so " + "".join(pieces)


@pytest.mark.parametrize("every", [1, 2, 3, 5, 7, 11])
def test_who_asks_for_a_growing_text_while_it_is_joined_sees_it_once(every: int) -> None:
    text, expected, wrong = GrowingText(), "".join(f"{number:0500}" for number in range(2000)), []
    calls = itertools.count()

    def come_in_between(frame: FrameType, event: str, _: Any) -> None:
        # At calls, which is where CPython lets other threads and the handlers of signals come in.
        if frame.f_code.co_name in ("join", "_join_all") and next(calls) % every == 0:
            seen = text.whole()
            if not expected.startswith(seen):
                wrong.append((event, len(seen)))

    sys.setprofile(come_in_between)
    try:
        for number in range(2000):
            text.write(f"{number:0500}")
    finally:
        sys.setprofile(None)
    assert next(calls) > 20
    assert not wrong
    assert text.whole() == expected


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
