"""The way to each agent of a target, asked once: what is known of it, for all clients."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from mlflow_agent_target.endpoints.hosts import Hosts
from mlflow_agent_target.endpoints.platform import ServingEndpoint, data_plane, get_app_url, get_endpoint, is_settled
from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    AuthenticationError,
    InvalidInputError,
    RequestTimeoutError,
    has_not_run,
)
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.formats.durable_agent import DurableAgentServer
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.registry import interface_for_task
from mlflow_agent_target.formats.runs import InvocationApi, knows_no_run, run_url
from mlflow_agent_target.http.exchange import Transport
from mlflow_agent_target.http.options import NO_RETRIES, RequestOptions
from mlflow_agent_target.http.steps import Do, Steps, WaitFor
from mlflow_agent_target.target.addresses import check_encrypted, origin
from mlflow_agent_target.target.login import Login
from mlflow_agent_target.target.names import app_of, is_app, is_bricks_app
from mlflow_agent_target.text import seconds

_logger = logging.getLogger(__name__)

# Describing an endpoint is quick, and only a hint: it must not hold up the call itself.
_DESCRIBE_SECONDS = 15.0
# How long a description is good for, of an endpoint that is not changing.
_DESCRIPTION_SECONDS = 60.0
_NOT_AGENTS = ("llm/v1/completions", "llm/v1/embeddings")


@dataclass(frozen=True)
class Route:
    """Where an agent is asked, and what it takes.

    Attributes:
        transport: The way to its host.
        url: Where requests go.
        interface: The interface it serves; None where that is not known.
        is_agent: False for the foundation models that take prompts or texts to embed: their payloads are their own.
        takes_options: False where `databricks_options` are refused.
        is_probed: Whether it was asked whether it is a DurableAgentServer: nothing describes those.
        is_old: Of a DurableAgentServer, whether it takes no session beside the input (before version 0.4).
    """

    transport: Transport
    url: str
    interface: type[Interface] | None = None
    is_agent: bool = True
    takes_options: bool = True
    is_probed: bool = False
    is_old: bool = False

    @property
    def base(self) -> str:
        """The base URL of the server, below which it keeps runs."""
        base, found, _ = self.url.rpartition("/serving-endpoints/")
        return f"{base}/serving-endpoints" if found else self.url.removesuffix("/invocations")


class Routes(Hosts):
    """A target's hosts, and the ways to its agents. Any number of threads may use it."""

    def disconnect(self) -> None:
        super().disconnect()
        self._agents: dict[str, Agent] = {}

    def agent(self, name: str | None) -> Agent:
        """Return what is known of an agent: the same object for each call.

        Args:
            name: As `agent_name` gives it; None for the bare agent server that the target is.
        """
        key = name or ""
        known = self._agents.get(key)
        # setdefault: of threads that come together, all get the same.
        return known if known is not None else self._agents.setdefault(key, Agent(self, name))


