"""The body of an answer, read as it arrives, and given up at any time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import requests
import urllib3

from mlflow_agent_target.facts import Facts
from mlflow_agent_target.http.broken import broken_error
from mlflow_agent_target.http.framing import MalformedError
from mlflow_agent_target.http.sockets import Answer, BrokenError, Stage
from mlflow_agent_target.text import other_charset

_CHUNK_BYTES = 65536
# How long the rest of a finished stream may take, so that its connection can be used again.
_DRAIN_SECONDS = 0.05


class Body:
    """The body of an answer as it arrives: bytes to be read to the end, or closed.

    One thread at a time reads it, and only that one gives its connection back; any other may close it.

    Attributes:
        status: The answer's HTTP status.
        headers: Its headers, found under their names in lower case.
        content_type: Its content type, without parameters.
        charset: The charset that the content type names, where it is another one than UTF-8; None otherwise.
        facts: What is known of the exchange.
        ends_by_itself: Whether its end proves that it is whole: it doesn't where it ends because the connection does.
        waited: Seconds that had gone, of those that the attempt may take, when the head was there.

    Args:
        answer: The answer, of which nothing has been read; requests' own in a test that replaces it.
        facts: What is known of the exchange.
    """

    def __init__(self, answer: Answer | requests.Response, facts: Facts) -> None:
        self.headers = answer.headers
        kind, _, parameters = self.headers.get("content-type", "").partition(";")
        self.content_type = kind.strip().lower()
        self.charset = other_charset(parameters) if parameters else None
        self.facts = facts
        self.waited = 0.0
        self._process = os.getpid()
        self._reading = threading.Lock()
        self._is_closed = False
        self._answer: Answer | None = None
        if isinstance(answer, Answer):
            self.status = answer.status
            self.ends_by_itself = answer.ends_by_itself
            self._answer = answer
            self._read1: Callable[[int], bytes] = answer.read1
            if answer.headers.get("content-encoding", "identity") == "identity":
                return
            raw = urllib3.HTTPResponse(answer, answer.headers, preload_content=False)  # type: ignore[arg-type]
        else:
            self.status = answer.status_code
            self.ends_by_itself = True
            raw = answer.raw
        # read1 gives what has arrived; requests' own iterators wait for a full buffer where a body is not chunked.
        self._read1 = lambda size: raw.read1(size, decode_content=True)

    def read(self, timeout: float) -> bytes:
        """Wait for bytes and return what has arrived, b"" at the end.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            RequestTimeoutError: Nothing came in time.
            EndpointUnavailableError: The connection broke.
            InvalidResponseError: What came can't be read.
        """
        try:
            with self._reading:
                if self._answer is not None:
                    self._answer.set_deadline(time.monotonic() + timeout)
                return self._read1(_CHUNK_BYTES)
        except (OSError, MalformedError, urllib3.exceptions.HTTPError) as error:
            raise broken_error(BrokenError(error, Stage.ANSWERING), self.facts) from self.facts.cause(error)
        finally:
            # Looked at once the lock is free: whoever closes it from now on finds nobody reading, and does it himself.
            if self._is_closed:
                self.close()

    def finish(self) -> None:
        """Read what little may follow the end marker, so that the connection can be used again, and close."""
        with self._reading:
            answer = self._answer
            if answer is not None:
                answer.set_deadline(time.monotonic() + _DRAIN_SECONDS)
                try:
                    while not answer.is_read:
                        answer.read1()
                except (OSError, MalformedError):
                    pass  # the server keeps it open, and owes us nothing: the connection is given up
        self.close()

    def close(self) -> None:
        """Close the connection, unless it was given back. Any number of times, from any thread.

        May be called by the garbage collector: it waits for no lock that code may hold which that interrupts.
        """
        self._is_closed = True
        # A forked process has the same socket, which is its parent's.
        if self._answer is None or self._process != os.getpid():
            return
        if self._reading.acquire(blocking=False):
            try:
                self._answer.close()
            finally:
                self._reading.release()
        else:
            self._answer.wake()  # the thread that reads closes it
