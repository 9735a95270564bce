"""How an answer is told from the bytes of a connection: its head, and the frames of its body. Pure.

https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

from dataclasses import dataclass

# As long may a chunk's size line be, or a line of the trailer.
_LINE_BYTES = 65536
_NO_BODY = (204, 304)


class MalformedError(Exception):
    """What came is no HTTP answer."""


@dataclass(slots=True)
class Head:
    """The head of an answer.

    Attributes:
        status: The HTTP status.
        headers: The headers, their names in lower case. One that came more than once is joined with commas.
        keeps_alive: Whether the connection may be used again after the answer.
        is_chunked: Whether the body comes in chunks.
        length: The bytes of the body; None where they are not told: until the connection is closed, if not in chunks.
    """

    status: int
    headers: dict[str, str]
    keeps_alive: bool
    is_chunked: bool
    length: int | None

    @property
    def is_interim(self) -> bool:
        """Whether another answer follows: https://www.rfc-editor.org/rfc/rfc9110#section-15.2."""
        return self.status < 200 and self.status != 101


def parse_head(raw: bytes) -> Head:
    """Return what a head says, of which the blank line at its end is left out.

    Raises:
        MalformedError: It is none, or doesn't say where its body ends.
    """
    first, *lines = raw.decode("latin-1").split("\n")
    version, _, rest = first.partition(" ")
    code = rest.lstrip()[:3]
    if version[:7] != "HTTP/1." or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise MalformedError(f"the answer begins with {first[:100]!r}, which is no status line")
    status = int(code)
    headers = _headers(lines)
    said = headers.get("connection", "").lower()
    keeps_alive = "close" not in said and (version != "HTTP/1.0" or "keep-alive" in said)
    if status in _NO_BODY:
        return Head(status, headers, keeps_alive, False, 0)
    if (coding := headers.get("transfer-encoding")) is not None:  # a length beside it doesn't count
        return Head(status, headers, keeps_alive, coding.lower().rpartition(",")[2].strip() == "chunked", None)
    length = headers.get("content-length")
    return Head(status, headers, keeps_alive, False, None if length is None else _length(length))


def _headers(lines: list[str]) -> dict[str, str]:
    """Return the headers of a head's lines. Those that come more than once are joined, as the standard has it."""
    headers: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in (" ", "\t") and name:  # an old way to go on with the line before
            headers[name] = f"{headers[name]} {line.strip()}"
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon:
            name = ""
            continue
        value = value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _length(said: str) -> int:
    """Return the length that a head gives, maybe more than once."""
    lengths = {part.strip() for part in said.split(",")}
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()):
        raise MalformedError(f"the answer's length is given as {said[:100]!r}")
    return int(length)


class Chunks:
    """Takes a chunked body out of its frames, however the bytes arrive. Pure.

    https://www.rfc-editor.org/rfc/rfc9112#section-7.1

    Attributes:
        is_over: Whether the body has ended, its trailer included.
        in_trailer: Whether the last chunk has come.
        rest: Bytes that came after the end, and are no part of the body.
    """

    def __init__(self) -> None:
        self.is_over = self.in_trailer = False
        self.rest = b""
        # The beginning of a line that has not come as a whole.
        self._line = b""
        # Bytes left of the chunk that is being read, its CRLF included; 0 where a line comes next.
        self._left = 0
        # What came last was no frame: told once what came before it was given.
        self._is_broken = False

    def feed(self, arrived: bytes) -> bytes:
        """Return what the chunks hold of which bytes have arrived.

        Raises:
            MalformedError: They are no chunks.
        """
        if self._is_broken:
            raise MalformedError("the answer is not framed in chunks")
        if self._line:
            arrived, self._line = self._line + arrived, b""
        data: list[bytes] = []
        start, end = 0, len(arrived)
        while start < end:
            if self._left:
                stop = start + self._left
                # The two bytes after a chunk are its CRLF.
                data.append(arrived[start : min(stop - 2, end)] if stop - 2 > start else b"")
                self._left = max(stop - end, 0)
                start = stop
                continue
            line_end = arrived.find(b"\n", start)
            if line_end < 0:
                self._line = arrived[start:]
                self._is_broken = len(self._line) > _LINE_BYTES
                break
            line = arrived[start:line_end]
            start = line_end + 1
            if self.in_trailer:
                if not line.strip():
                    self.is_over = True
                    self.rest = arrived[start:]
                    break
                continue
            size = _chunk_size(line)
            stop = start + size
            if size > 0 and stop + 2 <= end:  # a whole chunk, as nearly all are
                data.append(arrived[start:stop])
                start = stop + 2
            elif size < 0:
                self._is_broken = True
                break
            else:
                self._left = size + 2 if size else 0
                self.in_trailer = not size
        if self._is_broken and not data:
            raise MalformedError("the answer is not framed in chunks")
        return b"".join(data)


def _chunk_size(line: bytes) -> int:
    """Return the size that a chunk's first line gives; -1 where it gives none."""
    try:
        return int(line, 16)
    except ValueError:
        pass
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        return -1
