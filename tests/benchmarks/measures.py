"""What is measured, within a client's own process. Times in microseconds unless a name says otherwise."""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.clients import Bare, Client, Limit

_WARM_UP = 3
Numbers = dict[str, float]


@dataclass(frozen=True)
class World:
    """A client, a way to make another like it, and the address (host:port) of the server's own routes."""

    client: Client
    another: Callable[[], Client]
    control: str

    def ask(self, path: str) -> Any:
        """Ask the server itself; such requests are not counted."""
        connection = http.client.HTTPConnection(self.control, timeout=60)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def predict(world: World, endpoint: str, count: int) -> Numbers:
    """CPU, time and traffic of a call."""
    return _per_call(world, lambda: world.client.predict(endpoint), count)


def stream(world: World, endpoint: str, count: int) -> Numbers:
    """CPU, time and traffic of a whole stream."""
    return _per_call(world, lambda: _read(world.client, endpoint), count)


def _per_call(world: World, call: Callable[[], Any], count: int) -> Numbers:
    for _ in range(_WARM_UP):
        call()
    before = world.ask("/traffic")
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(count):
        call()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    after = world.ask("/traffic")
    return {
        "cpu": cpu / count * 1e6,
        "time": wall / count * 1e6,
        **{key: (after[key] - before[key]) / count for key in ("requests", "connections")},
    }


def _read(client: Client, endpoint: str) -> int:
    return sum(1 for _ in client.stream(endpoint))


def decode(world: World, endpoint: str) -> Numbers:
    """CPU of an event of a stream that comes as fast as it is taken."""
    if isinstance(world.client, Limit):
        world.client.load(endpoint)
    else:
        _read(world.client, "events-20-event")
    cpu, wall = time.process_time(), time.perf_counter()
    count = _read(world.client, endpoint)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_event": cpu / count * 1e6, "time_event": wall / count * 1e6}


def lag(world: World, endpoint: str) -> Numbers:
    """Time from the server's sending of an event to its receipt."""
    lags = []
    for event in world.client.stream(endpoint):
        now = time.monotonic()
        lags.append((now - (event["sent"] if isinstance(event, dict) else event.sent)) * 1e6)
    lags.sort()
    return {"median": statistics.median(lags), "p99": lags[int(len(lags) * 0.99)]}


def memory_of_stream(world: World, endpoint: str) -> Numbers:
    """Time of a long stream, and by how much the process grows."""
    _read(world.client, "events-20-event")
    before = _reset_peak()
    started = time.perf_counter()
    _read(world.client, endpoint)
    return {"seconds": time.perf_counter() - started, "growth_mb": (_peak() - before) / 1e6}


def memory_of_answer(world: World, megabytes: int) -> Numbers:
    """Time of a large answer, and how many copies of its body the process holds at its peak."""
    world.client.predict("answer-100")
    before = _reset_peak()
    started = time.perf_counter()
    world.client.predict(f"answer-{megabytes}000000")
    return {"seconds": time.perf_counter() - started, "copies": (_peak() - before) / 1e6 / megabytes}


def _reset_peak() -> int:
    """Start to look for the process's peak anew and return what it has in memory now (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def threads(world: World, endpoint: str, workers: int, count: int) -> Numbers:
    """Calls a second of many threads: with one client, but for the bare one, of which each thread has its own."""
    shared = not isinstance(world.client, Bare)
    clients = [world.client if shared else world.another() for _ in range(workers)]
    barrier = threading.Barrier(workers + 1)

    def work(client: Client) -> None:
        client.predict(endpoint)
        barrier.wait()
        for _ in range(count):
            client.predict(endpoint)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, client) for client in clients]
        barrier.wait()
        started = time.perf_counter()
        for future in futures:
            future.result()
    return {"calls_per_second": workers * count / (time.perf_counter() - started)}


def streams_at_once(world: World, count: int, patience: float) -> Numbers:
    """How many of `count` streams of one client have an event in hand at the same time, and end whole after it."""
    alive, ended = threading.Semaphore(0), threading.Semaphore(0)

    def read() -> None:
        events = iter(world.client.stream("held"))
        next(events)
        alive.release()
        for _ in events:
            pass
        ended.release()

    for _ in range(count):
        threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + patience
    in_hand = _count(alive, count, deadline)
    world.ask("/release")
    whole = _count(ended, in_hand, time.monotonic() + patience)
    return {"alive": float(in_hand), "whole": float(whole)}


def _count(semaphore: threading.Semaphore, most: int, deadline: float) -> int:
    count = 0
    while count < most and semaphore.acquire(timeout=max(deadline - time.monotonic(), 0.001)):
        count += 1
    return count
