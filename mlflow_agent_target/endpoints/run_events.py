"""The events of a run as one stream of bytes, however often its connection breaks."""

from __future__ import annotations

import threading
import time

from mlflow_agent_target.endpoints.following import Run, pause_after, poll_pause
from mlflow_agent_target.errors import AgentTargetError, RequestTimeoutError, StreamIdleError
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.formats.runs import is_going
from mlflow_agent_target.http.body import Body
from mlflow_agent_target.http.replies import Reply
from mlflow_agent_target.http.steps import Read, Sleep, Steps, perform
from mlflow_agent_target.streams.sse import EventDecoder, NumberedEventDecoder

_END = b"[DONE]"


class RunEvents:
    """The events of a run: those that the server has kept and then those that come, each once.

    Where a connection breaks, or is silent for too long, the events after the last one are asked for. After the last
    event the run's record tells whether all have come, and what the answer is.

    Args:
        run: The run.
        body: The events as they come; None to ask for them.
        after: The number of the last event that its reader has; None for none.
        idle_timeout: Seconds of silence after which the server is asked how the run stands.
        most: Seconds without an event after which it is given up.
    """

    content_type = "text/event-stream"

    def __init__(
        self, run: Run, body: Body | None, *, after: int | None = None, idle_timeout: float, most: float
    ) -> None:
        self.facts = Facts(run.options.endpoint, run.base, status=200, invocation_id=run.id)
        self._run = run
        self._body: Body | None = None
        self._last = after
        self._idle_timeout = idle_timeout
        self._most = most
        self._decoder: EventDecoder = self._new_decoder()
        self._progress_at = self._opened_at = time.monotonic()
        self._fruitless = 0  # connections since the last event
        self._is_marked = False  # whether the end of all events has come
        self._closed = threading.Event()
        self._reply: Reply | None = None
        self._error: AgentTargetError | None = None
        if body is not None:
            self._has(body)

    def read(self, timeout: float) -> bytes:  # noqa: ARG002 (a run may be silent for as long as it has time)
        """Wait for events and return them, b"" at the end of them all."""
        return perform(self.reading())

    def outcome(self) -> AgentResponse:
        """Return the run's answer, once all events were read.

        Raises:
            AgentTargetError: The agent failed, or the run could not be followed to its end.
        """
        if self._error is not None:
            raise self._error
        if self._reply is None:  # the last event said that all is there
            raise self._run.out_of_time(StreamIdleError, self._most)
        return self._run.answer(self._reply)

    def reading(self) -> Steps[bytes]:
        """Return `read` as steps."""
        try:
            while True:
                if self._is_marked and (yield from self._is_over()):
                    return b""
                body = self._body or (yield from self._open())
                try:
                    chunk = yield Read(body, max(min(self._idle_timeout, self._left()), 0.0))
                except AgentTargetError as error:
                    if self._closed.is_set():
                        raise
                    self._drop()
                    if self._left() <= 0:
                        raise self._run.out_of_time(StreamIdleError, self._most) from error
                    yield from self._look_after(error)
                    continue
                if chunk:
                    if events := self._new(chunk):
                        return events
                elif (yield from self._is_over()):
                    return b""
        except AgentTargetError as error:
            self._error = error
            return b""

    def finish(self) -> None:
        """Read what little may follow the end, so that the connection can be used again, and close."""
        if self._body is not None:
            self._body.finish()

    def close(self) -> None:
        """Leave the events. The run goes on. Any number of times, from any thread."""
        self._closed.set()
        if (body := self._body) is not None:
            body.close()

    def _left(self) -> float:
        return self._most - (time.monotonic() - self._progress_at)

    def _new_decoder(self) -> EventDecoder:
        return NumberedEventDecoder() if self._run.protocol.is_callers_id else EventDecoder()

    def _open(self) -> Steps[Body]:
        self._fruitless += 1
        if self._fruitless > 1:
            yield Sleep(min(pause_after(self._fruitless - 1), max(self._left(), 0.0)), self._closed.wait)
        self._opened_at = time.monotonic()
        body = yield from self._run.patiently(
            lambda left: self._run.events(self._last, left),
            self._progress_at,
            self._most,
            StreamIdleError,
            self._closed.wait,
        )
        self._decoder = self._new_decoder()
        self._has(body)
        if self._closed.is_set():  # meanwhile: whoever did so found no connection to close
            body.close()
        return body

    def _has(self, body: Body) -> None:
        self._body = body
        self.facts.logins, self.facts.request_id = body.facts.logins, body.facts.request_id

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
        self._body = None

    def _look_after(self, error: AgentTargetError) -> Steps[None]:
        """Ask how a run stands that has said nothing for long: it may be one that the server has lost."""
        if isinstance(error, RequestTimeoutError):
            self._fruitless = 0  # a connection that held for so long is no broken one
            yield from self._record()

    def _record(self) -> Steps[Reply]:
        return self._run.patiently(self._run.record, self._progress_at, self._most, StreamIdleError, self._closed.wait)

    def _is_over(self) -> Steps[bool]:
        """Find out, at the end of what the server sent, whether the run is over. If not, more is to come."""
        self.finish()
        self._body, self._is_marked = None, False
        reply = yield from self._record()
        if not is_going(reply.value):
            self._reply = reply
            return True
        yield Sleep(min(poll_pause(time.monotonic() - self._opened_at), max(self._left(), 0.0)), self._closed.wait)
        return False

    def _new(self, chunk: bytes) -> bytes:
        """Return the events that a chunk completes and that have not been had, each as one of data alone."""
        events = []
        for event in self._decoder.feed(chunk):
            name, data = ("", event) if isinstance(event, bytes) else event
            number = self._run.protocol.number_of(name, data)
            if number is not None:
                if self._last is not None and number <= self._last:
                    continue
                self._last = number
            elif data.strip() == _END and not self._run.protocol.is_callers_id:
                self._is_marked = True  # not passed on: the answer is the one of the run's record
                break
            events.append(data.replace(b"\n", b"\ndata: "))
        if events:
            self._progress_at, self._fruitless = time.monotonic(), 0
        return b"".join([b"data: %s\n\n" % data for data in events])
