"""The bytes of a streamed answer to checked events, and to the answer that they add up to. Pure: no I/O."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic_core import from_json

from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    InvalidResponseError,
    StreamIdleError,
    StreamInterruptedError,
)
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.formats.answers import AgentResponse, whole_answer
from mlflow_agent_target.formats.failures import failure, why_not
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.pieces import keep
from mlflow_agent_target.formats.registry import interface_of_event
from mlflow_agent_target.http.statuses import is_sign_in_page, sign_in_page
from mlflow_agent_target.streams.given_text import GivenText
from mlflow_agent_target.streams.sse import EventDecoder, ServerSentEvent
from mlflow_agent_target.text import decoded, printable, seconds, server_reason

_Error = TypeVar("_Error", bound=AgentTargetError)

_MORE_TIME = "Allow more with client.with_options(timeout=..., idle_timeout=...)."
_END = "[DONE]"
# What a whole answer or a web page starts with; no line of an event stream does.
_NO_STREAM = (b"{", b"[", b"<", b'"')


class EventReader:
    """Reads a body, and finds out whether what it held is whole.

    Attributes:
        arrived: Events that have come, each with the text that it adds; whoever takes them out delivers them.
        has_begun: Whether a first event has come.
        is_over: Whether nothing more can come.
        is_marked: Whether that is so for an end marker, behind which the body may go on.
        error: What it ended in, which is told once all before it was delivered; None where it is whole.
        hides: Takes out events that the reader of the stream is not to see; None for none.
        late_text: Text of the answer that no event has brought; "" before the end.
        late_error: Why the texts that were given are not the answer's, though the answer is whole; None where they are.

    Args:
        facts: What is known of the exchange.
        content_type: Of the answer, without parameters.
        charset: In which a whole answer is written that comes in place of a stream; None for UTF-8, a stream's own.
        ends_by_itself: Whether the body's end proves that nothing of it was cut off.
        interface: What the events are known to be written in; None where they show it.
        outcome: Gives what the server itself says of the answer once the body has ended, or raises what it ended in;
            None where only the events say it.
        is_rest: Whether the events are those after some that the reader of the stream has already.
    """

    def __init__(
        self,
        facts: Facts,
        content_type: str,
        charset: str | None = None,
        ends_by_itself: bool = False,
        interface: Interface | None = None,
        outcome: Callable[[], AgentResponse] | None = None,
        is_rest: bool = False,
    ) -> None:
        self.arrived: deque[tuple[dict[str, Any], str]] = deque()
        self.has_begun = self.is_over = self.is_marked = False
        self.error: AgentTargetError | None = None
        self.hides: Callable[[dict[str, Any]], bool] | None = None
        self.late_text = ""
        self.late_error: AgentTargetError | None = None
        self._facts = facts
        self._content_type = content_type
        self._charset = charset
        self._ends_by_itself = ends_by_itself
        self._decoder = EventDecoder()
        # The body as long as it may be something else than a stream.
        self._head: list[bytes] = []
        self._interface = interface
        self._outcome = outcome
        # What events said that came before the first that shows the interface.
        self._extras: dict[str, Any] = {}
        self._whole: AgentResponse | None = None
        self._text = GivenText(is_rest)
        # Whether the answer was complete with the last event, where no marker tells.
        self._ends = False
        self._at_end = False

    def feed(self, chunk: bytes) -> bool:
        """Take in what has come of the body, b"" at its end; return whether it brought an event or a part of one."""
        self._at_end = not chunk
        frames = self._decoder.feed(chunk) if chunk else self._decoder.finish()
        came = len(frames)
        try:
            if not self.has_begun:
                self._keep_head(chunk)
            came -= self._take(frames)
            if self._at_end and not self.is_over:
                self.is_over = True
                self._judge_end()
        except AgentTargetError as error:
            self.is_over = True
            self.error = error
        return came > 0 or self._decoder.in_event

    def answer(self) -> AgentResponse:
        """Return what has come so far, in the shape that `predict` gives."""
        return self._whole or AgentResponse(self._so_far() or {}, request_id=self._facts.request_id)

    def interrupted(self, what: str) -> StreamInterruptedError:
        """Return the error of a stream that ends before it is complete, with what has come."""
        return self._error(StreamInterruptedError, f"the stream {what}.")

    def silent(self, limit: float) -> StreamIdleError:
        """Return the error of a stream that was silent for `limit` seconds, with what has come."""
        is_first = limit == self._facts.timeout
        advice = self._facts.how_to_allow_more if is_first and self._facts.is_capped else _MORE_TIME
        return self._error(
            StreamIdleError,
            f"the stream was silent for {seconds(limit)} s. The agent may still be running. {advice}",
        )

    def _take(self, frames: list[ServerSentEvent]) -> int:
        """Parse, check and add up events, up to the end marker; return how many were only to keep the stream alive."""
        arrived, add_text = self.arrived.append, self._text_adder()
        idle = 0
        for frame in frames:
            if isinstance(frame, bytes):
                name, data = "", frame
            else:
                name, data = frame
                if name == "ping":
                    idle += 1
                    continue
            # pydantic-core's parser takes a quarter of the time of the standard library's, which still reads what it
            # refuses: lone surrogates, deep nesting, broken UTF-8. orjson would be a dependency more.
            try:
                event = from_json(data, cache_strings="keys")
            except ValueError:
                text = data.decode("utf-8", errors="replace").strip()
                if text == _END:
                    self.is_over = self.is_marked = True
                    self._end()
                    break
                if not text:
                    continue
                event = self._parse(name, text)
                add_text = None  # it may hold half of a character
            if type(event) is not dict:
                raise (
                    self._failed(event)
                    if name == "error"
                    else self._invalid("sent an event that is no object", decoded(data))
                )
            if add_text is not None and not name:
                piece = add_text(event)
                if piece is not None:
                    arrived((event, piece))
                    continue
            self._take_event(event, name)
            add_text = self._text_adder()
        return idle

    def _text_adder(self) -> Callable[[dict[str, Any]], str | None] | None:
        """Return the short way for events that only bring a piece of text, where nothing else is to be looked at."""
        is_usual = self.has_begun and not self._ends and self._text.is_whole
        return self._interface.add_text if is_usual and self._interface is not None else None

    def _take_event(self, event: dict[str, Any], name: str) -> None:
        known = self._interface
        error = failure(event, name) if known is None or known.tells_failures else None
        # What has come with an error is delivered first.
        if error is None or "delta" in event or "item" in event or event.get("choices"):
            if not self.has_begun:
                self.has_begun = True
                self._head.clear()
            interface = known or self._find_interface(event)
            if interface is not None and interface.starts_again(event):
                interface = self._start_again(interface)
            text = self._text.of(interface.add(event)) if interface else ""
            if self.hides is None or not self.hides(event):
                self.arrived.append((event, text))
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

    def _start_again(self, interface: Interface) -> Interface:
        """Add up anew what comes from now on, which may be all of the answer again or the rest of it."""
        self._text.begin_again(interface.text(interface.answer()))
        self._interface = interface.anew()
        return self._interface

    def _parse(self, name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            if self._at_end:
                raise self.interrupted("was cut off within an event") from None
            if name == "error":
                return text
            raise self._invalid("sent an event that is not JSON", text) from None

    def _keep_head(self, chunk: bytes) -> None:
        start = chunk.removeprefix(b"\xef\xbb\xbf").lstrip()
        if self._head or self._content_type in ("application/json", "text/html") or start.startswith(_NO_STREAM):
            self._head.append(chunk)

    def _judge_end(self) -> None:
        """Find out whether a body that has ended without its end marker is whole."""
        if self._outcome is not None:
            self._take_outcome(self._outcome)
        elif self._head:
            self._take_whole(b"".join(self._head))
        elif self._ends and self._ends_by_itself and self._interface and not self._interface.is_unfinished():
            self._end()
        else:
            raise self.interrupted("ended without its end marker, so it was cut off")

    def _take_whole(self, raw: bytes) -> None:
        """Take a whole JSON answer in place of a stream: MLflow's scoring server can't stream."""
        text = decoded(raw, self._charset)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            kind = printable(self._content_type) or "no content type"
            raise self._invalid(f"sent {kind} that is no event stream", text) from None
        self.has_begun = True
        self._whole = whole_answer(value, self._facts)
        self.arrived.append((self._whole, self._whole.output_text))

    def _take_outcome(self, outcome: Callable[[], AgentResponse]) -> None:
        """Take what the server itself says of the answer: that is the answer, whatever the events said."""
        given = self.answer().output_text
        try:
            self._whole = outcome()
        except AgentTargetError as error:
            if getattr(error, "partial", self) is None:
                error.partial = self._so_far()
            raise
        self._give_the_rest(given)

    def _give_the_rest(self, given: str) -> None:
        """Find out what is left to be given of the answer's text, and whether it goes on from what was given."""
        answer = self.answer()
        self.late_text = self._text.late(answer.output_text, given)
        if not self._text.fits(answer.output_text):
            self.late_error = self._error(
                StreamInterruptedError,
                "the server started the agent again, and its answer is not what it said before. "
                "get_final_response() gives the answer.",
            )

    def _end(self) -> None:
        interface = self._interface
        if reason := interface.no_answer() if interface else why_not(self._extras.get("status")):
            raise self.interrupted(f"ended without an answer: {reason}")
        # A whole answer may have come as an event.
        self.late_text = interface.late_text() if interface else self.answer().output_text
        if self._text.before is not None:
            self._give_the_rest("")

    def _so_far(self) -> dict[str, Any] | None:
        if self._whole is not None:
            return dict(self._whole)
        return self._interface.answer() if self._interface is not None else self._extras or None

    def _error(self, kind: type[_Error], what: str, **more: Any) -> _Error:
        return self._facts.error(kind, f"{self._facts.server}: {what}", partial=self._so_far(), **more)

    def _failed(self, error: Any, event: Any = None) -> AgentError:
        reason = server_reason(self._facts.redacted(error))
        body = error if event is None else event
        return self._error(AgentError, f"the agent failed while it was answering: {reason}", body=body)

    def _invalid(self, what: str, said: str) -> AgentTargetError:
        body = self._facts.redacted(said)
        if is_sign_in_page(self._content_type, body):
            return sign_in_page("a page that asks for a login", self._facts, body)
        message = f"{self._facts.server} {what}. It starts: {printable(body, 200)!r}"
        return self._facts.error(InvalidResponseError, message, body=body)
