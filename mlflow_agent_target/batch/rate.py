"""When the next request may go: requests a minute, and what refusals tell of the endpoint's own rate limit. Pure.

Times are seconds on the caller's clock, and are passed in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

# Requests are counted when they are sent here, and when they arrive there: some take a little longer than others.
_MINUTE_SECONDS = 60.1
# The rate that is tried first after a refusal, and the lowest that is ever tried: requests a second.
_FIRST_RATE, _LOWEST_RATE, _HIGHEST_RATE = 1.0, 1 / 30.0, 1e5
# A bucket is fitted to so many of the latest requests. The sizes of buckets that are tried.
_REMEMBERED = 96
_BURSTS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 96)
_HALVINGS = 14
# Requests are some milliseconds on their way, so that a bucket holds a little more or less than is computed.
_SLACK, _ODD, _ODD_SECONDS = 0.5, 1.25, 0.005
# No rate is taken for likely that is more than so many times what passed since the bucket was seen empty.
_HOPE = 4.0
# Seconds in which the learned rate is tried up to twice itself, where refusals cost no pause, and where they do: times
# the pause. Two rates that differ by less than this part agree, and the next try comes later.
_FASTEST_DOUBLING, _SLOWEST_DOUBLING = 0.1, 20.0
_PAUSES_FIRST, _PAUSES_LATER = 20.0, 80.0
_AGREEMENT = 0.15
# A pause of so many seconds is worth some caution.
_PAUSE, _CAUTION = 0.2, 0.97
# Where nothing else is known, a refusal cuts the rate to this part.
_CUT = 0.7
# Few refusals by chance look like a bucket's edge. To tell them apart, the rate is raised by this factor, once, for so
# many requests: a bucket refuses far more of them than this part, and chance as many as before.
_TRIAL_FACTOR, _TRIAL_REQUESTS, _TRIAL_PART = 1.5, 48, 0.2
# So many refusals, of which no bucket explains this part, are chance. It is none when more than this part is refused.
_FEWEST_REFUSALS, _UNEXPLAINED, _TOO_MANY, _FEWEST_SEEN = 8, 0.25, 0.7, 64


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

    def not_sent(self) -> None:
        """The latest request did not go after all."""
        self._last.pop()
        self._next -= self._interval


class _Request(NamedTuple):
    sent_at: float
    passed: bool  # or is on its way


class _Fit(NamedTuple):
    """The bucket that explains best what passed and what was refused."""

    lowest_rate: float
    highest_rate: float
    burst: float
    unexplained: float  # the part of the refusals
    refusals: int


class BucketMirror:
    """A copy of the endpoint's token bucket, as far as refusals have shown it: without a limit until the first.

    A token bucket fills at a steady rate, holds no more than its burst, and gives one token to each request; a request
    that finds it empty is refused. So each refusal says that it was empty, and each request that passed, that it was
    not. The bucket that explains the latest of both is the copy. The rate is then tried upwards, more slowly with every
    refusal that agrees on it.

    An endpoint that refuses by chance has no such bucket. It is asked as fast as it will take it.

    Args:
        now: The time at the start.
    """

    def __init__(self, now: float) -> None:
        self._rate = math.inf  # tokens a second, as learned at the last refusal
        self._burst = 1.0  # the most tokens that it holds
        self._tokens = math.inf  # in it at the time `_at`
        self._at = now
        self._doubling = _FASTEST_DOUBLING
        self._quiet_since = self._learned_until = now  # requests sent before then say nothing new
        self._agreed: float | None = None  # the rate of the last fit
        self._is_chance = False
        self._was_tried = self._was_forgotten = False
        self._trial_since: float | None = None
        self._requests: deque[_Request] = deque(maxlen=_REMEMBERED)

    def rate(self, now: float) -> float:
        """Return the requests a second that are tried at present: more, the longer nothing was refused."""
        return self._rate * 2 ** min(max(now - self._quiet_since, 0.0) / self._doubling, 60)

    def delay(self, now: float) -> float:
        """Return the seconds until a request may go; 0 or less for at once."""
        return (1.0 - self._tokens_at(now)) / self.rate(now) if self._rate < math.inf else 0.0

    def sent(self, now: float) -> None:
        """A request goes now."""
        self._requests.append(_Request(now, True))
        if self._rate < math.inf:
            self._tokens, self._at = self._tokens_at(now) - 1.0, now

    def not_passed(self, sent_at: float) -> None:
        """A request that was sent then took no token, for another reason."""
        if (found := self._find(sent_at)) is not None:
            del self._requests[found]

    def begin(self, now: float, rate: float) -> None:
        """Try no more than so many requests a second at first."""
        self._rate, self._doubling = rate, _FASTEST_DOUBLING
        self._quiet_since = self._learned_until = now
        self._tokens, self._at = 0.0, now

    def forget(self) -> None:
        """It was no rate that refused."""
        self._rate = self._tokens = math.inf
        self._agreed, self._is_chance, self._trial_since = None, False, None
        self._was_forgotten = True
        self._requests.clear()

    def refused(self, now: float, sent_at: float, held_until: float, answers: float) -> bool:
        """Learn from a refusal.

        Args:
            now: When it came.
            sent_at: When its request was sent.
            held_until: Nothing is sent before then, as the endpoint has asked.
            answers: Answers a second, lately.

        Returns:
            Whether there was something to learn: not from a request that was on its way at the refusal before.
        """
        if (found := self._find(sent_at)) is not None:
            self._requests[found] = _Request(self._requests[found].sent_at, False)
        if self._is_chance:
            if len(self._requests) >= _FEWEST_SEEN and self._refused_part() > _TOO_MANY:
                self.forget()
            return False
        if sent_at < self._learned_until:
            return False
        pause, rate = max(held_until - now, 0.0), self.rate(now)
        if self._rate == math.inf:
            self.begin(now, max(answers, _FIRST_RATE))
        elif self._trial_since is not None:
            return self._end_trial(now, self._trial_since)
        else:
            self._learn(now, rate, pause, self._fit(sent_at))
        # An endpoint that asks for a pause says that one request may pass after it.
        self._rate = max(self._rate, 1.0 / pause if pause > _PAUSE else _LOWEST_RATE)
        self._quiet_since = self._learned_until = max(now, held_until)
        self._tokens, self._at = 0.0, now
        return True

    def _end_trial(self, now: float, since: float) -> bool:
        """See whether requests that went faster than was learned were refused more often."""
        parts = [request.passed for request in self._requests if request.sent_at >= since]
        if len(parts) < _TRIAL_REQUESTS:
            return False
        self._trial_since = None
        if 1.0 - sum(parts) / len(parts) < _TRIAL_PART:
            self._take_for_chance(self._rate)
            return True
        self._rate /= _TRIAL_FACTOR
        self._quiet_since = self._learned_until = now
        return True

    def _take_for_chance(self, rate: float) -> None:
        self._is_chance = True
        self._rate, self._doubling = 2.0 * rate, _FASTEST_DOUBLING

    def _learn(self, now: float, rate: float, pause: float, fit: _Fit) -> None:
        """Learn the rate, where `rate` was too much, or chance."""
        if fit.refusals >= _FEWEST_REFUSALS and fit.unexplained > _UNEXPLAINED:
            self._take_for_chance(rate)
            return
        if pause > _PAUSE:
            learned = min(fit.lowest_rate ** (2 / 3) * fit.highest_rate ** (1 / 3), max(0.9 * rate, fit.lowest_rate))
        else:
            learned = min(max(_CUT * rate, fit.lowest_rate), fit.highest_rate)
        agrees = self._agreed is not None and abs(learned - self._agreed) < _AGREEMENT * self._agreed
        self._doubling *= 4.0 if agrees else 0.5
        self._doubling = max(self._doubling, _FASTEST_DOUBLING, _PAUSES_FIRST * pause)
        self._doubling = min(self._doubling, max(_SLOWEST_DOUBLING, _PAUSES_LATER * pause))
        self._agreed, self._burst = learned, fit.burst
        self._rate = min(learned, rate) * (_CAUTION if pause > _PAUSE else 1.0)
        is_steady = len(self._requests) == _REMEMBERED and self._refused_part() < _TRIAL_PART
        if agrees and is_steady and pause <= _PAUSE and not self._was_tried:
            self._was_tried, self._trial_since = True, now
            self._rate *= _TRIAL_FACTOR

    def _fit(self, until: float) -> _Fit:
        """Find the bucket that explains the requests that were sent until then."""
        requests = [request for request in self._requests if request.sent_at <= until]
        level = math.inf  # full at first
        # Of a time that is no longer remembered, only this is known: at a refusal the bucket is empty.
        first = next((index for index, request in enumerate(requests[:-1]) if not request.passed), None)
        empty_at = requests[first].sent_at if first is not None else until
        if first is not None and (self._was_forgotten or len(self._requests) == _REMEMBERED):
            requests, level = requests[first:], 0.0
        refusals = sum(not request.passed for request in requests)

        def odd(rate: float, burst: float) -> int | None:
            return _unexplained(requests, rate, burst, level)

        # A small bucket that fills quickly and a large one that fills slowly let the same burst pass.
        most = _HIGHEST_RATE
        if empty_at < until:
            since = [request for request in requests if request.sent_at > empty_at]
            most = max(_HOPE * sum(request.passed for request in since) / (until - empty_at), _FIRST_RATE)
        best: tuple[int, bool, float, float] | None = None
        # The size that was found before comes first, then the smallest that will do.
        for burst in (*((self._burst,) if self._agreed else ()), *_BURSTS):
            lowest = _limit(odd, burst, lambda unexplained: unexplained is None, _LOWEST_RATE)[1]
            unexplained = odd(lowest, burst)
            if unexplained is not None and (best is None or (unexplained, lowest > most) < best[:2]):
                best = unexplained, lowest > most, lowest, float(burst)
            if best is not None and best[:2] == (0, False):
                break
        if best is None:
            return _Fit(_LOWEST_RATE, _HIGHEST_RATE, self._burst, 0.0, refusals)
        fewest, _, lowest, burst = best
        highest = _limit(odd, burst, lambda unexplained: unexplained == fewest, lowest)[0]
        return _Fit(lowest, highest, burst, fewest / max(refusals, 1), refusals)

    def _find(self, sent_at: float) -> int | None:
        """Return where the request is that was sent then, as far as it is remembered."""
        for index in range(len(self._requests) - 1, -1, -1):
            request = self._requests[index]
            if request.passed and request.sent_at <= sent_at:
                return index
        return None

    def _refused_part(self) -> float:
        return sum(not request.passed for request in self._requests) / len(self._requests)

    def _tokens_at(self, now: float) -> float:
        return min(self._tokens + (now - self._at) * self.rate(now), max(self._burst - _SLACK, 1.0))


def _unexplained(requests: list[_Request], rate: float, burst: float, level: float) -> int | None:
    """Return how many refusals a bucket does not explain; None where it would not let pass what passed.

    Args:
        requests: What passed and what was refused, in the order of time.
        rate: Tokens that flow into the bucket in a second.
        burst: The most tokens that it holds.
        level: Tokens in it at first.
    """
    level, at, odd = min(level, burst), requests[0].sent_at, 0
    for sent_at, passed in requests:
        flowed = level + (sent_at - at) * rate
        level, at = min(burst, flowed), sent_at
        if passed:
            level -= 1.0
            if level < -_SLACK:
                return None
        elif flowed > _ODD + _ODD_SECONDS * rate:
            odd += 1
    return odd


def _limit(
    odd: Callable[[float, float], int | None], burst: float, holds: Callable[[int | None], bool], low: float
) -> tuple[float, float]:
    """Return the highest rate for which something holds that holds for all lower ones, and the next for which not."""
    high = _HIGHEST_RATE
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if holds(odd(middle, burst)):
            low = middle
        else:
            high = middle
    return low, high
