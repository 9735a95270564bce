"""How many requests may be in flight, and when the next may go. Pure: the clock is passed in.

Three things bound a run. The caller's `requests_per_minute` is kept exactly. The number in flight grows by one with
each good answer, and so doubles in the time of one answer, until the endpoint first shows its limit, and by one in the
time of one answer after that; it falls to what the endpoint was holding when it refused a request, by half when it is
not available, and in proportion when answers become slow (AIMD with the gradient of the latency, as TCP Vegas and
Netflix's concurrency-limits have it: AIMD alone fills an endpoint's queue until something breaks). The rate is learned
from 429s: a refusal says that the endpoint's token bucket is empty, so that what passed between two refusals is what
it lets through, which is far more exact than to halve and creep up.
"""

from __future__ import annotations

import math
from collections import deque

_FIRST_LIMIT = 16
# Seconds that doubling takes at least: quick answers need few in flight.
_FASTEST_ROUND = 0.1
# Answers that are slower than usual by this factor mean a queue; agents' own times vary by less, on average.
_SLOW = 2.0
_SHORTEST_EPOCH = 16
# Seconds between tries while nothing is available, doubled each time: one row asks, and the others wait for it.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
# Seconds of the past that the rate is learned from, and the lowest rate.
_MEMORY, _LOWEST_RATE = 15.0, 1 / 30.0
_FIRST_CUT, _FIRST_RATE, _FEWEST_PASSED, _AGREEMENT = 16, 1.0, 4, 0.15
# After a pause of so many seconds, the part of the time that must have flowed for the rate to be told, and how much of
# that rate is used.
_LONG_PAUSE, _TELLING, _CAUTION = 0.5, 0.25, 0.97
# Seconds in which the learned rate is tried up to twice itself.
_FASTEST_DOUBLING, _SLOWEST_DOUBLING = 0.1, 60.0
# Requests are counted when they go, and by the endpoint when they come, which some do a little later than others.
_MINUTE_SECONDS = 60.1


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
        self._ceiling = ceiling
        self._limit = float(min(start or _FIRST_LIMIT, ceiling))
        self._answers = math.inf  # since the limit last fell
        self._changed = now  # requests sent before then say nothing of the present limits
        self._held_until = now
        self.unavailable_in_a_row = 0  # times that were waited for, without an answer between
        self._minute = _Minute(requests_per_minute, now) if requests_per_minute else None
        self._bucket = _Bucket(now)
        self._latency = _Latency()

    @property
    def concurrency(self) -> int:
        """The most requests in flight at present."""
        return 1 if self.unavailable_in_a_row > 1 else max(int(self._limit), 1)

    def delay(self, now: float) -> float:
        """Return the seconds until a request may go, 0 for at once, infinity for not before another one ends."""
        if self.in_flight >= self.concurrency:
            return math.inf
        waits = [self._held_until - now, self._bucket.delay(now)]
        if self._minute is not None:
            waits.append(self._minute.delay(now))
        return max(0.0, *waits)

    def sent(self, now: float) -> None:
        """A request goes now."""
        self.in_flight += 1
        self._bucket.sent(now)
        if self._minute is not None:
            self._minute.sent(now)

    def answered(self, now: float, sent_at: float) -> None:
        """A request that was sent at `sent_at` ended with an answer, whatever it says, or without one in its time."""
        was_full = self.in_flight >= self._limit - 1
        self.in_flight -= 1
        self.unavailable_in_a_row = 0
        self._answers += 1
        if was_full and sent_at >= self._changed:
            rounds = self._answers / self._limit
            more = min(rounds / self._limit, (now - sent_at) / _FASTEST_ROUND, 1.0)
            self._limit = min(self._ceiling, self._limit + more)
        if self._latency.is_slow(now - sent_at, self._limit):
            # The square root leaves a few to queue, so that a mere rumour of slowness can't take everything.
            self._fall(now, self._limit * self._latency.gradient + math.sqrt(self._limit))

    def rate_limited(self, now: float, sent_at: float, retry_after: float | None) -> None:
        """A request was refused because there were too many."""
        self.in_flight -= 1
        self._hold(now, retry_after)
        if self._bucket.refused(now, sent_at, self._held_until) and self._answers:
            # What it was holding it can hold, unless it has only just begun to answer.
            self._fall(now, max(self.in_flight, self._limit / 2))

    def unavailable(self, now: float, sent_at: float, retry_after: float | None) -> None:
        """A request was refused because the endpoint is overloaded, not ready or out of reach."""
        self.in_flight -= 1
        self._bucket.forget(sent_at)
        if sent_at >= self._changed:
            self._fall(now, self._limit / 2)
            self.unavailable_in_a_row += 1
            pause = min(_FIRST_PAUSE * 2 ** min(self.unavailable_in_a_row - 1, 16), _LONGEST_PAUSE)
            retry_after = pause if retry_after is None else retry_after
        self._hold(now, retry_after)

    def dropped(self) -> None:
        """A request that was to be sent was not."""
        self.in_flight -= 1

    def _fall(self, now: float, limit: float) -> None:
        self._limit = max(min(limit, self._limit), 1.0)
        self._answers = 0.0
        self._changed = now

    def _hold(self, now: float, seconds: float | None) -> None:
        self._held_until = max(self._held_until, now + (seconds or 0.0))


