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
from mlflow_agent_target.interfaces import Interface, interface_for_task, interfaces_for_key
from mlflow_agent_target.payload import encode_json
from mlflow_agent_target.streams import AgentStream
from mlflow_agent_target.target import Credentials
from mlflow_agent_target.transport import RequestOptions, Transport
from mlflow_agent_target.workspace import get_endpoint

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_PREFIX = "endpoints:/"
# What could change a URL's path, host or query, quoted or not: proxies unquote.
_FORBIDDEN = frozenset("/\\?#%")
# Describing an endpoint is quick, and only a hint: it must not hold up the call itself.
_DESCRIBE_SECONDS = 15.0


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

    def query(self, inputs: Any) -> AgentResponse:
        """Send one request and wait for the whole answer. See `AgentTargetClient.predict`."""
        request = read_inputs(inputs)
        if request.payload.get("stream"):
            raise InvalidInputError("The payload has 'stream': true. Use predict_stream, or leave the key out.")
        reply = self._send(Transport.post, request, {})
        return whole_answer(reply.value, endpoint=self.name, request_id=reply.request_id, attempts=reply.attempts)

    def stream(self, inputs: Any) -> AgentStream:
        """Send one request and return its answer as it comes. See `AgentTargetClient.predict_stream`."""
        request = read_inputs(inputs)
        started = time.monotonic()
        body = self._send(Transport.open_stream, request, {"stream": True})
        timeout = self._options.timeout
        idle_timeout = timeout if self._options.idle_timeout is None else self._options.idle_timeout
        return AgentStream(body, endpoint=self.name, started=started, timeout=timeout, idle_timeout=idle_timeout)

    def encode(self, inputs: Any) -> dict[str, Any]:
        """Return the payload that `query` would send. Asks the endpoint what it serves, and nothing else."""
        request = read_inputs(inputs)
        payload = encode(request, self._interface or self._connection.interface_of(self._key, self._ask))
        encode_json(payload)
        return payload

    def _send(
        self,
        send: Callable[[Transport, str, dict[str, Any], RequestOptions], _T],
        request: Request,
        more: dict[str, Any],
    ) -> _T:
        if self._interface is None and not self._connection.knows(self._key):
            encode_json(request.payload)  # what can't be sent is refused before anything is, this question included
        interface = self._interface or self._connection.interface_of(self._key, self._ask)
        payload = {**encode(request, interface), **more}
        transport = self._connection.transport
        path = f"/serving-endpoints/{quote(self.name, safe='')}" if self.name else ""
        url = f"{transport.base_url}{path}/invocations"
        try:
            return send(transport, url, payload, self._options)
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
            answer = send(transport, url, {**payload, **more}, self._options)
        except AgentError as error:
            if key_wanted(error.body) is None:
                raise
            raise refusal from error
        self._connection.remember(self._key, interface)
        return answer

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
            task = get_endpoint(self._connection.transport, self.name, quick).get("task")
        except AgentTargetError as error:
            status = error.status_code or 0
            passing = error.retryable and not isinstance(error, RequestTimeoutError)
            if passing or isinstance(error, AuthenticationError) or status >= 500:
                raise
            return None  # and it stays so: asking a gateway that refuses, or hangs, at each call would be worse
        return interface_for_task(task)


def _encode_for_any(request: Request, wanted: tuple[type[Interface], ...]) -> tuple[type[Interface], dict[str, Any]]:
    """Return the first interface in which a request can be said, and the payload that says it."""
    *first, last = wanted
    for interface in first:
        with contextlib.suppress(InterfaceMismatchError):
            return interface, encode(request, interface)
    return last, encode(request, last)
