"""What comes of a batch: its rows, and what they come to."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mlflow_agent_target import BatchResult
from mlflow_agent_target.batch.journal import Journal
from mlflow_agent_target.batch.records import FAILED, IN_DOUBT, OK, Claim, Outcome


def outcome(position: int, state: str, **values: Any) -> Outcome:
    return Outcome(position, b"", json.dumps(f"id {position}"), None, 0, state, **values)


OUTCOMES = [
    outcome(0, OK, response='{"n": 0}', output_text="a", attempts=1, seconds=0.1, request_id="q0"),
    outcome(2, FAILED, error="AgentError", error_message="boom", attempts=2, seconds=0.4),
    outcome(3, OK, response="{}", attempts=1, seconds=0.2, input_tokens=3, output_tokens=4, total_tokens=7),
    outcome(4, IN_DOUBT),
    outcome(5, FAILED, error="InvalidInputError", error_message="nan", attempts=0, seconds=9.9),
    outcome(6, FAILED, error="AgentError", error_message="boom", attempts=1, seconds=0.3),
    outcome(7, OK, response="{}", attempts=1, seconds=0.5, input_tokens=10, output_tokens=20, total_tokens=30),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "j.db"
    journal = Journal(path, {})
    journal.write(OUTCOMES, [8], [Claim(1, b"", "null"), Claim(8, b"", "null")])
    journal.close()
    return path


def test_rows_that_have_ended_are_there_in_order(path: Path) -> None:
    result = BatchResult(path)
    assert [row.index for row in result] == [0, 2, 3, 4, 5, 6, 7]
    assert [(row.index, row.error) for row in result.failed] == [
        (2, "AgentError"),
        (5, "InvalidInputError"),
        (6, "AgentError"),
    ]
    assert (len(result), len(result.failed)) == (7, 3)
    assert [result[place].index for place in (0, 1, 6, -1, -7)] == [0, 2, 7, 7, 0]
    assert [row.index for row in result[1:4]] == [2, 3, 4]
    assert result.failed[-1].index == 6
    for place in (7, -8):
        with pytest.raises(IndexError, match=f"There is no row {place}: 7 have ended"):
            result[place]


def test_a_row_says_all_that_is_known(path: Path) -> None:
    first, failed, counted = BatchResult(path)[:3]
    assert (first.index, first.id, first.status, first.output_text, first.request_id) == (0, "id 0", "ok", "a", "q0")
    assert first.response == {"n": 0}
    assert first.response is not None
    assert first.response.request_id == "q0"
    assert (first.attempts, first.seconds, first.usage, first.error) == (1, 0.1, None, None)
    assert (failed.status, failed.response, failed.error, failed.error_message) == (
        "failed",
        None,
        "AgentError",
        "boom",
    )
    assert counted.usage == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


def test_the_numbers_of_the_summary(path: Path) -> None:
    assert BatchResult(path, seconds=2.0, sent=5).summary() == {
        "rows": 7,
        "ok": 3,
        "failed": 3,
        "in_doubt": 1,
        "attempts": 6,
        "seconds": 2.0,
        "rows_per_second": 2.5,
        "latency": {"p50": 0.3, "p90": 0.4, "p95": 0.4, "p99": 0.4, "max": 0.5},
        "tokens": {"input_tokens": 13, "output_tokens": 24, "total_tokens": 37},
        "errors": {"AgentError": 2, "InvalidInputError": 1},
    }
    failed = BatchResult(path).failed.summary()
    assert (failed["rows"], failed["errors"]) == (3, {"AgentError": 2, "InvalidInputError": 1})
    priced = BatchResult(path, price_per_million=(1.0, 10.0))
    assert priced.summary()["cost"] == pytest.approx((13 + 240) / 1e6)
    assert priced.failed.summary()["cost"] is None
    assert BatchResult(path).latencies() == [0.1, 0.4, 0.2, 0.3, 0.5]


def test_a_summary_of_nothing(tmp_path: Path) -> None:
    Journal(tmp_path / "j.db", {}).close()
    summary = BatchResult(tmp_path / "j.db").summary()
    assert (summary["rows"], summary["attempts"], summary["rows_per_second"]) == (0, 0, 0.0)
    assert (summary["latency"], summary["errors"], set(summary["tokens"].values())) == ({}, {}, {None})


@pytest.mark.parametrize("stopped", ["SIGTERM", None])
def test_it_says_in_short_what_came(stopped: str | None, path: Path) -> None:
    result = BatchResult(path, stopped=stopped)
    assert result.interrupted == (stopped is not None)
    more = ", interrupted" if stopped else ""
    assert repr(result) == f"<BatchResult: 3 ok, 1 in_doubt, 3 failed{more}>"
    assert repr(result.failed) == f"<BatchResult: 3 failed{more}>"


def test_one_with_a_journal_is_pickled_and_one_without_says_why_not(path: Path) -> None:
    result = pickle.loads(pickle.dumps(BatchResult(path, stopped="Ctrl-C").failed))
    assert ([row.index for row in result], result.stopped) == ([2, 5, 6], "Ctrl-C")
    with pytest.raises(pickle.PicklingError, match=r"temporary file.*journal="):
        pickle.dumps(BatchResult(path, is_temporary=True))


def test_a_copy_is_the_same(path: Path) -> None:
    """Even of one in a temporary file, which goes with the last who reads it."""
    result = BatchResult(path, is_temporary=True)
    shallow, deep = copy.copy(result), copy.deepcopy({"a": result})["a"]
    del result
    assert len(shallow) == len(deep) == 7


def test_times_that_are_none_are_left_out(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE rows SET seconds = 'long' WHERE position = 0")
        connection.commit()
    assert BatchResult(path).summary()["latency"]["max"] == 0.5
    assert BatchResult(path).latencies() == [0.4, 0.2, 0.3, 0.5]


def test_sums_that_64_bits_cannot_hold(path: Path) -> None:
    journal = Journal(path, {})
    journal.write([outcome(20 + n, OK, response="{}", total_tokens=2**63 - 1) for n in range(3)], [], [])
    journal.close()
    assert BatchResult(path).summary()["tokens"]["total_tokens"] == pytest.approx(3 * 2**63)


def test_rows_that_come_later_are_seen(path: Path) -> None:
    result = BatchResult(path)
    assert (len(result), result[-1].index) == (7, 7)
    journal = Journal(path, {})
    journal.write([outcome(9, OK, response="{}")], [], [])
    journal.close()
    assert result[-1].index == 9
    assert len(result) == 7 + 1 + 2  # two that were claimed are in doubt now


@pytest.mark.parametrize("is_temporary", [True, False])
def test_a_temporary_file_goes_with_the_last_who_reads_it(is_temporary: bool, path: Path) -> None:
    result = BatchResult(path, is_temporary=is_temporary)
    failed = result.failed
    del result
    assert len(failed) == 3
    del failed
    assert path.exists() != is_temporary


def test_the_summary(results: BatchResult) -> None:
    summary = results.summary()
    assert [summary[key] for key in ("rows", "ok", "failed", "in_doubt")] == [3, 2, 1, 0]
    assert summary["tokens"] == {"input_tokens": 6, "output_tokens": 8, "total_tokens": 14}
    assert summary["errors"] == {"InvalidInputError": 1}
    assert list(summary["latency"]) == ["p50", "p90", "p95", "p99", "max"]
    assert 0 < summary["latency"]["p50"] <= summary["latency"]["max"]
    assert summary["rows_per_second"] > 0
    json.dumps(summary)
