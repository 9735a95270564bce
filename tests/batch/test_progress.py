"""How a batch is getting on, and who is told."""

from __future__ import annotations

import time

import pytest

from mlflow_agent_target import AgentTargetClient
from mlflow_agent_target.batch.progress import Progress, Tally, watching
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
