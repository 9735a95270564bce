"""What a local server was asked: the newest requests, and how often each agent ran."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, overload

from starlette.responses import Response, StreamingResponse

from mlflow_agent_target.server.refusals import RefusedError

# So much is kept, in a server that runs for days.
_MOST_REQUESTS = 10_000
_MOST_BYTES = 64_000_000


@dataclass(frozen=True)
class ServedRequest:
    """One request to an agent.

    Attributes:
        endpoint: The endpoint's name.
        body: What it was asked.
        streamed: Whether it was asked for a stream.
        status: The HTTP status of the answer; None as long as there is none.
        ran: How often the agent ran for it: 0 or 1.
        seconds: How long it took, a stream's last event included; None as long as it is not over.
        fault: The option of `Faults` that made it fail; None where none did.
    """

    endpoint: str
    body: dict[str, Any]
    streamed: bool
    status: int | None
    ran: int
    seconds: float | None
    fault: str | None


class ServedRequests(Sequence[ServedRequest]):
    """What a server was asked, the oldest request first: the newest 10,000, and no more than 64 MB of them.

    Any thread may read it while requests come in. What it gives is how things stand at that moment.
    """

    def __init__(self, most: int = _MOST_REQUESTS, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self.clear()

    def __repr__(self) -> str:
        return f"ServedRequests({len(self)} of {self.total})"

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> ServedRequest: ...
    @overload
    def __getitem__(self, index: slice) -> list[ServedRequest]: ...
    def __getitem__(self, index: int | slice) -> ServedRequest | list[ServedRequest]:
        with self._lock:
            kept = list(self._kept)
        return [asked.shown() for asked in kept[index]] if isinstance(index, slice) else kept[index].shown()

    def __iter__(self) -> Iterator[ServedRequest]:
        with self._lock:
            kept = list(self._kept)
        return (asked.shown() for asked in kept)

    @property
    def total(self) -> int:
        """How many requests there were, those included that are no longer kept."""
        return self._total

    @property
    def runs(self) -> Counter[str]:
        """How often each agent ran, by its endpoint's name. Of a recording, how often an answer was played."""
        with self._lock:
            return Counter(self._runs)

    def clear(self) -> None:
        """Forget all requests, and count from 0."""
        with self._lock:
            self._kept: deque[Asked] = deque()
            self._runs: Counter[str] = Counter()
            self._bytes = self._total = 0

    @contextmanager
    def asked(self, endpoint: str, body: dict[str, Any]) -> Iterator[Asked]:
        """Note a request, and if the block refuses it, with which status."""
        asked = Asked(self, endpoint, body)
        with self._lock:
            self._kept.append(asked)
            self._total += 1
            self._bytes += len(asked.body)
            while len(self._kept) > self._most or self._bytes > self._most_bytes:
                self._bytes -= len(self._kept.popleft().body)
        try:
            yield asked
        except BaseException as error:
            asked.end(error.status if isinstance(error, RefusedError) else 500)
            raise

    def count_run(self, endpoint: str) -> None:
        """Note that an agent ran."""
        with self._lock:
            self._runs[endpoint] += 1


class Asked:
    """A request, as it is being answered."""

    def __init__(self, log: ServedRequests, endpoint: str, body: dict[str, Any]) -> None:
        self.endpoint = endpoint
        # As JSON it takes a fraction of the memory.
        self.body = json.dumps(body).encode()
        self.streamed = bool(body.get("stream"))
        self.fault: str | None = None
        self._log = log
        self._status: int | None = None
        self._ran = 0
        self._seconds: float | None = None
        self._began = time.monotonic()

    def shown(self) -> ServedRequest:
        """Return how it stands."""
        body = json.loads(self.body)
        return ServedRequest(self.endpoint, body, self.streamed, self._status, self._ran, self._seconds, self.fault)

    def runs(self) -> None:
        """Note that the agent runs for it."""
        self._ran = 1
        self._log.count_run(self.endpoint)

    def end(self, status: int) -> None:
        """Note that it is over."""
        self._status = status
        self._seconds = time.monotonic() - self._began

    def answered(self, response: Response) -> Response:
        """Note its answer, and when that is a stream, its end."""
        self._status = response.status_code
        if isinstance(response, StreamingResponse):
            response.body_iterator = self._until_its_end(response.body_iterator)
        else:
            self.end(response.status_code)
        return response

    async def _until_its_end(self, frames: Any) -> AsyncIterator[Any]:
        try:
            async with aclosing(frames):
                async for frame in frames:
                    yield frame
        finally:
            self.end(self._status or 0)
