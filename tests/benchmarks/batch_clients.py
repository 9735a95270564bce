"""The clients that batches are compared with: `python -m tests.benchmarks.batch_clients TASK` measures one."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

OURS = "predict_batch"
Ask = Callable[[str], Any]


class Task(NamedTuple):
    """What a process measures.

    Attributes:
        client: `predict_batch`, or whose calls a pool of threads makes.
        url: The server's.
        endpoint: Its endpoint.
        rows: How many questions.
        concurrency: The most at a time; None lets `predict_batch` find out.
        journal: The file of the journal, if there is one.
        bad: Rows that come first and can't be sent, to `predict_batch` alone.
        timeout: Seconds that a request may take.
        idempotent: Whether `predict_batch` may ask again what the agent may have answered, as pools do.
    """

    client: str
    url: str
    endpoint: str
    rows: int
    concurrency: int | None
    journal: str | None = None
    bad: int = 0
    timeout: float = 120.0
    idempotent: bool = False


def bare(task: Task) -> Ask:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    session = requests.Session()
    passing = [429, 502, 503, 504]
    retries = Retry(20, status_forcelist=passing, allowed_methods=None, backoff_factor=0.5, backoff_max=5)
    adapter = HTTPAdapter(pool_maxsize=task.concurrency or 1, max_retries=retries)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    url = f"{task.url}/serving-endpoints/{task.endpoint}/invocations"

    def ask(question: str) -> Any:
        body = {"input": [{"role": "user", "content": question}]}
        response = session.post(url, json=body, timeout=task.timeout)
        response.raise_for_status()
        return response.json()

    return ask


def mlflow_client(task: Task) -> Ask:
    from mlflow.deployments import get_deploy_client

    os.environ.update(DATABRICKS_HOST=task.url, DATABRICKS_TOKEN="any")
    client = get_deploy_client("databricks")
    return lambda question: client.predict(
        endpoint=task.endpoint, inputs={"input": [{"role": "user", "content": question}]}
    )


def openai_client(task: Task) -> Ask:
    import openai

    client = openai.OpenAI(base_url=f"{task.url}/serving-endpoints", api_key="any")

    def ask(question: str) -> Any:
        return client.responses.create(model=task.endpoint, input=[{"role": "user", "content": question}])

    return ask


POOLS = {"bare requests": bare, "mlflow": mlflow_client, "openai": openai_client}


def ours(task: Task) -> Callable[[], int]:
    from mlflow_agent_target import AgentTargetClient

    client = AgentTargetClient(f"agent-target:{task.url}")
    client = client.with_options(timeout=task.timeout, idempotent=task.idempotent or None)
    client.predict_batch("instant", ["row 0"])  # imports
    questions = (f"row {number}" for number in range(task.rows))

    def run() -> int:
        inputs = itertools.chain([None] * task.bad, questions)
        results = client.predict_batch(task.endpoint, inputs, concurrency=task.concurrency, journal=task.journal)
        return len(results.failed) - task.bad

    return run


def pool_of(task: Task) -> Callable[[], int]:
    make = POOLS[task.client]
    with contextlib.suppress(Exception):
        make(task._replace(endpoint="instant"))("row 0")  # imports
    ask = make(task)
    questions = (f"row {number}" for number in range(task.rows))

    def fails(question: str) -> bool:
        try:
            ask(question)
        except Exception:
            return True
        return False

    def run() -> int:
        with ThreadPoolExecutor(task.concurrency) as pool:
            return sum(pool.map(fails, questions))

    return run


def measure(task: Task) -> dict[str, float]:
    """Ask every row once, in this process."""
    run = (ours if task.client == OURS else pool_of)(task)
    started, cpu = time.monotonic(), time.process_time()
    failed = run()
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    peak = Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]
    return {"seconds": seconds, "cpu": cpu, "failed": failed, "peak_mb": int(peak) / 1024}


def measured(
    task: Task, most_seconds: float | None = None, environment: Mapping[str, str] = MappingProxyType({})
) -> dict[str, float]:
    """Measure in a process of its own, for so many seconds at most.

    Raises:
        subprocess.TimeoutExpired: It took longer.
        RuntimeError: It failed.
    """
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("DATABRICKS_", "MLFLOW_", "AGENT_TARGET_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.batch_clients", json.dumps(task._asdict())],
        check=False,
        capture_output=True,  # a bar in a terminal is not to be measured
        text=True,
        env={**outside, "PYTHONWARNINGS": "ignore", **environment},
        timeout=most_seconds,
    )
    if done.returncode:
        raise RuntimeError(f"{task}\n{done.stderr[-3000:]}")
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


def main(task: Mapping[str, Any]) -> None:
    print(json.dumps(measure(Task(**task))))  # noqa: T201


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
