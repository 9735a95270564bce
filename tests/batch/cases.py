"""Endpoints that batches were seen to fail at, or to be slow at: for runs in no time, and for the benchmark."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.batch.simulated import Endpoint, around, schedule

half, whole = around(0.5), around(1.0)


def cached(number: int, now: float, load: int) -> float:
    return 0.002 if number % 2 else whole(number, now, load)


def by_length(number: int, now: float, load: int) -> float:
    return 0.1 + 3 * number / 1500


def quick_400(number: int, now: float, load: int) -> float:
    return half(number, now, load) if number % 3 else 0.003


def slow_50th(number: int, now: float, load: int) -> float:
    return half(number, now, load) if number % 50 else 6.0


def heavy_tail(number: int, now: float, load: int) -> float:
    return min(around(0.5, 1.2)(number, now, load), 8.0)  # a longer row would take as long as all the others


def slower(number: int, now: float, load: int) -> float:
    return half(number, now, load) * (4 if now > 5 else 1)


def loaded(number: int, now: float, load: int) -> float:
    return 0.3 * math.exp(0.3 * random.Random(number).gauss(0, 1)) * (1 + load / 40)


class Case(NamedTuple):
    """An endpoint, how good a run must be (times the ideal schedule's seconds), and the best size of a thread pool."""

    endpoint: Endpoint
    rows: int
    ideal: float
    of_ideal: float = 1.15
    refused: int = 0
    lost: int = 0
    run: Mapping[str, Any] = MappingProxyType({})
    pool: int = 192


def places(rows: int, count: int = 10, seconds: Any = half, most: int = 20, **more: Any) -> Case:
    ideal = schedule(seconds, rows, count)
    return Case(Endpoint(seconds, places=count, **more), rows, ideal, refused=most, pool=count)


def bucket(rate: float, burst: float, most: int, of_ideal: float = 1.1, **more: Any) -> Case:
    rows = max(int(12 * rate), 40)
    ideal = (rows - burst) / rate + 0.2
    return Case(
        Endpoint(around(0.2), rate=rate, burst=burst, **more), rows, ideal, of_ideal, most, pool=max(int(rate * 0.2), 1)
    )


def queue(count: int, timeout: float, rows: int = 160) -> Case:
    seconds = around(0.5, 0.2)
    ideal = schedule(seconds, rows, count)
    return Case(Endpoint(seconds, places=count, when_full="wait"), rows, ideal, run={"timeout": timeout}, pool=count)


def gone(ends: Any, seconds: float, of_ideal: float, lost: int = 0, refused: int = 0) -> Case:
    ideal = seconds + schedule(half, 3000)
    return Case(Endpoint(half, outage=(3.0, 3.0 + seconds), outage_ends=ends), 3000, ideal, of_ideal, refused, lost)


def come_and_go(seconds: Any, rows: int, *places: tuple[float, int]) -> float:
    """Return the seconds of a schedule where there are so many places from some moment on."""
    now, ends = 0.0, list[float]()
    for row in range(rows):
        while len(ends) >= [count for since, count in places if since <= now][-1]:
            now = min(ends[0], *(since for since, _ in places if since > now), math.inf)
            while ends and ends[0] <= now:
                heapq.heappop(ends)
        heapq.heappush(ends, now + seconds(row, now, 0))
    return max(ends)


SLOWER = schedule(half, 1780) + schedule(lambda *given: 4 * half(*given), range(1780, 3000))
COME_AND_GO = ((4.0, {"places": 8}), (10.0, {"places": 40}))
CASES: dict[str, Case] = {
    "no limit": Case(Endpoint(whole), 2000, schedule(whole, 2000)),
    # Before the first answer nothing tells rows that are worked on side by side from rows that wait for each other, and
    # would be lost. So ten are risked; who knows better says concurrency=150.
    "150 rows of 2 seconds": Case(Endpoint(lambda *_: 2.0), 150, 2.0, 2.3, pool=150),
    "half of the answers are cached": Case(Endpoint(cached), 3000, schedule(cached, 3000)),
    "rows are sorted by length": Case(Endpoint(by_length), 1500, schedule(by_length, 1500)),
    "each third row is a quick 400": Case(Endpoint(quick_400, wrong_every=3), 3000, schedule(quick_400, 3000)),
    "each 50th is slow": Case(Endpoint(slow_50th), 3000, schedule(slow_50th, 3000)),
    "a heavy tail": Case(Endpoint(heavy_tail), 3000, schedule(heavy_tail, 3000)),
    "slower from some moment on": Case(Endpoint(slower), 3000, SLOWER),
    "load makes it slow": Case(Endpoint(loaded), 1500, schedule(loaded, 1500)),
    "bad rows come first": Case(Endpoint(half), 1500, schedule(half, 1500), run={"bad": 40}),
    "10 places": places(250, most=25),
    "10 places, 503": places(250, most=25, when_full=503),
    "10 places, with a pause": places(250, retry_after=1.0),
    "10 places, 503, with a pause": places(250, when_full=503, retry_after=1.0),
    "10 places, with a pause that is a lie": places(400, retry_after=5.0)._replace(of_ideal=1.3),
    "10 places, slow": places(60, seconds=around(3.0)),
    "1 place": places(60, 1, around(0.2), 30),
    "1 place, 503": places(60, 1, around(0.2), 30, when_full=503),
    "40 places, then 8, then 40": Case(
        Endpoint(around(0.4, 0.3), places=40, later=COME_AND_GO),
        1200,
        come_and_go(around(0.4, 0.3), 1200, (0.0, 40), (4.0, 8), (10.0, 40)),
        refused=150,
        pool=40,
    ),
    "2 places, and a queue": queue(2, timeout=3.0),
    "4 places, and a queue": queue(4, timeout=3.0),
    "16 places, and a queue": queue(16, timeout=3.0, rows=600),
    "16 places, and a queue that has time": queue(16, timeout=120.0, rows=600),
    "50 a second, burst 50": bucket(50, 50, 100),
    "50 a second, burst 10": bucket(50, 10, 100),
    "50 a second, burst 5": bucket(50, 5, 80),
    "50 a second, burst 1": bucket(50, 1, 70, 1.3),
    "50 a second, burst 50, exact": bucket(50, 50, 100, retry_after="exact"),
    "50 a second, burst 1, exact": bucket(50, 1, 70, 1.35, retry_after="exact"),
    # A pause costs what flows into the bucket in a second, less what it holds: here 0.8 to 1 second of 12.
    "50 a second, burst 50, whole seconds": bucket(50, 50, 60, 1.15, retry_after="whole"),
    "50 a second, burst 10, whole seconds": bucket(50, 10, 15, 1.4, retry_after="whole"),
    "50 a second, burst 5, whole seconds": bucket(50, 5, 15, 1.65, retry_after="whole"),
    "50 a second, burst 1, whole seconds": bucket(50, 1, 20, 1.65, retry_after="whole"),
    "20 a second": bucket(20, 20, 50),
    "2 a second": bucket(2, 2, 40),
    "2 a second, whole seconds": bucket(2, 10, 25, 1.2, retry_after="whole"),
    "a cold start": Case(Endpoint(half, outage=(0.0, 5.0)), 600, 5 + schedule(half, 600), 1.2, refused=40),
    "3 seconds of 503": gone(503, 3.0, 1.15, refused=220),
    "8 seconds of 503": gone(503, 8.0, 1.15, refused=220),
    "3 seconds of 502": gone(502, 3.0, 1.15, lost=25),
    "3 seconds of resets": gone("reset", 3.0, 1.15, lost=25),
    "3 seconds of 500": gone(500, 3.0, 1.15, lost=40),
    "half are refused at random": Case(Endpoint(half, chance=0.5), 3000, schedule(half, 3000), 2.0, 3500),
    "a tenth is refused at random": Case(Endpoint(half, chance=0.1), 3000, schedule(half, 3000), 1.6, 500),
}
