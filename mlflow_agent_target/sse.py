"""Bytes to server-sent events, by the WHATWG rules. Pure: no I/O.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event: its name ("" when the server gave none) and its data."""

    event: str
    data: str


class EventDecoder:
    """Decodes a stream of bytes, however it is cut into chunks.

    Lines end with LF, CR or CRLF and nothing else: U+2028 and its like may stand inside JSON. One departure from the
    standard: an event at the very end of the body counts also without its blank line, since servers forget it. Whether
    such an event is whole is for its reader to find out.
    """

    def __init__(self) -> None:
        self._partial_line: list[bytes] = []
        self._at_start = True
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []

    @property
    def in_event(self) -> bool:
        """Whether a part of an event has come; a comment is none."""
        return bool(self._data or (self._partial_line and not self._partial_line[0].startswith(b":")))

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that `chunk` completes, in order."""
        if self._at_start:
            chunk = self._without_bom(chunk)
        if self._after_cr and chunk:
            # The LF of a CRLF that was cut in two.
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # Parts are joined once a line ends: a line of megabytes is not copied for each of its chunks.
        if b"\n" not in chunk:
            if chunk:
                self._partial_line.append(chunk)
            return []
        first, *lines = chunk.split(b"\n")
        rest = lines.pop()
        lines.insert(0, b"".join([*self._partial_line, first]))
        self._partial_line = [rest] if rest else []
        events = []
        for line in lines:
            if line:
                self._read_field(line)
            elif self._data:
                events.append(self._dispatch())
            else:
                self._event = ""
        return events

    def finish(self) -> list[ServerSentEvent]:
        """Return what an event at the end of the body says, though its blank line is missing."""
        return self.feed(b"\n\n") if self._partial_line or self._data else []

    def _without_bom(self, chunk: bytes) -> bytes:
        start = b"".join(self._partial_line) + chunk
        if len(start) < len(_BOM) and _BOM.startswith(start):
            return chunk
        self._at_start = False
        if not start.startswith(_BOM):
            return chunk
        self._partial_line = []
        return start[len(_BOM) :]

    def _read_field(self, line: bytes) -> None:
        # A line is whole, so its UTF-8 is too; "replace" is what the standard's decoder does.
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" ").decode("utf-8", errors="replace"))
        elif name == b"event":
            self._event = value.removeprefix(b" ").decode("utf-8", errors="replace")

    def _dispatch(self) -> ServerSentEvent:
        event = ServerSentEvent(self._event, "\n".join(self._data))
        self._event = ""
        self._data = []
        return event
