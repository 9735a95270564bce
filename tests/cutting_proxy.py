"""A proxy in front of a server that spoils chosen answers: it cuts, loses, delays or replaces them, or stays silent.

Bytes go through as they are. Each fault is for one request, the next whose `METHOD /path` is as the fault says.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """What is done to one request or its answer.

    Attributes:
        of: A regular expression for the beginning of the request's `METHOD /path`; "" for any.
        cut_after: The connection is cut after so many bytes of the answer: 0 loses the whole answer to a request that
            was delivered. None lets it through.
        resets: Whether a cut is a TCP reset, not a close in good order.
        undelivered: The connection is reset before the server gets the request.
        silent: The request is delivered, and no byte of its answer comes, ever.
        delay: Seconds that the answer waits.
        instead: Sent in place of the answer, and the connection closed: raw bytes, of a proxy that gave up.
    """

    of: str = ""
    cut_after: int | None = None
    resets: bool = True
    undelivered: bool = False
    silent: bool = False
    delay: float = 0.0
    instead: bytes | None = None

    def __str__(self) -> str:
        changed = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}
        return " ".join(f"{name}={value!r:.16}" for name, value in changed.items())


def gateway(status: int, headers: str = "") -> bytes:
    """An error page of a proxy, as `Fault.instead`. `headers` are raw lines, each with its CRLF."""
    body = b"<html>no healthy upstream</html>"
    length = f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    return f"HTTP/1.1 {status} X\r\nContent-Type: text/html\r\n{length}{headers}\r\n".encode() + body


class CuttingProxy:
    """The proxy, in front of the server at `url`.

    Attributes:
        faults: Those still to come. Tests may add some.
        asked: `METHOD /path` of each request, in the order of their coming.
    """

    def __init__(self, url: str, *faults: Fault) -> None:
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        self._upstream = (address.hostname, address.port)
        self.faults = list(faults)
        self.asked: list[str] = []
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.target_uri = f"agent-target:{self.url}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for opened in self._sockets:
            opened.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        reader = client.makefile("rb")
        passing: _Passing | None = None
        try:
            while request := _read_request(reader):
                first, raw = request
                fault = self._fault_of(first)
                if fault.undelivered:
                    _reset(client)
                    return
                if passing is None:
                    upstream = socket.create_connection(self._upstream)
                    upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.append(upstream)
                    passing = _Passing(client, upstream)
                passing.deliver(raw, fault)
        except OSError:
            # The server is down: so is the connection, for who comes through the proxy.
            _reset(client)
        finally:
            reader.close()  # while it is open, a socket that was closed is not reset
            if passing is None:
                client.close()
            else:
                passing.leave()

    def _fault_of(self, first: str) -> Fault:
        with self._lock:
            self.asked.append(first)
            for position, fault in enumerate(self.faults):
                if re.match(fault.of, first):
                    return self.faults.pop(position)
        return Fault()


class _Passing:
    """Answers on their way from the server to the client, one request at a time."""

    def __init__(self, client: socket.socket, upstream: socket.socket) -> None:
        self._client, self._upstream = client, upstream
        self._fault = Fault()
        self._passed = 0
        threading.Thread(target=self._answers, daemon=True).start()

    def deliver(self, request: bytes, fault: Fault) -> None:
        self._fault, self._passed = fault, 0
        self._upstream.sendall(request)

    def leave(self) -> None:
        """The client has left: so does the proxy."""
        for end in (self._upstream, self._client):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _answers(self) -> None:
        try:
            while data := self._upstream.recv(65536):
                if not self._pass(data):
                    return
            self._client.shutdown(socket.SHUT_RDWR)
        except OSError:
            # The server has died: its system resets its connections.
            _reset(self._client)

    def _pass(self, data: bytes) -> bool:
        fault = self._fault
        if fault.silent:
            return True
        if not self._passed and fault.delay:
            time.sleep(fault.delay)
        if fault.instead is not None:
            self._client.sendall(fault.instead)
            self._client.shutdown(socket.SHUT_RDWR)
            self._upstream.close()
            return False
        if fault.cut_after is not None and self._passed + len(data) >= fault.cut_after:
            self._client.sendall(data[: fault.cut_after - self._passed])
            if fault.resets:
                time.sleep(0.02)  # what was sent before a reset shall arrive
                _reset(self._client)
            else:
                self._client.shutdown(socket.SHUT_RDWR)
            self._upstream.close()
            return False
        self._client.sendall(data)
        self._passed += len(data)
        return True


def _read_request(reader: Any) -> tuple[str, bytes] | None:
    """Read one request: its `METHOD /path`, and its bytes."""
    lines = [reader.readline()]
    words = lines[0].decode("latin-1").split()
    if len(words) < 2:
        return None
    length = 0
    while line := reader.readline():
        lines.append(line)
        key, _, value = line.decode("latin-1").partition(":")
        if key.lower() == "content-length":
            length = int(value)
        if not line.strip():
            break
    return f"{words[0]} {words[1]}", b"".join([*lines, reader.read(length)])


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD)  # wakes the thread that reads
    end.close()
