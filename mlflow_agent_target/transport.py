"""JSON out, JSON or bytes in. The only module that speaks HTTP."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from mlflow_agent_target.body import Body
from mlflow_agent_target.error_bodies import parse_body, printable, server_reason
from mlflow_agent_target.errors import AgentTargetError, InvalidResponseError, error_for_status, server_name
from mlflow_agent_target.failures import FAILURES, connection_error
from mlflow_agent_target.payload import encode_json
from mlflow_agent_target.retry import RetryPolicy, parse_retry_after
from mlflow_agent_target.target import Credentials

_logger = logging.getLogger(__name__)

# Connections kept for reuse to one host; more than any sensible number of threads, for batch runs.
_POOL_SIZE = 1024
_CONNECT_SECONDS = 10.0
# As much of an error's body is kept.
_ERROR_BYTES = 1_000_000

_T = TypeVar("_T")


class _Attempt(NamedTuple):
    """The number of an attempt, from 1, and the seconds it may take."""

    number: int
    timeout: float


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
        timeout: For one attempt: until the answer, or a stream's first event, is there.
        total_timeout: For all attempts together.
        idle_timeout: The longest silence within a stream; None for as long as `timeout`.
        idempotent: Whether the agent may safely run twice.
        headers: Sent beside the usual ones.
        retries: When to try again.
    """

    endpoint: str | None = None
    timeout: float = 120.0
    total_timeout: float = 600.0
    idle_timeout: float | None = None
    idempotent: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
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
        response, deadline = self._send("GET", url, None, options, _Attempt(1, options.timeout))
        return self._whole(response, deadline, options, _Attempt(1, options.timeout))

    def post(self, url: str, payload: Mapping[str, Any], options: RequestOptions) -> Reply:
        """POST JSON and wait for the whole answer.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        body = encode_json(payload)

        def try_once(attempt: _Attempt) -> Reply:
            response, deadline = self._send("POST", url, body, options, attempt)
            return self._whole(response, deadline, options, attempt)

        return self._with_retries(try_once, options)

    def open_stream(self, url: str, payload: Mapping[str, Any], options: RequestOptions) -> Body:
        """POST JSON and return the answer's body as it arrives.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        body = encode_json(payload)

        def try_once(attempt: _Attempt) -> Body:
            response, _ = self._send("POST", url, body, options, attempt, accept="text/event-stream")
            return Body(response, options.endpoint, attempt.number)

        return self._with_retries(try_once, options)

    def _with_retries(self, try_once: Callable[[_Attempt], _T], options: RequestOptions) -> _T:
        deadline = self._clock.monotonic() + options.total_timeout
        number = 1
        while True:
            try:
                return try_once(_Attempt(number, min(options.timeout, deadline - self._clock.monotonic())))
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
        self,
        method: str,
        url: str,
        body: bytes | None,
        options: RequestOptions,
        attempt: _Attempt,
        accept: str = "application/json",
    ) -> tuple[requests.Response, float]:
        """Send a request and return its answer, of which the body is to be read, and when that must be done."""
        login = self._credentials.headers()
        headers = {**self._headers, "Accept": accept, **options.headers, **login}
        deadline = time.monotonic() + attempt.timeout
        timeout = (min(_CONNECT_SECONDS, attempt.timeout), attempt.timeout)
        try:
            request = requests.Request(method, url, headers=headers, data=body).prepare()
            # The adapter's own `send` follows no redirect, which would carry the prompt elsewhere, and reads no netrc.
            response = self._adapter.send(request, timeout=timeout, **self._connection_settings)
        except FAILURES as error:
            raise self._failure(error, options, attempt) from error
        if 200 <= response.status_code < 300:
            return response, deadline
        raise self._status_error(response, login, options, attempt.number, deadline)

    def _whole(self, response: requests.Response, deadline: float, options: RequestOptions, attempt: _Attempt) -> Reply:
        body = Body(response, options.endpoint, attempt.number, attempt.timeout)
        with contextlib.closing(body):
            raw = b"".join(iter(lambda: body.read(deadline - time.monotonic()), b""))
        try:
            return Reply(json.loads(raw), body.request_id, attempt.number)
        except (ValueError, RecursionError) as error:
            kind = printable(response.headers.get("content-type", "no content type"))
            raise InvalidResponseError(
                f"{server_name(options.endpoint)} answered {response.status_code} with {kind} that is not JSON. "
                f"Is {self.base_url} the right address? It starts: {printable(_text(raw), 200)!r}",
                endpoint=options.endpoint,
                status_code=response.status_code,
                request_id=body.request_id,
                body=_text(raw),
                attempts=attempt.number,
            ) from error

    def _failure(self, error: Exception, options: RequestOptions, attempt: _Attempt) -> AgentTargetError:
        return connection_error(
            error,
            base_url=self.base_url,
            endpoint=options.endpoint,
            timeout=attempt.timeout,
            attempt=attempt.number,
        )

    def _status_error(
        self,
        response: requests.Response,
        login: Mapping[str, str],
        options: RequestOptions,
        attempt: int,
        deadline: float,
    ) -> AgentTargetError:
        raw = b""
        body_of_error = Body(response, options.endpoint, attempt)
        with contextlib.closing(body_of_error), contextlib.suppress(AgentTargetError):
            # The status says what happened. A body that breaks off or never ends adds what came of it.
            while len(raw) < _ERROR_BYTES and (chunk := body_of_error.read(deadline - time.monotonic())):
                raw += chunk
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


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")
