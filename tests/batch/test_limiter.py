"""How many may be in flight, and when: whole runs against endpoints of many kinds, in no time at all."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable

import pytest

from mlflow_agent_target.batch.limiter import Limiter
from tests.counting_server import Bucket

Times = Callable[[random.Random], float]


class Endpoint:
    """Answers or refuses, with limits that are known here and not to the limiter."""

    def __init__(self, rate: float = math.inf, burst: float = math.inf, slots: float = math.inf) -> None:
        self.now = 0.0
        self.bucket = Bucket(rate, burst, clock=lambda: self.now) if rate < math.inf else None
        self.slots = slots
        self.in_flight = self.most_in_flight = 0

    def refuses(self) -> bool:
        if self.in_flight >= self.slots or (self.bucket and self.bucket.take()):
            return True
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        return False


def run(rows: int, endpoint: Endpoint, times: Times, limiter: Limiter, retry_after: float | None = None) -> list[float]:
    """Run a batch, and return the times of its refusals; `endpoint.now` is then how long it took."""
    randomly, number = random.Random(1), itertools.count()
    in_flight: list[tuple[float, int, float, bool]] = []
    refusals: list[float] = []
    left = rows
    now = 0.0
    while left or in_flight:
        while left and limiter.delay(now) == 0.0:
            limiter.sent(now)
            left -= 1
            endpoint.now = now
            refused = endpoint.refuses()
            takes = 0.001 if refused else times(randomly)
            heapq.heappush(in_flight, (now + takes, next(number), now, refused))
        due = now + limiter.delay(now) if left else math.inf
        if in_flight and in_flight[0][0] <= due:
            now, _, sent_at, refused = heapq.heappop(in_flight)
            if refused:
                left += 1
                refusals.append(now)
                limiter.rate_limited(now, sent_at, retry_after)
            else:
                endpoint.in_flight -= 1
                limiter.answered(now, sent_at)
        else:
            now = due + 0.0002
    endpoint.now = now
    return refusals


def around(seconds: float) -> Times:
    return lambda randomly: seconds * math.exp(0.5 * randomly.gauss(0, 1))


@pytest.mark.parametrize("burst", [10, 25, 50, 100])
@pytest.mark.parametrize("seconds", [0.005, 0.05, 0.2])
@pytest.mark.parametrize("retry_after", [None, 0.02])
def test_a_rate_is_learned_from_few_refusals(burst: float, seconds: float, retry_after: float | None) -> None:
    endpoint = Endpoint(rate=50, burst=burst)
    refusals = run(600, endpoint, around(seconds), Limiter(192, 0.0), retry_after)
    assert endpoint.now <= 1.05 * 12
    assert len(refusals) <= 30


@pytest.mark.parametrize("burst", [5, 10, 25, 50])
def test_pauses_in_which_a_small_bucket_runs_over_are_few(burst: float) -> None:
    """Servers that give whole seconds make every refusal cost one."""
    endpoint = Endpoint(rate=50, burst=burst)
    refusals = run(600, endpoint, around(0.05), Limiter(192, 0.0), 1.0)
    assert endpoint.now <= 2.5 * 12
    assert len(refusals) <= 60


def test_a_rate_that_was_raised_is_found() -> None:
    endpoint = Endpoint(rate=20, burst=10)
    limiter = Limiter(192, 0.0)
    run(200, endpoint, around(0.05), limiter)
    assert limiter._bucket.rate(endpoint.now) == pytest.approx(20, rel=0.3)
    assert limiter._bucket.rate(endpoint.now + 180) > 80


def test_the_number_in_flight_grows_while_answers_come_well() -> None:
    endpoint = Endpoint()
    run(2000, endpoint, around(1.0), Limiter(192, 0.0))
    assert endpoint.most_in_flight == 192
    assert endpoint.now < 20  # 2,000 of 1.13 s each, 192 at a time, take 12 s


def test_an_endpoint_with_few_places_is_not_overrun() -> None:
    endpoint = Endpoint(slots=10)
    refusals = run(600, endpoint, around(0.5), Limiter(192, 0.0))
    assert len(refusals) < 100
    assert endpoint.now < 1.35 * 600 * 0.5 * math.exp(0.125) / 10


def test_a_ceiling_is_kept_and_used_at_once() -> None:
    endpoint = Endpoint()
    run(300, endpoint, around(0.1), Limiter(7, 0.0, start=7))
    assert endpoint.most_in_flight == 7


def test_answers_that_become_slow_mean_fewer_in_flight() -> None:
    """An endpoint that works on 20 at a time, and lets the others wait: what each waits is what is before it."""
    limiter = Limiter(192, 0.0)
    now, free = 0.0, [0.0] * 20
    in_flight: list[tuple[float, float]] = []
    for _ in range(3000):
        while limiter.delay(now) == 0.0:
            limiter.sent(now)
            ends = max(heapq.heappop(free), now) + 0.2
            heapq.heappush(free, ends)
            heapq.heappush(in_flight, (ends, now))
        now, sent_at = heapq.heappop(in_flight)
        limiter.answered(now, sent_at)
    assert 20 <= limiter.concurrency < 100


def test_a_retry_after_holds_back_everyone() -> None:
    limiter = Limiter(64, 0.0, start=64)
    for _ in range(3):
        limiter.sent(0.0)
    limiter.rate_limited(1.0, 0.0, 7.5)
    assert limiter.delay(1.0) >= 7.5
    limiter.answered(2.0, 0.0)  # an answer to another one doesn't shorten it
    assert limiter.delay(2.0) >= 6.5
    limiter.unavailable(3.0, 0.0, 0.5)
    assert limiter.delay(3.0) >= 5.5


@pytest.mark.parametrize("retry_after", [None, 0.0])
def test_an_endpoint_that_is_gone_is_asked_by_one_at_a_time_and_ever_more_seldom(retry_after: float | None) -> None:
    limiter = Limiter(64, 0.0, start=64)
    now, waits = 0.0, []
    for _ in range(10):
        limiter.sent(now)
        limiter.unavailable(now, now, retry_after)
        waits.append(limiter.delay(now))
        now += waits[-1] + 0.001
    assert waits[:4] == [0.25, 0.5, 1.0, 2.0]
    assert waits[-1] == pytest.approx(5.0)
    assert limiter.concurrency == 1
    limiter.sent(now)
    limiter.answered(now + 0.1, now)
    assert limiter.delay(now + 0.1) == 0.0


def test_requests_per_minute_are_kept_beside_all_else() -> None:
    limiter = Limiter(10, 0.0, requests_per_minute=60)
    limiter.sent(0.0)
    assert limiter.delay(0.0) == pytest.approx(1.0)
    limiter.answered(0.5, 0.0)
    assert limiter.delay(0.5) == pytest.approx(0.5)
    limiter.sent(300.0)
    limiter.answered(300.0, 300.0)
    assert limiter.delay(300.0) <= 1.0


def test_a_first_request_that_is_refused_is_soon_followed_by_another() -> None:
    limiter = Limiter(8, 0.0)
    limiter.sent(0.0)
    limiter.rate_limited(0.01, 0.0, None)
    assert limiter.delay(0.01) <= 1.0
