"""JSON out, JSON or bytes in. The only module that speaks HTTP."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import requests

from mlflow_agent_target.errors import AgentTargetError, InvalidResponseError, RequestTimeoutError, server_name
from mlflow_agent_target.http.body import Body
from mlflow_agent_target.http.broken import FAILURES, connection_error
from mlflow_agent_target.http.pool import HostAdapter
from mlflow_agent_target.http.retry import RetryPolicy, is_not_ready, parse_retry_after
from mlflow_agent_target.http.statuses import error_for_answer, is_sign_in_page, sign_in_page
from mlflow_agent_target.target.login import Login
from mlflow_agent_target.text import encode_json, parse_body, printable, redacted, server_reason

_logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0
_NOT_SECRET = ("User-Agent", "Accept-Encoding", "Content-Type", "Accept", "Content-Length")
# As much of an error's body is kept.
_ERROR_BYTES = 1_000_000

_NONE = RetryPolicy(max_retries=0)

_T = TypeVar("_T")


class _Attempt(NamedTuple):
    """One attempt at a request: its number, from 1, the seconds it may take, and when they are over."""

    number: int
    timeout: float
    deadline: float


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
        wait_until_ready: How long an endpoint is waited for that is starting or scaled to zero, beside `total_timeout`;
            None for the usual retries.
        exists: Asks whether an endpoint that answers 404 is there all the same, and so starting.
        headers: Sent beside the usual ones.
        retries: When to try again.
    """

    endpoint: str | None = None
    timeout: float = 120.0
    total_timeout: float = 600.0
    idle_timeout: float | None = None
    idempotent: bool = False
    wait_until_ready: float | None = None
    exists: Callable[[], bool] = field(default=lambda: False, compare=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    retries: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True)
class Reply:
    """A whole answer.

    Attributes:
        value: Its JSON value.
        request_id: The server's id of the request, if it gave one.
        redact: Takes what was sent as a login out of what the server said.
        attempts: How many times the request was sent.
    """

    value: Any
    request_id: str | None
    redact: Callable[[Any], Any]
    attempts: int = 1


