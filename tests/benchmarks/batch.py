"""Batches against thread pools over other clients: `python -m tests.benchmarks.batch [--only TEXT] [--ours] [--small]`.

Each number is a ratio: of the wall time to the ideal schedule of the same work, or of CPU to that of bare requests.
Every measurement runs in a process of its own, against a server in another. Then come the endpoints of
`tests/batch/cases.py`: the time against the ideal schedule, against a pool of the size that suits the endpoint best and
one of 64, both with urllib3's retries; rows that were lost; requests that were refused, or sent before they might be.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.batch.cases import CASES, Case
from tests.benchmarks.endpoints import Server
from tests.counting_server import CountingServer, lognormal_seconds

_TIMEOUT = float(os.environ.get("TIMEOUT", "120"))
_AT_A_TIME = 3
_RATE = 50
_BURST = 50
Ask = Callable[[str], Any]


def ideal_seconds(rows: int, milliseconds: float, concurrency: int) -> float:
    """The time of a schedule that starts the next row at the moment at which one ends."""
    ends = [0.0] * concurrency
    for number in range(rows):
        heapq.heappush(ends, heapq.heappop(ends) + lognormal_seconds(milliseconds, number))
    return max(ends)


def bare(url: str, endpoint: str, concurrency: int) -> Ask:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    session = requests.Session()
    retries = Retry(20, status_forcelist=[429, 503], allowed_methods=None, backoff_factor=0.5, backoff_max=5)
    adapter = HTTPAdapter(pool_maxsize=concurrency, max_retries=retries)
    session.mount("http://", adapter)
    session.mount("https://", adapter)

    def ask(question: str) -> Any:
        body = {"input": [{"role": "user", "content": question}]}
        response = session.post(f"{url}/serving-endpoints/{endpoint}/invocations", json=body, timeout=_TIMEOUT)
        response.raise_for_status()
        return response.json()

    return ask


def mlflow_client(url: str, endpoint: str, concurrency: int) -> Ask:
    from mlflow.deployments import get_deploy_client

    os.environ.update(DATABRICKS_HOST=url, DATABRICKS_TOKEN="any")
    client = get_deploy_client("databricks")
    return lambda question: client.predict(endpoint=endpoint, inputs={"input": [{"role": "user", "content": question}]})


def openai_client(url: str, endpoint: str, concurrency: int) -> Ask:
    import openai

    client = openai.OpenAI(base_url=f"{url}/serving-endpoints", api_key="any")

    def ask(question: str) -> Any:
        return client.responses.create(model=endpoint, input=[{"role": "user", "content": question}])

    return ask


POOLS = {"bare requests": bare, "mlflow": mlflow_client, "openai": openai_client}
OURS = "predict_batch"


def measure(task: dict[str, Any]) -> dict[str, float]:
    """Ask every row once, in this process."""
    url, endpoint, rows, concurrency = task["url"], task["endpoint"], task["rows"], task["concurrency"]
    questions = (f"row {number}" for number in range(rows))
    failed = 0
    if task["client"] == OURS:
        from mlflow_agent_target import AgentTargetClient

        client = AgentTargetClient(f"agent-target:{url}").with_options(timeout=_TIMEOUT)
        if task.get("warms_up", True):
            client.predict_batch("instant", ["row 0"])  # imports
        started, cpu = time.monotonic(), time.process_time()
        given = itertools.chain([None] * task.get("bad", 0), questions)
        results = client.predict_batch(
            endpoint, given, concurrency=None if task["adaptive"] else concurrency, journal=task["journal"]
        )
        failed = len(results.failed) - task.get("bad", 0)
    else:
        ask = POOLS[task["client"]](url, endpoint, concurrency)
        if task.get("warms_up", True):
            with contextlib.suppress(Exception):
                POOLS[task["client"]](url, "instant", 1)("row 0")
        started, cpu = time.monotonic(), time.process_time()

        def one(question: str) -> int:
            try:
                ask(question)
            except Exception:
                return 1
            return 0

        with ThreadPoolExecutor(concurrency) as pool:
            failed = sum(pool.map(one, questions))
    peak = Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]
    return {
        "seconds": time.monotonic() - started,
        "cpu": time.process_time() - cpu,
        "failed": failed,
        "peak_mb": int(peak) / 1024,
    }


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
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DATABRICKS_", "MLFLOW_", "AGENT_TARGET_"))},
            "REQUESTS_CA_BUNDLE": str(certificate),
            "SSL_CERT_FILE": str(certificate),
            "PYTHONWARNINGS": "ignore",
        }
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
        task = {
            "client": client,
            "endpoint": endpoint,
            "rows": rows,
            "concurrency": concurrency,
            "url": server.url,
            "adaptive": adaptive,
            "journal": str(path) if journal else None,
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.batch", "--measure", json.dumps(task)],
            check=True,
            capture_output=True,
            text=True,
            env=self._environment,
        )
        counts = server.counts()
        return {**json.loads(done.stdout), "refused": counts["statuses"].get("429", 0)}

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


def _measured(url: str, client: str, case: Case, rows: int | None, concurrency: int) -> dict[str, float]:
    """Measure one client at an endpoint of the cases, in a process of its own."""
    task = {
        **{"client": client, "endpoint": "any", "rows": rows or case.rows, "concurrency": concurrency, "url": url},
        **{"adaptive": True, "journal": None, "warms_up": False, "bad": case.run.get("bad", 0)},
    }
    done = subprocess.run(
        [sys.executable, "-c", _WARM, json.dumps(task)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TIMEOUT": str(case.run.get("timeout", 120.0)), "PYTHONWARNINGS": "ignore"},
    )
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


# What a client imports is not measured.
_WARM = """
import json, sys, requests, sqlite3, mlflow_agent_target.client, mlflow_agent_target.batch.run
from tests.benchmarks.batch import measure
print(json.dumps(measure(json.loads(sys.argv[1]))))
"""


def at_endpoint(name: str, *, ours_only: bool, rows: int | None = None) -> dict[str, dict[str, float]]:
    """Measure this package, and thread pools, at one of the cases."""
    case = CASES[name]
    found: dict[str, dict[str, float]] = {}
    for client, size in ((OURS, 1), ("pool", case.pool), ("pool", 64)):
        if ours_only and client != OURS:
            break
        server = Server(name)
        try:
            numbers = _measured(server.url, OURS if client == OURS else "bare requests", case, rows, size)
            counts = server.counts()
        finally:
            server.stop()
        found[client if client == OURS else f"pool of {size}"] = {
            "of ideal": numbers["seconds"] / case.ideal,
            **{"lost": numbers["failed"], "refused": counts["refused"], "too soon": counts["too_soon"]},
        }
    return found


def said_of(found: dict[str, dict[str, float]], name: str) -> str:
    """Return a line for a case, marked where this package is slower than it should be."""
    ours = found[OURS]["of ideal"]
    best = min(
        [1.0, *(numbers["of ideal"] for client, numbers in found.items() if client != OURS and not numbers["lost"])]
    )
    is_slow = ours > (1.3 if "random" in name or "lie" in name else 1.15) * best
    said = [
        f"{client} {numbers['of ideal']:.2f}, lost {numbers['lost']:.0f}, refused {numbers['refused']:.0f}, "
        f"too soon {numbers['too soon']:.0f}"
        for client, numbers in found.items()
    ]
    return f"{'!' if is_slow else ' '} {name:40} " + " | ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.batch", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few rows of each, to see that everything runs")
    parser.add_argument("--only", default="", metavar="TEXT", help="only endpoints with this in their name")
    parser.add_argument("--ours", action="store_true", help="only predict_batch, at the endpoints")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers to this file")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))  # noqa: T201
        return
    report: dict[str, Any] = {}
    names = [name for name in CASES if options.only in name][: 2 if options.small else None]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:  # they wait more than they compute
        rows = 20 if options.small else None
        at = {name: pool.submit(at_endpoint, name, ours_only=options.ours, rows=rows) for name in names}
        for name, found in at.items():
            report[name] = found.result()
            print(said_of(report[name], name), flush=True)  # noqa: T201
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
