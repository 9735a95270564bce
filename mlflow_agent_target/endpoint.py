"""One endpoint: its address, which interface it speaks (asked once), query and stream."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

from mlflow_agent_target.answers import AgentResponse, whole_answer
from mlflow_agent_target.conversion import encode
from mlflow_agent_target.error_bodies import key_wanted
from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    AuthenticationError,
    EndpointNotFoundError,
    InterfaceMismatchError,
    InvalidInputError,
    RequestTimeoutError,
)
from mlflow_agent_target.inputs import Request, read_inputs
from mlflow_agent_target.interfaces import ChatCompletions, Interface, interface_for_task, interfaces_for_key
from mlflow_agent_target.payload import encode_json
from mlflow_agent_target.streams import AgentStream
from mlflow_agent_target.target import Credentials
from mlflow_agent_target.tracing import TraceRequest
from mlflow_agent_target.transport import RequestOptions, Transport
from mlflow_agent_target.workspace import ServingEndpoint, get_endpoint

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_PREFIX = "endpoints:/"
# What could change a URL's path, host or query, quoted or not: proxies unquote.
_FORBIDDEN = frozenset("/\\?#%")
# Describing an endpoint is quick, and only a hint: it must not hold up the call itself.
_DESCRIBE_SECONDS = 15.0
# How long a description is good for, of an endpoint that is not changing.
_DESCRIPTION_SECONDS = 60.0


def endpoint_name(value: Any) -> str:
    """Return an endpoint's name, without the `endpoints:/` it may be given with.

    Raises:
        InvalidInputError: It is no name, or could change the request's URL.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"The endpoint's name must be a string, not {type(value).__name__}.")
    name = value.removeprefix(_PREFIX)
    if not name or name != name.strip() or name in (".", "..") or not name.isprintable() or _FORBIDDEN & set(name):
        raise InvalidInputError(
            f"{value!r:.100} can't be an endpoint's name: give it as shown in the workspace's serving page, "
            "such as 'my-agent' or 'endpoints:/my-agent'."
        )
    return name


class Connection:
    """A target that is connected to at its first use: its transport, and what is known of its endpoints.

    All clients of a target share it, from any number of threads.

    Args:
        connect: Finds the target's host and login.
        verify_tls: Whether servers' certificates are checked.
    """

    def __init__(self, connect: Callable[[], Credentials], verify_tls: bool) -> None:
        self._connect = connect
        self._verify_tls = verify_tls
        self._transport: Transport | None = None
        self._interfaces: dict[str, Future[type[Interface] | None]] = {}
        # Foundation models, which refuse `databricks_options`.
        self.without_options: set[str] = set()
        self._descriptions: dict[str, tuple[float, ServingEndpoint]] = {}
        self._lock = threading.Lock()

    @property
    def transport(self) -> Transport:
        """The way to the target's host.

        Raises:
            AuthenticationError: No usable login was found. Looked for again at the next use.
        """
        if self._transport is None:
            with self._lock:
                if self._transport is None:
                    self._transport = Transport(self._connect(), self._verify_tls)
        return self._transport

    def describe(self, name: str, options: RequestOptions) -> ServingEndpoint:
        """Return what the platform knows of an endpoint: of a settled one for a minute, since MLflow asks at each row.

        Raises:
            AgentTargetError: The platform doesn't say.
        """
        asked, described = self._descriptions.get(name, (0.0, None))
        if described is None or time.monotonic() - asked > _DESCRIPTION_SECONDS:
            described = get_endpoint(self.transport, name, options)
            if _is_settled(described):
                self._descriptions[name] = time.monotonic(), described
        return ServingEndpoint(described)

    def interface_of(self, name: str, ask: Callable[[], type[Interface] | None]) -> type[Interface] | None:
        """Return what an endpoint serves, asked once; those who come meanwhile wait for the answer.

        Args:
            name: The endpoint's name.
            ask: Asks the endpoint. What it raises is not kept: the answer is None, and the next call asks again.
        """
        with self._lock:
            known = self._interfaces.get(name)
            if known is None:
                mine = self._interfaces[name] = Future()
        if known is not None:
            return known.result()
        interface = None
        try:
            interface = ask()
        except AgentTargetError as error:
            _logger.debug("Endpoint '%s' can't be described: %s", name, error)
            self.forget(name)
        except BaseException:
            self.forget(name)
            raise
        finally:
            mine.set_result(interface)
        return interface

    def knows(self, name: str) -> bool:
        """Return whether an endpoint has been asked what it serves."""
        return name in self._interfaces

    def remember(self, name: str, interface: type[Interface]) -> None:
        """Remember what an endpoint said that it serves."""
        known: Future[type[Interface] | None] = Future()
        known.set_result(interface)
        with self._lock:
            self._interfaces[name] = known

    def forget(self, name: str) -> None:
        """Forget what an endpoint serves."""
        with self._lock:
            self._interfaces.pop(name, None)
            self._descriptions.pop(name, None)


