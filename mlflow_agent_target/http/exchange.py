"""One request to one host: logged in, sent, judged, sent again. JSON or bytes come out, or an error."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import requests

from mlflow_agent_target.errors import AgentTargetError, AuthenticationError, RateLimitError, RequestTimeoutError
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.http.body import Body
from mlflow_agent_target.http.broken import broken_error
from mlflow_agent_target.http.options import NO_RETRIES, CallTime, Clock, RequestOptions
from mlflow_agent_target.http.pool import Pool
from mlflow_agent_target.http.replies import Reply, check_holds_answer, json_reply
from mlflow_agent_target.http.retry import is_not_ready, parse_retry_after, seconds_until_retry
from mlflow_agent_target.http.sockets import BrokenError
from mlflow_agent_target.http.statuses import error_for_answer
from mlflow_agent_target.http.steps import Do, LogIn, Sleep, Steps
from mlflow_agent_target.target.login import Login
from mlflow_agent_target.target.settings import Backoff, TimeLimits
from mlflow_agent_target.text import parse_body, seconds, server_reason

_logger = logging.getLogger(__name__)

# As much of an error's body is kept.
_ERROR_BYTES = 1_000_000


@dataclass(slots=True)
class Send:
    """Send a request, and wait for its whole answer, or for the head of a stream. Gives the body and its bytes."""

    pool: Pool
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    deadline: float
    facts: Facts
    is_stream: bool

    def perform(self) -> tuple[Body, bytes]:
        answer = self.pool.exchange(self.method, self.url, self.headers, self.body, self.deadline)
        body = Body(answer, self.facts)
        is_good = 200 <= body.status < 300
        if is_good and self.is_stream:
            body.waited = self.facts.timeout - (self.deadline - time.monotonic())
            return body, b""
        with contextlib.closing(body):
            if is_good:
                return body, b"".join(iter(lambda: body.read(self.deadline - time.monotonic()), b""))
            raw = b""
            # The status says what happened. A body that breaks off or never ends adds what came of it.
            with contextlib.suppress(AgentTargetError):
                while len(raw) < _ERROR_BYTES and (part := body.read(self.deadline - time.monotonic())):
                    raw += part
            return body, raw


class Transport:
    """Sends requests to one host with one login, over connections that any number of threads share.

    Args:
        login: Who sends them.
        verify_tls: Whether the host's certificate is checked.
        clock: What time it is.
        base_url: Another host that takes the login, such as a Databricks App's; None for the login's own.
    """

    def __init__(self, login: Login, verify_tls: bool = True, clock: Clock = time, base_url: str | None = None) -> None:
        from mlflow_agent_target import __version__

        self.base_url = base_url or login.host
        self.login = login
        # What the login's owner wants sent beside it is for its own host.
        self._custom = login.custom if base_url is None else {}
        self._clock = clock
        self._pool = Pool(self.base_url, verify_tls)
        common = {
            "User-Agent": f"mlflow-agent-target/{__version__} python-requests/{requests.__version__}",
            "Accept-Encoding": "gzip, deflate",
            "Content-Type": "application/json",
            **(login.routing if base_url is None else {}),
        }
        self._headers = {**common, "Accept": "application/json"}
        self._stream_headers = {**common, "Accept": "text/event-stream"}
        # Endpoints that have said that they are not ready, and have not answered since.
        self._starting: set[str | None] = set()

    def get(self, url: str, options: RequestOptions) -> Steps[Reply]:
        """GET JSON, once: no retries.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        body, raw = yield from self._attempts("GET", url, None, replace(options, backoff=NO_RETRIES))
        return json_reply(body, raw)

    def post(self, url: str, payload: bytes, options: RequestOptions, call: CallTime | None = None) -> Steps[Reply]:
        """POST JSON and wait for the whole answer.

        Args:
            url: Where to.
            payload: The JSON.
            options: How.
            call: The time of the call that this is a part of; None for one that begins now.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        body, raw = yield from self._attempts("POST", url, payload, options, call)
        check_holds_answer(body)
        return json_reply(body, raw)

    def call(self, method: str, url: str, payload: bytes | None, options: RequestOptions) -> Steps[Reply]:
        """Send a request of any method and wait for the whole answer; an empty one is an empty object.

        Raises:
            AgentTargetError: The request failed; the subclass says how.
        """
        body, raw = yield from self._attempts(method, url, payload, options)
        return json_reply(body, raw or b"{}")

    def open_stream(
        self, url: str, payload: bytes, options: RequestOptions, call: CallTime | None = None
    ) -> Steps[Body]:
        """POST JSON and return the answer's body as it arrives. See `post`."""
        body, _ = yield from self._attempts("POST", url, payload, options, call, is_stream=True)
        check_holds_answer(body)
        return body

    def open_events(self, url: str, options: RequestOptions) -> Steps[Body]:
        """GET an event stream once, and return its body as it arrives. See `post`."""
        options = replace(options, backoff=NO_RETRIES)
        body, _ = yield from self._attempts("GET", url, None, options, is_stream=True)
        check_holds_answer(body)
        return body

    def forward(self, url: str, payload: bytes, options: RequestOptions) -> Steps[tuple[Body, bytes]]:
        """POST JSON once, and return what is answered, whatever it means: the body as it arrives, a failure's as bytes.

        Raises:
            AgentTargetError: Nothing was answered.
        """
        timeout = options.limits().timeout
        facts = Facts(options.endpoint, self.base_url, timeout=timeout)
        logins = yield LogIn(self.login, timeout)
        facts.logins = {**self._custom, **logins}
        headers = {**self._headers, "Accept": "*/*", **options.headers, **facts.logins}
        try:
            answer: tuple[Body, bytes] = yield Send(
                self._pool, "POST", url, headers, payload, time.monotonic() + timeout, facts, is_stream=True
            )
        except BrokenError as error:
            raise broken_error(error, facts) from facts.cause(error.cause)
        return answer

    def _attempts(
        self,
        method: str,
        url: str,
        payload: bytes | None,
        options: RequestOptions,
        call: CallTime | None = None,
        is_stream: bool = False,
    ) -> Steps[tuple[Body, bytes]]:
        clock = self._clock
        limits, began = call or options.begin(clock.monotonic())
        counted_from = began
        facts = Facts(options.endpoint, self.base_url, attempts=0)
        logins: Mapping[str, str] = {}
        refused_login = may_have_run = False
        before: AgentTargetError | None = None
        while True:
            left = limits.total_timeout - (clock.monotonic() - counted_from)
            timeout = min(limits.timeout, left)
            if timeout <= 0 and before is not None:
                before.may_have_run |= may_have_run
                raise before  # what it asked for, a wait or another login, took all the time that was left
            if timeout <= 0:
                raise facts.error(
                    RequestTimeoutError,
                    f"{facts.server} was not asked: to find out what it serves took all of the "
                    f"{seconds(limits.total_timeout)} s. {Facts(is_capped=True).how_to_allow_more}",
                    may_have_run=False,
                )
            facts = Facts(options.endpoint, self.base_url, facts.attempts + 1, timeout, left < limits.timeout)
            deadline = time.monotonic() + timeout
            try:
                logins = yield LogIn(self.login, timeout)
                facts.logins = {**self._custom, **logins} if self._custom else logins
                headers = {**(self._stream_headers if is_stream else self._headers), **options.headers, **facts.logins}
                body, raw = yield from self._attempt(
                    Send(self._pool, method, url, headers, payload, deadline, facts, is_stream)
                )
            except AgentTargetError as error:
                # Of a failed login, nothing is known but what the login says.
                error.endpoint, error.attempts = facts.endpoint, facts.attempts
                may_have_run |= error.may_have_run
                if isinstance(error, AuthenticationError) and error.status_code in (401, 403) and not refused_login:
                    try:
                        left = min(limits.timeout, limits.total_timeout - (clock.monotonic() - counted_from))
                        is_renewed = yield Do(functools.partial(self.login.renew, logins, left))
                    except AgentTargetError as failed:
                        failed.endpoint, failed.attempts = facts.endpoint, facts.attempts
                        before, error = error, failed
                    else:
                        if is_renewed:
                            # Nothing has run. A token can be revoked, or expire while a machine sleeps.
                            _logger.info("%s Trying again with a new login.", error)
                            refused_login, before = True, error
                            continue
                now = clock.monotonic()
                if options.wait_until_ready is not None and error.status_code == 404 and (yield from options.exists()):
                    error.retryable = True
                wait = seconds_until_retry(
                    options.backoff or Backoff.read(),
                    error,
                    attempt=facts.attempts,
                    remaining=limits.total_timeout - (now - counted_from),
                    idempotent=options.idempotent,
                    random=random.random(),  # noqa: S311 (spreads the waits, guards nothing)
                    readiness=None if options.wait_until_ready is None else options.wait_until_ready - (now - began),
                )
                if wait is not None and isinstance(error, RateLimitError) and options.leaves_rate_limits():
                    if error.retry_after is not None:  # sooner is too soon for the caller's next try, too
                        yield Sleep(wait, clock.sleep)
                    wait = None
                if wait is None:
                    error.may_have_run = may_have_run  # for the sake of an earlier attempt, too
                    raise _told_what_came_before(error, before) from error.__cause__
                self._log_retry(error, wait, options, limits)
                before = error
                yield Sleep(wait, clock.sleep)
                if options.wait_until_ready is not None and is_not_ready(error):
                    counted_from = clock.monotonic()  # the time for all attempts begins when the endpoint is up
            else:
                if self._starting:
                    self._starting.discard(options.endpoint)
                if refused_login:
                    self.login.confirm()
                return body, raw

    def _attempt(self, send: Send) -> Steps[tuple[Body, bytes]]:
        """Send a request once, and return the answer where it is a success."""
        facts = send.facts
        try:
            body, raw = yield send
        except BrokenError as error:
            raise broken_error(error, facts) from facts.cause(error.cause)
        facts.status = body.status
        facts.request_id = body.headers.get("x-request-id")
        if not 200 <= body.status < 300:
            raise error_for_answer(
                facts,
                body=parse_body(raw, body.charset),
                headers=body.headers,
                retry_after=parse_retry_after(body.headers.get("retry-after"), self._clock.time()),
                sent_bytes=len(send.body or b""),
            )
        return body, raw

    def _log_retry(self, error: AgentTargetError, wait: float, options: RequestOptions, limits: TimeLimits) -> None:
        is_awaited = error.status_code == 503 or options.wait_until_ready is not None
        if is_awaited and is_not_ready(error) and options.endpoint not in self._starting:
            self._starting.add(options.endpoint)
            _logger.warning(
                "%s is warming up, or overloaded; it is asked again for up to %g s: %s",
                Facts(options.endpoint).server,
                limits.total_timeout if options.wait_until_ready is None else options.wait_until_ready,
                error,
            )
        _logger.info("Attempt %d failed, trying again in %.1f s: %s", error.attempts, wait, error)


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
        may_have_run=error.may_have_run,
    )
