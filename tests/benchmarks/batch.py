"""Batches against thread pools: `python -m tests.benchmarks.batch [--only TEXT] [--ours] [--small] [--json PATH]`.

First come the endpoints of `tests/batch/cases.py`, as `batch_endpoints.py` says. Then, without `--only` and `--ours`,
other clients at quick ones. There each number is a ratio: of the wall time to the ideal schedule of the same work, or
of CPU to that of bare requests. Every measurement runs in a process of its own, against a server in another.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.batch_clients import OURS, POOLS, Task, measured
from tests.benchmarks.batch_endpoints import HEADER, at_endpoints
from tests.counting_server import CountingServer, lognormal_seconds

_RATE = 50
_BURST = 50


def ideal_seconds(rows: int, milliseconds: float, concurrency: int) -> float:
    """The time of a schedule that starts the next row at the moment at which one ends."""
    ends = [0.0] * concurrency
    for number in range(rows):
        heapq.heappush(ends, heapq.heappop(ends) + lognormal_seconds(milliseconds, number))
    return max(ends)


class Bench:
    """Runs measurements in processes of their own, against a server that is told from the others by its scheme."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        command = (
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
        )
        subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
        self._servers = {"http": CountingServer(), "https": CountingServer(str(certificate), str(key))}
        self._environment = {"REQUESTS_CA_BUNDLE": str(certificate), "SSL_CERT_FILE": str(certificate)}
        os.environ["REQUESTS_CA_BUNDLE"] = str(certificate)

    def run(
        self,
        client: str,
        endpoint: str,
        rows: int,
        concurrency: int = 64,
        *,
        scheme: str = "http",
        adaptive: bool = False,
        journal: bool = False,
    ) -> dict[str, float]:
        server = self._servers[scheme]
        server.reset()
        path = self._folder / f"{time.monotonic_ns()}.db"
        task = Task(
            client, server.url, endpoint, rows, None if adaptive else concurrency, str(path) if journal else None
        )
        numbers = measured(task, environment=self._environment)
        counts = server.counts()
        return {**numbers, "refused": counts["statuses"].get("429", 0)}

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()


def benchmarks(bench: Bench, small: bool) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    """Yield each comparison's name and, for each client, its numbers."""
    shapes = [(60, 50, 16)] if small else [(600, 200, 64), (1000, 500, 256)]
    for rows, milliseconds, concurrency in shapes:
        for scheme in ("http", "https") if concurrency <= 64 else ("http",):
            ideal = ideal_seconds(rows, milliseconds, concurrency)
            found = {}
            for client in (OURS, f"{OURS}, journal", *POOLS):
                name, _, journal = client.partition(", ")
                got = bench.run(
                    name, f"lognormal-{milliseconds}", rows, concurrency, scheme=scheme, journal=bool(journal)
                )
                found[client] = {"of ideal": got["seconds"] / ideal, "failed": got["failed"]}
            yield f"{rows} rows of about {milliseconds} ms, {concurrency} at a time, {scheme}", found
    rows = 100 if small else 600
    for header in ("none", "whole"):
        found = {}
        for client in (OURS, *POOLS):
            got = bench.run(client, f"bucket-{_RATE}-{_BURST}-{header}", rows, adaptive=True)
            found[client] = {
                "of ideal": got["seconds"] / (rows / _RATE),
                "429": got["refused"],
                "failed": got["failed"],
            }
        yield f"{rows} rows at {_RATE} a second, Retry-After {header}", found
    rows = 500 if small else 3000
    reference = bench.run("bare requests", "instant", rows, 16)["cpu"]
    found = {}
    for client in (OURS, f"{OURS}, journal", *POOLS):
        name, _, journal = client.partition(", ")
        got = bench.run(name, "instant", rows, 16, journal=bool(journal))
        found[client] = {"cpu of bare": got["cpu"] / reference, "ms a row": got["cpu"] / rows * 1000}
    yield f"CPU of {rows} rows, 16 at a time", found
    few, many = (100, 2000) if small else (1000, 100_000)
    found = {}
    for journal in (False, True):
        peaks = [bench.run(OURS, "instant", n, 16, journal=journal)["peak_mb"] for n in (few, many)]
        found[f"{OURS}, journal" if journal else OURS] = {"more MB": peaks[1] - peaks[0]}
    yield f"peak memory of {many} rows from a generator, beyond that of {few}", found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.batch", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few rows of each, to see that everything runs")
    parser.add_argument("--only", default="", metavar="TEXT", help="only endpoints with this in their name")
    parser.add_argument("--ours", action="store_true", help="only predict_batch, at the endpoints")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers to this file")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    print(HEADER, flush=True)  # noqa: T201
    for line, name, found in at_endpoints(options.only, ours_only=options.ours, small=options.small):
        report[name] = found
        print(line, flush=True)  # noqa: T201
    if not options.only and not options.ours:
        report.update(_compared(options.small))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _compared(small: bool) -> dict[str, Any]:
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        with contextlib.closing(contextlib.ExitStack()) as stack:
            stack.callback(bench.stop)
            for name, found in benchmarks(bench, small):
                report[name] = found
                print(f"\n{name}", flush=True)  # noqa: T201
                for client, numbers in found.items():
                    said = ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())
                    print(f"  {client:24} {said}", flush=True)  # noqa: T201
    return report


if __name__ == "__main__":
    main()
