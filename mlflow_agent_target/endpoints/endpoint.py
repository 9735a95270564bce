"""One endpoint: a caller's inputs in the schema that it takes, sent once, and its answer."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mlflow_agent_target.endpoints.routes import Connection, Route
from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InterfaceMismatchError,
    InvalidInputError,
)
from mlflow_agent_target.formats.answers import AgentResponse, whole_answer
from mlflow_agent_target.formats.chat_completions import ChatCompletions
from mlflow_agent_target.formats.conversion import encode
from mlflow_agent_target.formats.failures import key_wanted
from mlflow_agent_target.formats.inputs import Request, read_inputs
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.registry import interfaces_for_key
from mlflow_agent_target.http.exchange import RequestOptions, Transport
from mlflow_agent_target.streams.stream import AgentStream
from mlflow_agent_target.target.names import is_app
from mlflow_agent_target.text import encode_json
from mlflow_agent_target.tracing.spans import TraceRequest

_T = TypeVar("_T")


class Endpoint:
    """One endpoint of a target, a Databricks App, or the bare agent server that a base URL is.

    Args:
        connection: The target's.
        name: As `agent_name` gives it; None for the bare agent server.
        options: How calls are made.
        interface: What it serves, where the caller has said so: then it is not asked.
    """

    def __init__(
        self,
        connection: Connection,
        name: str | None,
        options: RequestOptions,
        interface: type[Interface] | None = None,
    ) -> None:
        self.name = name
        self._connection = connection
        self._interface = interface
        self._options = replace(options, endpoint=name, exists=self._exists)

    def query(self, inputs: Any, trace: TraceRequest | None = None) -> AgentResponse:
        """Send one request and wait for the whole answer. See `AgentTargetClient.predict`."""
        request, route = self._read(inputs)
        if request.payload.get("stream"):
            raise InvalidInputError("The payload has 'stream': true. Use predict_stream, or leave the key out.")
        reply = self._send(Transport.post, request, route, {}, trace)
        return whole_answer(
            reply.value,
            endpoint=self.name,
            request_id=reply.request_id,
            redact=reply.redact,
            attempts=reply.attempts,
        )

    def stream(self, inputs: Any, trace: TraceRequest | None = None) -> AgentStream:
        """Send one request and return its answer as it comes. See `AgentTargetClient.predict_stream`."""
        request, route = self._read(inputs)
        started = time.monotonic()
        body = self._send(Transport.open_stream, request, route, {"stream": True}, trace)
        idle_timeout = self._options.timeout if self._options.idle_timeout is None else self._options.idle_timeout
        return AgentStream(
            body,
            endpoint=self.name,
            started=started,
            timeout=body.time_limit,
            waited=body.waited,
            idle_timeout=idle_timeout,
        )

    def encode(self, inputs: Any) -> dict[str, Any]:
        """Return the payload that `query` would send. Asks the endpoint what it serves, and nothing else."""
        payload = self._payload(*self._read(inputs))
        encode_json(payload)
        return payload

    def _read(self, inputs: Any) -> tuple[Request, Route]:
        request: Request | None = None
        try:
            request = read_inputs(inputs)
            if not self._connection.knows(self.name):
                encode_json(request.payload)  # what can't be sent is refused before the endpoint is asked what it is
            route = self._route()
        except InvalidInputError:
            # What foundation models take that are no agents: a prompt, or texts to embed.
            if request is not None or not _may_be_a_foundation_models(inputs):
                raise
            route = self._route()
            if route.is_agent:
                raise
        if request is None or (not route.is_agent and isinstance(inputs, Mapping)):
            request = Request("input", dict(inputs))
        return request, route

    def _route(self) -> Route:
        if self._interface is not None and not is_app(self.name):
            return self._connection.plain_route(self.name)
        return self._connection.route(self.name, self._options)

    def _payload(self, request: Request, route: Route) -> dict[str, Any]:
        payload = encode(request, self._interface or route.interface) if route.is_agent else request.payload
        if not route.takes_options and "databricks_options" in payload:
            warnings.warn(
                f"'databricks_options' is left out: the foundation model '{self.name}' refuses it.", stacklevel=5
            )
            payload = {key: value for key, value in payload.items() if key != "databricks_options"}
        return payload

    def _send(
        self,
        send: Callable[[Transport, str, dict[str, Any], RequestOptions], _T],
        request: Request,
        route: Route,
        more: dict[str, Any],
        trace: TraceRequest | None,
    ) -> _T:
        interface = self._interface or route.interface
        options = self._options
        if trace is not None:
            options = replace(options, headers=trace.headers)
            if route.takes_options and self._returns_traces(interface):
                more = {**more, "databricks_options": trace.asked_for_in(request.payload)}
        payload = self._payload(request, route)
        if more:
            payload = {**payload, **more}
        try:
            return send(route.transport, route.url, payload, options)
        except EndpointNotFoundError:
            self._connection.forget(self.name)  # it may be made anew, as another
            raise
        except EndpointUnavailableError as error:
            if error.unreachable and is_app(self.name):
                self._connection.forget(self.name)  # it may come back at another URL
            raise
        except AgentError as error:
            wanted = key_wanted(error.body) if error.status_code == 400 else None
            if wanted is None or wanted in payload:
                raise
            error.may_have_run = False
            if interface is not None:
                # It is not what it was said to be, or is no longer: to be asked anew.
                self._connection.forget(self.name)
                raise
            refusal = error
        # The endpoint refused the other schema's key before its agent ran, and said which one it takes.
        interface, payload = _encode_for_any(request, interfaces_for_key(wanted))
        try:
            answer = send(route.transport, route.url, {**payload, **more}, options)
        except AgentError as error:
            if key_wanted(error.body) is None:
                raise
            raise refusal from error
        self._connection.remember(self.name, replace(route, interface=interface))
        return answer

    def _returns_traces(self, interface: type[Interface] | None) -> bool:
        """Return whether the endpoint is known to be an agent's: what is none may refuse the question."""
        # Chat completions are also spoken by servers that no description tells from an agent.
        return interface is not None and (interface is not ChatCompletions or self._interface is None)

    def _exists(self) -> bool:
        """Ask whether the endpoint is there, though it answers 404: one that is starting may."""
        if self.name is None or is_app(self.name):
            return False
        try:
            self._connection.describe(self.name, self._options)
        except AgentTargetError:
            return False
        return True


def _may_be_a_foundation_models(inputs: Any) -> bool:
    if not isinstance(inputs, Mapping) or "messages" in inputs:
        return False
    texts = inputs.get("input")
    return "prompt" in inputs or (isinstance(texts, list) and bool(texts) and all(isinstance(t, str) for t in texts))


def _encode_for_any(request: Request, wanted: tuple[type[Interface], ...]) -> tuple[type[Interface], dict[str, Any]]:
    """Return the first interface in which a request can be said, and the payload that says it."""
    *first, last = wanted
    for interface in first:
        with contextlib.suppress(InterfaceMismatchError):
            return interface, encode(request, interface)
    return last, encode(request, last)
