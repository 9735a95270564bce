"""Streamed answers: events as they arrive, which add up to a whole answer."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

from mlflow_agent_target.answers import AgentResponse, whole_answer
from mlflow_agent_target.error_bodies import failure, printable, server_reason
from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    InvalidResponseError,
    RequestTimeoutError,
    StreamIdleError,
    StreamInterruptedError,
    server_name,
)
from mlflow_agent_target.interfaces import Interface, interface_of_event
from mlflow_agent_target.sse import EventDecoder, ServerSentEvent

_END = "[DONE]"


class ByteStream(Protocol):
    """What a stream needs of the transport: bytes as they arrive, and an end to it."""

    content_type: str
    request_id: str | None
    attempts: int

    def read(self, timeout: float) -> bytes: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


class Observer(Protocol):
    """What a stream tells of itself: a tracer."""

    def hides(self, event: dict[str, Any]) -> bool: ...
    def ended(
        self, stream: AgentStream, answer: AgentResponse, error: AgentTargetError | None, left_early: bool
    ) -> None: ...


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
        *,
        endpoint: str | None = None,
        started: float | None = None,
        timeout: float = float("inf"),
        idle_timeout: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.time_to_first_event: float | None = None
        self.duration: float | None = None
        self._body = body
        self._endpoint = endpoint
        self._first_timeout = timeout
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._started = clock() if started is None else started
        self._interface: Interface | None = None
        self._whole: AgentResponse | None = None
        # Events of no interface that came before the first that has one.
        self._early: list[dict[str, Any]] = []
        self._silence = 0.0
        self._new_text = ""
        self._incomplete_reason = ""
        self._error: AgentTargetError | None = None
        self._observer: Observer | None = None
        # Told by an event that was delivered for what else it says.
        self._failure: AgentError | None = None
        self._decoder = EventDecoder()
        self._frames: deque[ServerSentEvent] = deque()
        self._at_end = False
        # What the last event and the framing say of the end, where no marker tells.
        self._named_frames = self._ends = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # A generator of its own for each loop: when a loop is left early, Python closes it, and it the connection.
        try:
            while (event := next(self, None)) is not None:
                yield event
        finally:
            self.close()

    def __next__(self) -> dict[str, Any]:
        if self._error is not None:
            raise self._error
        if self.duration is not None:
            raise StopIteration
        self._new_text = ""
        try:
            event = self._next_event()
            while event is not None and self._observer is not None and self._observer.hides(event):
                event = self._next_event()
        except AgentTargetError as error:
            self._error = self._error or error  # another thread may have closed it meanwhile
            self._end()
            raise self._error from error.__cause__
        except BaseException:
            # Ctrl-C, most likely: what is left is no whole answer.
            self._error = self._interrupted("was broken off before it was complete")
            self._end()
            raise
        if event is None:
            self._end()
            raise StopIteration
        return event

    def __enter__(self) -> AgentStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "duration", 0) is None:
            self._body.abandon()

    def observe(self, observer: Observer) -> None:
        """Tell `observer` of the stream's end, and let it take out the events that it asked for itself."""
        self._observer = observer

    def close(self) -> None:
        """Close the connection. Any number of times; a stream that has ended stays as it ended."""
        if self.duration is None:
            self._error = self._interrupted("was closed by its reader before it was complete")
            self._end(left_early=True)

    @property
    def text_stream(self) -> Iterator[str]:
        """The assistant's text as it comes, in pieces that add up to the answer's `output_text`.

        Reads the stream's events; leaving it early closes the connection.
        """
        for _ in self:
            if self._new_text:
                yield self._new_text

    def get_final_response(self) -> AgentResponse:
        """Read the stream to its end and return the whole answer, in the shape that `predict` gives.

        Raises:
            AgentTargetError: The stream failed, was cut off, or was closed before its end.
        """
        for _ in self:
            pass
        if self._error is not None:
            raise self._error
        return self._answer()

    def _answer(self) -> AgentResponse:
        return self._whole or AgentResponse(self._so_far() or {}, request_id=self._body.request_id)

    def _so_far(self) -> dict[str, Any] | None:
        if self._interface is not None:
            return self._interface.answer()
        merged = {key: value for event in self._early for key, value in event.items()}
        return merged or None

    def _end(self, left_early: bool = False) -> None:
        if self.duration is None:
            self.duration = self._clock() - self._started
            if self._observer is not None:
                self._observer.ended(self, self._answer(), self._error, left_early)
        self._body.close()

    def _next_event(self) -> dict[str, Any] | None:
        """Return the next event, or None at the end of a stream that is whole."""
        if self._failure is not None:
            raise self._failure
        if self._body.content_type in ("application/json", "text/html"):
            return self._read_whole() if self._whole is None else None
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if frame.data.strip() == _END:
                    self._body.finish()
                    self._check_complete()
                    return None
                self._named_frames = self._named_frames or bool(frame.event)
                if frame.data.strip():
                    return self._deliver(self._parse(frame), frame.event)
            if self._at_end:
                # Without [DONE], only servers that frame with `event:` lines, as OpenAI's, are known to end like this.
                if not (self._named_frames and self._ends):
                    raise self._interrupted("ended without its end marker, so it was cut off")
                self._check_complete()
                return None
            chunk = self._next_chunk()
            self._at_end = not chunk
            self._frames.extend(self._decoder.feed(chunk) if chunk else self._decoder.finish())
            if self._frames or self._decoder.in_event:
                self._silence = 0.0

    def _read_whole(self) -> dict[str, Any]:
        """Take a whole JSON answer in place of a stream: MLflow's scoring server can't stream."""
        raw = b"".join(iter(self._next_chunk, b""))
        text = raw.decode("utf-8", errors="replace")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise self._invalid(f"sent {self._body.content_type} in place of a stream", text) from None
        self.time_to_first_event = self._clock() - self._started
        self._whole = whole_answer(
            value, endpoint=self._endpoint, request_id=self._body.request_id, attempts=self._body.attempts
        )
        self._new_text = self._whole.output_text
        return self._whole

    def _check_complete(self) -> None:
        if self._incomplete_reason:
            raise self._interrupted(f"ended before the answer was whole: {self._incomplete_reason}")

    def _deliver(self, event: dict[str, Any], name: str) -> dict[str, Any]:
        error = failure(event, name)
        says_more = "delta" in event or "item" in event or event.get("choices")
        if error is None or says_more:
            self._take(event)
        if error is not None:
            self._failure = AgentError(
                f"{server_name(self._endpoint)}: the agent failed while it was answering: {server_reason(error)}",
                **{**self._facts(), "body": event},
            )
            if not says_more:
                raise self._failure
        return event

    def _take(self, event: dict[str, Any]) -> None:
        if self.time_to_first_event is None:
            self.time_to_first_event = self._clock() - self._started
        if self._interface is None:
            interface = interface_of_event(event)
            if interface is None:
                self._early.append(event)
                return
            self._interface = interface()
            for early in self._early:
                self._interface.add(early)
        self._new_text = self._interface.add(event)
        self._ends = self._interface.ends(event)
        if event.get("type") == "response.incomplete":
            response = event.get("response")
            details = response.get("incomplete_details") if isinstance(response, dict) else None
            reason = details.get("reason") if isinstance(details, dict) else None
            self._incomplete_reason = printable(str(reason or "the model gave no reason"))

    def _parse(self, frame: ServerSentEvent) -> dict[str, Any]:
        try:
            event = json.loads(frame.data)
        except (ValueError, RecursionError):
            if self._at_end:
                raise self._interrupted("was cut off within an event") from None
            raise self._invalid("sent an event that is not JSON", frame.data) from None
        if not isinstance(event, dict):
            raise self._invalid("sent an event that is not a JSON object", frame.data)
        return event

    def _next_chunk(self) -> bytes:
        """Wait for bytes no longer than silence may last. The reader's own time is no silence, comments are."""
        limit = self._first_timeout if self.time_to_first_event is None else self._idle_timeout
        if self._silence >= limit:
            raise self._silent(limit)
        started = self._clock()
        try:
            return self._body.read(limit - self._silence)
        except RequestTimeoutError as error:
            raise self._silent(limit) from error
        except AgentTargetError as error:
            raise self._interrupted(f"broke off: {str(error).removesuffix('.')}") from error
        finally:
            self._silence += self._clock() - started

    def _interrupted(self, what: str) -> StreamInterruptedError:
        return StreamInterruptedError(f"{server_name(self._endpoint)}: the stream {what}.", **self._facts())

    def _silent(self, limit: float) -> StreamIdleError:
        return StreamIdleError(
            f"{server_name(self._endpoint)}: the stream was silent for {limit:g} s. "
            "The agent may still be running. Allow more with client.with_options(timeout=..., idle_timeout=...).",
            **self._facts(),
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "endpoint": self._endpoint,
            "status_code": 200,
            "request_id": self._body.request_id,
            "attempts": self._body.attempts,
            "partial": self._so_far(),
        }

    def _invalid(self, what: str, body: str) -> InvalidResponseError:
        return InvalidResponseError(
            f"{server_name(self._endpoint)} {what}. It starts: {printable(body, 200)!r}",
            endpoint=self._endpoint,
            status_code=200,
            request_id=self._body.request_id,
            body=body,
            attempts=self._body.attempts,
        )
