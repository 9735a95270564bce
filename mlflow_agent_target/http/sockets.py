"""Connections that tell a request which was cut off from one that was not answered, and read chunks as they arrive."""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError
from urllib3.response import HTTPResponse

# Head and body go out together up to this size; beyond it, joining them costs more than a second packet.
_JOINED_BYTES = 65536
_READ_BYTES = 65536
# As long may a chunk's frame be, or a line of the trailer.
_FRAME_BYTES = 65536
_CUT_OFF = "the connection broke before the whole request was sent"
_NOT_TAKEN = "the connection had been closed before the whole request arrived"
# Offsets in Linux's tcp_info (include/uapi/linux/tcp.h) of counters of 64 bits: bytes acknowledged, and sent.
_ACKNOWLEDGED, _SENT = 120, 200


class RequestCutOffError(ProtocolError):
    """The connection broke before the whole request was out: the server can't have acted on it."""


class _Response(http.client.HTTPResponse):
    """An answer that tells when the request was not taken, and whose `read1` gives all chunks that have arrived.

    http.client gives one chunk at a time, and streams send one for each event.
    https://www.rfc-editor.org/rfc/rfc9112#section-7.1
    """

    # What has come of a chunk's frame, or of the trailer, whose line is not complete.
    _frame = b""
    # Bytes left of the chunk that is being read, its CRLF included; 0 where a frame comes next.
    _left = 0
    _in_trailer = False
    # What came was no frame: told once what came before it was given.
    _is_broken = False

    def __init__(self, sock: socket.socket, *arguments: Any, sent: int = 0, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._sock = sock
        self._sent = sent

    def begin(self) -> None:
        try:
            super().begin()
        except http.client.RemoteDisconnected as error:
            # Its kernel acknowledges what it takes in, with the closing at the latest. Where the server closed a
            # connection that was kept alive while the request was on its way, nobody has read it.
            if _tcp_bytes(self._sock, _ACKNOWLEDGED) < self._sent:
                raise RequestCutOffError(_NOT_TAKEN, error) from error
            raise
        del self._sock

    def read1(self, n: int = -1) -> bytes:
        if not self.chunked or self.fp is None:
            return super().read1(n)
        while not self._is_broken:
            arrived = self.fp.read1(_READ_BYTES)
            if not arrived:
                break
            data = self._unframed(arrived)
            if data or self.fp is None:
                return data
        raise http.client.IncompleteRead(b"")

    def _unframed(self, arrived: bytes) -> bytes:
        """Return what chunks hold, and close at the last one."""
        if self._frame:
            arrived, self._frame = self._frame + arrived, b""
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
                self._frame = arrived[start:]
                self._is_broken = len(self._frame) > _FRAME_BYTES
                break
            line = arrived[start:line_end]
            start = line_end + 1
            if self._in_trailer:
                if not line.strip():
                    self.close()
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
                self._in_trailer = not size
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


def _tcp_bytes(sock: socket.socket, at: int) -> int:
    """Return one of the counters of a connection's tcp_info; 0 where there is none, which tells nothing."""
    if sys.platform != "linux":
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, at + 8)
    except OSError:
        return 0
    return int.from_bytes(info[at:], sys.byteorder)


class _WholeRequests(HTTPConnection):
    """A connection that tells a request which was cut off from one which was sent and then not answered.

    urllib3 reads on after a broken pipe, since a server may refuse a large body early, and then reports only that
    nothing came.
    """

    _held: list[bytes] | None = None
    _cut_off = False
    _is_kept_alive = False

    def connect(self) -> None:
        self._cut_off = self._is_kept_alive = False
        super().connect()

    def response_class(  # type: ignore[override] # called as the class would be
        self, sock: socket.socket, *arguments: Any, **options: Any
    ) -> _Response:
        return _Response(sock, *arguments, sent=_tcp_bytes(sock, _SENT) if self._is_kept_alive else 0, **options)

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        joined = body is None or (isinstance(body, bytes) and len(body) <= _JOINED_BYTES)
        self._held = [] if joined else None
        try:
            super().request(method, url, body, headers, **options)
            if self._held is not None:
                whole, self._held = b"".join(self._held), None
                self.send(whole)
        finally:
            self._held = None

    def send(self, data: Any) -> None:
        if self._held is not None:
            self._held.append(data)
            return
        try:
            super().send(data)
        except (ConnectionError, ssl.SSLError) as error:
            self._cut_off = True
            if isinstance(error, ConnectionError):
                raise
            raise RequestCutOffError(_CUT_OFF, error) from error

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3's own
        try:
            response = super().getresponse()
            self._is_kept_alive = True
            return response
        except ConnectionError as error:
            if self._cut_off:
                raise RequestCutOffError(_CUT_OFF, error) from error
            raise


class _WholeRequestsTLS(_WholeRequests, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _WholeRequests


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _WholeRequestsTLS


POOL_CLASSES = {"http": _Pool, "https": _TLSPool}
