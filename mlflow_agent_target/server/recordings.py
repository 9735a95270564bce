"""Recordings: what real endpoints answered, as a file of JSON lines; written, read, and played to who asks the same.

A line is one exchange, or the task of an endpoint. Each says its version, so that files can be joined.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import difflib
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.responses import Response

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.server.refusals import RefusedError
from mlflow_agent_target.server.rehearsal import BreakableResponse, BrokenOffError
from mlflow_agent_target.server.stand_in import StandIn
from mlflow_agent_target.target.names import endpoint_name
from mlflow_agent_target.text import printable

_VERSION = 1
# What tells one call from another, or names what is asked, and changes nothing of the answer.
_NO_PART_OF_THE_QUESTION = ("model", "stream", "client_request_id", "databricks_options", "usage_context")
_EVENT_STREAM = "text/event-stream"
# A request is compared with so many recorded ones, so much of each, to find the nearest.
_COMPARED, _COMPARED_CHARACTERS = 200, 2000


@dataclass(frozen=True)
class Exchange:
    """A request to an endpoint, and its answer.

    Attributes:
        endpoint: The endpoint's name.
        request: The request's body.
        status: The HTTP status of the answer.
        headers: Those of its headers that are kept.
        chunks: Its body as it came, each part with the seconds from the request on.
        is_broken: Whether the body broke off before its end.
    """

    endpoint: str
    request: dict[str, Any]
    status: int
    headers: Mapping[str, str]
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    is_broken: bool = False

    def line(self) -> dict[str, Any]:
        """Return what is written of it."""
        return {
            "endpoint": self.endpoint,
            "request": json.loads(json.dumps(self.request, sort_keys=True)),
            "status": self.status,
            "headers": dict(self.headers),
            "chunks": [[round(seconds, 6), _written(chunk)] for seconds, chunk in self.chunks],
            "broken": self.is_broken,
        }

    @classmethod
    def read(cls, line: dict[str, Any]) -> Exchange:
        """Return what was written.

        Raises:
            KeyError, TypeError, ValueError: It is nothing that `line` writes.
        """
        request, status, headers = line["request"], line["status"], line["headers"]
        if not isinstance(request, dict) or isinstance(status, bool) or not 200 <= status <= 599:
            raise ValueError
        if not all(isinstance(text, str) for pair in headers.items() for text in pair):
            raise ValueError
        chunks = [(float(seconds), _read_chunk(chunk)) for seconds, chunk in line["chunks"]]
        return cls(line["endpoint"], request, int(status), headers, chunks, bool(line["broken"]))


def is_stream(headers: Mapping[str, str]) -> bool:
    """Return whether an answer is a stream of events, by its headers."""
    return headers.get("content-type", "").lower().startswith(_EVENT_STREAM)


def _written(chunk: bytes) -> Any:
    try:
        return chunk.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(chunk).decode()}


def _read_chunk(written: Any) -> bytes:
    return written.encode() if isinstance(written, str) else base64.b64decode(written["base64"], validate=True)


class RecordingFile:
    """A recording that is written to. Any number of threads may.

    Args:
        path: The file. What it has is kept.

    Raises:
        InvalidInputError: It can't be written to, or is no recording.
    """

    def __init__(self, path: Path) -> None:
        self.exchanges = 0
        self._lock = threading.Lock()
        if path.exists():
            for _ in _lines(path):
                pass
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise InvalidInputError(f"The recording '{path}' can't be written ({error.strerror}).") from error
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line: all of it, or nothing.

        Raises:
            OSError: It can't be written.
        """
        raw = json.dumps({"version": _VERSION, **line}).encode() + b"\n"
        with self._lock:
            size = os.fstat(self._file).st_size
            # By one call, so that whoever kills this process leaves whole lines.
            if os.write(self._file, raw) < len(raw):
                os.ftruncate(self._file, size)
                raise OSError("no space is left for it")
            self.exchanges += "request" in line

    def close(self) -> None:
        """Close it. What is still to be written then can't be."""
        with self._lock:
            file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


