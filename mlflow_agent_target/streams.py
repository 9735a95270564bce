"""Streamed answers: events as they arrive, which add up to a whole answer."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

from pydantic_core import from_json

from mlflow_agent_target.answers import AgentResponse, whole_answer
from mlflow_agent_target.deltas import keep
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
from mlflow_agent_target.statuses import is_sign_in_page, sign_in_page

_END = "[DONE]"
# What a whole answer or a web page starts with; no line of an event stream does.
_NO_STREAM = (b"{", b"[", b"<", b'"')


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
        # What events said that came before the first that shows the interface.
        self._extras: dict[str, Any] = {}
        self._whole: AgentResponse | None = None
        self._silence = 0.0
        self._decoder = EventDecoder()
        # The body as long as it may be something else than a stream.
        self._head: list[bytes] = []
        # Events that have arrived, each with the text that it adds; then how the stream ended: an error, or None.
        self._arrived: deque[tuple[dict[str, Any], str]] = deque()
        self._over = self._at_end = self._marked = False
        self._outcome: AgentTargetError | None = None
        # What the framing and the last event say of the end, where no marker tells.
        self._named_frames = self._ends = False
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
            try:
                while not self._arrived:
                    if self._over:
                        if self._marked:
                            self._body.finish()
                        if self._outcome is not None:
                            raise self._outcome
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
                self._error = self._interrupted("was broken off before it was complete")
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
            # In the midst of whatever the garbage collector interrupted: nothing here takes a lock.
            self._body.abandon()
            if self._observer is not None:
                self.duration = self._clock() - self._started
                self._observer.dropped(self, self._answer())

    def observe(self, observer: Observer) -> None:
        """Tell `observer` of the stream's end, and let it take out the events that it asked for itself."""
        self._observer = observer

    def close(self) -> None:
        """Close the connection. Any number of times; a stream that has ended stays as it ended."""
        if self.duration is None:
            self._error = self._interrupted("was closed by its reader before it was complete")
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
        return self._interface.answer() if self._interface is not None else self._extras or None

    def _end(self, left_early: bool = False) -> None:
        if self.duration is None:
            self.duration = self._clock() - self._started
            if self._observer is not None:
                self._observer.ended(self, self._answer(), self._error, left_early)
        self._body.close()

    def _receive(self) -> None:
        """Read what has arrived, up to the end of the stream, which is told once all before it was delivered."""
        try:
            asked = self._clock()
            chunk = self._next_chunk()
            self._at_end = not chunk
            frames = self._decoder.feed(chunk) if chunk else self._decoder.finish()
            # The reader's own time is no silence, comments are.
            if frames or self._decoder.in_event:
                self._silence = 0.0
            else:
                self._silence += self._clock() - asked
            if self.time_to_first_event is None:
                self._keep_head(chunk)
            self._take(frames)
            if self._at_end and not self._over:
                self._over = True
                self._judge_end()
        except AgentTargetError as error:
            self._over = True
            self._outcome = error

    def _take(self, frames: list[ServerSentEvent]) -> None:
        """Parse, check and add up events, up to the end marker."""
        arrived, add_text = self._arrived.append, self._text_adder()
        for frame in frames:
            name, data = ("", frame) if isinstance(frame, bytes) else frame
            # pydantic-core's parser takes a quarter of the time of the standard library's, which still reads what it
            # refuses: lone surrogates, deep nesting, broken UTF-8. orjson would be a dependency more.
            try:
                event = from_json(data, cache_strings="keys")
            except ValueError:
                text = data.decode("utf-8", errors="replace").strip()
                if text == _END:
                    self._over = self._marked = True
                    return self._check_whole()
                if not text:
                    continue
                event = self._parse(name, text)
            if type(event) is not dict:
                raise self._failed(event) if name == "error" else self._invalid("sent an event that is no object", data)
            if add_text is not None and not name:
                piece = add_text(event)
                if piece is not None:
                    arrived((event, piece))
                    continue
            self._take_event(event, name)
            add_text = self._text_adder()
        return None

    def _text_adder(self) -> Callable[[dict[str, Any]], str | None] | None:
        """Return the short way for events that only bring a piece of text, where the framing leaves one."""
        return None if self._interface is None or self._named_frames else self._interface.add_text

    def _take_event(self, event: dict[str, Any], name: str) -> None:
        error = failure(event, name)
        # What has come with an error is delivered first.
        if error is None or "delta" in event or "item" in event or event.get("choices"):
            if self.time_to_first_event is None:
                self.time_to_first_event = self._clock() - self._started
                self._head.clear()
            interface = self._interface or self._find_interface(event)
            text = interface.add(event) if interface else ""
            if self._observer is None or not self._observer.hides(event):
                self._arrived.append((event, text))
            if name or self._named_frames:
                self._named_frames = True
                ends = interface.ends(event) if interface else None
                self._ends = self._ends if ends is None else ends
        if error is not None:
            raise self._failed(error, event)

    def _find_interface(self, event: dict[str, Any]) -> Interface | None:
        interface = interface_of_event(event)
        if interface is None:
            keep(self._extras, event, [key for key in event if key != "type"])
        else:
            self._interface = interface(self._extras)
        return self._interface

    def _parse(self, name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            if self._at_end:
                raise self._interrupted("was cut off within an event") from None
            if name == "error":
                return text
            raise self._invalid("sent an event that is not JSON", text.encode()) from None

    def _keep_head(self, chunk: bytes) -> None:
        start = chunk.removeprefix(b"\xef\xbb\xbf").lstrip()
        if self._head or self._body.content_type in ("application/json", "text/html") or start.startswith(_NO_STREAM):
            self._head.append(chunk)

    def _judge_end(self) -> None:
        """Find out whether a body that has ended without its end marker is whole.

        Without [DONE], only servers that frame with `event:` lines, as OpenAI's, are known to end like this.
        """
        if self._head:
            self._take_whole(b"".join(self._head))
        elif self._named_frames and self._ends:
            self._check_whole()
        else:
            raise self._interrupted("ended without its end marker, so it was cut off")

    def _take_whole(self, raw: bytes) -> None:
        """Take a whole JSON answer in place of a stream: MLflow's scoring server can't stream."""
        text = raw.decode("utf-8-sig", errors="replace")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            kind = printable(self._body.content_type) or "no content type"
            raise self._invalid(f"sent {kind} that is no event stream", raw) from None
        self.time_to_first_event = self._clock() - self._started
        self._whole = whole_answer(
            value, endpoint=self._endpoint, request_id=self._body.request_id, attempts=self._body.attempts
        )
        self._arrived.append((self._whole, self._whole.output_text))

    def _check_whole(self) -> None:
        if self._interface is not None and (reason := self._interface.cut_short()):
            raise self._interrupted(f"ended before the answer was whole: {printable(reason)}")

    def _next_chunk(self) -> bytes:
        """Wait for bytes no longer than silence may last."""
        limit = self._first_timeout if self.time_to_first_event is None else self._idle_timeout
        if self._silence >= limit:
            raise self._silent(limit)
        try:
            return self._body.read(limit - self._silence)
        except RequestTimeoutError as error:
            raise self._silent(limit) from error
        except AgentTargetError as error:
            raise self._interrupted(f"broke off: {str(error).removesuffix('.')}") from error

    def _failed(self, error: Any, event: Any = None) -> AgentError:
        return AgentError(
            f"{server_name(self._endpoint)}: the agent failed while it was answering: {server_reason(error)}",
            **{**self._facts(), "body": error if event is None else event},
        )

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

    def _invalid(self, what: str, raw: bytes) -> AgentTargetError:
        body = raw.decode("utf-8", errors="replace")
        facts = {**self._facts(), "body": body}
        del facts["partial"]
        if is_sign_in_page(self._body.content_type, body):
            return sign_in_page("a page that asks for a login", facts)
        return InvalidResponseError(
            f"{server_name(self._endpoint)} {what}. It starts: {printable(body, 200)!r}", **facts
        )
