"""When the next request may go. Pure: the clock is passed in.

Requests go at once, as many as `window.py` allows, until some are refused. What refuses them is then told apart:

* Places: the endpoint works on so many at a time. Each refusal comes while as many are held. The number in flight falls
  to that, is remembered, and now and then one more is tried.
* A rate: refusals come however many are held. `rate.py` finds the rate, and what the bucket holds.
* Chance: refusals come however many are held, and at any rate. Nothing is gained by fewer (`rate.py`).
* Nothing is there (not ready, out of reach, a gateway without a server): what is sent is refused or lost while nothing
  is answered. One row tries from time to time whether it is back; then as many are in flight as before.

A refusal that asks for a pause costs all rows that pause. So what was learned from one is believed the longer, the
longer the pause was.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from mlflow_agent_target.batch.policy import End, Ended
from mlflow_agent_target.batch.rate import BucketMirror, PerMinute
from mlflow_agent_target.batch.window import STEP_SECONDS, Window

# A limit that cost a pause of so many seconds is tried again after so many times that.
_PAUSES_APART = 20.0
# One that costs none is tried again after the time of an answer, of two, of four.
_MOST_ANSWERS_APART = 4.0
# Two refusals with nearly as many in flight show places. A pause of so many seconds is not worth a second look.
_NEARLY, _SURE_PAUSE = 0.1, 2.0
# Places may become fewer. A refusal below this part of them is none of places.
_FEWER_PLACES = 0.7
# So many requests are refused with no more in flight than others were taken in with, within so many seconds: then it
# isn't places.
_CONTRADICTIONS, _STILL_TRUE = 3, 3.0
# So many in a row are lost, or end in what the agent or its gateway may have said, before it is taken for an outage.
_LOST_IN_A_ROW, _DOUBTFUL_IN_A_ROW = 5, 8
# An agent that says nothing else for so many seconds means it.
_DOUBT_SECONDS = 30.0
# Seconds between tries of an endpoint that is gone: a part of the time that it has been gone for. A try that may be
# lost costs a row.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_PAUSE_SHARE, _COSTLY_PAUSE_SHARE = 0.1, 0.4


class _Seen(NamedTuple):
    """A refusal that places don't explain, if as many are taken in again."""

    sent_at: float
    level: int


