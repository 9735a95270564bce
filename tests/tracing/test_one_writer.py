"""What threads write to a database of traces comes one at a time, together, and whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_agent_target.tracing import one_writer

CLIENT = SimpleNamespace(tracking_uri="sqlite:///traces.db")


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not is_so() and time.monotonic() < until:
        time.sleep(0.001)


class Store:
    """Notes what is written, and how many write at the same time."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.most = self.writing = 0
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.log_spans = one_writer._in_turn(self._log_spans, one_writer._write_spans)
        self.start_trace = one_writer._in_turn(self._start_trace, one_writer._write_alone)

    def _log_spans(self, _client: Any, location: str, spans: list[str]) -> list[str]:
        self._write(location, spans)
        return spans

    def _start_trace(self, _client: Any, trace: str) -> str:
        self._write("traces", [trace])
        return trace

    def _write(self, location: str, spans: list[str]) -> None:
        self.writing += 1
        self.most = max(self.most, self.writing)
        self.calls.append((location, spans))
        self.goes_on.wait(15)
        time.sleep(0.001)
        self.writing -= 1
        if "bad" in spans or (location == "one trace each" and len(spans) > 1):
            raise ValueError("bad")

    def in_threads(self, *writes: Any) -> list[Any]:
        """Write at the same time, all others while the first is at it."""
        self.goes_on.clear()
        with ThreadPoolExecutor(len(writes)) as threads:
            running = [threads.submit(writes[0])]
            wait_until(lambda: bool(self.calls))
            running += [threads.submit(write) for write in writes[1:]]
            wait_until(lambda: len(one_writer._waiting) >= len(writes))
            self.goes_on.set()
            return [each.exception(30) or each.result() for each in running]

    def spans(self, location: str, *spans: str) -> Any:
        return lambda: self.log_spans(CLIENT, location, list(spans))


def test_what_waits_is_written_together_and_places_are_told_apart() -> None:
    store = Store()
    writes = [store.spans("1", "a"), store.spans("1", "b"), store.spans("2", "c"), store.spans("1", "d", "e")]
    assert store.in_threads(*writes) == [["a"], ["b"], ["c"], ["d", "e"]]
    assert store.calls[0] == ("1", ["a"])
    assert sorted((place, sorted(spans)) for place, spans in store.calls[1:]) == [("1", ["b", "d", "e"]), ("2", ["c"])]
    assert (store.most, one_writer._waiting) == (1, [])


@pytest.mark.parametrize("place", ["1", "one trace each"])
def test_what_can_not_be_written_is_its_own_threads_error(place: str) -> None:
    """Older MLflow writes the spans of one trace at a time."""
    store = Store()
    first, bad, good = store.in_threads(store.spans(place, "a"), store.spans(place, "bad"), store.spans(place, "b"))
    assert (first, str(bad), good) == (["a"], "bad", ["b"])
    assert (place, ["b"]) in store.calls
    assert one_writer._waiting == []


def test_nothing_is_lost_or_written_twice() -> None:
    store = Store()
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda n: store.log_spans(CLIENT, str(n % 2), [str(n)]), range(300)))
        list(threads.map(lambda n: store.start_trace(CLIENT, str(n)), range(50)))
    assert store.most == 1
    written = [span for place, spans in store.calls if place != "traces" for span in spans]
    assert sorted(written) == sorted(map(str, range(300)))
    assert [place for place, _ in store.calls].count("traces") == 50


def test_other_stores_are_written_to_as_before() -> None:
    store = Store()
    client = SimpleNamespace(tracking_uri="http://127.0.0.1:5000")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: store.log_spans(client, "1", [str(n)]), range(40)))
    assert store.most > 1
    assert len(store.calls) == 40
