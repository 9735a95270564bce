"""The benchmarks run. What they measure is for people to read: nothing here depends on times."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.scenarios import scenarios

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
