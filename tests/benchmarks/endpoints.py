"""The endpoints of `tests/batch/cases.py` over a real socket: `python -m tests.benchmarks.endpoints NAME`."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from tests.batch.cases import CASES
from tests.batch.simulated import Endpoint

# A request may be on its way when a refusal asks to wait.
_ON_ITS_WAY_SECONDS = 0.1


class State:
    """What the endpoint is doing. Its clock starts with the first question."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float] = time.monotonic) -> None:
        self.endpoint, self._clock = endpoint, clock
        self.counts = {"refused": 0, "too_soon": 0, "answered": 0}
        self._later = list(endpoint.later)
        self._started: float | None = None
        self._working = 0
        self._waiting: list[tuple[Connection, int]] = []
        self._tokens, self._tokens_at = endpoint.burst, 0.0
        self._asked_to_wait_until = self._asked_to_wait_at = 0.0
        self._random = random.Random(1)

    def ask(self, connection: Connection, row: int) -> None:
        self._started = self._clock() if self._started is None else self._started
        now = self._clock() - self._started
        while self._later and self._later[0][0] <= now:
            self.endpoint = replace(self.endpoint, **self._later.pop(0)[1])
        endpoint = self.endpoint
        self.counts["too_soon"] += self._asked_to_wait_at + _ON_ITS_WAY_SECONDS < now < self._asked_to_wait_until
        if endpoint.outage[0] <= now < endpoint.outage[1]:
            self._refuse(connection, endpoint.outage_ends, now, 1.0)
        elif self._random.random() < endpoint.chance:
            self._refuse(connection, 429, now, 0.1)
        elif (wait := self._token(now)) > 0.0:
            self._refuse(connection, 429, now, wait)
        elif self._working < endpoint.places:
            self._work(connection, row)
        elif endpoint.when_full == "wait":
            self._waiting.append((connection, row))
        else:
            self._refuse(connection, endpoint.when_full, now, 0.5)

    def _token(self, now: float) -> float:
        rate, burst = self.endpoint.rate, self.endpoint.burst
        if rate == math.inf:
            return 0.0
        self._tokens = min(burst, self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / rate
        self._tokens -= 1.0
        return 0.0

    def _refuse(self, connection: Connection, how: int | str, now: float, wait: float) -> None:
        self.counts["refused"] += 1
        if isinstance(how, str):
            connection.transport.abort()
            return
        given = self.endpoint.retry_after
        seconds = {"exact": wait, "whole": float(math.ceil(wait))}.get(str(given), given)
        header = ""
        if isinstance(seconds, (int, float)) and how in (429, 503):
            if now >= self._asked_to_wait_until:
                self._asked_to_wait_at = now
            self._asked_to_wait_until = max(self._asked_to_wait_until, now + seconds)
            header = f"Retry-After: {seconds:.3f}\r\n" if given == "exact" else f"Retry-After: {seconds:.0f}\r\n"
        connection.answer(how, {"error_code": "ANY", "message": "not now"}, header)

    def _work(self, connection: Connection, row: int) -> None:
        self._working += 1
        now = self._clock() - (self._started or 0.0)
        seconds = self.endpoint.seconds(row, now, self._working)
        asyncio.get_running_loop().call_later(seconds, self._done, connection, row)

    def _done(self, connection: Connection, row: int) -> None:
        self._working -= 1
        if self._waiting:
            self._work(*self._waiting.pop(0))
        self.counts["answered"] += 1
        if self.endpoint.wrong_every and row % self.endpoint.wrong_every == 0:
            connection.answer(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "no such question"})
        else:
            connection.good(row)


class Connection(asyncio.Protocol):
    def __init__(self, state: State) -> None:
        self._state, self._received = state, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: *(\d+)", head)
        length = int(found[1]) if found else 0
        if not end or len(body) < length:
            return
        self._received = body[length:]
        if head.startswith(b"GET /counts"):
            self.answer(200, self._state.counts)
        elif head.startswith(b"GET"):
            self.answer(200, {"name": "any", "task": "agent/v1/responses"})
        elif b"/instant/" in head.partition(b"\r\n")[0]:  # what a client asks before it is measured
            self.good(0)
        else:
            self._state.ask(self, int(re.findall(rb"row (\d+)", body[:length])[-1]))

    def good(self, row: int) -> None:
        content = [{"type": "output_text", "text": f"answer to {row}", "annotations": []}]
        item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}
        self.answer(200, {"object": "response", "id": "r1", "output": [item]})

    def answer(self, status: int, value: Any, headers: str = "") -> None:
        raw = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n{headers}\r\n"
        self.transport.write(head.encode() + raw)


async def _serve(name: str) -> None:
    state = State(CASES[name].endpoint)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(state), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # gone with who started it


class Server:
    """One of the endpoints, in a process of its own."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.endpoints", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
        )
        assert self._process.stdout
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = requests.get(f"{self.url}/counts", timeout=30).json()
        return counts

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout
        self._process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
