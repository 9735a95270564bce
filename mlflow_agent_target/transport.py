"""JSON out, JSON or bytes in. The only module that knows HTTP."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from mlflow_agent_target.error_bodies import parse_body, printable, server_reason
from mlflow_agent_target.errors import AgentTargetError, InvalidResponseError, error_for_status, server_name
from mlflow_agent_target.failures import connection_error
from mlflow_agent_target.payload import encode_json
from mlflow_agent_target.retry import RetryPolicy, parse_retry_after
from mlflow_agent_target.target import Credentials

_logger = logging.getLogger(__name__)

_CHUNK_BYTES = 65536
# Connections kept for reuse to one host; more than any sensible number of threads, for batch runs.
_POOL_SIZE = 1024
_CONNECT_SECONDS = 10.0
# How long the rest of a finished stream may take, so that its connection can be used again.
_DRAIN_SECONDS = 0.05
_DRAIN_CHUNKS = 16

_T = TypeVar("_T")


class Clock(Protocol):
    """What the transport needs of the `time` module."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...
    def time(self) -> float: ...


@dataclass(frozen=True)
class RequestOptions:
    """How one call is made. Times in seconds.

    Attributes:
        endpoint: The endpoint's name, for errors and log records.
        timeout: For one attempt: until the answer, or a stream's first byte, is there.
        total_timeout: For all attempts together.
        idle_timeout: The longest silence within a stream.
        idempotent: Whether the agent may safely run twice.
        retries: When to try again.
    """

    endpoint: str | None = None
    timeout: float = 120.0
    total_timeout: float = 600.0
    idle_timeout: float = 120.0
    idempotent: bool = False
    retries: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True)
class Reply:
    """A whole answer: its JSON value, the server's id of the request, and how many attempts it took."""

    value: Any
    request_id: str | None
    attempts: int = 1


class Transport:
    """Sends requests to one host with one login, over a pool of connections that any number of threads share."""

    def __init__(self, credentials: Credentials, verify_tls: bool = True, clock: Clock = time) -> None:
        from mlflow_agent_target import __version__

        self.base_url = credentials.host
        self._credentials = credentials
        self._clock = clock
        self._adapter = HTTPAdapter(pool_connections=4, pool_maxsize=_POOL_SIZE, max_retries=0)
        self._headers = {
            "User-Agent": f"mlflow-agent-target/{__version__} python-requests/{requests.__version__}",
            "Accept-Encoding": "gzip, deflate",
            "Content-Type": "application/json",
        }
        # Proxies and certificates of the environment: looked up once, not for every request.
        with requests.Session() as session:
            self._connection_settings: dict[str, Any] = dict(
                session.merge_environment_settings(self.base_url, {}, True, None if verify_tls else False, None)
            )

    def get(self, url: str, options: RequestOptions) -> Reply:
        """GET JSON, once: no retries."""
        return self._whole(self._send("GET", url, None, options, accept="application/json", attempt=1), options, 1)

    def post(self, url: str, payload: Mapping[str, Any], options: RequestOptions) -> Reply:
        """POST JSON and wait for the whole answer.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        body = encode_json(payload)

        def attempt(number: int) -> Reply:
            response = self._send("POST", url, body, options, accept="application/json", attempt=number)
            return self._whole(response, options, number)

        return self._with_retries(attempt, options)

    def open_stream(self, url: str, payload: Mapping[str, Any], options: RequestOptions) -> Body:
        """POST JSON and return the answer's body as it arrives.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        body = encode_json(payload)

        def attempt(number: int) -> Body:
            response = self._send("POST", url, body, options, accept="text/event-stream", attempt=number)
            return Body(response, options)

        return self._with_retries(attempt, options)

    def _with_retries(self, attempt: Callable[[int], _T], options: RequestOptions) -> _T:
        deadline = self._clock.monotonic() + options.total_timeout
        number = 1
        while True:
            try:
                return attempt(number)
            except AgentTargetError as error:
                wait = options.retries.wait(
                    error,
                    attempt=number,
                    remaining=deadline - self._clock.monotonic(),
                    idempotent=options.idempotent,
                    random=random.random(),  # noqa: S311 (spreads the waits, guards nothing)
                )
                if wait is None:
                    raise
                _logger.info("Attempt %d failed, trying again in %.1f s: %s", number, wait, error)
                self._clock.sleep(wait)
                number += 1

    def _send(
        self, method: str, url: str, body: bytes | None, options: RequestOptions, accept: str, attempt: int
    ) -> requests.Response:
        login = self._credentials.headers()
        headers = {**self._headers, "Accept": accept, **login}
        request = requests.Request(method, url, headers=headers, data=body).prepare()
        # The adapter's own `send` follows no redirect, which would carry the prompt elsewhere, and reads no netrc.
        timeout = (min(_CONNECT_SECONDS, options.timeout), options.timeout)
        try:
            response = self._adapter.send(request, timeout=timeout, **self._connection_settings)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._failure(error, options, attempt) from error
        if 200 <= response.status_code < 300:
            return response
        try:
            raise self._status_error(response, login, options, attempt)
        finally:
            response.close()

    def _whole(self, response: requests.Response, options: RequestOptions, attempt: int) -> Reply:
        request_id = response.headers.get("x-request-id")
        try:
            raw = response.content
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._failure(error, options, attempt) from error
        finally:
            response.close()
        try:
            return Reply(json.loads(raw), request_id, attempt)
        except (ValueError, RecursionError) as error:
            kind = printable(response.headers.get("content-type", "no content type"))
            raise InvalidResponseError(
                f"{server_name(options.endpoint)} answered {response.status_code} with {kind} that is not JSON. "
                f"Is {self.base_url} the right address? It starts: {printable(_text(raw), 200)!r}",
                endpoint=options.endpoint,
                status_code=response.status_code,
                request_id=request_id,
                body=_text(raw),
                attempts=attempt,
            ) from error

    def _failure(self, error: Exception, options: RequestOptions, attempt: int) -> AgentTargetError:
        return connection_error(
            error, base_url=self.base_url, endpoint=options.endpoint, timeout=options.timeout, attempt=attempt
        )

    def _status_error(
        self, response: requests.Response, login: Mapping[str, str], options: RequestOptions, attempt: int
    ) -> AgentTargetError:
        try:
            raw = response.content
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError):
            raw = b""  # the status says what happened; a body that broke off adds nothing
        for secret in filter(None, (value.rpartition(" ")[2] for value in login.values())):
            raw = raw.replace(secret.encode(), b"[redacted]")  # some gateways quote the request
        body = parse_body(raw)
        if response.status_code < 400:
            location = urlsplit(response.headers.get("location", ""))
            return InvalidResponseError(
                f"{server_name(options.endpoint)} answered {response.status_code}, a redirect to "
                f"{printable(location.netloc or 'another path of the same host')}, which is not followed: the prompt "
                f"would go there too. Name the address that answers itself in the target.",
                endpoint=options.endpoint,
                status_code=response.status_code,
                body=body,
                attempts=attempt,
                may_have_run=False,
            )
        return error_for_status(
            response.status_code,
            reason=server_reason(body),
            body=body,
            endpoint=options.endpoint,
            request_id=response.headers.get("x-request-id"),
            retry_after=parse_retry_after(response.headers.get("retry-after"), self._clock.time()),
            attempts=attempt,
        )


