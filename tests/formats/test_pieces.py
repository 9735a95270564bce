"""Messages that their deltas add up to."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target.formats.pieces import finished, keep, merge_delta, rest, sum_usage

TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "u"}}
PLACED = [(0, "a"), (0, "b"), (1, "c")]


def thinking(text: str, **more: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, **more}


def summary(text: str, signature: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text, "signature": signature}]}


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


FIRST = {"index": 0, "id": "c", **call("f", '{"a": 1}')}
ANOTHER_CALL = [
    ("another function", [FIRST, {"index": 0, **call("g", "{}")}], ("g", "{}")),
    ("an empty id", [FIRST, {"index": 0, "id": "", **call("g", "{}")}], ("g", "{}")),
    ("no number either", [{k: FIRST[k] for k in ("id", "function")}, call("g", "{}")], ("g", "{}")),
    (
        "the same function",
        [FIRST, {"index": 0, **call("f", '{"b":')}, {"index": 0, **call("", "2}")}],
        ("f", '{"b":2}'),
    ),
]


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
            [{"content": [thinking("al")]}, {"content": [thinking("pha")]}, {"content": [thinking("", signature="S")]}],
            {"content": [thinking("alpha", signature="S")]},
            id="pieces of thinking, and its signature",
        ),
        pytest.param(
            [
                {"content": [thinking("a")]},
                {"content": [{"type": "thinking", "signature": "S"}]},
                {"content": [thinking("b", signature="T")]},
            ],
            {"content": [thinking("a", signature="S"), thinking("b", signature="T")]},
            id="a signature ends a block",
        ),
        pytest.param(
            [{"thinking_blocks": [thinking("", signature=signature)]} for signature in "ST"],
            {"thinking_blocks": [thinking("", signature="S"), thinking("", signature="T")]},
            id="signed blocks whose text is kept back",
        ),
        pytest.param(
            [{"content": [summary("a", "")]}, {"content": [summary("", "S")]}, {"content": [summary("b", "")]}],
            {"content": [summary("a", "S"), summary("b", "")]},
            id="signed summaries",
        ),
        pytest.param(
            [{"details": [{"type": "reasoning.text", "text": t, "index": i, "signature": None}]} for i, t in PLACED],
            {"details": [{"type": "reasoning.text", "text": t, "index": i} for i, t in [(0, "ab"), (1, "c")]]},
            id="numbered blocks",
        ),
        pytest.param(
            [{"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}}],
            {"function_call": {"name": "f", "arguments": "{}"}},
            id="the older function_call",
        ),
        pytest.param(
            [{"audio": {"id": "a", "transcript": "Hel"}}, {"audio": {"transcript": "lo", "expires_at": 1}}],
            {"audio": {"id": "a", "transcript": "Hello", "expires_at": 1}},
            id="audio",
        ),
        pytest.param([{"role": "x", "id": "1"}, {"role": "", "id": ""}], {"role": "x", "id": "1"}, id="blanks"),
        pytest.param([{"content": "a\ud83d"}, {"content": "\ude00b"}], {"content": "a😀b"}, id="half a character"),
        *(
            pytest.param(
                [{"tool_calls": [piece]} for piece in pieces],
                {"tool_calls": [{"id": "c", **call("f", '{"a": 1}')}, call(*other)]},
                id=f"another call without an id, {why}",
            )
            for why, pieces, other in ANOTHER_CALL
        ),
        pytest.param(
            [{"tool_calls": [{"index": 0, **({} if i else {"id": "c"}), **call("f", t)}]} for i, t in enumerate("{}")],
            {"tool_calls": [{"id": "c", **call("f", "{}")}]},
            id="the name with every piece",
        ),
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
        ({"a": 1.0}, {"a": 2}, {"a": 3}),
    ],
)
def test_usage_is_summed(known: Any, new: dict[str, Any], total: dict[str, Any]) -> None:
    assert sum_usage(known, new) == total


@pytest.mark.parametrize("blank", [{"id": ""}, {"model": ""}, {"usage": {}}, {"created": 0}, {"model": None}])
def test_a_chunk_that_says_nothing_of_the_answer_leaves_what_is_known(blank: dict[str, Any]) -> None:
    extras = {"id": "x", "model": "m", "usage": {"total_tokens": 1}, "created": 5}
    kept = dict(extras)
    keep(kept, blank, list(blank))
    assert kept == extras


@pytest.mark.parametrize(
    ("text", "said", "new"),
    [("abc", "a", "bc"), ("abc", "x", ""), ("a😀b", "a\ud83d", "😀b"), ("", "", ""), ("a", "", "a")],
)
def test_the_rest_of_a_text_is_what_was_not_said(text: str, said: str, new: str) -> None:
    assert rest(text, said) == new
