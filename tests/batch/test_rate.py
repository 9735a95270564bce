"""When the next may go: requests a minute, and what refusals tell of the endpoint's token bucket."""

from __future__ import annotations

import math
import random

import pytest

from mlflow_agent_target.batch.rate import BucketMirror, PerMinute


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


class Story:
    """A bucket, and what is sent and refused at one time after the other."""

    def __init__(self) -> None:
        self.bucket = BucketMirror(0.0)

    def at(self, now: float, passed: int, pause: float = 0.0) -> Story:
        """So many pass, then one more is refused, and nothing is sent for so long."""
        for _ in range(passed + 1):
            self.bucket.sent(now)
        assert self.bucket.refused(now, now, now + pause)
        return self

    def rate(self, *times: float) -> list[float]:
        return [self.bucket.rate(now) for now in times]


RATES: dict[str, tuple[list[tuple[float, ...]], list[tuple[float, float]]]] = {
    "there is no limit before a refusal": ([], [(0.0, math.inf), (100.0, math.inf)]),
    "the first refusal follows a burst": ([(1.0, 48)], [(1.0, 3.0), (1.1, 6.0), (1.2, 12.0)]),
    "a first rate is one a second at least": ([(1.0, 15)], [(1.0, 1.0), (1.1, 2.0)]),
    "and one of nothing, too": ([(0.5, 0)], [(0.5, 1.0)]),
    "nothing is tried while it is held back": ([(1.0, 48, 5.0)], [(1.0, 3.0), (6.0, 3.0), (6.1, 6.0)]),
    "what passed between two is the rate": ([(1.0, 48), (3.0, 20)], [(3.0, 10.0), (3.1, 20.0)]),
    "two that agree are believed for longer": (
        [(1.0, 48), (3.0, 20), (5.0, 22)],
        [(5.0, 10.5), (5.4, 21.0), (5.8, 42.0)],
    ),
    "those that nearly agree do": ([(1.0, 48), (3.0, 20), (5.0, 25)], [(5.0, 11.25), (5.4, 22.5)]),
    "those that don't, don't": ([(1.0, 48), (3.0, 20), (5.0, 26)], [(5.0, 11.5), (5.1, 23.0)]),
    "three that agree for longer yet": ([(1.0, 48), (3.0, 20), (5.0, 20), (7.0, 20)], [(7.0, 10.0), (8.6, 20.0)]),
    "one that differs halves that": (
        [(1.0, 48), (3.0, 20), (5.0, 20), (7.0, 80)],
        [(7.0, 20.0), (7.2, 40.0)],
    ),
    "a minute at most": (
        [(1.0, 48), *[(float(at), 20) for at in range(3, 21, 2)]],
        [(19.0, 10.0), (79.0, 20.0)],
    ),
    "few that passed say that it is far too fast": ([(1.0, 48), (1.2, 3)], [(1.2, 6.0)]),
    "four are enough to tell": ([(1.0, 48), (2.0, 4)], [(2.0, 4.0)]),
    "it is measured over fifteen seconds": ([(1.0, 48), (2.5, 15), (16.5, 135), (18.0, 75)], [(18.0, 50.0)]),
    "of which the last refusal before is the start": ([(1.0, 48), (2.5, 15), (18.0, 155)], [(18.0, 10.0)]),
    "however long ago that was": ([(1.0, 48), (31.0, 300)], [(31.0, 10.0)]),
    "and over all of them": ([(1.0, 48), (3.0, 20), (16.0, 130)], [(16.0, 10.0)]),
    "it is never nothing": ([(1.0, 48), *[(1.0 + n / 1e6, 0) for n in range(1, 21)]], [(1.00002, 1 / 30)]),
    "after a pause a smaller burst is seen": ([(1.0, 48, 1.0), (2.5, 20)], [(2.5, 3.0), (2.6, 6.0)]),
    "soon after a larger one the rate is too high": (
        [(1.0, 48, 1.0), (2.25, 60)],
        [(2.25, 2.0), (3.25, 4.0)],
    ),
    "later it can be told": ([(1.0, 48, 1.0), (4.0, 60)], [(4.0, 0.97 * 20), (64.0, 0.97 * 40)]),
    "by what flowed beside the burst": (
        [(1.0, 48, 1.0), (3.0, 448)],
        [(3.0, 0.97 * 400)],
    ),
    "just the burst tells it as well": ([(1.0, 48, 1.0), (4.0, 48)], [(4.0, 0.97 * 16)]),
    "no time is too long": ([(1.0, 48)], [(1e9, 3.0 * 2**60)]),
    "a third of the time is enough": ([(1.0, 48, 1.5), (3.0, 60)], [(3.0, 0.97 * 30)]),
    "a short pause is none": ([(1.0, 48, 0.5), (3.0, 20)], [(3.0, 10.0)]),
}