class Body:
    """The body of a streamed answer: an iterator of bytes as they arrive, to be closed.

    Attributes:
        content_type: Of the answer, without parameters.
        request_id: The server's id of the request, if it gave one.
    """

    def __init__(self, response: requests.Response, options: RequestOptions) -> None:
        self.content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.request_id = response.headers.get("x-request-id")
        self._response = response
        self._raw: urllib3.response.BaseHTTPResponse = response.raw
        self._options = options

    def __iter__(self) -> Iterator[bytes]:
        """Yield bytes until the body ends.

        Raises:
            RequestTimeoutError: The body was silent for `idle_timeout` seconds.
            EndpointUnavailableError: The connection broke.
        """
        self._set_timeout(self._options.idle_timeout)
        while chunk := self._read():
            yield chunk

    def _read(self) -> bytes:
        # read1 gives what has arrived; requests' own iterators wait for a full buffer where a body is not chunked.
        try:
            return self._raw.read1(_CHUNK_BYTES, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise connection_error(
                error, base_url="", endpoint=self._options.endpoint, timeout=self._options.idle_timeout, attempt=1
            ) from error

    def _set_timeout(self, seconds: float) -> None:
        connection = self._raw.connection
        sock = getattr(connection, "sock", None)
        if sock is not None:
            sock.settimeout(seconds)

    def finish(self) -> None:
        """Read what little may follow the end marker, so that the connection can be used again, and close."""
        try:
            self._set_timeout(_DRAIN_SECONDS)
            for _ in range(_DRAIN_CHUNKS):
                if not self._raw.read1(_CHUNK_BYTES):
                    break
        except (urllib3.exceptions.HTTPError, OSError):
            pass  # the server keeps it open: nothing is owed to us, and close() gives the connection up
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, or give it back where the whole body was read. Any number of times."""
        self._response.close()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")
