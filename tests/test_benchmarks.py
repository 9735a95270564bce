"""The benchmarks run. What they measure is for people to read: nothing here depends on times."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.batch.cases import CASES
from tests.batch.simulated import Endpoint, around
from tests.benchmarks import batch_endpoints
from tests.benchmarks.batch_clients import OURS
from tests.benchmarks.batch_endpoints import IDEMPOTENT
from tests.benchmarks.endpoints import State
from tests.benchmarks.runs import CLIENTS, measured
from tests.benchmarks.scenarios import scenarios
from tests.durable_server import DurableServer

ROOT = Path(__file__).parent.parent


def test_the_small_benchmark_measures_every_client_in_every_scenario(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--small", "--json", str(report)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    measured = json.loads(report.read_text(encoding="utf-8"))["scenarios"]
    assert {name: tuple(clients) for name, clients in measured.items()} == {
        scenario.name: scenario.clients for scenario in scenarios(small=True)
    }
    for name, clients in measured.items():
        assert f"### {name}" in result.stdout
        for numbers in clients.values():
            first, *_ = numbers.values()
            assert first > 0
            assert all(math.isfinite(number) for number in numbers.values())


def test_the_small_benchmark_of_batches_measures_a_run_and_pools_at_an_endpoint(tmp_path: Path) -> None:
    report, name = tmp_path / "report.json", "each third row is a quick 400"
    command = [sys.executable, "-m", "tests.benchmarks.batch", "--small", "--only", name, "--json", str(report)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    measured = json.loads(report.read_text(encoding="utf-8"))
    assert list(measured) == [name]
    assert sorted(measured[name]) == ["pool of 192", "pool of 64", OURS]
    for numbers in measured[name].values():
        assert numbers["seconds"] > 0
        assert numbers["lost"] == numbers["refused"] == numbers["too soon"] == 0  # a 400 is an answer
    assert name in result.stdout


def test_the_small_benchmark_of_runs_measures_each_way_to_wait(durable: DurableServer) -> None:
    for found in measured(durable, small=True).values():
        assert list(found) == list(CLIENTS)
        for numbers in found.values():
            assert numbers["of its own time"] > 1
            assert numbers["requests"] >= 1


def took(of_ideal: float, lost: float = 0, too_soon: float = 0, name: str = "10 places") -> dict[str, float]:
    return {"seconds": of_ideal * CASES[name].ideal, "lost": lost, "refused": 0, "too soon": too_soon}


@pytest.mark.parametrize(
    ("name", "found", "faults"),
    [
        ("10 places", {OURS: took(1.14)}, []),
        ("10 places", {OURS: took(1.16)}, ["slow"]),
        ("10 places", {OURS: took(1.1), "pool of 10": took(0.9)}, ["slow"]),
        ("10 places", {OURS: took(1.1), "pool of 10": took(0.9, lost=1)}, []),
        ("10 places", {OURS: took(1.1), "pool of 10": took(1.0), "pool of 64": took(0.9)}, ["slow"]),
        ("10 places", {OURS: took(1.1, lost=1)}, ["lost"]),
        ("10 places", {OURS: took(1.1, lost=1), IDEMPOTENT: took(9)}, []),
        ("10 places", {OURS: took(1.1), IDEMPOTENT: took(9, lost=1)}, ["lost"]),
        ("10 places", {OURS: took(1.1, too_soon=1)}, ["too soon"]),
        ("10 places", {OURS: took(1.1), IDEMPOTENT: took(1.1, too_soon=1)}, ["too soon"]),
        ("10 places", {OURS: took(1.1), "pool of 64": took(1.1, too_soon=1)}, []),
        ("half are refused at random", {OURS: took(1.25, name="half are refused at random")}, []),
        ("half are refused at random", {OURS: took(1.35, name="half are refused at random")}, ["slow"]),
    ],
)
def test_what_is_not_as_promised_is_marked(name: str, found: dict[str, Any], faults: list[str]) -> None:
    assert batch_endpoints.faults(name, found) == faults
    line = batch_endpoints.line(name, found)
    assert line.startswith("!" if faults else " ")
    assert line.endswith(f"<- {', '.join(faults)}") == bool(faults)


class Refusals:
    """A connection that keeps what it was told."""

    def __init__(self) -> None:
        self.headers: list[str] = []

    def answer(self, status: int, value: Any, headers: str = "") -> None:
        self.headers.append(headers)


@pytest.mark.parametrize(
    ("times", "too_soon"),
    [
        ([0.0, 0.05], 0),  # on its way when the other was refused
        ([0.0, 0.2], 1),
        ([0.0, 4.9], 1),
        ([0.0, 5.1], 0),
        ([0.0, 0.05, 5.02], 1),  # the second one's pause ends later
        ([0.0, 5.1, 5.15, 9.9], 1),
    ],
)
def test_what_is_sent_within_a_pause_is_told_from_what_was_on_its_way(times: list[float], too_soon: int) -> None:
    now = [0.0]
    state = State(Endpoint(around(1.0), outage=(0.0, 60.0), retry_after=5.0), lambda: now[0])
    connection: Any = Refusals()
    for now[0] in times:
        state.ask(connection, 0)
    assert connection.headers == ["Retry-After: 5\r\n"] * len(times)
    assert state.counts["too_soon"] == too_soon
