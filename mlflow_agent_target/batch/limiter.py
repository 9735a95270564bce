"""How many requests may be in flight, and when the next may go. Pure: the clock is passed in.

Three things bound a run:

* The caller's `requests_per_minute`, which is kept exactly (`rate.py`).
* The endpoint's rate limit, which is learned from its 429s (`rate.py`): what passed between two of them is what the
  endpoint lets through. That is far more exact than to halve the rate and creep up again.
* The number in flight. It doubles in the time of one answer until the endpoint first shows a limit, and grows by one in
  that time from then on. It falls to what the endpoint was holding when it refused a request, to half when it is not
  available, and in proportion when answers become slow. This is AIMD, as in TCP's congestion control, with the gradient
  of the latency, as in TCP Vegas and Netflix's concurrency-limits: AIMD alone fills an endpoint's queue until
  something breaks.
"""

from __future__ import annotations

import math

from mlflow_agent_target.batch.rate import BucketMirror, PerMinute

_FIRST_LIMIT = 16
# Doubling takes at least so many seconds: quick answers need few in flight.
_FASTEST_ROUND = 0.1
# Answers that are slower than usual by this factor stand in a queue; agents' own times vary by less, on average.
_SLOW = 2.0
# Answers that an average is taken over, at least.
_FEWEST_AVERAGED = 16
# Seconds between tries while nothing is available, doubled each time: one row asks, and the others wait for it.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


class Limiter:
    """Says when a request may go, from how those before it ended.

    Args:
        ceiling: The most requests in flight.
        now: Seconds on the clock that all other calls use.
        start: Requests in flight at first; None for a moderate number.
        requests_per_minute: The most requests in any minute; None for no limit.
    """

    def __init__(
        self, ceiling: int, now: float, *, start: int | None = None, requests_per_minute: float | None = None
    ) -> None:
        self.in_flight = 0
        #: How often the endpoint was found unavailable, and waited for, since it last answered.
        self.unavailable_in_a_row = 0
        self._ceiling = ceiling
        self._limit = float(min(start or _FIRST_LIMIT, ceiling))
        self._answers = math.inf  # since the limit last fell; infinite before the first time, so that it doubles
        self._changed = now  # requests sent before then say nothing of the present limit
        self._held_until = now
        self._per_minute = PerMinute(requests_per_minute, now) if requests_per_minute else None
        self._bucket = BucketMirror(now)
        self._latency = _Latency()

    @property
    def concurrency(self) -> int:
        """The most requests in flight at present."""
        return 1 if self.unavailable_in_a_row > 1 else max(int(self._limit), 1)

    def delay(self, now: float) -> float:
        """Return the seconds until a request may go: 0 for at once, infinity for not before another one ends."""
        if self.in_flight >= self.concurrency:
            return math.inf
        waits = [self._held_until - now, self._bucket.delay(now)]
        if self._per_minute is not None:
            waits.append(self._per_minute.delay(now))
        return max(0.0, *waits)

    def waiting(self, now: float) -> str | None:
        """Return why requests are held back at present, in words; None where nothing but their number bounds them."""
        return "as the endpoint has asked" if self._held_until > now else None

    def sent(self, now: float) -> None:
        """A request goes now."""
        self.in_flight += 1
        self._bucket.sent(now)
        if self._per_minute is not None:
            self._per_minute.sent(now)

    def answered(self, now: float, sent_at: float) -> None:
        """A request ended with an answer, whatever it says, or was given the time for one."""
        was_full = self.in_flight >= self._limit - 1
        self.in_flight -= 1
        self.unavailable_in_a_row = 0
        self._answers += 1
        if was_full and sent_at >= self._changed:
            rounds = self._answers / self._limit
            more = min(rounds / self._limit, (now - sent_at) / _FASTEST_ROUND, 1.0)
            self._limit = min(self._ceiling, self._limit + more)
        if self._latency.is_slow(now - sent_at, self._limit):
            # The square root lets a few wait in the endpoint's queue: a limit that falls whenever answers are a little
            # slow would fall for ever.
            self._fall(now, self._limit * self._latency.gradient + math.sqrt(self._limit))

    def rate_limited(self, now: float, sent_at: float, retry_after: float | None) -> None:
        """A request was refused because there were too many.

        Args:
            now: When the refusal came.
            sent_at: When the request was sent.
            retry_after: Seconds that the endpoint asks to wait; None where it does not say.
        """
        self.in_flight -= 1
        self._hold(now, retry_after)
        if self._bucket.refused(now, sent_at, self._held_until) and self._answers:
            # What it was holding it can hold, unless it has only just begun to answer.
            self._fall(now, max(self.in_flight, self._limit / 2))

    def unavailable(self, now: float, sent_at: float, retry_after: float | None) -> None:
        """A request was refused because the endpoint is overloaded, not ready or out of reach.

        Args:
            now: When that was known.
            sent_at: When the request was sent.
            retry_after: Seconds that the endpoint asks to wait; None where it does not say.
        """
        self.in_flight -= 1
        self._bucket.not_passed(sent_at)
        if sent_at >= self._changed:
            self._fall(now, self._limit / 2)
            self.unavailable_in_a_row += 1
            pause = min(_FIRST_PAUSE * 2 ** min(self.unavailable_in_a_row - 1, 16), _LONGEST_PAUSE)
            retry_after = retry_after or pause  # "at once" is no licence to use up all tries in a moment
        self._hold(now, retry_after)

    def dropped(self) -> None:
        """A request that was said to go was not sent."""
        self.in_flight -= 1

    def _fall(self, now: float, limit: float) -> None:
        self._limit = max(min(limit, self._limit), 1.0)
        self._answers = 0.0
        self._changed = now

    def _hold(self, now: float, seconds: float | None) -> None:
        self._held_until = max(self._held_until, now + (seconds or 0.0))


class _Latency:
    """Whether answers take longer than they used to. Compares geometric means, so that one slow answer counts little.

    Each mean is over as many answers as are in flight, so that it sees every place once.
    """

    def __init__(self) -> None:
        self.gradient = 1.0
        """What to multiply the number in flight with: below 1 when answers are slow, and never below 0.5."""
        self._usual: float | None = None  # the logarithm of an answer's usual seconds
        self._sum = 0.0
        self._count = 0
        self._averaged: float = _FEWEST_AVERAGED

    def is_slow(self, seconds: float, limit: float) -> bool:
        """Take in an answer's time, and return whether it completes a mean that is slow.

        Args:
            seconds: How long the answer took.
            limit: The most requests in flight at present.
        """
        self._sum += math.log(max(seconds, 1e-4))
        self._count += 1
        if self._count < self._averaged:
            return False
        self._averaged = max(limit, _FEWEST_AVERAGED)
        mean, self._sum, self._count = self._sum / self._count, 0.0, 0
        if self._usual is None or mean < self._usual:
            self._usual = mean if self._usual is None else 0.7 * self._usual + 0.3 * mean
        else:
            self._usual += 0.02 * (mean - self._usual)  # an endpoint may become slower for good
        self.gradient = max(_SLOW * math.exp(self._usual - mean), 0.5)
        return self.gradient < 1.0
