"""When the next request may go: requests a minute, and what refusals tell of the endpoint's own rate limit. Pure.

Times are seconds on the caller's clock, and are passed in.
"""

from __future__ import annotations

import math
from collections import deque

# Requests are counted when they are sent here, and when they arrive there: some take a little longer than others.
_MINUTE_SECONDS = 60.1
# The rate is measured over so many seconds of the past, and is never thought to be lower than this (requests a second).
_MEASURED_SECONDS, _LOWEST_RATE = 15.0, 1 / 30.0
# At the first refusal, most of what passed had been in the bucket from the start: the rate is far below what was
# measured. It is taken to be this part of it, and not less than that many a second.
_FIRST_CUT, _FIRST_RATE = 16, 1.0
# With fewer requests than this since the last refusal, a measurement says nothing. Two that differ by less than this
# part agree.
_FEWEST_PASSED, _AGREEMENT = 4, 0.15
# A pause of more than so many seconds lets the bucket run over. The rate can be told after it if requests flowed for at
# least this part of the time, and is then used with some caution.
_LONG_PAUSE, _FLOWING_PART, _CAUTION = 0.5, 0.25, 0.97
# Seconds in which the learned rate is tried up to twice itself.
_FASTEST_DOUBLING, _SLOWEST_DOUBLING = 0.1, 60.0


class PerMinute:
    """Keeps requests evenly spaced, and to at most so many in any minute.

    Args:
        most: Requests in a minute.
        now: The time at the start.
    """

    def __init__(self, most: float, now: float) -> None:
        self._interval = 60.0 / most
        self._next = now
        # Requests that are late may catch up, but never so that a minute would hold more than it may.
        self._last: deque[float] = deque(maxlen=max(int(most), 1))

    def delay(self, now: float) -> float:
        """Return the seconds until a request may go; 0 or less for at once."""
        is_full = len(self._last) == self._last.maxlen
        return max(self._next - now, self._last[0] + _MINUTE_SECONDS - now if is_full else 0.0)

    def sent(self, now: float) -> None:
        """A request goes now."""
        self._last.append(now)
        # What a pause left unused is not made up for in a rush.
        self._next = max(self._next + self._interval, now)


class BucketMirror:
    """A copy of the endpoint's token bucket, as far as refusals have shown it: without a limit until the first.

    A token bucket fills at a steady rate, holds no more than its burst, and gives one token to each request; a request
    that finds it empty is refused. So a refusal says when the bucket was empty, and what passed between two refusals is
    what flowed in. After a refusal the rate is tried upwards, quickly at first, and more slowly with every refusal that
    agrees on it.

    Args:
        now: The time at the start.
    """

    def __init__(self, now: float) -> None:
        self._rate = math.inf  # tokens a second, as learned at the last refusal
        self._burst = math.inf  # the most tokens that the bucket was seen to hold
        self._tokens = math.inf  # in the bucket at the time `_at`
        self._at = now
        self._passed = 0
        self._learned_until = now  # requests sent before then say nothing new
        self._quiet_since = now
        self._doubling = _FASTEST_DOUBLING
        # For each time that the bucket was seen empty: when, how many requests had passed by then, and for how long
        # nothing was sent after it.
        self._empty: deque[list[float]] = deque([[now, 0, 0]])

    def rate(self, now: float) -> float:
        """Return the requests a second that are tried at present: more, the longer nothing was refused."""
        return self._rate * 2 ** min(max(now - self._quiet_since, 0.0) / self._doubling, 60)

    def delay(self, now: float) -> float:
        """Return the seconds until a request may go; 0 or less for at once."""
        return (1.0 - self._tokens_at(now)) / self.rate(now) if self._rate < math.inf else 0.0

    def sent(self, now: float) -> None:
        """A request goes now."""
        self._passed += 1
        if self._rate < math.inf:
            self._tokens, self._at = self._tokens_at(now) - 1.0, now

    def refused(self, now: float, sent_at: float, held_until: float) -> bool:
        """Learn from a refusal.

        Args:
            now: When it came.
            sent_at: When its request was sent.
            held_until: Nothing is sent before then, as the endpoint has asked.

        Returns:
            Whether there was something to learn: not from a request that was on its way at the refusal before.
        """
        self.not_passed(sent_at)
        if sent_at < self._learned_until:
            return False
        while len(self._empty) > 1 and self._empty[0][0] < now - _MEASURED_SECONDS:
            self._empty.popleft()
        since, passed_before, _ = self._empty[0]
        passed = self._passed - passed_before
        measured = passed / max(now - since, 1e-3)
        last, last_passed, pause = self._empty[-1]
        if self._rate == math.inf:
            self._burst = max(passed, 1.0)
            self._rate = max(measured / _FIRST_CUT, _FIRST_RATE)
            self._empty.clear()
        elif pause > _LONG_PAUSE:
            self._learn_after_pause(self._passed - last_passed, pause, now - last - pause)
        elif passed < _FEWEST_PASSED:
            self._rate = self.rate(now) / 2
        else:
            agrees = abs(measured - self._rate) < _AGREEMENT * self._rate
            self._doubling *= 4.0 if agrees else 0.5
            self._doubling = min(max(self._doubling, _FASTEST_DOUBLING), _SLOWEST_DOUBLING)
            self._rate = measured
        self._rate = max(self._rate, _LOWEST_RATE)
        # Nothing is sent until then, so what is refused meanwhile was on its way.
        self._quiet_since = self._learned_until = max(now, held_until)
        self._tokens, self._at = 0.0, now
        self._empty.append([now, self._passed, max(held_until - now, 0.0)])
        return True

    def _learn_after_pause(self, passed: float, pause: float, flowing: float) -> None:
        """Learn from a refusal that came after a long pause, in which the bucket ran over.

        Of the tokens of the pause only a burst was left, so they tell no rate; and every refusal costs such a pause
        again, so that it pays to be careful.

        Args:
            passed: Requests that passed since the refusal before this one.
            pause: Seconds in which nothing was sent, after that refusal.
            flowing: Seconds since the pause.
        """
        if passed < self._burst:
            self._burst = max(0.75 * passed, 1.0)  # it holds less than was thought; how much less is not told
        elif flowing < _FLOWING_PART * (pause + flowing):
            self._rate /= 1.5  # so soon after the burst, nothing tells how much too fast it was
            self._doubling = 1.0
        else:
            self._rate = max((passed - self._burst) / flowing, passed / (pause + flowing)) * _CAUTION
            self._doubling = _SLOWEST_DOUBLING

    def not_passed(self, sent_at: float) -> None:
        """A request that was sent then took no token."""
        self._passed -= 1
        for seen in self._empty:
            if sent_at <= seen[0]:
                seen[1] -= 1

    def _tokens_at(self, now: float) -> float:
        # What flowed in while nothing was sent may be used at once, as soon as refusals have agreed on the rate.
        most = max(self._burst, 1.0) if self._doubling > _FASTEST_DOUBLING else 1.0
        return min(self._tokens + (now - self._at) * self.rate(now), most)
