"""One endpoint: a caller's inputs in the schema that it takes, sent once, and its answer."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mlflow_agent_target.endpoints.routes import Route, Routes
from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InterfaceMismatchError,
    InvalidInputError,
)
from mlflow_agent_target.formats.answers import AgentResponse, whole_answer
from mlflow_agent_target.formats.conversion import encode
from mlflow_agent_target.formats.failures import key_wanted
from mlflow_agent_target.formats.inputs import Request, read_inputs
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.registry import interfaces_for_key
from mlflow_agent_target.http.exchange import Transport
from mlflow_agent_target.http.options import CallTime, RequestOptions
from mlflow_agent_target.http.steps import Steps, perform
from mlflow_agent_target.streams.stream import AgentStream
from mlflow_agent_target.target.names import is_app
from mlflow_agent_target.text import encode_json
from mlflow_agent_target.tracing.call_span import TraceRequest

_T = TypeVar("_T")


@dataclass(slots=True)
class _Call:
    """A call that is ready to be sent.

    Attributes:
        request: What the caller asked.
        route: Where it goes.
        interface: What the endpoint serves; None where that is not known.
        more: What is sent beside the caller's own payload.
        headers: Sent beside the usual ones.
        payload: What is sent.
        body: The same as JSON.
        time: When it began, and how long it may take.
    """

    request: Request
    route: Route
    interface: type[Interface] | None
    more: dict[str, Any]
    headers: Mapping[str, str]
    payload: dict[str, Any]
    body: bytes
    time: CallTime


class Endpoint:
    """One endpoint of a target, a Databricks App, or the bare agent server that a base URL is.

    Args:
        routes: The target's.
        name: As `agent_name` gives it; None for the bare agent server.
        options: How calls are made.
        interface: What it serves, where the caller has said so: then it is not asked.
    """

    def __init__(
        self,
        routes: Routes,
        name: str | None,
        options: RequestOptions,
        interface: type[Interface] | None = None,
    ) -> None:
        self.name = name
        self._routes = routes
        self._interface = interface
        self._options = replace(options, endpoint=name, exists=self._exists)

    def query(self, inputs: Any, trace: TraceRequest | None = None, run_id: uuid.UUID | None = None) -> AgentResponse:
        """Send one request and wait for the whole answer. See `AgentTargetClient.predict`."""
        return perform(self.querying(inputs, trace, run_id))

    def asks_once(self) -> bool:
        """Return whether the endpoint is a DurableAgentServer, which runs its agent once for each id of a run."""
        return False

    def stream(self, inputs: Any, trace: TraceRequest | None = None) -> AgentStream:
        """Send one request and return its answer as it comes. See `AgentTargetClient.predict_stream`."""
        return perform(self.streaming(inputs, trace))

    def encode(self, inputs: Any) -> dict[str, Any]:
        """Return the payload that `query` would send. Asks the endpoint what it serves, and nothing else."""
        payload: dict[str, Any] = json.loads(perform(self._call(inputs, {}, None)).body)
        return payload

    def querying(
        self,
        inputs: Any,
        trace: TraceRequest | None = None,
        run_id: uuid.UUID | None = None,  # noqa: ARG002 (no interface has one yet)
    ) -> Steps[AgentResponse]:
        """Return `query` as steps."""
        call = yield from self._call(inputs, {}, trace)
        reply = yield from self._send(Transport.post, call)
        return whole_answer(reply.value, reply.facts)

    def streaming(self, inputs: Any, trace: TraceRequest | None = None) -> Steps[AgentStream]:
        """Return `stream` as steps."""
        call = yield from self._call(inputs, {"stream": True}, trace)
        body = yield from self._send(Transport.open_stream, call)
        return AgentStream(
            body,
            body.facts,
            started=call.time.began,
            timeout=body.facts.timeout,
            waited=body.waited,
            idle_timeout=call.time.limits.timeout if self._options.idle_timeout is None else self._options.idle_timeout,
        )

    def _call(self, inputs: Any, more: dict[str, Any], trace: TraceRequest | None) -> Steps[_Call]:
        """Return what is sent for `inputs`, and where. What can't be sent is refused before anything is asked."""
        call_time = self._options.begin(time.monotonic())
        request: Request | None = None
        written: tuple[dict[str, Any], bytes] | None = None
        try:
            request = read_inputs(inputs)
            if request.payload.get("stream") and not more:
                raise InvalidInputError("The payload has 'stream': true. Use predict_stream, or leave the key out.")
            if self._must_ask:
                payload = {**request.payload, **more}
                written = payload, encode_json(payload)
            route = yield from self._route()
        except InvalidInputError:
            # What foundation models take that are no agents: a prompt, or texts to embed.
            if request is not None or not _may_be_a_foundation_models(inputs):
                raise
            route = yield from self._route()
            if route.is_agent:
                raise
        if request is None or (not route.is_agent and isinstance(inputs, Mapping)):
            request = Request("input", dict(inputs))
        interface = self._interface or route.interface
        headers: Mapping[str, str] = {}
        if trace is not None:
            headers = trace.headers
            if trace.wanted and route.takes_options and self._returns_traces(interface):
                more = {**more, "databricks_options": trace.asked_for_in(request.payload)}
        payload = {**self._payload(request, route), **more}
        body = written[1] if written and payload == written[0] else encode_json(payload)
        return _Call(request, route, interface, more, headers, payload, body, call_time)

    @property
    def _is_told(self) -> bool:
        """Whether the caller has said what the endpoint serves. An app's address must be asked for all the same."""
        return self._interface is not None and not is_app(self.name)

    @property
    def _must_ask(self) -> bool:
        return not self._is_told and not self._routes.agent(self.name).is_known

    def _route(self) -> Steps[Route]:
        agent = self._routes.agent(self.name)
        return agent.plain_route(self._options) if self._is_told else agent.route(self._options)

    def _payload(self, request: Request, route: Route) -> dict[str, Any]:
        payload = encode(request, self._interface or route.interface) if route.is_agent else request.payload
        if not route.takes_options and "databricks_options" in payload:
            warnings.warn(
                f"'databricks_options' is left out: the foundation model '{self.name}' refuses it.", stacklevel=2
            )
            payload = {key: value for key, value in payload.items() if key != "databricks_options"}
        return payload

    def _send(self, send: Callable[..., Steps[_T]], call: _Call) -> Steps[_T]:
        """Send a call, and once more with the other schema's key where the endpoint asks for that."""
        route, agent = call.route, self._routes.agent(self.name)
        options = replace(self._options, headers=call.headers) if call.headers else self._options
        try:
            return (yield from send(route.transport, route.url, call.body, options, call.time))
        except EndpointNotFoundError:
            agent.forget()  # it may be made anew, as another
            raise
        except EndpointUnavailableError as error:
            if error.unreachable and is_app(self.name):
                agent.forget()  # it may come back at another URL
            raise
        except AgentError as error:
            wanted = key_wanted(error.body) if error.status_code == 400 else None
            if wanted is None or wanted in call.payload:
                raise
            error.may_have_run = False
            if call.interface is not None:
                # It is not what it was said to be, or is no longer: to be asked anew.
                agent.forget()
                raise
            refusal = error
        # The endpoint refused the other schema's key before its agent ran, and said which one it takes.
        interface, payload = _encode_for_any(call.request, interfaces_for_key(wanted))
        body = encode_json({**payload, **call.more})
        try:
            answer = yield from send(route.transport, route.url, body, options, call.time)
        except AgentError as error:
            if key_wanted(error.body) is None:
                raise
            raise refusal from error
        agent.remember(replace(route, interface=interface))
        return answer

    def _returns_traces(self, interface: type[Interface] | None) -> bool:
        """Return whether the endpoint is known to be an agent's: what is none may refuse the question."""
        return interface is not None and (interface.is_of_agents_only or self._interface is None)

    def _exists(self) -> Steps[bool]:
        """Ask whether the endpoint is there, though it answers 404: one that is starting may."""
        if self.name is None or is_app(self.name):
            return False
        try:
            yield from self._routes.agent(self.name).describe(self._options)
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
