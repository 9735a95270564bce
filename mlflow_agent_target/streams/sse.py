"""Bytes to server-sent events, by the WHATWG rules. Pure: no I/O.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re

_BOM = b"\xef\xbb\xbf"
_LF, _CR = b"\n\r"  # as numbers: bytes look for those far quicker
_NO_EVENT = re.compile(rb"(?:(?::[^\n]*)?\n)*")

ServerSentEvent = bytes | tuple[str, bytes]
"""One event: its data, in UTF-8 as it came; with its name before it where the server gave one."""


class EventDecoder:
    """Decodes a stream of bytes, however it is cut into chunks.

    Lines end with LF, CR or CRLF and nothing else: U+2028 and its like may stand inside JSON. One departure from the
    standard: an event at the very end of the body counts also without its blank line, since servers forget it. Whether
    such an event is whole is for its reader to find out.
    """

    def __init__(self) -> None:
        # What came of the next event, its line ends made LF. Joined when the event is complete: an event of megabytes
        # is not copied for each of its chunks.
        self._parts: list[bytes] = []
        self._at_start = True
        self._after_cr = False

    @property
    def in_event(self) -> bool:
        """Whether a part of an event has come; a comment is none."""
        return bool(self._parts) and not self._parts[0].startswith(b":")

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that `chunk` completes, in order."""
        if self._at_start:
            chunk = self._without_bom(chunk)
        if self._after_cr or _CR in chunk:
            chunk = self._with_lf(chunk)
        if self._parts and chunk:
            last = self._parts[-1]
            self._parts.append(chunk)
            if chunk.find(b"\n\n") < 0 and not (chunk.startswith(b"\n") and last.endswith(b"\n")):
                self._drop_comments(chunk)
                return []
            chunk = b"".join(self._parts)
            self._parts = []
        if not chunk.endswith(b"\n\n"):
            if not chunk:
                return []
            end = chunk.rfind(b"\n\n") + 2
            if end < 2:
                self._parts = [chunk]
                self._drop_comments(chunk)
                return []
            self._parts = [chunk[end:]]
            self._drop_comments(chunk[end:])
            chunk = chunk[:end]
        # The common form, events of one `data: ` line each, is cut at C's speed: where the only line ends are those at
        # which it was cut, no rule but that of the `data` field can apply. All else is read block by block.
        if chunk.startswith(b"data: "):
            events: list[ServerSentEvent] = [*chunk[6:-2].split(b"\n\ndata: ")]
            if chunk.count(b"\n") == 2 * len(events):
                return events
        return [event for block in chunk.split(b"\n\n") if (event := self._read_lines(block)) is not None]

    def finish(self) -> list[ServerSentEvent]:
        """Return what an event at the end of the body says, though its blank line is missing."""
        return self.feed(b"\n\n") if self._parts else []

    def _without_bom(self, chunk: bytes) -> bytes:
        start = b"".join([*self._parts, chunk])
        self._parts = []
        self._at_start = len(start) < len(_BOM) and _BOM.startswith(start)
        return start.removeprefix(_BOM)

    def _with_lf(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk:
            # The LF of a CRLF that was cut in two.
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _drop_comments(self, new: bytes) -> None:
        """Forget whole comments and blank lines before an event: they are no part of it, and may come for hours."""
        if _LF in new and self._parts[0].startswith((b":", b"\n")):
            rest = _NO_EVENT.sub(b"", b"".join(self._parts), count=1)
            self._parts = [rest] if rest else []

    def _read_lines(self, block: bytes) -> ServerSentEvent | None:
        """Return the event that the lines up to a blank one make, or None when they hold no data."""
        name = ""
        data = []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                # Lines are whole, so their UTF-8 is too; "replace" is what the standard's decoder does.
                name = value.removeprefix(b" ").decode("utf-8", errors="replace")
        if not data:
            return None
        text = b"\n".join(data)
        return (name, text) if name else text


class NumberedEventDecoder(EventDecoder):
    """Decodes the events of a DurableAgentServer, each with its id in the place of its name.

    The name repeats what stands in the data, unescaped: a line break in it makes lines of its own, and blank ones. The
    data are JSON on one line, the last of the event.
    """

    def __init__(self) -> None:
        super().__init__()
        self._id = b""

    def _read_lines(self, block: bytes) -> ServerSentEvent | None:
        data = None
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"data":
                data = value.removeprefix(b" ")
            elif field == b"id" and not self._id:
                self._id = value.strip()
        if data is None:
            return None
        given, self._id = self._id.decode("ascii", errors="replace"), b""
        return given, data
