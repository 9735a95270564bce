"""One connection: a request is written to it and the answer read from it, each byte within the request's deadline.

urllib3 makes the connection (addresses, proxies, TLS). From then on it is a socket, and what goes over it is HTTP/1.1:
https://www.rfc-editor.org/rfc/rfc9112. http.client bounds each wait for bytes, but not the whole: a server that drips
would hold a caller for hours. It also takes longer to parse a head than the rest of a call takes.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
import time
from collections.abc import Callable

from urllib3.connection import HTTPConnection

from mlflow_agent_target.http.framing import Chunks, Head, MalformedError, parse_head
from mlflow_agent_target.http.tcp_info import is_unacknowledged

_READ_BYTES = 65536
# Head and body go out together up to this size; beyond it, joining them costs more than a second packet.
_JOINED_BYTES = 65536
_HEAD_BYTES = 262_144
# Seconds for the rest of an answer that had begun to come when the time for sending was over.
_LATE_ANSWER_SECONDS = 1.0


class Stage(enum.Enum):
    """How far an exchange came."""

    SETUP = "no connection can be made with these settings"
    CONNECTING = "no connection was made"
    SENDING = "the server did not get the whole request"
    ANSWERING = "the whole request was sent"


class BrokenError(Exception):
    """An exchange that failed below HTTP.

    Attributes:
        cause: What was raised.
        stage: How far the exchange had come: whether the server can have acted on the request.
        proxy: The host of the proxy that a connection was to go through; None for none.
    """

    def __init__(self, cause: Exception, stage: Stage, proxy: str | None = None) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.stage = stage
        self.proxy = proxy


class _UnansweredError(ConnectionError):
    """The server closed the connection in good order, without a byte of an answer."""


class Connection:
    """One connection to a host, for one exchange after the other.

    Args:
        made: urllib3's connection, which is connected.
    """

    def __init__(self, made: HTTPConnection) -> None:
        self._made = made
        self._socket: socket.socket = made.sock
        self._received = b""
        self._is_reused = False
        self.deadline = 0.0
        """When the next read or write must have ended, by `time.monotonic`."""

    @property
    def is_usable(self) -> bool:
        """Whether another exchange can begin: nothing has come unasked, and the server has not closed it."""
        return not self._received and self._made.is_connected

    def exchange(self, head: bytes, body: bytes | None, deadline: float, release: Callable[[], None]) -> Answer:
        """Send a request and return its answer, of which only the head has been read.

        Args:
            head: The request line and the headers, with the blank line.
            body: The body; None for none.
            deadline: When the answer's head must be there, by `time.monotonic`.
            release: Called when the answer has been read to its end and the connection is free again.

        Raises:
            BrokenError: The exchange failed.
        """
        self.deadline = deadline
        cut_off: OSError | None = None
        try:
            self._send(head, body)
        except OSError as error:
            # A server may refuse a large body before it is there: then its answer counts.
            cut_off = error
            if not isinstance(error, ConnectionError) and self._made.is_connected:
                raise BrokenError(error, Stage.SENDING) from error
            self.deadline = max(deadline, time.monotonic() + _LATE_ANSWER_SECONDS)
        try:
            answer = Answer(self, self._head(), release if cut_off is None else self.close)
        except (OSError, MalformedError) as error:
            if cut_off is not None:
                raise BrokenError(cut_off, Stage.SENDING) from cut_off
            raise BrokenError(error, self._stage_of(error)) from error
        self._is_reused = True
        return answer

    def _stage_of(self, error: Exception) -> Stage:
        """Return whether a request that got no answer was there as a whole."""
        # A server may close a connection that was kept alive while the next request is on its way: then nobody has read
        # it. Its kernel acknowledges what it takes in, with the closing at the latest.
        was_closed = self._is_reused and isinstance(error, _UnansweredError)
        return Stage.SENDING if was_closed and is_unacknowledged(self._socket) else Stage.ANSWERING

    def _send(self, head: bytes, body: bytes | None) -> None:
        if body is None or len(body) <= _JOINED_BYTES:
            self._write(head + body if body else head)
        else:
            self._write(head)
            self._write(body)

    def _write(self, data: bytes) -> None:
        self._socket.settimeout(self._left())
        sent = self._socket.send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                self._socket.settimeout(self._left())
                rest = rest[self._socket.send(rest) :]

    def read(self) -> bytes:
        """Return the bytes that have arrived, waiting for some; b"" when the server has closed the connection."""
        if self._received:
            received, self._received = self._received, b""
            return received
        self._socket.settimeout(self._left())
        return self._socket.recv(_READ_BYTES)

    def unread(self, data: bytes) -> None:
        """Give back bytes that are no part of what was read."""
        self._received = data

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for it is over")
        return left

    def _head(self) -> Head:
        """Read the head of the answer, past interim ones: https://www.rfc-editor.org/rfc/rfc9110#section-15.2."""
        while True:
            head = parse_head(self._read_head())
            if not head.is_interim:
                return head

    def _read_head(self) -> bytes:
        head = self.read()
        if not head:
            raise _UnansweredError("the server closed the connection without an answer")
        looked_at = 0
        while True:
            # A line ends with LF; the CR before it may be missing.
            ends = [end for end in (head.find(b"\n\r\n", looked_at), head.find(b"\n\n", looked_at)) if end >= 0]
            if ends:
                end = min(ends)
                self._received = head[end + (3 if head[end + 1] == 13 else 2) :]
                return head[:end]
            if len(head) > _HEAD_BYTES:
                raise MalformedError(f"the answer's head is longer than {_HEAD_BYTES} bytes")
            looked_at = max(len(head) - 2, 0)
            more = self.read()
            if not more:
                raise ConnectionResetError("the answer broke off within its head")
            head += more

    def wake(self) -> None:
        """Wake whoever waits for its bytes. From any thread."""
        # OSError: it has been closed. AttributeError: TLS within TLS has no shutdown.
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._made.close()


