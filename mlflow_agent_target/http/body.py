"""The body of an answer, read as it arrives."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import requests
import urllib3

from mlflow_agent_target.http.broken import FAILURES, connection_error

_CHUNK_BYTES = 65536
# How long the rest of a finished stream may take, so that its connection can be used again.
_DRAIN_SECONDS = 0.05


class Body:
    """The body of an answer as it arrives: bytes to be read to the end, or closed.

    Attributes:
        content_type: Of the answer, without parameters.
        request_id: The server's id of the request, if it gave one.
        attempts: How many times the request was sent.
        time_limit: Seconds for the whole answer, or for a stream's first event.
        waited: Seconds of these that had gone when the answer's head was there.
        redact: Takes what was sent as a login out of what the server said.

    Args:
        response: The answer, of which nothing has been read.
        endpoint: The endpoint's name, for errors.
        attempts: How many times the request was sent.
        time_limit: Seconds for the whole answer, or for a stream's first event.
        deadline: When they are over, by `time.monotonic`.
        redact: Takes what was sent as a login out of what the server said.
    """

    def __init__(
        self,
        response: requests.Response,
        endpoint: str | None,
        attempts: int,
        time_limit: float,
        deadline: float,
        redact: Callable[[Any], Any],
    ) -> None:
        self.content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.request_id = response.headers.get("x-request-id")
        self.attempts = attempts
        self.time_limit = time_limit
        self.redact = redact
        self.waited = time_limit - (deadline - time.monotonic())
        self._endpoint = endpoint
        self._response = response
        self._raw: urllib3.response.BaseHTTPResponse = response.raw
        self._timeout: float | None = None
        self._process = os.getpid()
        # read1 gives what has arrived; requests' own iterators wait for a full buffer where a body is not chunked.
        self._read1: Callable[[int], bytes] = functools.partial(self._raw.read1, decode_content=True)
        if self._raw.chunked and "content-encoding" not in response.headers:
            # For a small chunk, urllib3's read1 costs three times as much as http.client's, which it calls.
            self._read1 = getattr(getattr(self._raw, "_fp", None), "read1", self._read1)

    def read(self, timeout: float) -> bytes:
        """Wait for bytes and return what has arrived, b"" at the end.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            RequestTimeoutError: Nothing came in time.
            EndpointUnavailableError: The connection broke.
        """
        try:
            if timeout <= 0:
                raise TimeoutError("the time for the whole answer is over")
            if timeout != self._timeout and (sock := self._socket()):
                sock.settimeout(timeout)
                self._timeout = timeout
            # At the end urllib3 is asked as well, which gives the connection back.
            return self._read1(_CHUNK_BYTES) or self._raw.read1(_CHUNK_BYTES, decode_content=True)
        except (*FAILURES, HTTPException, AttributeError) as error:
            # AttributeError: closed by another thread while it was read.
            raise connection_error(
                error, base_url="", endpoint=self._endpoint, timeout=self.time_limit, attempt=self.attempts
            ) from error

    def _socket(self) -> socket.socket | None:
        """Return the socket while there is something to read from it."""
        sock = getattr(self._raw.connection, "sock", None)
        if sock is None:
            # After `Connection: close` http.client lets go of it; the response's own file still has it.
            file = getattr(getattr(self._raw, "_fp", None), "fp", None)
            sock = getattr(getattr(file, "raw", None), "_sock", None)
        return sock

    def finish(self) -> None:
        """Read what little may follow the end marker, so that the connection can be used again, and close."""
        try:
            deadline = time.monotonic() + _DRAIN_SECONDS
            # Without a socket of its own the connection can't be used again, whatever follows.
            while sock := getattr(self._raw.connection, "sock", None):
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
                if time.monotonic() > deadline or not self._raw.read1(_CHUNK_BYTES, decode_content=True):
                    break
        except FAILURES:
            pass  # the server keeps it open: nothing is owed to us, and close() gives the connection up
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, or give it back where the whole body was read. Any number of times, from any thread."""
        self.abandon()
        self._response.close()

    def abandon(self) -> None:
        """Let go of a body that was not read to its end, and wake a thread that waits for its bytes.

        Touches the socket only: unlike `close`, it takes no lock, and so may be called by the garbage collector.
        """
        # A forked process has the same socket, which is its parent's.
        if self._process == os.getpid() and (sock := self._socket()):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