class Agent:
    """What is known of one agent: the way to it, and what the platform says of it."""

    def __init__(self, routes: Routes, name: str | None) -> None:
        self.name = name
        self._routes = routes
        self._plain: Route | None = None
        self._known: Route | None = None
        self._lock = threading.Lock()
        # Of the call that is asking what the agent serves; those that come meanwhile wait for its outcome.
        self._asking: Future[Route | None] | None = None
        self._described: tuple[float, ServingEndpoint] | None = None
        #: Whether its server is known to keep runs that outlive a request.
        self.keeps_runs = False

    @property
    def is_known(self) -> bool:
        """Whether the agent has been asked what it serves."""
        return self._known is not None

    @property
    def interface(self) -> type[Interface] | None:
        """What the agent serves, as far as that is known."""
        return None if self._known is None else self._known.interface

    def remember(self, route: Route) -> None:
        """Remember what the agent said that it serves."""
        self._known = route

    def forget(self) -> None:
        """Forget what the agent serves: it may be another now."""
        self._known = self._described = None

    def plain_route(self, options: RequestOptions) -> Steps[Route]:
        """Return the way to an agent of which no more is known, or to the bare agent server that the target is."""
        if self._plain is None:
            transport = yield from self._routes.connect(options)
            path = f"/serving-endpoints/{quote(self.name, safe='')}" if self.name else ""
            self._plain = Route(transport, f"{transport.base_url}{path}/invocations")
        return self._plain

    def route(self, options: RequestOptions, probes: bool = False) -> Steps[Route]:
        """Return the way to the agent, which is asked once what it serves.

        Who comes while another call asks waits for its answer, as long as his own time limit lets him. Where that call
        is interrupted, the next one asks.

        Args:
            options: How it is asked.
            probes: Whether it is also asked if it is a DurableAgentServer, where nothing has described it.

        Raises:
            RequestTimeoutError: Another call asks, and gets no answer within this one's time.
            AgentTargetError: An app can't be found.
        """
        limits = options.limits()
        while (known := self._known) is None or (probes and not known.is_probed):
            mine: Future[Route | None] = Future()
            try:
                with self._lock:
                    asking = self._asking
                    self._asking = asking or mine
                if asking is None:
                    route, is_lasting = (yield from self._find(options)) if known is None else (known, True)
                    if probes:
                        route = yield from self._probe(route, options)
                    elif is_bricks_app(self.name):
                        route = yield from self._probe_quickly(route, options)
                    if is_lasting:
                        self._known = route
                    mine.set_result(route)
                    return route
            except AgentTargetError as error:
                mine.set_exception(error)
                raise
            finally:
                # However this call ends, by Ctrl-C too, which is meant for it alone: nobody waits for it any longer.
                if self._asking is mine:
                    self._asking = None
                    if not mine.done():
                        mine.set_result(None)
            most = min(limits.timeout, limits.total_timeout)
            if not (yield WaitFor(asking, most)):
                facts = Facts(self.name, attempts=0)
                raise facts.error(
                    RequestTimeoutError,
                    f"{facts.server} was not asked: what it serves was not found out within {seconds(most)} s. Say it "
                    "with client.with_options(interface=...), or allow more with client.with_options(timeout=...).",
                    may_have_run=False,
                )
            if (found := asking.result()) is not None and (found.is_probed or not probes):
                return found
        return known

    def _probe(self, route: Route, options: RequestOptions) -> Steps[Route]:
        """Ask with a GET, which can run nothing, whether this is a DurableAgentServer; unless it has been described."""
        if route.interface is not None or not route.is_agent:
            return replace(route, is_probed=True)
        try:
            url = run_url(route.base, InvocationApi, str(uuid.uuid4()))
            yield from route.transport.call("GET", url, None, replace(options, idempotent=True))
        except AgentTargetError as error:
            if knows_no_run(error.status_code, error.body):
                return replace(route, interface=DurableAgentServer, is_probed=True)
            if error.status_code is None or (error.retryable and not isinstance(error, AgentError)):
                has_not_run(error)
                raise  # it may say so another time
            if error.status_code not in (404, 405, 422) or not isinstance(error.body, dict):
                return route  # not the server's own word, or not about this
        return replace(route, is_probed=True)

    def _probe_quickly(self, route: Route, options: RequestOptions) -> Steps[Route]:
        try:
            return (yield from self._probe(route, replace(_quick(options), backoff=NO_RETRIES)))
        except AgentTargetError:
            return route  # to be asked another time: the call itself will say what is wrong

    def described(self, ask: Steps[ServingEndpoint]) -> Steps[ServingEndpoint]:
        """Return what the platform knows of the endpoint: of a settled one for a minute, since MLflow asks at each row.

        Args:
            ask: Asks the platform.
        """
        asked, known = self._described or (0.0, None)
        if known is None or time.monotonic() - asked > _DESCRIPTION_SECONDS:
            known = yield from ask
            if is_settled(known):
                self._described = time.monotonic(), known
        return ServingEndpoint(known)

    def describe(self, options: RequestOptions) -> Steps[ServingEndpoint]:
        """Ask the platform quickly what it knows of the endpoint.

        Raises:
            AgentTargetError: It doesn't say.
        """
        transport = yield from self._routes.connect(options)
        return (yield from self.described(get_endpoint(transport, self.name or "", _quick(options))))

    def _find(self, options: RequestOptions) -> Steps[tuple[Route, bool]]:
        """Ask what the agent serves, and return the way to it, and whether that will do for the calls to come.

        A login that may query an endpoint may still be forbidden to describe it, and a gateway may describe nothing:
        then the payload goes as it is.
        """
        if self.name is not None and is_app(self.name):
            return (yield from self._app_route(self.name, _quick(options))), True
        route = yield from self.plain_route(options)
        if self.name is None:
            return route, True
        try:
            described = yield from self.describe(options)
        except AgentTargetError as error:
            _logger.debug("Endpoint '%s' can't be described: %s", self.name, error)
            passing = error.retryable and not isinstance(error, RequestTimeoutError)
            is_passing = passing or isinstance(error, AuthenticationError) or (error.status_code or 0) >= 500
            # Asking a gateway that refuses, or hangs, at each call would be worse than not knowing.
            return route, not is_passing
        task = described.get("task")
        route = replace(
            route,
            interface=interface_for_task(task),
            is_agent=task not in _NOT_AGENTS,
            takes_options=described.get("endpoint_type") != "FOUNDATION_MODEL_API",
        )
        return (yield from self._optimized(route, described, options)), True

    def _optimized(self, route: Route, described: dict[str, Any], options: RequestOptions) -> Steps[Route]:
        """Return the way to a route-optimized endpoint, which has a host and tokens of its own.

        https://docs.databricks.com/aws/en/machine-learning/model-serving/query-route-optimization
        """
        login = route.transport.login
        own = data_plane(described)
        if own is None or not (yield Do(lambda: login.is_oauth(options.limits().timeout))):
            return route  # endpoints from before September 2025 answer here too, and to any login
        url, details = own
        check_encrypted(url)
        to_endpoint: Login = yield Do(lambda: login.for_endpoint(url, details))
        return replace(route, transport=Transport(to_endpoint, self._routes.verify_tls), url=url)

    def _app_route(self, name: str, options: RequestOptions) -> Steps[Route]:
        if not self._routes.is_workspace:
            raise InvalidInputError(
                f"'{name}' is looked up in a workspace, and the target is a base URL. Use the target 'agent-target', "
                "or the app's own URL: agent-target:https://... with an OAuth token in AGENT_TARGET_TOKEN."
            )
        transport = yield from self._routes.connect(options)
        login = transport.login
        if not (yield Do(lambda: login.is_oauth(options.limits().timeout))):
            raise AuthenticationError(
                f"'{name}' is a Databricks App, which takes OAuth only, no personal access token. Run `databricks auth "
                "login`, or use a service principal: DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET.",
                endpoint=name,
            )
        url = yield from get_app_url(transport, app_of(name), replace(options, endpoint=name))
        check_encrypted(url)
        return Route(self._routes.transport_to(origin(url)), f"{url}/invocations")


def _quick(options: RequestOptions) -> RequestOptions:
    limits = options.limits()
    quick = min(limits.timeout, limits.total_timeout, _DESCRIBE_SECONDS)
    return replace(options, timeout=quick, total_timeout=quick, wait_until_ready=None)