class _Minute:
    """At most so many in any minute, evenly spaced."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._interval = 60.0 / per_minute
        self._next = now
        # Those that are late may catch up, but never so that a minute would hold more than it may.
        self._last: deque[float] = deque(maxlen=max(int(per_minute), 1))

    def delay(self, now: float) -> float:
        full = len(self._last) == self._last.maxlen
        return max(self._next - now, self._last[0] + _MINUTE_SECONDS - now if full else 0.0)

    def sent(self, now: float) -> None:
        self._last.append(now)
        # What a pause left unused is not made up for in a rush.
        self._next = max(self._next + self._interval, now)


class _Bucket:
    """A mirror of the endpoint's token bucket, as far as refusals have shown it: unlimited until the first.

    After a refusal the rate is tried upwards, quickly at first, and ever more slowly as the refusals agree on it.
    """

    def __init__(self, now: float) -> None:
        self._rate = math.inf  # a second, what flows in
        self._burst = math.inf  # the most that the bucket was seen to hold
        self._level = math.inf
        self._at = now  # the time of `level`
        self._passed = 0
        self._learned_until = now  # requests sent before say nothing new
        self._quiet_since = now
        self._doubling = _FASTEST_DOUBLING
        # When the bucket was seen empty, how many requests had passed by then, and how long nothing was sent after it.
        self._empty: deque[list[float]] = deque([[now, 0, 0]])

    def delay(self, now: float) -> float:
        return (1.0 - self._fill(now)) / self._rate_at(now) if self._rate < math.inf else 0.0

    def sent(self, now: float) -> None:
        self._passed += 1
        if self._rate < math.inf:
            self._level, self._at = self._fill(now) - 1.0, now

    def refused(self, now: float, sent_at: float, held_until: float) -> bool:
        """Learn from a refusal, and return whether there was something to learn."""
        self.forget(sent_at)
        if sent_at < self._learned_until:
            return False
        while len(self._empty) > 1 and self._empty[0][0] < now - _MEMORY:
            self._empty.popleft()
        since, passed_before, _ = self._empty[0]
        passed = self._passed - passed_before
        measured = passed / max(now - since, 1e-3)
        last, last_passed, held = self._empty[-1]
        if self._rate == math.inf:
            # Most of what passed was in the bucket from the start, and says nothing of the rate.
            self._burst = max(passed, 1.0)
            self._rate = max(measured / _FIRST_CUT, _FIRST_RATE)
            self._empty.clear()
        elif held > _LONG_PAUSE:
            self._learn_after_pause(self._passed - last_passed, held, now - last - held)
        elif passed < _FEWEST_PASSED:
            self._rate = self._rate_at(now) / 2
        else:
            agrees = abs(measured - self._rate) < _AGREEMENT * self._rate
            self._doubling *= 4.0 if agrees else 0.5
            self._doubling = min(max(self._doubling, _FASTEST_DOUBLING), _SLOWEST_DOUBLING)
            self._rate = measured
        self._rate = max(self._rate, _LOWEST_RATE)
        # Nothing is sent until then, so what is refused meanwhile was on its way.
        self._quiet_since = self._learned_until = max(now, held_until)
        self._level, self._at = 0.0, now
        self._empty.append([now, self._passed, max(held_until - now, 0.0)])
        return True

    def _learn_after_pause(self, passed: float, held: float, flowing: float) -> None:
        """Learn from a refusal after a pause, as the endpoint had asked for, in which its bucket ran over.

        Of what flowed in meanwhile it kept its burst; and each refusal costs such a pause again.

        Args:
            passed: Requests that passed since the refusal before this one.
            held: Seconds in which nothing was sent, after that refusal.
            flowing: Seconds since.
        """
        if passed < self._burst:
            self._burst = max(0.75 * passed, 1.0)  # it was thought to hold more; how much less is not told
        elif flowing < _TELLING * (held + flowing):
            self._rate /= 1.5  # so soon after the burst there is no telling how much too fast it was
            self._doubling = 1.0
        else:
            self._rate = max((passed - self._burst) / flowing, passed / (held + flowing)) * _CAUTION
            self._doubling = _SLOWEST_DOUBLING

    def forget(self, sent_at: float) -> None:
        """A request did not pass."""
        self._passed -= 1
        for seen in self._empty:
            if sent_at <= seen[0]:
                seen[1] -= 1

    def _rate_at(self, now: float) -> float:
        return self._rate * 2 ** min(max(now - self._quiet_since, 0.0) / self._doubling, 60)

    def _fill(self, now: float) -> float:
        # What has flowed in meanwhile may go at once, when the rate is known well enough to tell how much that is.
        most = max(self._burst, 1.0) if self._doubling > _FASTEST_DOUBLING else 1.0
        return min(self._level + (now - self._at) * self._rate_at(now), most)


class _Latency:
    """Whether answers take longer than they used to, from geometric means over as many answers as are in flight."""

    def __init__(self) -> None:
        self.gradient = 1.0
        self._usual: float | None = None
        self._sum = 0.0
        self._count = 0
        self._epoch: float = _SHORTEST_EPOCH  # answers

    def is_slow(self, seconds: float, limit: float) -> bool:
        """Take in an answer's time, and return whether the answers of late, this one included, were slow."""
        self._sum += math.log(max(seconds, 1e-4))
        self._count += 1
        if self._count < self._epoch:
            return False
        self._epoch = max(limit, _SHORTEST_EPOCH)
        mean, self._sum, self._count = self._sum / self._count, 0.0, 0
        if self._usual is None or mean < self._usual:
            self._usual = mean if self._usual is None else 0.7 * self._usual + 0.3 * mean
        else:
            self._usual += 0.02 * (mean - self._usual)  # an endpoint may become slower for good
        self.gradient = max(_SLOW * math.exp(self._usual - mean), 0.5)
        return self.gradient < 1.0