class Limiter:
    """Says when a request may go, from how those before it ended.

    Args:
        ceiling: The most requests in flight.
        now: Seconds on the clock that all other calls use.
        start: Requests in flight at first; None for a number that is safe.
        requests_per_minute: The most requests in any minute; None for no limit.
        timeout: Seconds that a request may take.
        longest_pause: Seconds that a `Retry-After` is believed for at most.
    """

    def __init__(
        self,
        ceiling: int,
        now: float,
        *,
        start: int | None = None,
        requests_per_minute: float | None = None,
        timeout: float = 120.0,
        longest_pause: float = 600.0,
    ) -> None:
        self.in_flight = 0
        #: Nothing is sent before then, as the endpoint has asked or seems to need.
        self.held_until = now
        #: How often the endpoint was tried in vain since it was last there.
        self.tries = 0
        self._longest_pause = longest_pause
        self._window = Window(ceiling, now, start, timeout)
        self._bucket = BucketMirror(now)
        self._per_minute = PerMinute(requests_per_minute, now) if requests_per_minute else None
        self._changed = now  # requests sent before then say nothing of the present limits
        self._slowest_refusal = 0.03
        self._why = ""
        # While nothing is there: since when, when it was last tried, and whether only an answer shows that it is back.
        self._gone_since = self._tried_at = now
        self._needs_answer = False
        self._before: float | None = None  # the limit before refusals began
        self._in_a_row = 0  # ends that were no answer
        self._last_good = -math.inf
        # What refusals are known to show.
        self._places: float | None = None
        self._is_places = self._is_rate = False
        self._apart = 0.0
        self._unexplained: deque[_Seen] = deque(maxlen=8)
        self._contradictions = 0

    @property
    def concurrency(self) -> int:
        """The most requests in flight at present."""
        return 1 if self.tries else max(int(self._window.limit), 1)

    def delay(self, now: float) -> float:
        """Return the seconds until a request may go: 0 for at once, infinity for not before another one ends."""
        if not self.tries:
            wait = self._window.wait(now, self.in_flight)
        elif not self.in_flight:
            wait = 0.0
        else:
            wait = math.inf if self._needs_answer else self._tried_at + self._patience - now
        waits = [wait, self.held_until - now, self._bucket.delay(now)]
        if self._per_minute is not None:
            waits.append(self._per_minute.delay(now))
        return max(0.0, *waits)

    def waiting(self, now: float) -> str | None:
        """Return why requests are held back at present, in words; None where nothing but their number bounds them."""
        if self.held_until > now:
            return self._why
        if self.tries:
            return f"{self._why}, one row tries whether it is back"
        if self._per_minute is not None and self._per_minute.delay(now) > 0.0:
            return "requests_per_minute"
        return "the endpoint's rate limit (429)" if self._bucket.delay(now) > 0.0 else None

    def sent(self, now: float) -> int:
        """A request goes now. Return how many are in flight with it, which `ended` wants to know."""
        if self.tries and self.in_flight:
            self._is_back(now)  # the one that tries was not refused for long enough
        elif self.tries:
            self._tried_at = now
        else:
            self._window.sent(now, self.in_flight, self._patience)
        self.in_flight += 1
        self._bucket.sent(now)
        if self._per_minute is not None:
            self._per_minute.sent(now)
        return self.in_flight

    def lower_ceiling(self, ceiling: int) -> None:
        """Let no more be in flight from now on."""
        self._window.lower_ceiling(ceiling)

    def ended(self, end: Ended, now: float, sent_at: float, level: int) -> None:
        """A request ended.

        Args:
            end: How.
            now: When.
            sent_at: When it was sent.
            level: What `sent` returned for it.
        """
        self.in_flight -= 1
        if end.kind is End.NEVER_LEFT:
            self._bucket.not_passed(sent_at)
            if self._per_minute is not None:
                self._per_minute.not_sent()
        elif end.kind is End.REFUSED:
            self._refused(end, now, sent_at, level)
        elif end.kind is End.LOST:
            if end.timed_out:
                self._window.timed_out(now, sent_at)
            self._no_answer(now, sent_at, _LOST_IN_A_ROW, "answers are lost")
        else:
            self._window.answered(now, sent_at)
            if not end.is_doubtful:
                self._last_good = now
            if now - self._last_good < _DOUBT_SECONDS and end.is_doubtful:
                self._no_answer(now, sent_at, _DOUBTFUL_IN_A_ROW, "nothing but errors (500)")
            else:
                self._answered(now, sent_at, level)

    @property
    def _patience(self) -> float:
        """Seconds after which a request that was not refused is taken in."""
        return max(STEP_SECONDS, 3.0 * self._slowest_refusal)

    def _answered(self, now: float, sent_at: float, level: int) -> None:
        if self._is_places and self._unexplained:
            self._compare(now, sent_at, level)
        if sent_at >= self._changed:
            self._in_a_row = 0
            if self.tries:
                self._is_back(now)
            self._before = None

    def _compare(self, now: float, sent_at: float, level: int) -> None:
        """Compare an answer with refusals that came before its request was sent, with no more in flight."""
        while self._unexplained and self._unexplained[0].sent_at < sent_at - max(
            _STILL_TRUE, 2.0 * (self._window.mean or 0.0)
        ):
            self._unexplained.popleft()  # places may have become more since
        for seen in [seen for seen in self._unexplained if seen.sent_at < sent_at and seen.level <= level + 1]:
            self._unexplained.remove(seen)
            self._contradictions += 1
        if self._contradictions >= _CONTRADICTIONS:
            self._bucket.begin(now, max(self._window.rate, 1.0))
            self._is_a_rate(now, level)

    def _no_answer(self, now: float, sent_at: float, most: int, why: str) -> None:
        """A request was sent in vain, and may not be sent again."""
        if sent_at < self._changed and not self.tries:
            return
        self._in_a_row += 1
        if self.tries or self._in_a_row >= most:
            self._is_gone(now, why, _COSTLY_PAUSE_SHARE)
            self._needs_answer = True

    def _refused(self, end: Ended, now: float, sent_at: float, level: int) -> None:
        self._slowest_refusal = max(0.9 * self._slowest_refusal, min(now - sent_at, 1.0))
        pause = min(end.retry_after or 0.0, self._longest_pause)
        self._hold(now, pause, "the endpoint refuses more (429)" if end.is_rate else "the endpoint is not available")
        is_new, held = sent_at >= self._changed, self.in_flight
        if self._before is None:
            self._before = self._window.limit
        if not end.is_rate:
            self._bucket.not_passed(sent_at)
            if not held:
                if is_new:
                    self._is_gone(now, "the endpoint is not available", _PAUSE_SHARE)
                    self._needs_answer = False
                return
        elif self._bucket.refused(now, sent_at, self.held_until, self._window.rate) and self._is_rate:
            self._changed = now
        if self.tries or (self._is_rate and end.is_rate):
            return
        if is_new:
            self._learn(end.is_rate, now, sent_at, level, pause)
        elif self._places is not None and held < self._places:  # one of many that were on their way
            self._places = max(float(held), 1.0)
            if self._is_places:
                self._window.fall(self._places, now)

    def _learn(self, is_rate: bool, now: float, sent_at: float, level: int, pause: float) -> None:
        """Find out what refuses, from a refusal that says something new."""
        held, places = self.in_flight, self._places
        self._changed = now
        if is_rate and places is None and held and pause < _SURE_PAUSE:
            # It may be places or a rate: `rate.py` sees to it that the next refusal comes soon, and tells them apart.
            self._places = float(held)
            self._window.rise(self._window.limit, now + pause + STEP_SECONDS, 1.0)
            return
        if is_rate and not self._could_be_places(held):
            self._is_a_rate(now, level)
            return
        if self._is_places and places is not None and level <= places:
            self._unexplained.append(_Seen(sent_at, level))
        self._is_places, self._places = True, max(float(held), 1.0)
        self._bucket.forget()
        answer = self._window.mean or 0.5
        self._apart = min(max(2.0 * self._apart, answer), _MOST_ANSWERS_APART * answer)
        self._window.fall(self._places, now + max(self._apart, STEP_SECONDS, _PAUSES_APART * pause))

    def _could_be_places(self, held: int) -> bool:
        if not held or self._places is None:
            return bool(held)
        if self._is_places:
            return held >= _FEWER_PLACES * self._places - 1.0
        return abs(held - self._places) <= max(1.0, _NEARLY * self._places)

    def _is_a_rate(self, now: float, level: int) -> None:
        self._is_places, self._is_rate = False, True
        self._unexplained.clear()
        limit = max(self._window.limit, self._before or 0.0, float(level))
        self._window.rise(limit, now + STEP_SECONDS, limit)
        self._before, self._changed = None, now

    def _is_gone(self, now: float, why: str, share: float) -> None:
        if not self.tries:
            self._gone_since = now
            self._before = self._before or self._window.limit
        self.tries += 1
        self._changed = now
        pause = max(_SHORTEST_PAUSE, share * (now - self._gone_since))
        self._hold(now, min(pause, _LONGEST_PAUSE), why)

    def _is_back(self, now: float) -> None:
        limit = self._before or 1.0
        self._window.rise(limit, now + STEP_SECONDS, 1.0 if self._is_places else limit)
        self.tries, self._before = 0, None

    def _hold(self, now: float, seconds: float, why: str) -> None:
        if now + seconds > self.held_until:
            self.held_until, self._why = now + seconds, why
