"""A text that grows, and messages that their deltas add up to."""

from __future__ import annotations

import sys
import threading

import pytest

from mlflow_agent_target.formats.pieces import GrowingText


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


def test_another_thread_sees_a_growing_text_as_it_was_at_some_time() -> None:
    text, expected = GrowingText(), "".join(f"{number:09}" for number in range(100_000))
    over, wrong = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            if not expected.startswith(seen := text.whole()):
                wrong.append(len(seen))

    threads = [threading.Thread(target=look) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for number in range(100_000):
            text.write(f"{number:09}")
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert text.whole() == expected
    assert not wrong