@dataclass(frozen=True)
class Recording:
    """A recording to play: `serve(recording=Recording("recording.jsonl", timing=True))`.

    Attributes:
        path: The file.
        timing: Whether answers take as long as they took, instead of coming at once.
    """

    path: str | Path
    timing: bool = False

    def endpoints(self) -> dict[str, RecordedEndpoint]:
        """Return the endpoints of the recording, by name.

        Raises:
            InvalidInputError: It can't be read, is no recording, or is empty.
        """
        path = Path(self.path)
        found: dict[str, RecordedEndpoint] = {}
        for name, line in _lines(path):
            endpoint = found.setdefault(name, RecordedEndpoint(name, self))
            if isinstance(line, Exchange):
                endpoint.add(line)
            else:
                endpoint.task = line
        if not found:
            raise InvalidInputError(f"The recording '{path}' is empty. Make one with `agent-target record`.")
        return found


def _lines(path: Path) -> Iterator[tuple[str, Exchange | str | None]]:
    """Yield what a recording has, each with the endpoint's name: exchanges, and the endpoint's task."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"The recording '{path}' can't be read ({error.strerror}).") from error
    for number, text in enumerate(raw.split(b"\n"), 1):
        if not text.strip():
            continue
        where = f"Line {number} of the recording '{path}'"
        try:
            line = json.loads(text)
            version = line["version"]
            if version == _VERSION:
                read = Exchange.read(line) if "request" in line else line["task"]
                if not isinstance(read, (Exchange, str, type(None))):
                    raise ValueError
                yield endpoint_name(line["endpoint"]), read
                continue
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, binascii.Error, InvalidInputError):
            raise InvalidInputError(
                f"{where} is damaged, or none of `agent-target record`: "
                f"{printable(text.decode(errors='replace'), 80)!r}. Delete the line, or record anew."
            ) from None
        raise InvalidInputError(f"{where} has version {version!r:.20}, and this package reads version {_VERSION}.")


class RecordedEndpoint(StandIn):
    """An endpoint that answers what was recorded.

    Args:
        name: Its name.
        recording: The recording.
    """

    def __init__(self, name: str, recording: Recording) -> None:
        self.name = name
        self.entity = str(recording.path)
        self.task: str | None = None
        self._recording = recording
        self._answers: dict[str, list[Exchange]] = defaultdict(list)
        self._asked: dict[str, int] = defaultdict(int)

    def add(self, exchange: Exchange) -> None:
        """Add what is to be played."""
        self._answers[_question(exchange.request)].append(exchange)

    async def answer(self, body: dict[str, Any], runs: Callable[[], None]) -> Response:
        question = _question(body)
        if question not in self._answers:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", self._unknown(body))
        answers = self._answers[question]
        exchange = answers[min(self._asked[question], len(answers) - 1)]
        self._asked[question] += 1
        if exchange.status < 300:
            runs()
        chunks = self._played(exchange)
        if exchange.is_broken or is_stream(exchange.headers):
            return BreakableResponse(chunks, exchange.status, exchange.headers)
        return Response(b"".join([chunk async for chunk in chunks]), exchange.status, exchange.headers)

    async def _played(self, exchange: Exchange) -> AsyncIterator[bytes]:
        began = time.monotonic()
        for seconds, chunk in exchange.chunks:
            if self._recording.timing:
                await asyncio.sleep(began + seconds - time.monotonic())
            yield chunk
        if exchange.is_broken:
            raise BrokenOffError

    def _unknown(self, body: dict[str, Any]) -> str:
        """Return what is said of a request that was not recorded."""
        said = f"This request to '{self.name}' is not in the recording '{self._recording.path}'"
        asked, known = _question(body), list(self._answers)
        if not known:
            return f"{said}, which has none to that endpoint. Record it with `agent-target record`."
        compared = asked[:_COMPARED_CHARACTERS]
        nearest = max(
            known, key=lambda one: difflib.SequenceMatcher(None, compared, one[:_COMPARED_CHARACTERS]).ratio()
        )
        ours, theirs = json.loads(asked), json.loads(nearest)
        differs = sorted(key for key in {*ours, *theirs} if ours.get(key, ...) != theirs.get(key, ...))
        recorded = printable(json.dumps({key: theirs[key] for key in differs if key in theirs}), 300)
        return (
            f"{said}, which has {len(known)} to that endpoint. The nearest differs in {', '.join(differs)}: it has "
            f"{recorded}. Record this one with `agent-target record`."
        )


def _question(body: Mapping[str, Any]) -> str:
    """Return what is the same for requests that ask the same."""
    asked = {key: value for key, value in body.items() if key not in _NO_PART_OF_THE_QUESTION and value is not None}
    return json.dumps({**asked, "stream": bool(body.get("stream"))}, sort_keys=True)
