"""Run the benchmarks: `python -m tests.benchmarks [--small] [--only TEXT] [--json PATH]`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.clients import TOKEN
from tests.benchmarks.scenarios import Scenario, scenarios

_PATIENCE_SECONDS = 400.0
_LIBRARIES = ("mlflow", "openai", "requests", "urllib3", "pydantic-core", "databricks-sdk")
_LEFT_OUT = ("DATABRICKS_", "MLFLOW_", "AGENT_TARGET_", "OPENAI_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "CURL_CA")


class Process:
    """A process of this folder that answers lines with lines."""

    def __init__(self, module: str, *arguments: str, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )

    def ask(self, task: Any = None) -> Any:
        """Send a task, if one is given, and wait for the answer."""
        assert self._process.stdin
        assert self._process.stdout
        if task is not None:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE_SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self.stop()
            raise SystemExit(f"No answer to {task}.\n{self._log.read_text(encoding='utf-8')[-3000:]}")
        return json.loads(line)

    def stop(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Runner:
    """Runs scenarios against one server, each client in a process of its own."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._log = folder / "log.txt"
        certificate, key = _certificate(folder)
        outside = {k: v for k, v in os.environ.items() if not k.upper().startswith(_LEFT_OUT)}
        self._environment = {
            **outside,
            "REQUESTS_CA_BUNDLE": str(certificate),
            "SSL_CERT_FILE": str(certificate),
            "DATABRICKS_CONFIG_FILE": str(folder / "none"),
            "DATABRICKS_TOKEN": TOKEN,
            "PYTHONWARNINGS": "ignore",
        }
        server = self._start("server", str(certificate), str(key))
        self._ports = server.ask()
        self._processes: dict[str, Process] = {}
        self._ready: set[str] = set()

    def run(self, scenario: Scenario) -> dict[str, dict[str, float]]:
        """Return each client's numbers, medians over the rounds."""
        if scenario.measure != "start" and not scenario.new_process:
            self.start(scenario.clients)
            for client in scenario.clients:
                self._wait_for(client)
        rounds: dict[str, list[dict[str, float]]] = {client: [] for client in scenario.clients}
        for _ in range(scenario.rounds):
            for client in scenario.clients:
                rounds[client].append(self._measure(scenario, client))
        return {
            client: {key: statistics.median(numbers[key] for numbers in taken) for key in taken[0]}
            for client, taken in rounds.items()
        }

    def _measure(self, scenario: Scenario, client: str) -> dict[str, float]:
        scheme = "https" if scenario.tls else "http"
        base_url = f"{scheme}://localhost:{self._ports[scheme]}"
        if scenario.measure == "start":
            process = self._start("start", client, base_url, DATABRICKS_HOST=base_url)
            answer: dict[str, float] = process.ask()
            process.stop()
            return answer
        task = {
            "measure": scenario.measure,
            "arguments": scenario.arguments,
            "base_url": base_url,
            "control": f"127.0.0.1:{self._ports['http']}",
        }
        if scenario.new_process:
            process = self._start("worker", client)
            process.ask()
            answer = process.ask(task)
            process.stop()
            return answer
        return self._processes[client].ask(task)  # type: ignore[no-any-return]

    def start(self, clients: Iterable[str]) -> None:
        """Start the processes of clients that have none, all at once, and don't wait for them."""
        for client in clients:
            if client not in self._processes:
                self._processes[client] = self._start("worker", client)

    def _wait_for(self, client: str) -> None:
        if client not in self._ready:
            self._processes[client].ask()
            self._ready.add(client)

    def _start(self, module: str, *arguments: str, **variables: str) -> Process:
        process = Process(module, *arguments, environment={**self._environment, **variables}, log=self._log)
        self._stack.callback(process.stop)
        return process


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost that nobody else trusts."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def _table(scenario: Scenario, results: dict[str, dict[str, float]]) -> Iterator[str]:
    """Yield lines of Markdown: each number, and how many times the first client's it is."""
    first = results[scenario.clients[0]]
    keys = list(max(results.values(), key=len))
    yield f"\n### {scenario.name}\n"
    yield f"| client | {' | '.join(keys)} |"
    yield "|---" * (len(keys) + 1) + "|"
    for client, numbers in results.items():
        cells = [_cell(numbers.get(key), first.get(key)) for key in keys]
        yield f"| {client} | {' | '.join(cells)} |"


def _cell(value: float | None, reference: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g} ({value / reference:.2f})" if reference else f"{value:.4g}"


def _machine() -> dict[str, Any]:
    found: dict[str, Any] = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    for library in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[library] = importlib.metadata.version(library)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="a few calls of each, to see that all of it runs; its numbers say nothing"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only scenarios whose name has this in it")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers to this file")
    options = parser.parse_args()
    machine = _machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)  # noqa: T201
    report: dict[str, Any] = {"machine": machine, "scenarios": {}}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runner = Runner(Path(folder), stack)
        chosen = [scenario for scenario in scenarios(options.small) if options.only in scenario.name]
        if options.small:
            # Their imports take most of its time, and what they disturb is not for reading.
            runner.start(client for scenario in chosen if scenario.measure != "start" for client in scenario.clients)
        for scenario in chosen:
            results = report["scenarios"][scenario.name] = runner.run(scenario)
            print("\n".join(_table(scenario, results)), flush=True)  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
