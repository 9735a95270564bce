"""A text that grows piece by piece."""

from __future__ import annotations

import itertools
import sys
from types import FrameType
from typing import Any

import pytest

from mlflow_agent_target.formats.growing_text import GrowingText


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
