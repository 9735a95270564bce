"""What waiting for runs costs: `python -m tests.benchmarks.runs [--small] [--json PATH]`.

At a real DurableAgentServer that keeps its runs in its memory (package databricks-agentbricks), with agents that take a
known time: how many times that it takes until the answer is there, and how many requests a run needs. Beside `predict`
stands one request that waits for the answer, which is what the server's own docs show, and which no ingress lets take
minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from mlflow_agent_target import AgentTargetClient
from tests.durable_server import DurableServer

Ask = Callable[[DurableServer, dict[str, Any]], Any]
AGENTS = {0.05: 40, 0.5: 8, 10.0: 1}
"""How many runs of an agent that takes so many seconds are measured."""


def _waiting(server: DurableServer) -> Ask:
    session = requests.Session()

    def ask(server: DurableServer, given: dict[str, Any]) -> Any:
        request = {"id": str(uuid.uuid4()), "input": given}
        return session.post(f"{server.url}/api/invocations", json=request, timeout=60).json()["output"]

    return ask


def _predict(server: DurableServer) -> Ask:
    client = AgentTargetClient(server.target_uri)
    return lambda _, given: client.predict(inputs=given)["output"]


def _stream(server: DurableServer) -> Ask:
    client = AgentTargetClient(server.target_uri)
    return lambda _, given: client.predict_stream(inputs=given).get_final_response()["output"]


CLIENTS: dict[str, Callable[[DurableServer], Ask]] = {
    "predict": _predict,
    "predict_stream": _stream,
    "one request that waits": _waiting,
}


def measured(server: DurableServer, small: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """Return for each agent, and each way to wait for it: `of its own time`, and `requests` a run; medians."""
    report: dict[str, dict[str, dict[str, float]]] = {}
    for seconds, times in ({0.05: 3} if small else AGENTS).items():
        given = {"do": [["sleep", seconds], ["return", "done"]]}
        found = report[f"an agent of {seconds:g} s"] = {}
        for name, make in CLIENTS.items():
            ask = make(server)
            ask(server, {"do": [["return", "warm"]]})
            server.reset()
            took = []
            for _ in range(times):
                began = time.perf_counter()
                assert ask(server, given) == "done"
                took.append(time.perf_counter() - began)
            found[name] = {
                "of its own time": statistics.median(took) / seconds,
                "requests": server.requests().total() / times,
            }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.runs", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few runs, to see that all of it runs")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers to this file")
    options = parser.parse_args()
    with DurableServer() as server:
        report = measured(server, options.small)
    for agent, found in report.items():
        print(f"\n{agent}", flush=True)  # noqa: T201
        for client, numbers in found.items():
            said = ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())
            print(f"  {client:24} {said}", flush=True)  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