class Endpoint:
    """One endpoint of a target, or the bare agent server that a base URL is."""

    def __init__(
        self,
        connection: Connection,
        name: str | None,
        options: RequestOptions,
        interface: type[Interface] | None = None,
    ) -> None:
        self.name = name
        self._interface = interface
        self._connection = connection
        self._key = name or ""
        self._options = replace(options, endpoint=name)

    def query(self, inputs: Any, trace: TraceRequest | None = None) -> AgentResponse:
        """Send one request and wait for the whole answer. See `AgentTargetClient.predict`."""
        request = read_inputs(inputs)
        if request.payload.get("stream"):
            raise InvalidInputError("The payload has 'stream': true. Use predict_stream, or leave the key out.")
        reply = self._send(Transport.post, request, {}, trace)
        return whole_answer(reply.value, endpoint=self.name, request_id=reply.request_id, attempts=reply.attempts)

    def stream(self, inputs: Any, trace: TraceRequest | None = None) -> AgentStream:
        """Send one request and return its answer as it comes. See `AgentTargetClient.predict_stream`."""
        request = read_inputs(inputs)
        started = time.monotonic()
        body = self._send(Transport.open_stream, request, {"stream": True}, trace)
        timeout = self._options.timeout
        idle_timeout = timeout if self._options.idle_timeout is None else self._options.idle_timeout
        return AgentStream(body, endpoint=self.name, started=started, timeout=timeout, idle_timeout=idle_timeout)

    def _send(
        self,
        send: Callable[[Transport, str, dict[str, Any], RequestOptions], _T],
        request: Request,
        more: dict[str, Any],
        trace: TraceRequest | None,
    ) -> _T:
        if self._interface is None and not self._connection.knows(self._key):
            encode_json(request.payload)  # what can't be sent is refused before anything is, this question included
        interface = self._interface or self._connection.interface_of(self._key, self._ask)
        options = self._options
        if trace is not None:
            options = replace(options, headers=trace.headers)
            if self._returns_traces(interface):
                more = {**more, "databricks_options": trace.asked_for_in(request.payload)}
        payload = {**encode(request, interface), **more}
        transport = self._connection.transport
        path = f"/serving-endpoints/{quote(self.name, safe='')}" if self.name else ""
        url = f"{transport.base_url}{path}/invocations"
        try:
            return send(transport, url, payload, options)
        except EndpointNotFoundError:
            self._connection.forget(self._key)  # it may be made anew, as another
            raise
        except AgentError as error:
            wanted = key_wanted(error.body) if error.status_code == 400 else None
            if wanted is None or wanted in payload:
                raise
            error.may_have_run = False
            if interface is not None:
                # It is not what it was said to be, or is no longer: to be asked anew.
                self._connection.forget(self._key)
                raise
            refusal = error
        # The endpoint refused the other schema's key before its agent ran, and said which one it takes.
        interface, payload = _encode_for_any(request, interfaces_for_key(wanted))
        try:
            answer = send(transport, url, {**payload, **more}, options)
        except AgentError as error:
            if key_wanted(error.body) is None:
                raise
            raise refusal from error
        self._connection.remember(self._key, interface)
        return answer

    def _returns_traces(self, interface: type[Interface] | None) -> bool:
        """Return whether the endpoint is known to be an agent's: what is none may refuse the question."""
        if interface is None or self._key in self._connection.without_options:
            return False
        # Chat completions are also spoken by servers that no description tells from an agent.
        return interface is not ChatCompletions or self._interface is None

    def _ask(self) -> type[Interface] | None:
        """Ask what the endpoint serves.

        A login that may query an endpoint may still be forbidden to describe it, and a gateway may describe nothing:
        then the payload goes as it is.
        """
        if self.name is None:
            return None
        quick = replace(
            self._options, timeout=min(self._options.timeout, self._options.total_timeout, _DESCRIBE_SECONDS)
        )
        try:
            described = self._connection.describe(self.name, quick)
        except AgentTargetError as error:
            status = error.status_code or 0
            passing = error.retryable and not isinstance(error, RequestTimeoutError)
            if passing or isinstance(error, AuthenticationError) or status >= 500:
                raise
            return None  # and it stays so: asking a gateway that refuses, or hangs, at each call would be worse
        if described.get("endpoint_type") == "FOUNDATION_MODEL_API":
            self._connection.without_options.add(self._key)
        return interface_for_task(described.get("task"))


def _is_settled(described: ServingEndpoint) -> bool:
    state = described.get("state") or {}
    return state.get("ready") == "READY" and state.get("config_update") in (None, "NOT_UPDATING")


def _encode_for_any(request: Request, wanted: tuple[type[Interface], ...]) -> tuple[type[Interface], dict[str, Any]]:
    """Return the first interface in which a request can be said, and the payload that says it."""
    *first, last = wanted
    for interface in first:
        with contextlib.suppress(InterfaceMismatchError):
            return interface, encode(request, interface)
    return last, encode(request, last)
