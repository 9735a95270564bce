"""Endpoints of many kinds, whose limits are known here and not to the limiter; whole runs against them in no time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlflow_agent_target.batch.limiter import Limiter
from mlflow_agent_target.batch.policy import ANSWERED, NEVER_LEFT, End, Ended

# The seconds of a row's answer, from its number, the time, and how many are worked on.
Seconds = Callable[..., float]

_PLACES = 192
_QUICK = 0.001  # a refusal's seconds
LATE = 0.0005  # seconds that threads and networks add, on average


def around(seconds: float, sigma: float = 0.5) -> Seconds:
    """Times around so many seconds, each row's its own."""
    return lambda number, *_: seconds * math.exp(sigma * random.Random(number).gauss(0, 1))


@dataclass(frozen=True)
class Endpoint:
    """What an endpoint does.

    Attributes:
        seconds: How long each answer takes.
        places: How many it works on at a time.
        when_full: What it says to more: 429, 503, or nothing, where it lets them wait.
        rate, burst: Of its token bucket.
        retry_after: Seconds that refusals ask to wait, "exact", or "whole" seconds, until there is a token.
        chance: The part that it refuses at random.
        wrong_every: Each so many-th row's answer is a 400. To the limiter it is an answer like others.
        outage: From when until when it isn't there.
        outage_ends: What comes of requests then: a status, or "reset".
        later: What changes, and when.
    """

    seconds: Seconds
    places: float = math.inf
    when_full: Literal[429, 503, "wait"] = 429
    rate: float = math.inf
    burst: float = 1.0
    retry_after: float | Literal["exact", "whole"] | None = None
    chance: float = 0.0
    wrong_every: int = 0
    outage: tuple[float, float] = (0.0, 0.0)
    outage_ends: int | Literal["reset"] = 503
    later: tuple[tuple[float, dict[str, Any]], ...] = ()


@dataclass
class Run:
    """A run and what came of it. Times are seconds since its start.

    Attributes:
        seconds: How long it took.
        refused: When requests were refused.
        lost: How many rows were lost.
        too_soon: How many requests were sent before a refusal's `Retry-After` had passed.
        most_in_flight: The most requests in flight.
    """

    endpoint: Endpoint
    rows: int
    limiter: Limiter = field(default_factory=lambda: Limiter(_PLACES, 0.0))
    timeout: float = 120.0
    bad: int = 0
    seed: int = 3
    seconds: float = 0.0
    refused: list[float] = field(default_factory=list)
    lost: int = 0
    too_soon: int = 0
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = itertools.count()
        self._todo = list(range(self.rows + self.bad))[::-1]
        self._random = random.Random(self.seed)
        self._in_flight: dict[int, tuple[int, float, int]] = {}  # row, sent at, level
        self._working = 0
        self._waiting: list[int] = []
        self._tokens, self._tokens_at = self.endpoint.burst, 0.0
        self._later = list(self.endpoint.later)
        self._asked_to_wait_until = 0.0

    def go(self, most_seconds: float = 3000.0) -> Run:
        """Run to the end, or to that time."""
        while (self._todo or self._in_flight) and self._now < most_seconds:
            while self._todo and (delay := self.limiter.delay(self._now)) <= 0.0:
                self._send(self._todo.pop())
            due = self._now + delay + 0.0002 if self._todo else math.inf
            if self._events and self._events[0][0] <= due:
                self._now, _, happens, given = heapq.heappop(self._events)
                happens(*given)
            else:
                self._now = due
        self.seconds = self._now
        return self

    def _at(self, time: float, happens: Callable[..., None], *given: Any) -> None:
        heapq.heappush(self._events, (time, next(self._number), happens, given))

    def _late(self) -> float:
        return self._random.expovariate(1 / LATE)

    def _send(self, row: int) -> None:
        level = self.limiter.sent(self._now)
        self.too_soon += self._now < self._asked_to_wait_until
        if row < self.bad:
            self.limiter.ended(NEVER_LEFT, self._now, self._now, level)
            return
        request = next(self._number)
        self._in_flight[request] = row, self._now, level
        self.most_in_flight = max(self.most_in_flight, len(self._in_flight))
        self._at(self._now + self._late(), self._arrives, request)
        self._at(self._now + self.timeout, self._ends, request, Ended(End.LOST, timed_out=True))

    def _arrives(self, request: int) -> None:
        while self._later and self._later[0][0] <= self._now:
            self.endpoint = replace(self.endpoint, **self._later.pop(0)[1])
        endpoint = self.endpoint
        if endpoint.outage[0] <= self._now < endpoint.outage[1]:
            self._says(request, endpoint.outage_ends, 1.0)
        elif self._random.random() < endpoint.chance:
            self._says(request, 429, 0.1)
        elif (wait := self._token()) > 0.0:
            self._says(request, 429, wait)
        elif self._working < endpoint.places:
            self._works(request)
        elif endpoint.when_full == "wait":
            self._waiting.append(request)
        else:
            self._says(request, endpoint.when_full, 0.5)

    def _token(self) -> float:
        """Take a token, and return 0; or the seconds until there is one."""
        rate, burst = self.endpoint.rate, self.endpoint.burst
        if rate == math.inf:
            return 0.0
        self._tokens = min(burst, self._tokens + (self._now - self._tokens_at) * rate)
        self._tokens_at = self._now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / rate
        self._tokens -= 1.0
        return 0.0

    def _works(self, request: int) -> None:
        self._working += 1
        row = self._in_flight[request][0] if request in self._in_flight else 0
        self._at(self._now + self.endpoint.seconds(row, self._now, self._working), self._answers, request)

    def _answers(self, request: int) -> None:
        self._working -= 1
        if self._waiting:
            self._works(self._waiting.pop(0))
        self._at(self._now + self._late(), self._ends, request, ANSWERED)

    def _says(self, request: int, status: int | Literal["reset"], wait: float) -> None:
        end = {
            429: Ended(End.REFUSED, is_rate=True, retry_after=self._retry_after(wait)),
            503: Ended(End.REFUSED, retry_after=self._retry_after(wait)),
            500: Ended(End.ANSWERED, is_doubtful=True),
        }.get(status if status != "reset" else 0, Ended(End.LOST))
        self._at(self._now + _QUICK + self._late(), self._ends, request, end)

    def _retry_after(self, wait: float) -> float | None:
        given = self.endpoint.retry_after
        return {"exact": wait, "whole": float(math.ceil(wait))}.get(given) if isinstance(given, str) else given

    def _ends(self, request: int, end: Ended) -> None:
        if request not in self._in_flight:
            return  # its time had run out
        row, sent_at, level = self._in_flight.pop(request)
        if end.kind is End.REFUSED:
            self._todo.append(row)
            self.refused.append(self._now)
            self._asked_to_wait_until = max(self._asked_to_wait_until, self._now + (end.retry_after or 0.0))
        self.lost += end.kind is End.LOST or end.is_doubtful
        self.limiter.ended(end, self._now, sent_at, level)


def schedule(seconds: Seconds, rows: int | Sequence[int], places: int = _PLACES) -> float:
    """Return the seconds of a schedule that starts the next row at the moment at which one ends."""
    ends = [0.0] * places
    for row in range(rows) if isinstance(rows, int) else rows:
        heapq.heappush(ends, heapq.heappop(ends) + seconds(row, 0.0, places))
    return max(ends)