class Transport:
    """Sends requests to one host with one login, over a pool of connections that any number of threads share."""

    def __init__(self, login: Login, verify_tls: bool = True, clock: Clock = time) -> None:
        from mlflow_agent_target import __version__

        self.base_url = login.host
        self.login = login
        self._clock = clock
        self._adapter = HostAdapter(self.base_url, verify_tls)
        common = {
            "User-Agent": f"mlflow-agent-target/{__version__} python-requests/{requests.__version__}",
            "Accept-Encoding": "gzip, deflate",
            "Content-Type": "application/json",
        }
        self._headers = {**common, "Accept": "application/json"}
        self._stream_headers = {**common, "Accept": "text/event-stream"}
        # Endpoints that have said that they are not ready, and have not answered since.
        self._starting: set[str | None] = set()

    def get(self, url: str, options: RequestOptions) -> Reply:
        """GET JSON, once: no retries."""
        return self._with_retries(self._whole, "GET", url, self._headers, None, replace(options, retries=_NONE))

    def post(self, url: str, payload: Mapping[str, Any], options: RequestOptions) -> Reply:
        """POST JSON and wait for the whole answer.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        return self._with_retries(self._whole, "POST", url, self._headers, encode_json(payload), options)

    def call(self, method: str, url: str, payload: Mapping[str, Any] | None, options: RequestOptions) -> Reply:
        """Send a request of any method and wait for the whole answer; an empty one is an empty object.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        body = None if payload is None else encode_json(payload)
        return self._with_retries(self._whole_or_empty, method, url, self._headers, body, options)

    def open_stream(self, url: str, payload: Mapping[str, Any], options: RequestOptions) -> Body:
        """POST JSON and return the answer's body as it arrives.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        return self._with_retries(self._open, "POST", url, self._stream_headers, encode_json(payload), options)

    def _with_retries(
        self,
        finish: Callable[[requests.Response, RequestOptions, _Attempt], _T],
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        options: RequestOptions,
    ) -> _T:
        clock = self._clock
        started = counted_from = clock.monotonic()
        number = 1
        refused_login = False
        before: AgentTargetError | None = None
        while True:
            timeout = min(options.timeout, options.total_timeout - (clock.monotonic() - counted_from))
            if timeout <= 0 and before is not None:
                raise before  # what it asked for, a wait or another login, took all the time that was left
            attempt = _Attempt(number, timeout, time.monotonic() + timeout)
            login = self.login.headers()
            try:
                sent = {**headers, **options.headers, **login}
                if body is not None:
                    sent["Content-Length"] = str(len(body))
                result = finish(self._send(method, url, sent, body, options, attempt), options, attempt)
                if self._starting:
                    self._starting.discard(options.endpoint)
                if refused_login:
                    self.login.confirm()
                return result
            except AgentTargetError as error:
                now = clock.monotonic()
                if error.status_code == 401 and not refused_login and self.login.renew(login):
                    # Nothing has run. A token can be revoked, or expire while a machine sleeps.
                    _logger.info("%s Trying again with a new login.", error)
                    refused_login, before = True, error
                    number += 1
                    continue
                if options.wait_until_ready is not None and error.status_code == 404 and options.exists():
                    error.retryable = True
                wait = options.retries.wait(
                    error,
                    attempt=number,
                    remaining=options.total_timeout - (now - counted_from),
                    idempotent=options.idempotent,
                    random=random.random(),  # noqa: S311 (spreads the waits, guards nothing)
                    readiness=None if options.wait_until_ready is None else options.wait_until_ready - (now - started),
                )
                if wait is None:
                    raise _told_what_came_before(error, before) from error.__cause__
                self._log_retry(error, number, wait, options)
                before = error
                clock.sleep(wait)
                if options.wait_until_ready is not None and is_not_ready(error):
                    counted_from = clock.monotonic()  # the time for all attempts begins when the endpoint is up
                number += 1

    def _log_retry(self, error: AgentTargetError, number: int, wait: float, options: RequestOptions) -> None:
        is_awaited = error.status_code == 503 or options.wait_until_ready is not None
        if is_awaited and is_not_ready(error) and options.endpoint not in self._starting:
            self._starting.add(options.endpoint)
            _logger.warning(
                "%s is warming up, or overloaded; it is asked again for up to %g s: %s",
                server_name(options.endpoint),
                options.total_timeout if options.wait_until_ready is None else options.wait_until_ready,
                error,
            )
        _logger.info("Attempt %d failed, trying again in %.1f s: %s", number, wait, error)

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        options: RequestOptions,
        attempt: _Attempt,
    ) -> requests.Response:
        """Send a request and return its answer, of which the body is to be read."""
        timeout = attempt.timeout
        try:
            response = self._adapter.exchange(method, url, headers, body, (min(_CONNECT_SECONDS, timeout), timeout))
        except FAILURES as error:
            raise connection_error(
                error, base_url=self.base_url, endpoint=options.endpoint, timeout=timeout, attempt=attempt.number
            ) from error
        if 200 <= response.status_code < 300:
            return response
        raise self._error(response, len(body or b""), options, attempt)

    def _open(self, response: requests.Response, options: RequestOptions, attempt: _Attempt) -> Body:
        redact = functools.partial(_redacted, response, options.headers)
        return Body(response, options.endpoint, attempt.number, attempt.timeout, attempt.deadline, redact)

    def _whole_or_empty(self, response: requests.Response, options: RequestOptions, attempt: _Attempt) -> Reply:
        return self._whole(response, options, attempt, empty=b"{}")

    def _whole(
        self, response: requests.Response, options: RequestOptions, attempt: _Attempt, empty: bytes = b""
    ) -> Reply:
        body = self._open(response, options, attempt)
        raw = _read(body, attempt.deadline)
        try:
            return Reply(json.loads(raw or empty), body.request_id, body.redact, attempt.number)
        except (ValueError, RecursionError) as error:
            raise self._no_answer(raw, body, options) from error

    def _no_answer(self, raw: bytes, body: Body, options: RequestOptions) -> AgentTargetError:
        """Return the error that a success means whose body is not JSON."""
        text = body.redact(raw.decode("utf-8", errors="replace"))
        kind = printable(body.content_type or "no content type")
        facts: dict[str, Any] = {
            "endpoint": options.endpoint,
            "status_code": 200,
            "request_id": body.request_id,
            "body": text,
            "attempts": body.attempts,
        }
        if is_sign_in_page(kind, text):
            return sign_in_page("a page that asks for a login", facts)
        return InvalidResponseError(
            f"{server_name(options.endpoint)} answered 200 with {kind} that is not JSON. Is {self.base_url} the right "
            f"address? It starts: {printable(text, 200)!r}",
            **facts,
        )

    def _error(
        self,
        response: requests.Response,
        sent_bytes: int,
        options: RequestOptions,
        attempt: _Attempt,
    ) -> AgentTargetError:
        raw = b""
        body = self._open(response, options, attempt)
        with contextlib.closing(body), contextlib.suppress(AgentTargetError):
            # The status says what happened. A body that breaks off or never ends adds what came of it.
            while len(raw) < _ERROR_BYTES and (chunk := body.read(attempt.deadline - time.monotonic())):
                raw += chunk
        return error_for_answer(
            response.status_code,
            body=body.redact(parse_body(raw)),
            headers=response.headers,
            endpoint=options.endpoint,
            retry_after=parse_retry_after(response.headers.get("retry-after"), self._clock.time()),
            attempts=attempt.number,
            sent_bytes=sent_bytes,
        )


def _redacted(response: requests.Response, not_secret: Collection[str], said: Any) -> Any:
    """Return what a server said without what was sent to it as a login."""
    sent = response.request.headers.items()
    return redacted(said, [value.rpartition(" ")[2] for name, value in sent if name not in (*_NOT_SECRET, *not_secret)])


def _read(body: Body, deadline: float) -> bytes:
    with contextlib.closing(body):
        return b"".join(iter(lambda: body.read(deadline - time.monotonic()), b""))


def _told_what_came_before(error: AgentTargetError, before: AgentTargetError | None) -> AgentTargetError:
    """Return an error that has no answer of its own with the last one that there was: it says more than a timeout."""
    if before is None or before.status_code is None or not isinstance(error, RequestTimeoutError) or error.status_code:
        return error
    return RequestTimeoutError(
        f"{error.message} Before that it answered {before.status_code}: {server_reason(before.body)}",
        endpoint=error.endpoint,
        request_id=before.request_id,
        body=before.body,
        attempts=error.attempts,
    )