class Answer:
    """The answer to one request, of which the head has been read. One thread at a time reads it.

    Attributes:
        status: The HTTP status.
        headers: The headers, their names in lower case.
        ends_by_itself: Whether the head says where the body ends, or the body does.
    """

    # What urllib3's decoder of compressed bodies asks of a file.
    closed = False

    def __init__(self, connection: Connection, head: Head, release: Callable[[], None]) -> None:
        self.status = head.status
        self.headers = head.headers
        self._connection: Connection | None = connection
        self._release = release
        # Held for moments only: while the connection changes hands, and while another thread wakes its reader. May be
        # taken again by a signal's handler that interrupts such a moment.
        self._owning = threading.RLock()
        self._was_woken = False
        self._keeps_alive = head.keeps_alive
        self._chunks = Chunks() if head.is_chunked else None
        # Bytes that are still to come; -1 for as many as come until the connection is closed.
        self._left = -1 if head.is_chunked or head.length is None else head.length
        self.ends_by_itself = head.is_chunked or self._left >= 0
        if self._left == 0:
            self._end()

    def set_deadline(self, deadline: float) -> None:
        """Set when the next read must have ended, by `time.monotonic`."""
        if self._connection is not None:
            self._connection.deadline = deadline

    def read1(self, _size: int = -1) -> bytes:
        """Return the bytes of the body that have arrived, waiting for some; b"" at the end.

        Raises:
            OSError: The connection broke, was closed by another thread, or the time for the read is over.
            MalformedError: The body is not framed as HTTP says.
        """
        connection = self._connection
        if connection is None:
            if self._was_woken:
                raise ConnectionAbortedError("the answer was closed before its end")
            return b""
        while True:
            data = connection.read()
            if not data:
                return self._at_close()
            if self._chunks is not None:
                data = self._chunks.feed(data)
                if self._chunks.is_over:
                    connection.unread(self._chunks.rest)
                    self._end()
                elif not data:
                    continue
                return data
            if self._left >= 0:
                if len(data) >= self._left:
                    connection.unread(data[self._left :])
                    data = data[: self._left]
                    self._left = 0
                    self._end()
                else:
                    self._left -= len(data)
            return data

    read = read1

    def _at_close(self) -> bytes:
        """Judge a body that ends because the connection does."""
        if self._was_woken:
            raise ConnectionAbortedError("the answer was closed before its end")
        if self._left > 0 or (self._chunks is not None and not self._chunks.in_trailer):
            raise ConnectionResetError("the answer broke off before its end")
        self._keeps_alive = False
        self._end()
        return b""

    def _end(self) -> None:
        """Give the connection back: the whole body has been read."""
        with self._owning:
            connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._keeps_alive and not self._was_woken:
            self._release()
        else:
            connection.close()

    @property
    def is_read(self) -> bool:
        """Whether the body was read to its end, or closed."""
        return self._connection is None

    def wake(self) -> None:
        """Wake the thread that reads, if one does, which then gets an error. From any thread."""
        with self._owning:
            if self._connection is not None:
                self._was_woken = True
                self._connection.wake()

    def close(self) -> None:
        """Close the connection, unless it was given back. Only while nobody reads."""
        with self._owning:
            connection, self._connection = self._connection, None
        if connection is not None:
            self._was_woken = True
            connection.close()
