"""When the next may go: requests a minute, and what refusals tell of the endpoint's token bucket."""

from __future__ import annotations

import math
import random

import pytest

from mlflow_agent_target.batch.rate import BucketMirror, PerMinute
from tests.counting_server import Bucket


@pytest.mark.parametrize("most", [1, 30, 600, 6000])
def test_requests_per_minute_are_kept_exactly(most: float) -> None:
    rate = PerMinute(most, 0.0)
    now, sent = 0.0, []
    randomly = random.Random(1)
    for _ in range(int(most) * 2 + 10):
        now += max(rate.delay(now), 0.0)
        now += randomly.random() * 0.002  # late, as threads are
        while (delay := rate.delay(now)) > 0.0:
            now += delay
        rate.sent(now)
        sent.append(now)
    assert all(late - early >= 60.0 - 1e-6 for early, late in zip(sent, sent[int(most) :], strict=False))
    assert sent[-1] < 60.0 * (len(sent) / most + 0.02)  # and not far below


SENT = {
    "nothing yet: at once": (60, [], 0.0, 0.0),
    "one: a second later": (60, [0.0], 0.0, 1.0),
    "half a second has passed of it": (60, [0.0], 0.5, 0.5),
    "a late one is caught up with": (60, [0.0, 1.5], 1.5, 0.5),
    "a pause is not": (60, [0.0, 300.0], 300.0, 0.0),
    "nor by the second after it": (60, [0.0, 300.0, 300.0], 300.0, 1.0),
    "a full minute, and what may be counted late": (2, [0.0, 30.0], 60.0, 0.1),
    "which has passed": (2, [0.0, 30.0], 60.2, -0.1),
    "a minute that is not full": (2.9, [0.0], 20.0, 60 / 2.9 - 20.0),
    "less than one a minute": (0.5, [0.0], 61.0, 59.0),
}


@pytest.mark.parametrize(("most", "sent", "now", "delay"), SENT.values(), ids=SENT)
def test_when_the_next_of_a_minute_may_go(most: float, sent: list[float], now: float, delay: float) -> None:
    rate = PerMinute(most, 0.0)
    for at in sent:
        rate.sent(at)
    assert rate.delay(now) == pytest.approx(delay, abs=1e-9)


def test_a_request_that_did_not_go_takes_nothing() -> None:
    rate = PerMinute(60, 0.0)
    for _ in range(3):
        rate.sent(0.0)
    assert rate.delay(0.0) == pytest.approx(3.0)
    rate.not_sent()
    rate.not_sent()
    assert rate.delay(0.0) == pytest.approx(1.0)
    full = PerMinute(2, 0.0)
    full.sent(0.0)
    full.sent(30.0)
    full.not_sent()
    assert full.delay(30.0) == pytest.approx(0.0)


class Endpoint:
    """A token bucket, or chance, asked by a mirror of it as fast as that allows."""

    def __init__(self, rate: float, burst: float, pause: float = 0.0, chance: float = 0.0) -> None:
        self.mirror = BucketMirror(0.0)
        self.now = 0.0
        self.passed: list[float] = []
        self.refused: list[float] = []
        self.learned: list[float] = []  # when there was something to learn
        self._bucket = Bucket(rate, burst, clock=lambda: self.now)
        self._pause, self._chance = pause, chance
        self._random = random.Random(2)

    def ask(self, until: float, interval: float = 0.001) -> Endpoint:
        """Ask until then, with so many seconds between requests at least."""
        while self.now < until:
            self.now += max(self.mirror.delay(self.now), interval)
            if self.now >= until:
                break
            self.mirror.sent(self.now)
            if self._bucket.take() or self._random.random() < self._chance:
                self.refused.append(self.now)
                held_until = self.now + self._pause
                if self.mirror.refused(self.now, self.now, held_until, 0.0):
                    self.learned.append(self.now)
                self.now = held_until
            else:
                self.passed.append(self.now)
        return self

    def passed_in(self, since: float, until: float) -> int:
        return sum(since <= at < until for at in self.passed)


@pytest.mark.parametrize("rate", [2.0, 20.0, 50.0, 200.0])
@pytest.mark.parametrize("burst", [1.0, 5.0, 20.0, 90.0])
def test_a_rate_is_found_whatever_the_bucket_holds(rate: float, burst: float) -> None:
    endpoint = Endpoint(rate, burst).ask(until=2 * 90 / rate + 10)
    since, until = endpoint.now, endpoint.now + 400 / rate
    endpoint.ask(until)
    assert endpoint.passed_in(since, until) > (0.8 if burst == 1.0 else 0.88) * 400
    assert sum(at >= since for at in endpoint.refused) < (80 if rate * burst < 10 * rate**2 else 350)


@pytest.mark.parametrize(
    ("rate", "burst", "part"), [(50.0, 10.0, 0.8), (50.0, 3.0, 0.35), (10.0, 2.0, 0.8), (3.0, 20.0, 0.8)]
)
def test_refusals_that_cost_a_pause_are_few(rate: float, burst: float, part: float) -> None:
    endpoint = Endpoint(rate, burst, pause=1.0).ask(until=60.0)
    assert len(endpoint.refused) <= 10
    assert endpoint.passed_in(10.0, 60.0) > part * 50 * rate


