"""The file of a recording: what real endpoints answered, as JSON lines.

A line is one exchange, or the task of an endpoint. Each says its version, so that files can be joined.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.target.names import endpoint_name
from mlflow_agent_target.text import printable

_VERSION = 1


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
        there = path.read_bytes() if path.is_file() else b""
        for _ in lines(path) if there else ():
            pass
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise InvalidInputError(f"The recording '{path}' can't be written ({error.strerror}).") from error
        if there and not there.endswith(b"\n"):  # an editor left it so
            self._file.write(b"\n")

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line: all of it, or nothing.

        Raises:
            OSError: It can't be written.
            ValueError: The file was closed.
        """
        raw = json.dumps({"version": _VERSION, **line}).encode() + b"\n"
        with self._lock:
            size = os.fstat(self._file.fileno()).st_size
            # By one call, so that whoever kills this process leaves whole lines.
            if self._file.write(raw) < len(raw):
                self._file.truncate(size)
                raise OSError("no space is left for it")
            self.exchanges += "request" in line

    def close(self) -> None:
        """Close it. What is still to be written then can't be."""
        with self._lock:
            self._file.close()


def lines(path: Path) -> Iterator[tuple[str, Exchange | str | None]]:
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
