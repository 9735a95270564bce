"""How a batch is getting on, and who is told."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from mlflow_agent_target import AgentTargetClient
from mlflow_agent_target.batch.progress import LogLines, Progress, Tally, watching
from mlflow_agent_target.batch.records import FAILED, OK, Claim, Outcome
from tests.counting_server import CountingServer

CLAIM = Claim(0, b"", "null")


def test_what_a_batch_comes_to_is_counted() -> None:
    tally = Tally()
    tally.earlier = 10
    tally.ended(Outcome(*CLAIM, OK, seconds=0.5, input_tokens=3, output_tokens=4))
    tally.ended(Outcome(*CLAIM, OK, seconds=0.25, input_tokens=30, output_tokens=40))
    tally.ended(Outcome(*CLAIM, FAILED))
    progress = tally.progress(20, 5, 8, None)
    assert (progress.done, progress.failed, progress.earlier, progress.total) == (13, 1, 10, 20)
    assert (progress.in_flight, progress.concurrency) == (5, 8)
    assert (progress.input_tokens, progress.output_tokens, progress.latencies) == (33, 44, [0.5, 0.25])
    assert progress.rows_per_second == pytest.approx(3 / progress.seconds)


def test_no_time_is_no_rate() -> None:
    progress = Progress(3, 0, 1, None, 0, 1, 0.0, None, 0, 0, [])
    assert progress.rows_per_second == 0.0


def of(**given: Any) -> Progress:
    plain: dict[str, Any] = {
        **{"done": 50, "failed": 0, "earlier": 0, "total": 200, "in_flight": 3, "concurrency": 8, "seconds": 10.0},
        **{"waiting": None, "input_tokens": None, "output_tokens": None, "latencies": [0.5] * 1000},
        "expected": 200,
    }
    return Progress(**{**plain, **given})


SAID: dict[str, tuple[dict[str, Any], str]] = {
    "a batch": ({}, "50 of 200 rows, 5.0 a second, 0:30 to go, 3 of 8 in flight"),
    "one that goes on": (
        {"earlier": 30},
        "50 of 200 rows, 30 of earlier runs, 2.0 a second, 1:15 to go, 3 of 8 in flight",
    ),
    "one of hours": ({"seconds": 2400.0}, "50 of 200 rows, 1.2 a minute, 2:00:00 to go, 3 of 8 in flight"),
    "one a second": ({"seconds": 50.0}, "50 of 200 rows, 1.0 a second, 2:30 to go, 3 of 8 in flight"),
    "one at its end": ({"done": 200, "in_flight": 0}, "200 of 200 rows, 20.0 a second, 0 of 8 in flight"),
    "one of unknown length": ({"total": None, "expected": None}, "50 rows, 5.0 a second, 3 of 8 in flight"),
    "a file": ({"total": None}, "50 rows, 5.0 a second, 0:30 to go, 3 of 8 in flight"),
    "a file that was thought shorter": ({"total": None, "expected": 40}, "50 rows, 5.0 a second, 3 of 8 in flight"),
    "a start": ({"done": 0}, "0 of 200 rows, 0.0 a minute, 3 of 8 in flight"),
    "a start that goes on": (
        {"earlier": 50},
        "50 of 200 rows, 50 of earlier runs, 0.0 a minute, 3 of 8 in flight",
    ),
    "failures": (
        {"failed": 5, "errors": {"AgentError": 1, "RateLimitError": 4}},
        "50 of 200 rows, 5.0 a second, 0:30 to go, 5 failed (4 RateLimitError, 1 AgentError), 3 of 8 in flight",
    ),
    "tokens and their cost": (
        {"input_tokens": 30, "output_tokens": 12, "cost": 0.123456},
        "50 of 200 rows, 5.0 a second, 0:30 to go, 3 of 8 in flight, 42 tokens, cost 0.1235",
    ),
    "a pause": (
        {"waiting": "the endpoint's rate limit (429)"},
        "50 of 200 rows, 5.0 a second, 0:30 to go, 3 of 8 in flight, waiting: the endpoint's rate limit (429)",
    ),
}


@pytest.mark.parametrize(("given", "said"), SAID.values(), ids=SAID)
def test_it_is_said_in_a_line(given: dict[str, Any], said: str) -> None:
    progress = of(**given)
    assert str(progress) == said
    assert progress.eta is None or progress.eta >= 0
    assert len(repr(progress)) < 500


@pytest.mark.parametrize(
    ("size", "read", "is_all_read", "share", "known"),
    [
        (200, 10, False, None, (200, 200)),
        (None, 10, False, None, (None, None)),
        (None, 100, False, 0.5, (None, 200)),
        (None, 0, False, 0.0, (None, None)),
        (None, 10, False, 1.0, (None, None)),  # compressed, and small
        (None, 200, True, 1.0, (200, 200)),
        (500, 200, True, None, (200, 200)),  # at most 500 were wanted
    ],
)
def test_how_many_rows_there_are_is_known_or_expected(
    size: int | None, read: int, is_all_read: bool, share: float | None, known: tuple[int | None, int | None]
) -> None:
    tally = Tally()
    tally.read, tally.is_all_read = read, is_all_read
    progress = tally.progress(size, 0, 1, None, share)
    assert (progress.total, progress.expected) == known


def test_nobody_waits_at_the_end() -> None:
    tally = Tally()
    assert tally.progress(1, 0, 1, "the endpoint's rate limit (429)").waiting == "the endpoint's rate limit (429)"
    tally.ended(Outcome(*CLAIM, OK))
    assert tally.progress(1, 0, 1, "the endpoint's rate limit (429)").waiting is None


def test_what_earlier_runs_did_makes_no_batch_look_quick(counting: CountingServer, tmp_path: Path) -> None:
    client, told = AgentTargetClient(counting.target_uri), []
    path = tmp_path / "q.jsonl"
    path.write_text("".join(f'"row {n:03}"\n' for n in range(700)), encoding="utf-8")
    first = [f"row {n:03}" for n in range(600)]
    client.predict_batch("after-100", first, concurrency=100, journal=tmp_path / "j.db")
    client.predict_batch("after-100", str(path), concurrency=10, journal=tmp_path / "j.db", progress=told.append)
    early = next(progress for progress in told if progress.done > progress.earlier)
    assert early.earlier == 600
    assert early.expected == pytest.approx(700, rel=0.05)
    assert early.eta == pytest.approx((early.expected - early.done) * early.seconds / (early.done - 600))
    assert (told[-1].done, told[-1].total, told[-1].eta) == (700, 700, 0.0)


def test_failures_tokens_and_cost_are_counted() -> None:
    tally = Tally((1.0, 2.0))
    nothing = tally.progress(None, 0, 1, None)
    assert (nothing.input_tokens, nothing.output_tokens, nothing.cost, nothing.errors) == (None, None, None, {})
    tally.ended(Outcome(*CLAIM, FAILED, error="AgentError"))
    tally.ended(Outcome(*CLAIM, OK, input_tokens=10, output_tokens=0, total_tokens=10))
    some = tally.progress(None, 0, 1, None)
    assert (some.input_tokens, some.output_tokens, some.cost, some.errors) == (10, 0, 1e-5, {"AgentError": 1})
    assert tally.spent() == (2, 1, 10)


def test_a_line_a_minute_is_logged_and_one_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mlflow_agent_target")
    lines = LogLines()
    for seconds in range(0, 200, 5):
        lines(of(seconds=float(seconds), done=seconds))
    assert [record.getMessage().split()[0] for record in caplog.records] == ["60", "120", "180"]
    lines.close()
    assert caplog.records[-1].getMessage().startswith("195 of 200")
    LogLines().close()


def test_only_the_latest_rows_are_kept_in_mind() -> None:
    tally = Tally()
    for number in range(1500):
        tally.ended(Outcome(*CLAIM, OK, seconds=float(number)))
    assert tally.progress(None, 0, 1, None).latencies == [float(number) for number in range(500, 1500)]


def test_observers_are_told_from_time_to_time_and_at_the_end() -> None:
    tally, told = Tally(), []
    with watching(lambda: tally.progress(1, 0, 1, None), [told.append]):
        time.sleep(0.4)
        tally.ended(Outcome(*CLAIM, OK))
    assert [progress.done for progress in told] == [0, 1]


def test_an_observer_that_fails_is_told_no_more(caplog: pytest.LogCaptureFixture) -> None:
    told = []

    def fails(_: Progress) -> None:
        told.append(None)
        raise ValueError("no")

    also: list[Progress] = []
    with watching(lambda: Tally().progress(1, 0, 1, None), [fails, also.append]):
        time.sleep(0.4)
    assert (len(told), len(also)) == (1, 2)
    assert "An observer of the batch failed" in caplog.text


def test_an_observer_that_fails_ends_nothing(counting: CountingServer) -> None:
    def fails(_: object) -> None:
        raise ValueError("no")

    assert len(AgentTargetClient(counting.target_uri).predict_batch("instant", ["row 0"] * 5, progress=fails)) == 5
