"""One endpoint: a caller's inputs in the schema that it takes, sent once, and its answer."""

from __future__ import annotations

import contextlib
import json
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mlflow_agent_target.endpoints.place import Place
from mlflow_agent_target.endpoints.routes import Route
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
from mlflow_agent_target.formats.durable_agent import DurableAgentServer
from mlflow_agent_target.formats.failures import key_wanted
from mlflow_agent_target.formats.inputs import Request, read_inputs
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.invocations import read_invocation
from mlflow_agent_target.formats.registry import interfaces_for_key
from mlflow_agent_target.formats.runs import keeps_no_responses
from mlflow_agent_target.http.exchange import Transport
from mlflow_agent_target.http.options import CallTime
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


class Endpoint(Place):
    """One endpoint of a target, a Databricks App, or the bare agent server that a base URL is."""

    def query(self, inputs: Any, trace: TraceRequest | None = None, run_id: uuid.UUID | None = None) -> AgentResponse:
        """Send one request and wait for the whole answer. See `AgentTargetClient.predict`.

        Args:
            inputs: What to ask.
            trace: What is asked for the agent's trace; None for nothing.
            run_id: The run's id where it is a DurableAgentServer, which never starts a second run of the same id; None
                for a new one.
        """
        return perform(self.querying(inputs, trace, run_id))

    def stream(self, inputs: Any, trace: TraceRequest | None = None) -> AgentStream:
        """Send one request and return its answer as it comes. See `AgentTargetClient.predict_stream`."""
        return perform(self.streaming(inputs, trace))

    def encode(self, inputs: Any) -> dict[str, Any]:
        """Return the payload that `query` would send. Asks the endpoint what it serves, and nothing else."""
        call = perform(self._call(inputs, {}, None, self.begin()))
        payload: dict[str, Any] = json.loads(read_invocation(inputs).envelope() if call is None else call.body)
        return payload

    def asks_once(self) -> bool:
        """Return whether it is a DurableAgentServer, which runs no agent twice for one id. Asks it if need be."""
        return perform(self.turns_out_durable())

    def querying(
        self, inputs: Any, trace: TraceRequest | None = None, run_id: uuid.UUID | None = None
    ) -> Steps[AgentResponse]:
        """Return `query` as steps."""
        began = self.begin()
        call, reply = yield from self.sent(Transport.post, inputs, {}, trace, began)
        if call is None:
            return (yield from (yield from self.invoking()).answer(read_invocation(inputs, run_id), began))
        if (run := self.begun(call.route, reply)) is not None:
            try:
                return run.answer((yield from run.ended(began.began, began.limits.total_timeout, reply)))
            except AgentTargetError as error:
                if run.protocol.is_callers_id or not keeps_no_responses(error.status_code, error.body):
                    raise
        return whole_answer(reply.value, reply.facts)

    def streaming(self, inputs: Any, trace: TraceRequest | None = None) -> Steps[AgentStream]:
        """Return `stream` as steps."""
        began = self.begin()
        call, body = yield from self.sent(Transport.open_stream, inputs, {"stream": True}, trace, began)
        if call is None:
            if trace is not None:
                trace.headers = {}  # they are not sent: no event is an answer to them
            return (yield from (yield from self.invoking()).stream(read_invocation(inputs), began))
        return AgentStream(
            body,
            body.facts,
            started=began.began,
            timeout=body.facts.timeout,
            waited=body.waited,
            idle_timeout=began.limits.timeout if self._options.idle_timeout is None else self._options.idle_timeout,
        )

    def sent(
        self,
        send: Callable[..., Steps[_T]],
        inputs: Any,
        more: dict[str, Any],
        trace: TraceRequest | None,
        began: CallTime,
    ) -> Steps[tuple[_Call | None, Any]]:
        """Send a call, and return it with its answer; None where it is a DurableAgentServer, and nothing was sent."""
        call = yield from self._call(inputs, more, trace, began)
        if call is None:
            return None, None
        try:
            return call, (yield from self._send(send, call))
        except EndpointNotFoundError as error:
            if self.may_be_durable(error) and (yield from self.runs_route()).interface is DurableAgentServer:
                return None, None
            self.agent.forget()  # it may be made anew, as another
            raise

    def _call(
        self, inputs: Any, more: dict[str, Any], trace: TraceRequest | None, began: CallTime
    ) -> Steps[_Call | None]:
        """Return what is sent for `inputs`, and where; None for a DurableAgentServer, which is asked in another way.

        What can't be sent is refused before anything is asked.
        """
        if (self._interface or self.agent.interface) is DurableAgentServer:
            return None
        request: Request | None = None
        written: tuple[dict[str, Any], bytes] | None = None
        try:
            request = read_inputs(inputs)
            if request.payload.get("stream") and "stream" not in more:
                raise InvalidInputError("The payload has 'stream': true. Use predict_stream, or leave the key out.")
            if self.must_ask:
                payload = {**request.payload, **more}
                written = payload, encode_json(payload)
            route = yield from self.route()
        except InvalidInputError:
            if request is not None:
                raise
            # What only a DurableAgentServer takes: any dict.
            if self.may_take_any(inputs) and (yield from self.turns_out_durable()):
                return None
            # What foundation models take that are no agents: a prompt, or texts to embed.
            if not _may_be_a_foundation_models(inputs):
                raise
            route = yield from self.route()
            if route.is_agent:
                raise
        if request is None or (not route.is_agent and isinstance(inputs, Mapping)):
            request = Request("input", dict(inputs))
        interface = self._interface or route.interface
        if interface is DurableAgentServer:
            return None
        headers: Mapping[str, str] = {}
        if trace is not None:
            headers = trace.headers
            if trace.wanted and route.takes_options and self._returns_traces(interface):
                more = {**more, "databricks_options": trace.asked_for_in(request.payload)}
        payload = {**self._payload(request, route), **more}
        body = written[1] if written and payload == written[0] else encode_json(payload)
        return _Call(request, route, interface, more, headers, payload, body, began)

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
        route, agent = call.route, self.agent
        options = replace(self._options, headers=call.headers) if call.headers else self._options
        try:
            return (yield from send(route.transport, route.url, call.body, options, call.time))
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
