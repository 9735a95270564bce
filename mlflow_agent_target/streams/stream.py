"""Streamed answers: events as they arrive, for a reader who may leave at any time, in any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

from mlflow_agent_target.errors import AgentTargetError, RequestTimeoutError
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.streams.reader import EventReader


class ByteStream(Protocol):
    """What a stream needs of an answer's body: bytes as they arrive, and an end to it.

    It may also name the answer's `charset`, and say as `ends_by_itself` whether its end proves that nothing of it was
    cut off: it doesn't where it ends because the connection does. Where the server keeps a record of the answer,
    `outcome` gives that, once the body has ended, or raises what it ended in.
    """

    content_type: str

    def read(self, timeout: float) -> bytes: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class Observer(Protocol):
    """What a stream tells of itself: a tracer."""

    def hides(self, event: dict[str, Any]) -> bool: ...
    def ended(
        self, stream: AgentStream, answer: AgentResponse, error: AgentTargetError | None, left_early: bool
    ) -> None: ...
    def dropped(self, stream: AgentStream, answer: AgentResponse) -> None: ...


class AgentStream:
    """A streamed answer: an iterator of events, plain dicts as the endpoint sent them.

    It ends in exactly one of two ways: complete, or with an exception. Leaving a `for` loop over it early, leaving its
    `with` block, or `close()` closes the connection; reading on after that raises.

    Attributes:
        time_to_first_event: Seconds from the request to the first event; None before.
        duration: Seconds from the request to the stream's end; None before.
    """

    def __init__(
        self,
        body: ByteStream,
        facts: Facts | None = None,
        *,
        started: float | None = None,
        timeout: float = float("inf"),
        waited: float = 0.0,
        idle_timeout: float = float("inf"),
        interface: Interface | None = None,
        is_rest: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.time_to_first_event: float | None = None
        self.duration: float | None = None
        self._body = body
        self._first_timeout = timeout
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._started = clock() if started is None else started
        self._silence = waited
        self._events = EventReader(
            facts or Facts(status=200),
            body.content_type,
            getattr(body, "charset", None),
            getattr(body, "ends_by_itself", False),
            interface,
            getattr(body, "outcome", None),
            is_rest,
        )
        self._arrived = self._events.arrived
        self._new_text = ""
        self._error: AgentTargetError | None = None
        self._observer: Observer | None = None
        self._fetching = threading.Lock()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # A generator of its own for each loop: when a loop is left early, Python closes it, and it the connection.
        arrived = self._arrived
        try:
            while arrived or self._fetch():
                try:
                    event, self._new_text = arrived.popleft()
                except IndexError:
                    continue  # another thread took it
                yield event
        finally:
            self.close()

    def __next__(self) -> dict[str, Any]:
        while self._arrived or self._fetch():
            try:
                event, self._new_text = self._arrived.popleft()
            except IndexError:
                continue  # another thread took it
            return event
        raise StopIteration

    def _fetch(self) -> bool:
        """Wait for events to arrive; return False at the end of a stream that is whole."""
        with self._fetching:
            if self._error is not None:
                raise self._error
            if self.duration is not None:
                return False
            events = self._events
            try:
                while not self._arrived:
                    if events.is_over:
                        if events.is_marked:
                            self._body.finish()
                        if events.error is not None:
                            raise events.error
                        self._end()
                        return False
                    self._receive()
                if self._error is not None:  # closed meanwhile
                    self._arrived.clear()
                    raise self._error
            except AgentTargetError as error:
                self._error = self._error or error  # another thread may have closed it meanwhile
                self._end()
                raise self._error from error.__cause__
            except BaseException:
                # Ctrl-C, most likely: what is left is no whole answer.
                self._error = events.interrupted("was broken off before it was complete")
                self._end()
                raise
            return True

    def __enter__(self) -> AgentStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "duration", 0) is None:
            # In the midst of whatever the garbage collector interrupted: nothing here waits for a lock.
            self._body.close()
            if self._observer is not None:
                self.duration = self._clock() - self._started
                self._observer.dropped(self, self._events.answer())

    def observe(self, observer: Observer) -> None:
        """Tell `observer` of the stream's end, and let it take out the events that it asked for itself."""
        self._observer = observer
        self._events.hides = observer.hides

    def close(self) -> None:
        """Close the connection. Any number of times; a stream that has ended stays as it ended."""
        if self.duration is None:
            self._error = self._events.interrupted("was closed by its reader before it was complete")
            self._arrived.clear()
            self._end(left_early=True)

    @property
    def text_stream(self) -> Iterator[str]:
        """The assistant's text as it comes, in pieces that add up to the answer's `output_text`.

        Reads the stream's events; leaving it early closes the connection.
        """
        for _ in self:
            if self._new_text:
                yield self._new_text
        late, self._events.late_text = self._events.late_text, ""
        if late:
            yield late
        if self._events.late_error is not None:
            raise self._events.late_error

    def get_final_response(self) -> AgentResponse:
        """Read the stream to its end and return the whole answer, in the shape that `predict` gives.

        Raises:
            AgentTargetError: The stream failed, was cut off, or was closed before its end.
        """
        for _ in self:
            pass
        if self._error is not None:
            raise self._error
        return self._events.answer()

    def _end(self, left_early: bool = False) -> None:
        if self.duration is None:
            self.duration = self._clock() - self._started
            if self._observer is not None:
                self._observer.ended(self, self._events.answer(), self._error, left_early)
        self._body.close()

    def _receive(self) -> None:
        """Wait for bytes no longer than silence may last, and have them read."""
        limit = self._first_timeout if self.time_to_first_event is None else self._idle_timeout
        if self._silence >= limit:
            raise self._events.silent(limit)
        asked = self._clock()
        try:
            chunk = self._body.read(limit - self._silence)
        except RequestTimeoutError as error:
            raise self._events.silent(limit) from error
        except AgentTargetError as error:
            raise self._events.interrupted(f"broke off: {str(error).removesuffix('.')}") from error
        # The reader's own time is no silence, comments are.
        if self._events.feed(chunk):
            self._silence = 0.0
        else:
            self._silence += self._clock() - asked
        if self.time_to_first_event is None and self._events.has_begun:
            self.time_to_first_event = self._clock() - self._started
