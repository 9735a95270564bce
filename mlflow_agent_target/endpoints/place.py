"""One endpoint as a place: the way to it, what it serves, and the runs that it keeps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow_agent_target.endpoints.following import Run
from mlflow_agent_target.endpoints.invoking import Invoking
from mlflow_agent_target.endpoints.routes import Agent, Route, Routes
from mlflow_agent_target.errors import AgentTargetError, EndpointNotFoundError
from mlflow_agent_target.formats.durable_agent import DurableAgentServer
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.runs import InvocationApi, ResponsesApi, RunProtocol, is_start
from mlflow_agent_target.http.options import NO_RETRIES, CallTime, RequestOptions
from mlflow_agent_target.http.replies import Reply
from mlflow_agent_target.http.steps import Steps
from mlflow_agent_target.target.names import is_app


class Place:
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

    @property
    def agent(self) -> Agent:
        """What is known of it, for all clients."""
        return self._routes.agent(self.name)

    @property
    def _may_be_any(self) -> bool:
        """Whether it may be a DurableAgentServer: those are apps or bare servers, and nobody describes them."""
        return self._interface is None and (self.name is None or is_app(self.name))

    def may_take_any(self, inputs: Any) -> bool:
        """Return whether inputs may be what only a DurableAgentServer takes: any dict."""
        return self._may_be_any and isinstance(inputs, Mapping) and bool(inputs)

    @property
    def is_told(self) -> bool:
        """Whether the caller has said what the endpoint serves. An app's address must be asked for all the same."""
        return self._interface is not None and not is_app(self.name)

    @property
    def must_ask(self) -> bool:
        return not self.is_told and not self.agent.is_known

    def route(self) -> Steps[Route]:
        agent = self.agent
        return agent.plain_route(self._options) if self.is_told else agent.route(self._options)

    def runs_route(self, is_quick: bool = False) -> Steps[Route]:
        """Return the way to the endpoint, once it is known whether it is a DurableAgentServer.

        Args:
            is_quick: Whether it is asked only once.

        Raises:
            AgentTargetError: It can't be asked.
        """
        if self.is_told:
            route = yield from self.route()
        else:
            options = replace(self._options, backoff=NO_RETRIES) if is_quick else self._options
            route = yield from self.agent.route(options, probes=self._may_be_any)
        return route if self._interface is None else replace(route, interface=self._interface)

    def turns_out_durable(self) -> Steps[bool]:
        """Return whether it is a DurableAgentServer, as far as it says."""
        try:
            return (yield from self.runs_route(is_quick=True)).interface is DurableAgentServer
        except AgentTargetError:
            return False

    def run(self, route: Route, protocol: type[RunProtocol], id_: str) -> Run:
        """Return a run that it keeps, by its id."""
        return Run(protocol, route.transport, route.base, id_, None, replace(self._options, idempotent=True))

    def begun(self, route: Route, reply: Reply) -> Run | None:
        """Return the run of an answer that is only its start; None of any other."""
        value = reply.value
        if not is_start(value):
            return None
        is_invocation = str(value.get("status_url")).startswith(InvocationApi.path)
        return self.run(route, InvocationApi if is_invocation else ResponsesApi, value["id"])

    def invoking(self) -> Steps[Invoking]:
        """Return what starts runs on it, where it is a DurableAgentServer."""
        route = yield from self.runs_route()
        return Invoking(self.agent, route, self._options)

    def begin(self) -> CallTime:
        """Return the time of a call that begins now."""
        return self._options.begin(time.monotonic())

    def may_be_durable(self, error: EndpointNotFoundError) -> bool:
        """Return whether what has no route for questions may be a DurableAgentServer, whose route is another."""
        return self._may_be_any and (error.status_code == 405 or error.body == {"detail": "Not Found"})

    def _exists(self) -> Steps[bool]:
        """Ask whether the endpoint is there, though it answers 404: one that is starting may."""
        if self.name is None or is_app(self.name):
            return False
        try:
            yield from self.agent.describe(self._options)
        except AgentTargetError:
            return False
        return True
