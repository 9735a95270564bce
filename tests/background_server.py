"""A stand-in for servers whose runs go on in the background under an id of the server's own.

`long_running`: LongRunningAgentServer of databricks-ai-bridge 0.22.0, byte for byte as it was recorded, with what it
does wrong: while a stream has sent nothing beyond `sequence_number` 0, that is sent again with each of its looks.
`no_database`: the same without a database: `background` is ignored, and no answer can be fetched.
`openai`: a server of OpenAI's Responses API with `background`.

The answer is `hello` to `hi`, else `You said: TEXT`. `custom_inputs` says how the run goes: `sleep` seconds after each
half of its text, `raise` TEXT halfway, `dies` halfway (to be run again by the server), `end` at another status.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LONG_RUNNING, NO_DATABASE, OPENAI = "long_running", "no_database", "openai"
_ENDED = ("completed", "failed", "cancelled", "incomplete")


class BackgroundServer:
    """The server. Attributes tell what it was asked.

    Attributes:
        asked: `METHOD /path` of each request.
        bodies: The bodies of POSTs.
        runs: Each run, by its id.

    Args:
        kind: Which server it is like.
        look: Seconds between two looks of a stream at what there is.
    """

    def __init__(self, kind: str = LONG_RUNNING, look: float = 0.1) -> None:
        self.kind, self.look = kind, look
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.runs: dict[str, Run] = {}
        self.stopped = threading.Event()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.of = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.target_uri = f"agent-target:{self.url}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> BackgroundServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()


class Run:
    """A run of the agent, in a thread of its own where it is in the background."""

    def __init__(self, server: BackgroundServer, payload: dict[str, Any]) -> None:
        self.id = f"resp_{uuid.uuid4().hex[:24]}"
        self.created = int(time.time())
        self.status = "queued" if server.kind == OPENAI else "in_progress"
        self.attempt = 1
        self.output: list[Any] = []
        self.error: Any = None
        self.events: list[dict[str, Any]] = []
        self._server, self._payload = server, payload

    def perform(self) -> None:
        """Run the agent to its end."""
        for event in self._agents_events():
            ended = event.get("type") == "response.output_item.done"
            if ended:
                self.output.append(event["item"])
            # Of a run that was started without "stream", LongRunningAgentServer has no events but the items.
            if self._payload.get("stream") or ended or event.get("type") == "error":
                self._add(event)
        if self.error is not None:
            self.status = "failed"
        elif self.status not in _ENDED:
            self.status = str(self._settings.get("end", "completed"))
        if self._is_openai:
            self._add({"type": f"response.{self.status}", "response": self.response()})

    def response(self) -> dict[str, Any]:
        """Return it as OpenAI's `Response` object."""
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "background": True,
            "error": self.error,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "output": list(self.output),
            "metadata": {},
        }

    @property
    def streams(self) -> bool:
        """Whether its events can be asked for."""
        return not self._is_openai or bool(self._payload.get("stream"))

    @property
    def _is_openai(self) -> bool:
        return self._server.kind == OPENAI

    @property
    def _settings(self) -> dict[str, Any]:
        return self._payload.get("custom_inputs") or {}

    def _add(self, event: dict[str, Any]) -> None:
        more = {"sequence_number": len(self.events)}
        self.events.append({**event, **more} if self._is_openai else {**event, **more, "response_id": self.id})

    def _agents_events(self) -> Iterator[dict[str, Any]]:
        text = _answer_to(self._payload)
        middle = (len(text) + 1) // 2
        delta = {"type": "response.output_text.delta", "item_id": "msg_1"}
        self._sleep(0.02)
        if self._is_openai:
            yield {"type": "response.created", "response": self.response()}
            self.status = "in_progress"
            yield {"type": "response.in_progress", "response": self.response()}
        yield {**delta, "delta": text[:middle]}
        self._sleep()
        if "raise" in self._settings:
            if self._is_openai:
                self.error = {"code": "server_error", "message": self._settings["raise"]}
                return
            self.error = {"message": self._settings["raise"], "type": "server_error", "code": "task_failed"}
            yield {"type": "error", "error": self.error}
            return
        if self._settings.get("dies"):
            self.attempt = 2
            said = (self._payload.get("context") or {}).get("conversation_id") or self.id
            resumed = {"type": "response.resumed", "attempt": 2, "from_seq": len(self.events)}
            yield {**resumed, "conversation_id": f"{said}::attempt-2"}
            yield {**delta, "delta": text[:middle]}
            self._sleep()
        yield {**delta, "delta": text[middle:]}
        self._sleep()
        content = [{"type": "output_text", "text": text, "annotations": []}]
        item = {"type": "message", "id": "msg_1", "role": "assistant", "content": content}
        yield {"type": "response.output_item.done", "item": item}

    def _sleep(self, seconds: float | None = None) -> None:
        self._server.stopped.wait(self._settings.get("sleep", 0.0) if seconds is None else seconds)


