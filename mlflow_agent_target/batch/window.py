"""How many requests may be in flight, as long as none is refused. Pure: the clock is passed in.

An endpoint that takes more than it can work on lets requests wait, and those that wait too long are lost: the agent has
run in vain. So no more are in flight than would be answered in half of their time limit even if the endpoint worked no
faster than it was seen to. Below that, slowness is no reason for fewer: answers differ in length, and an endpoint that
lets some wait works on the others meanwhile.
"""

from __future__ import annotations

import math
from collections import deque

# So many may wait for one another before the first answer tells how long one takes: with a time limit of 120 seconds,
# two places and 20 seconds a row, 12 would just be answered in time.
_FIRST_LIMIT = 10
# The number doubles in steps of so many seconds, as long as nothing is refused. A refusal takes no longer to come.
STEP_SECONDS = 0.1
# The rate at which an endpoint answers is told from so many answers, at least.
_FEWEST_ANSWERS = 8
_SHARE_OF_TIME_LIMIT = 0.5
# Where each answer takes longer than that by itself, the number grows by this factor for a round of answers, as long
# as they take no longer for it than by this factor, and no longer than this part of the time limit.
_CAREFUL_GROWTH, _NO_SLOWER, _CAREFUL_SHARE = 1.25, 1.1, 0.7
# When requests run out of time while the others take more than this part of theirs, as many are tried as would be
# answered in time. If answers don't get quicker at least by this factor, it was no queue.
_SLOW_SHARE, _QUICKER = 1 / 3, 0.85


class Window:
    """The number of requests that may be in flight.

    Args:
        ceiling: The most requests in flight.
        now: Seconds on the clock that all other calls use.
        start: Requests in flight at first; None for a number that is safe.
        timeout: Seconds that a request may take.
    """

    def __init__(self, ceiling: int, now: float, start: int | None, timeout: float) -> None:
        self.limit = float(min(start or _FIRST_LIMIT, ceiling))
        #: Seconds that an answer takes on average; None before the first.
        self.mean: float | None = None
        #: Answers a second, lately.
        self.rate = 0.0
        self._ceiling = ceiling
        self._timeout = timeout
        self._safe = 0.0  # as many would be answered in time
        self._more, self._grows_at = self.limit, now + STEP_SECONDS
        self._ends: deque[float] = deque([now], maxlen=max(ceiling, _FEWEST_ANSWERS) + 1)
        # A round is as many answers as may be in flight.
        self._round_since, self._round_seconds, self._round_answers = now, 0.0, 0
        self._usual = math.inf  # seconds of an answer in the quickest round
        self._fell_from: tuple[float, float] | None = None  # the limit before it fell for slowness, and the seconds
        self._is_slow_by_itself = False

    def wait(self, now: float, in_flight: int) -> float:
        """Return the seconds until one more may be in flight; infinity for not before one ends."""
        if in_flight < max(int(self.limit), 1):
            return 0.0
        if self.limit >= min(self._ceiling, self._safe):
            return math.inf
        return max(self._grows_at - now, 0.0)

    def sent(self, now: float, in_flight: int, patience: float) -> None:
        """One more goes. Where there was no room for it, the number grows by a step.

        Args:
            now: The time.
            in_flight: Requests in flight before it.
            patience: Seconds after which a request that was not refused is taken in.
        """
        if in_flight < max(int(self.limit), 1):
            return
        self.limit = min(self.limit + self._more, self._ceiling, max(self._safe, self.limit + 1.0))
        self._more *= 2.0
        self._grows_at = now + patience

    def lower_ceiling(self, ceiling: int) -> None:
        """Let no more be in flight from now on."""
        self._ceiling = ceiling
        self.limit = min(self.limit, ceiling)

    def answered(self, now: float, sent_at: float) -> None:
        """A request that was sent then was answered."""
        seconds = now - sent_at
        self.mean = seconds if self.mean is None else self.mean + 0.1 * (seconds - self.mean)
        self._ends.append(now)
        self._safe = self._safe_at(max(int(self.limit), _FEWEST_ANSWERS), now)
        if sent_at >= self._round_since:
            self._round_seconds += seconds
            self._round_answers += 1
            if self._round_answers >= max(self.limit, _FEWEST_ANSWERS):
                self._end_round(now, self._round_seconds / self._round_answers)

    def _safe_at(self, count: int, now: float) -> float:
        """Return how many would be answered in time at the rate of the latest answers, of which so many count."""
        count = min(len(self._ends) - 1, count)
        self.rate = count / max(now - self._ends[-1 - count], 1e-3)
        return self.rate * self._timeout * _SHARE_OF_TIME_LIMIT

    def _end_round(self, now: float, mean: float) -> None:
        if self._fell_from is not None:
            before, slow = self._fell_from
            self._fell_from = None
            if mean > _QUICKER * slow:
                self.limit, self._is_slow_by_itself = before, True
        elif (
            self._safe <= self.limit < self._ceiling
            and mean <= _NO_SLOWER * self._usual < math.inf
            and mean < _CAREFUL_SHARE * self._timeout
        ):
            self.limit = min(math.ceil(self.limit * _CAREFUL_GROWTH), self._ceiling)
        self._usual = min(self._usual, mean)
        self._begin_round(now)

    def _begin_round(self, now: float) -> None:
        self._round_since, self._round_seconds, self._round_answers = now, 0.0, 0

    def timed_out(self, now: float, sent_at: float) -> None:
        """A request that was sent then was not answered in time."""
        is_old = self._fell_from is not None or sent_at < self._round_since
        if is_old or self._is_slow_by_itself or (self.mean or 0.0) < _SLOW_SHARE * self._timeout:
            return  # nothing new, or a row that hangs while the others are quick
        if (safe := self._safe_at(_FEWEST_ANSWERS, now)) >= self.limit:
            return
        self._fell_from = self.limit, self.mean or 0.0
        self.limit = max(safe, 1.0)
        self._more, self._grows_at = 1.0, now + (self.mean or 0.0)
        self._begin_round(now)

    def fall(self, limit: float, grows_at: float) -> None:
        """A limit was seen: no more than this, and one more to see whether that is still so not before that time."""
        self.limit = max(min(self.limit, limit), 1.0)
        self._more, self._grows_at = 1.0, max(self._grows_at, grows_at)

    def rise(self, limit: float, grows_at: float, more: float) -> None:
        """What was taken for a limit was none: so many at least, and by so many more at that time."""
        self.limit = max(self.limit, limit)
        self._more, self._grows_at = more, grows_at
