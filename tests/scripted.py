"""A raw HTTP server that answers exactly what a test scripts, byte by byte, and records what it was asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

RESET = "reset"
"""A step that breaks the connection with a TCP reset."""
CLOSE = "close"
"""A step that closes the connection in good order."""

Step = bytes | float | str
Answer = Sequence[Step]


@dataclass(frozen=True)
class Received:
    """A request as it came over the wire, and the number of the connection it came on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def whole(body: Any, status: int = 200, content_type: str = "application/json", headers: str = "") -> list[Step]:
    """An answer with a Content-Length. `headers` are raw lines, each with its CRLF."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(raw)}\r\n{headers}\r\n"
    return [head.encode() + raw]


def chunked(parts: Iterable[bytes | float], content_type: str = "text/event-stream", end: bool = True) -> list[Step]:
    """A chunked answer, a chunk for each part; a number pauses for that many seconds."""
    steps: list[Step] = [
        f"HTTP/1.1 200 X\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    ]
    steps += [p if isinstance(p, float) else b"%x\r\n%s\r\n" % (len(p), p) for p in parts]
    return [*steps, b"0\r\n\r\n"] if end else steps


def closing(parts: Iterable[bytes | float], content_type: str = "text/event-stream") -> list[Step]:
    """An answer whose body ends where the connection does."""
    return [f"HTTP/1.1 200 X\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n".encode(), *parts, CLOSE]


def events(*values: Any, done: bool = True) -> bytes:
    """Values framed as Model Serving frames them."""
    frames = [b"data: " + json.dumps(value).encode() + b"\n\n" for value in values]
    return b"".join([*frames, b"data: [DONE]\n\n"] if done else frames)


class ScriptedServer:
    """Answers each POST with the next scripted answer, the last one for ever; each GET with `describe`."""

    def __init__(self, *answers: Answer, describe: Answer | None = None) -> None:
        self.answers = list(answers)
        self.describe = describe or whole({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}, 404)
        self.received: list[Received] = []
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.target_uri = f"agent-target:{self.url}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def posts(self) -> list[Received]:
        return [request for request in self.received if request.method == "POST"]

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            number = len(self._connections)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        reader = connection.makefile("rb")
        try:
            while request := self._read(reader, number):
                with self._lock:
                    self.received.append(request)
                    is_last = len(self.answers) == 1
                    posted = request.method == "POST"
                    answer = (self.answers[0] if is_last else self.answers.pop(0)) if posted else self.describe
                if not self._answer(connection, answer):
                    return
        except OSError:
            pass
        finally:
            self.closed.set()

    @staticmethod
    def _read(reader: Any, number: int) -> Received | None:
        first = reader.readline().decode("latin-1").split()
        if len(first) < 2:
            return None
        headers = {}
        while line := reader.readline().strip():
            key, _, value = line.decode("latin-1").partition(":")
            headers[key.lower()] = value.strip()
        return Received(first[0], first[1], headers, reader.read(int(headers.get("content-length", 0))), number)

    @staticmethod
    def _answer(connection: socket.socket, steps: Answer) -> bool:
        for step in steps:
            if isinstance(step, bytes):
                connection.sendall(step)
            elif isinstance(step, float):
                time.sleep(step)
            else:
                if step == RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
                return False
        return True