def _answer_to(payload: dict[str, Any]) -> str:
    last = payload["input"][-1] if isinstance(payload["input"], list) else {"content": payload["input"]}
    question = last["content"]
    if isinstance(question, list):
        question = "".join(part["text"] for part in question)
    return "hello" if question == "hi" else f"You said: {question}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    of: BackgroundServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the head and the first bytes leave together
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client has left
            super().handle()

    def do_POST(self) -> None:
        server = self.server.of
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        server.asked.append(f"POST {self.path}")
        if self.path.endswith("/cancel"):
            return self._cancel(self.path.split("/")[-2])
        if self.path not in ("/responses", "/invocations"):
            return self._json(404, {"detail": "Not Found"})
        payload = json.loads(body)
        server.bodies.append(payload)
        if "input" not in payload:
            return self._json(400, {"detail": "Invalid parameters for ResponsesAgent: input: Field required"})
        run = Run(server, payload)
        if not payload.get("background") or server.kind == NO_DATABASE:
            return self._foreground(run, payload)
        accepted = run.response()
        if server.kind == LONG_RUNNING:
            del accepted["background"]
        server.runs[run.id] = run
        threading.Thread(target=run.perform, daemon=True).start()
        if payload.get("stream"):
            return self._stream(run, -1 if server.kind == OPENAI else 0)
        return self._json(200, accepted)

    def do_GET(self) -> None:
        server = self.server.of
        server.asked.append(f"GET {self.path}")
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        if not address.path.startswith("/responses/"):
            return self._json(404, {"detail": "Not Found"})
        if server.kind == NO_DATABASE:
            return self._json(501, {"detail": "Response retrieval requires a database configuration."})
        after = int(query.get("starting_after", ["-1" if server.kind == OPENAI else "0"])[0])
        streams = query.get("stream", ["false"])[0].lower() == "true"
        if after > 0 and not streams:
            return self._json(400, {"detail": "starting_after is only supported when stream=true."})
        name = address.path.removeprefix("/responses/")
        run = server.runs.get(name)
        if run is None:
            return self._unknown(name)
        if streams and not run.streams:
            message = "Only a response that was created with stream=true can be streamed."
            return self._json(400, {"error": {"message": message, "type": "invalid_request_error"}})
        if streams:
            return self._stream(run, after)
        if server.kind == OPENAI:
            return self._json(200, run.response())
        # What ended is read before what there is of it, so that no end comes without it.
        status = run.status
        known: dict[str, Any] = {"id": run.id, "status": status}
        if status == "completed":
            known["output"] = run.output
        elif status == "failed":
            known["error"] = run.error
        return self._json(200, {**known, "attempt_number": run.attempt})

    def _cancel(self, name: str) -> None:
        run = self.server.of.runs.get(name)
        if self.server.of.kind != OPENAI:
            return self._json(501, {"detail": "Cancellation is not yet implemented."})
        if run is None:
            return self._unknown(name)
        run.status = "cancelled"
        return self._json(200, run.response())

    def _unknown(self, name: str) -> None:
        if self.server.of.kind != OPENAI:
            return self._json(404, {"detail": "Response not found"})
        message = f"Response with id '{name}' not found."
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        return self._json(404, {"error": error})

    def _foreground(self, run: Run, payload: dict[str, Any]) -> None:
        run.perform()
        if payload.get("stream"):
            self._start_stream()
            left_out = () if self.server.of.kind == OPENAI else ("sequence_number", "response_id")
            for event in run.events:
                self._frame({key: value for key, value in event.items() if key not in left_out})
            return self._end_stream(run)
        if run.error is not None:
            return self._json(500, {"detail": run.error["message"]})
        return self._json(200, run.response() if self.server.of.kind == OPENAI else {"output": run.output})

    def _stream(self, run: Run, after: int) -> None:
        self._start_stream()
        while True:
            status = run.status
            # As the real one asks its database: 0 stands for the beginning, even once 0 has been sent.
            asked = -1 if after == 0 and self.server.of.kind == LONG_RUNNING else after
            for event in run.events[asked + 1 :]:
                self._frame(event)
                after = event["sequence_number"]
            if status in _ENDED and after == len(run.events) - 1:
                return self._end_stream(run)
            if self.server.of.stopped.wait(self.server.of.look):
                return None

    def _start_stream(self) -> None:
        self._head(200, "content-type: text/event-stream; charset=utf-8", "Transfer-Encoding: chunked")
        self.wfile.flush()

    def _frame(self, event: dict[str, Any]) -> None:
        name = f"event: {event['type']}\n" if self.server.of.kind == OPENAI else ""
        self._chunk(f"{name}data: {json.dumps(event)}\n\n")

    def _end_stream(self, run: Run) -> None:
        if self.server.of.kind != OPENAI and run.status == "completed":
            self._chunk("data: [DONE]\n\n")
        self._chunk("")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def _json(self, status: int, value: Any) -> None:
        raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        self._head(status, f"content-length: {len(raw)}", "content-type: application/json")
        self.wfile.write(raw)
        self.wfile.flush()

    def _head(self, status: int, *lines: str) -> None:
        self.send_response_only(status)
        head = [f"date: {formatdate(usegmt=True)}", "server: uvicorn", *lines]
        self._headers_buffer.append("".join(f"{line}\r\n" for line in head).encode())  # type: ignore[attr-defined]
        self.end_headers()