@pytest.mark.parametrize(("events", "rates"), RATES.values(), ids=RATES)
def test_the_rate_is_learned_from_refusals(events: list[tuple[float, int]], rates: list[tuple[float, float]]) -> None:
    story = Story()
    for event in events:
        story.at(*event)
    assert story.rate(*(now for now, _ in rates)) == pytest.approx([rate for _, rate in rates])


def test_tokens_are_counted_once_there_is_a_rate() -> None:
    bucket = Story().at(1.0, 48).bucket  # three a second
    assert bucket.delay(1.0) == pytest.approx(1 / 3)
    bucket.sent(1.0)
    assert bucket.delay(1.0) == pytest.approx(2 / 3)
    assert bucket.delay(1.1) == pytest.approx((2.0 - 0.6) / 6)
    assert bucket.delay(2.0) == 0.0


def test_before_that_nothing_waits() -> None:
    bucket = BucketMirror(0.0)
    for _ in range(1000):
        assert bucket.delay(0.0) == 0.0
        bucket.sent(0.0)


AGREED = [(1.0, 48), (3.0, 20), (5.0, 20)]


@pytest.mark.parametrize(
    ("events", "waits_from"),
    [
        pytest.param(AGREED, 48, id="a burst may go where refusals agree on the rate"),
        pytest.param(AGREED[:2], 1, id="one by one where they don't"),
        pytest.param([(1.0, 0), (3.0, 4), (5.0, 4)], 1, id="a bucket that was seen empty holds one"),
        pytest.param([(1.0, 48, 1.0), (2.5, 1), (4.0, 20), (6.0, 14)], 1, id="a burst that was seen to be one"),
        pytest.param([(1.0, 48, 1.0), (2.5, 20), (4.0, 20), (6.0, 22)], 15, id="a burst that was seen to be smaller"),
    ],
)
def test_what_a_quiet_time_leaves_in_the_bucket(events: list[tuple[float, int]], waits_from: int) -> None:
    story = Story()
    for event in events:
        story.at(*event)
    now, went = 1000.0, 0
    while story.bucket.delay(now) <= 0.0:
        story.bucket.sent(now)
        went += 1
    assert went == waits_from


def test_what_was_on_its_way_at_a_refusal_teaches_nothing() -> None:
    bucket = BucketMirror(0.0)
    for _ in range(60):
        bucket.sent(0.9)
    assert bucket.refused(1.0, 0.9, 3.0)
    assert not any(bucket.refused(1.1, sent_at, 3.0) for sent_at in (0.9, 1.0, 2.9))
    assert bucket.rate(3.0) == 59 / 16
    bucket.sent(3.0)
    assert bucket.refused(3.1, 3.0, 3.1)


def test_a_request_that_did_not_pass_is_not_counted() -> None:
    bucket = Story().at(1.0, 48).bucket
    for _ in range(30):
        bucket.sent(2.0)
    for _ in range(9):
        bucket.not_passed(2.0)
    assert bucket.refused(3.0, 2.0, 3.0)
    assert bucket.rate(3.0) == 10.0  # 20 in two seconds


def test_a_request_that_did_not_pass_is_not_counted_as_one_of_before_either() -> None:
    bucket = Story().at(1.0, 48).bucket
    bucket.not_passed(1.0)
    bucket.not_passed(0.9)
    for _ in range(21):
        bucket.sent(2.0)
    assert bucket.refused(3.0, 2.0, 3.0)
    assert bucket.rate(3.0) == 10.0