def test_there_is_no_limit_before_a_refusal() -> None:
    mirror = BucketMirror(0.0)
    for _ in range(1000):
        assert mirror.delay(0.0) == 0.0
        mirror.sent(0.0)
    assert mirror.rate(100.0) == math.inf


def refused_once(answers: float = 0.0, pause: float = 0.0) -> BucketMirror:
    mirror = BucketMirror(0.0)
    for _ in range(5):
        mirror.sent(0.0)
    assert mirror.refused(1.0, 0.0, 1.0 + pause, answers)
    return mirror


@pytest.mark.parametrize(
    ("answers", "pause", "rates"),
    [
        pytest.param(0.0, 0.0, {1.0: 1.0, 1.1: 2.0, 1.2: 4.0}, id="one a second is tried first, and ever more"),
        pytest.param(30.0, 0.0, {1.0: 30.0, 1.1: 60.0}, id="as many as are being answered, if there are more"),
        pytest.param(0.5, 0.0, {1.0: 1.0}, id="but no fewer"),
        pytest.param(0.0, 5.0, {1.0: 1.0, 6.0: 1.0, 6.1: 2.0}, id="nothing is tried in a pause"),
        pytest.param(0.0, 0.0, {1e9: 2.0**60}, id="no time is too long"),
    ],
)
def test_what_a_first_refusal_leads_to(answers: float, pause: float, rates: dict[float, float]) -> None:
    mirror = refused_once(answers, pause)
    assert [mirror.rate(now) for now in rates] == pytest.approx(list(rates.values()))


def test_tokens_are_counted_once_there_is_a_rate() -> None:
    mirror = refused_once(3.0)
    assert mirror.delay(1.0) == pytest.approx(1 / 3)
    mirror.sent(1.0)
    assert mirror.delay(1.0) == pytest.approx(2 / 3)
    assert mirror.delay(1.1) == pytest.approx((2.0 - 0.6) / 6)
    assert mirror.delay(2.0) == 0.0


def test_what_was_on_its_way_at_a_refusal_teaches_nothing() -> None:
    mirror = refused_once(10.0, pause=2.0)
    assert not any(mirror.refused(1.1, sent_at, 3.0, 10.0) for sent_at in (0.0, 1.0, 2.9))
    assert mirror.rate(3.0) == 10.0
    mirror.sent(3.0)
    assert mirror.refused(3.1, 3.0, 3.1, 10.0)


def test_what_is_no_rate_is_forgotten() -> None:
    mirror = refused_once()
    mirror.forget()
    assert mirror.delay(1.0) == 0.0
    mirror.begin(2.0, 40.0)
    assert mirror.rate(2.0) == 40.0


def test_a_request_that_did_not_pass_takes_no_token() -> None:
    """Ten a second pass; what is refused for another reason is not counted among them."""
    mirror = refused_once()
    now = 1.0
    while now < 6.0:
        now += 0.1
        mirror.sent(now)
        mirror.sent(now)
        mirror.not_passed(now)
    mirror.sent(now)
    mirror.refused(now, now, now, 0.0)
    assert mirror._fit(now).lowest_rate == pytest.approx(9.0, rel=0.2)
    mirror.not_passed(-1.0)  # of long ago: no longer remembered


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5])
def test_chance_is_no_rate(chance: float) -> None:
    endpoint = Endpoint(1e6, 1e6, chance=chance).ask(until=60.0)
    assert endpoint.mirror.rate(endpoint.now) > 300.0


def test_what_is_taken_for_chance_is_learned_anew_when_nearly_all_is_refused() -> None:
    endpoint = Endpoint(1e6, 1e6, chance=0.5).ask(until=30.0)
    assert endpoint.mirror.rate(endpoint.now) > 300.0
    endpoint._bucket, endpoint._chance = Bucket(20.0, 5.0, clock=lambda: endpoint.now), 0.0
    endpoint.ask(until=60.0)
    assert endpoint.passed_in(50.0, 60.0) > 160
    assert sum(at >= 50.0 for at in endpoint.refused) < 60


def test_a_rate_that_was_raised_is_found() -> None:
    endpoint = Endpoint(20.0, 5.0).ask(until=30.0)
    endpoint._bucket = Bucket(80.0, 5.0, clock=lambda: endpoint.now)
    endpoint.ask(until=130.0)
    assert endpoint.passed_in(120.0, 130.0) > 600


def test_one_that_was_lowered_is_found() -> None:
    endpoint = Endpoint(80.0, 5.0).ask(until=30.0)
    endpoint._bucket = Bucket(20.0, 5.0, clock=lambda: endpoint.now)
    endpoint.ask(until=60.0)
    assert endpoint.passed_in(50.0, 60.0) > 160
    assert sum(at >= 50.0 for at in endpoint.refused) < 60


def test_an_endpoint_that_refuses_everything_is_asked_ever_more_seldom() -> None:
    endpoint = Endpoint(1e-9, 0.0).ask(until=600.0)
    assert sum(at >= 300.0 for at in endpoint.refused) < 300
    assert sum(at >= 300.0 for at in endpoint.refused) > 5


def test_one_that_asks_for_a_pause_is_asked_after_it() -> None:
    """It says that one request may pass then."""
    endpoint = Endpoint(1e-9, 0.0, pause=2.0).ask(until=600.0)
    assert 50 < sum(at >= 300.0 for at in endpoint.refused) <= 150
