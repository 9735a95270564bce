"""An agent in a process of its own that is quick, counts what it was asked, and behaves as the endpoint's name says.

Names: `instant`; `after-MS`, a fixed time; `lognormal-MS`, times around it, by the number in the question;
`bucket-RATE-BURST-HEADER`, 429 from a token bucket, with `Retry-After` none, exact or whole (seconds).
`GET /counts` says what was asked: `{"asked": {question: times}, "answered": {question: times}, "statuses": {...}}`.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIGMA = 0.5


def lognormal_seconds(milliseconds: float, number: int) -> float:
    """The time that the question of this number takes."""
    return milliseconds / 1000 * math.exp(SIGMA * random.Random(number).gauss(0, 1))


class Bucket:
    """A token bucket, full at its first use."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._level, self._clock = rate, burst, burst, clock
        self._at: float | None = None

    def take(self) -> float:
        """Take a token, and return 0; or the seconds until there is one."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - (now if self._at is None else self._at)) * self._rate)
        self._at = now
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0


class State:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.buckets: dict[str, Bucket] = {}
        self.in_flight = self.most_in_flight = 0
        self.times: list[float] = []

    def counts(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "answered": self.answered,
            "statuses": self.statuses,
            "most_in_flight": self.most_in_flight,
            "times": self.times,
        }


class Connection(asyncio.Protocol):
    def __init__(self, state: State) -> None:
        self._state = state
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        found = re.search(rb"(?i)content-length: *(\d+)", head)
        length = int(found[1]) if found else 0
        if len(body) < length:
            return
        self._received = body[length:]
        method, path, _ = head.split(b" ", 2)
        self._asked(method.decode(), path.decode(), body[:length])

    def _asked(self, method: str, path: str, body: bytes) -> None:
        state = self._state
        if path == "/counts":
            return self._answer(200, state.counts())
        if path == "/reset":
            state.reset()
            return self._answer(200, {})
        if method == "GET":
            return self._answer(200, {"name": "any", "task": "agent/v1/responses"})
        asked = json.loads(body)
        name = asked.get("model") or path.split("/")[2]  # the OpenAI client names it in the body
        question = asked["input"][-1]["content"]
        state.asked[question] += 1
        state.times.append(time.time())
        kind, *rest = name.split("-")
        if kind == "bucket":
            rate, burst, header = rest
            wait = state.buckets.setdefault(name, Bucket(float(rate), float(burst))).take()
            if wait:
                state.statuses["429"] += 1
                said = {
                    "none": "",
                    "exact": f"Retry-After: {wait:.3f}\r\n",
                    "whole": f"Retry-After: {math.ceil(wait)}\r\n",
                }
                return self._answer(429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"}, said[header])
        seconds = 0.0
        if kind == "after":
            seconds = float(rest[0]) / 1000
        elif kind == "lognormal":
            seconds = lognormal_seconds(float(rest[0]), int(question.split()[-1]))
        if not seconds:
            return self._good(question)
        state.in_flight += 1
        state.most_in_flight = max(state.in_flight, state.most_in_flight)
        asyncio.get_running_loop().call_later(seconds, self._late, question)
        return None

    def _late(self, question: str) -> None:
        self._state.in_flight -= 1
        self._good(question)

    def _good(self, question: str) -> None:
        self._state.answered[question] += 1
        self._state.statuses["200"] += 1
        content = [{"type": "output_text", "text": f"answer to {question}", "annotations": []}]
        item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}
        usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
        self._answer(200, {"object": "response", "id": "r1", "output": [item], "usage": usage})

    def _answer(self, status: int, value: Any, headers: str = "") -> None:
        raw = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n{headers}\r\n"
        self._transport.write(head.encode() + raw)


async def _serve(port: int, certificate: str | None = None, key: str | None = None) -> None:
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    state = State()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, ssl=context, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    # Gone with the process that started it.
    await loop.run_in_executor(None, sys.stdin.read)


class CountingServer:
    """The server, started and stopped."""

    def __init__(self, *certificate_and_key: str, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.counting_server", str(port), *certificate_and_key],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())
        self.url = f"http{'s' if certificate_and_key else ''}://127.0.0.1:{self.port}"
        self.target_uri = f"agent-target:{self.url}"

    def get(self, path: str) -> dict[str, Any]:
        import requests

        answer: dict[str, Any] = requests.get(self.url + path, timeout=30).json()
        return answer

    def counts(self) -> dict[str, Any]:
        return self.get("/counts")

    def reset(self) -> None:
        self.get("/reset")

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout
        self._process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), *sys.argv[2:]))
    os._exit(0)
