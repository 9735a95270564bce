"""Calls that meet with faults: each is delayed, refused, lost or cut as its fate has it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from mlflow_agent_target.server.faults import LIMITED, STARTING, Fate, Faults
from mlflow_agent_target.server.refusals import RefusedError
from mlflow_agent_target.server.requests import Asked

_END_OF_STREAM = b"data: [DONE]"


class BrokenOffError(Exception):
    """Raised by the chunks of a `BreakableResponse` where its connection is to break."""


class BreakableResponse(StreamingResponse):
    """A stream that may break off: its connection is closed without the end that HTTP gives a whole body."""

    async def stream_response(self, send: Send) -> None:
        # The server closes the connection of an app that returns without having sent the end.
        with contextlib.suppress(BrokenOffError):
            await super().stream_response(send)


class Rehearsal:
    """The faults of one server, and how far it has come with them. Of the server's own thread.

    Args:
        faults: What goes wrong.
        clock: What time it is, in seconds.
    """

    def __init__(self, faults: Faults, clock: Callable[[], float] = time.monotonic) -> None:
        self._faults = faults
        self._clock = clock
        self._first: dict[str, float] = {}
        self._calls: Counter[str] = Counter()
        # At most `rate` requests in any second: or, where that is no whole number, the most whole ones that it allows.
        rate = faults.rate_limit or 1
        self._burst = max(1, int(rate))
        self._window = self._burst / rate
        self._let_through: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=self._burst))

    def is_starting(self, endpoint: str) -> bool:
        """Return whether an endpoint has been asked, and is not ready yet."""
        first = self._first.get(endpoint)
        return first is not None and self._clock() - first < self._faults.cold_start

    async def meet(self, asked: Asked, run: Callable[[], Awaitable[Response]]) -> Response:
        """Answer a call as its fate has it.

        Args:
            asked: The call, whose body has been checked.
            run: Runs the agent.
        """
        fate = self.fate(asked.endpoint)
        refusal = fate.refusal
        if refusal is not None:
            asked.fault = fate.fault
        if fate.latency:
            await asyncio.sleep(fate.latency)
        if refusal is None:
            return self._disturbed(await run(), fate, asked)
        if refusal.agent_runs:
            with contextlib.suppress(RefusedError):  # it fails by itself, and that is lost, too
                response = await run()
                if isinstance(response, StreamingResponse):
                    async for _ in response.body_iterator:
                        pass
        headers = {"content-type": refusal.content_type}
        if self._faults.retry_after is not None and refusal.status in (429, 503):
            headers["retry-after"] = f"{self._faults.retry_after:g}"
        return Response(refusal.body, refusal.status, headers)

    def fate(self, endpoint: str) -> Fate:
        """Return what the call meets with that comes now."""
        now = self._clock()
        self._first.setdefault(endpoint, now)
        if self.is_starting(endpoint):
            return STARTING
        if self._faults.rate_limit is not None:
            let_through = self._let_through[endpoint]
            if len(let_through) == self._burst and now - let_through[0] < self._window:
                return LIMITED
            let_through.append(now)
        self._calls[endpoint] += 1
        return self._faults.fate(endpoint, self._calls[endpoint])

    def _disturbed(self, response: Response, fate: Fate, asked: Asked) -> Response:
        if not isinstance(response, StreamingResponse):
            return response
        frames: Any = response.body_iterator
        if fate.silence:
            frames = _with_silence(frames, fate.silence)
        if fate.cut_after is None:
            response.body_iterator = frames
            return response
        asked.fault = "cut_streams"
        cut = BreakableResponse(_cut(frames, fate.cut_after), response.status_code)
        cut.raw_headers = response.raw_headers
        return cut


async def _with_silence(frames: Any, seconds: float) -> AsyncIterator[bytes]:
    is_first = True
    async with aclosing(frames):
        async for frame in frames:
            yield frame
            if is_first:
                await asyncio.sleep(seconds)
            is_first = False


async def _cut(frames: Any, events: int) -> AsyncIterator[bytes]:
    """Yield so many events, and of a stream that is shorter, all but its end."""
    async with aclosing(frames):
        async for frame in frames:
            before, end, _ = frame.partition(_END_OF_STREAM)
            yield before
            events -= 1
            if end or not events:
                raise BrokenOffError
