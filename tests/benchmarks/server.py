"""The server of the benchmarks, in a process of its own: canned bytes, a thread for each connection, http and https.

The endpoint's name says what it answers:

    answer-BYTES             a whole answer of about so many bytes
    events-COUNT-FRAMING     a stream of events of 180 bytes, as fast as they are taken
    paced-COUNT-FRAMING      the same, an event each 20 ms, with the time it was sent at
    flood-MEGABYTES          a stream of events of 2 KB, of which little is text
    held                     a stream that goes on when /release is asked for

FRAMING is `event` (one chunk an event), `64k` (chunks of 64 KB) or `close` (the body ends with the connection).
`/traffic` says how many requests and connections there were.
"""

from __future__ import annotations

import functools
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

_END = b"data: [DONE]\n\n"
_LAST_CHUNK = b"0\r\n\r\n"
_PACE_SECONDS = 0.02
_HELD_SECONDS = 60.0
_CHUNK_BYTES = 65536


def delta(text: str, **more: Any) -> bytes:
    """Return a frame of streamed text."""
    event = {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0}
    return b"data: " + json.dumps({**event, "delta": text, **more}).encode() + b"\n\n"


def _message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


@functools.cache
def answer(size: int) -> bytes:
    """Return a whole answer of `size` bytes, or a little more."""
    output = [_message("word " * (size // 5))]
    body = json.dumps({"id": "resp_1", "object": "response", "created_at": 0, "model": "m", "output": output}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (
        head.encode() + b"Date: Tue, 24 Nov 2026 10:00:00 GMT\r\nServer: gateway\r\nx-request-id: 1234\r\n\r\n" + body
    )


@functools.cache
def _events(count: int, framing: str) -> tuple[bytes, ...]:
    filler = "x" * (180 - len(delta("")))
    frames = [*[delta(filler)] * (count - 1), _last_event("".join([filler] * (count - 1)) if count < 1000 else "")]
    return tuple(_framed([*frames, _END], framing))


def _last_event(text: str) -> bytes:
    done = {"type": "response.output_item.done", "output_index": 0, "item": _message(text)}
    return b"data: " + json.dumps(done).encode() + b"\n\n"


def _framed(frames: list[bytes], framing: str) -> Iterator[bytes]:
    """Yield the bytes of a body, in pieces fit to be sent at once."""
    if framing == "event":
        chunks = [_chunk(frame) for frame in frames]
        yield from (b"".join(chunks[i : i + 1000]) for i in range(0, len(chunks), 1000))
        yield _LAST_CHUNK
        return
    body = b"".join(frames)
    pieces = [body[i : i + _CHUNK_BYTES] for i in range(0, len(body), _CHUNK_BYTES)]
    yield from (pieces if framing == "close" else [*map(_chunk, pieces), _LAST_CHUNK])


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _paced(count: int, framing: str) -> Iterator[bytes]:
    frame = (lambda data: data) if framing == "close" else _chunk
    for _ in range(count):
        time.sleep(_PACE_SECONDS)
        yield frame(delta("word ", sent=time.monotonic()))
    yield frame(_END)
    if framing != "close":
        yield _LAST_CHUNK


def _flood(megabytes: int) -> Iterator[bytes]:
    piece = _chunk(delta("word ", obfuscation="x" * 1900) * 32)
    yield from (piece for _ in range(megabytes * 1_000_000 // len(piece)))
    yield _chunk(_END) + _LAST_CHUNK


class Server:
    """Answers as this module's docstring says, on any number of ports of the loopback."""

    def __init__(self, certificate: str, key: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._requests = 0
        self._connections = 0
        self._lock = threading.Lock()
        self._release = threading.Event()

    def listen(self, tls: bool) -> int:
        """Start to accept connections and return the port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        threading.Thread(target=self._accept, args=(listener, tls), daemon=True).start()
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket, tls: bool) -> None:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection, tls), daemon=True).start()

    def _serve(self, connection: socket.socket, tls: bool) -> None:
        try:
            if tls:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reader:
                is_new = True
                while line := reader.readline():
                    length = 0
                    while (header := reader.readline().strip().lower()) != b"":
                        if header.startswith(b"content-length:"):
                            length = int(header.partition(b":")[2])
                    body = reader.read(length)
                    method, path = line.decode().split()[:2]
                    if path not in ("/traffic", "/release"):
                        self._count(is_new)
                        is_new = False
                    if not self._answer(connection, method, path, body):
                        return
        except OSError:
            pass  # the client left

    def _count(self, is_new_connection: bool) -> None:
        with self._lock:
            self._requests += 1
            self._connections += is_new_connection

    def _answer(self, connection: socket.socket, method: str, path: str, body: bytes) -> bool:
        """Answer a request; return whether the connection stays open."""
        parts = path.strip("/").split("/")
        if method == "GET":
            self._tell(connection, path, parts)
            return True
        name = json.loads(body)["model"] if parts[-1] == "responses" else parts[-2]
        kind, *arguments = name.split("-")
        if kind == "answer":
            connection.sendall(answer(int(arguments[0])))
            return True
        framing = arguments[1] if len(arguments) > 1 else "64k"
        pieces: Iterable[bytes] = ()
        if kind == "events":
            pieces = _events(int(arguments[0]), framing)
        elif kind == "paced":
            pieces = _paced(int(arguments[0]), framing)
        elif kind == "flood":
            pieces = _flood(int(arguments[0]))
        elif kind == "held":
            pieces = self._held()
        is_close = framing == "close"
        ending = b"Connection: close" if is_close else b"Transfer-Encoding: chunked"
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%s\r\n\r\n" % ending)
        for piece in pieces:
            connection.sendall(piece)
        return not is_close

    def _held(self) -> Iterator[bytes]:
        yield _chunk(delta("word "))
        self._release.wait(_HELD_SECONDS)
        yield _chunk(_END) + _LAST_CHUNK

    def _tell(self, connection: socket.socket, path: str, parts: list[str]) -> None:
        value: Any = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such path"}
        status = b"404 Not Found"
        if path == "/release":
            self._release.set()
            self._release = threading.Event()
            status, value = b"200 OK", {}
        elif path == "/traffic":
            status, value = b"200 OK", {"requests": self._requests, "connections": self._connections}
        elif parts[:3] == ["api", "2.0", "serving-endpoints"]:
            status, value = b"200 OK", {"name": parts[-1], "task": "agent/v1/responses"}
        raw = json.dumps(value).encode()
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(raw))
        connection.sendall(head + raw)


if __name__ == "__main__":
    server = Server(sys.argv[1], sys.argv[2])
    print(json.dumps({"http": server.listen(tls=False), "https": server.listen(tls=True)}), flush=True)  # noqa: T201
    sys.stdin.read()  # until the parent goes
