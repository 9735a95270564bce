"""A target that is connected to: its transports, and what is known of its endpoints, for all clients."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from mlflow_agent_target.endpoints.platform import ServingEndpoint, get_app_url, get_endpoint
from mlflow_agent_target.errors import (
    AgentTargetError,
    AuthenticationError,
    InvalidInputError,
    RequestTimeoutError,
)
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.registry import interface_for_task
from mlflow_agent_target.http.exchange import RequestOptions, Transport
from mlflow_agent_target.target.login import Login, check_encrypted, origin
from mlflow_agent_target.target.names import app_of, is_app

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
    """

    transport: Transport
    url: str
    interface: type[Interface] | None = None
    is_agent: bool = True
    takes_options: bool = True


class Connection:
    """A target that is connected to at its first use. Any number of threads may use it.

    Args:
        log_in: Finds the target's host and login.
        verify_tls: Whether servers' certificates are checked.
        is_workspace: Whether the target is a Databricks workspace, not an explicit base URL.
    """

    def __init__(self, log_in: Callable[[], Login], verify_tls: bool, is_workspace: bool) -> None:
        self._log_in = log_in
        self._verify_tls = verify_tls
        self._is_workspace = is_workspace
        self.disconnect()
        _connections.add(self)

    def disconnect(self) -> None:
        """Forget all that is connected and known, without a word to the servers."""
        self._transport: Transport | None = None
        self._other_hosts: dict[str, Transport] = {}
        self._routes: dict[str, Route] = {}
        self._plain_routes: dict[str, Route] = {}
        self._asked: dict[str, Future[Route]] = {}
        self._descriptions: dict[str, tuple[float, ServingEndpoint]] = {}
        self._lock = threading.RLock()

    @property
    def transport(self) -> Transport:
        """The way to the target's host.

        Raises:
            AuthenticationError: No usable login was found. Looked for again at the next use.
        """
        if self._transport is None:
            with self._lock:
                if self._transport is None:
                    self._transport = Transport(self._log_in(), self._verify_tls)
        return self._transport

    def plain_route(self, name: str | None) -> Route:
        """Return the way to an endpoint of which no more is known, or to the bare agent server that the target is."""
        route = self._plain_routes.get(name or "")
        if route is None:
            path = f"/serving-endpoints/{quote(name, safe='')}" if name else ""
            route = Route(self.transport, f"{self.transport.base_url}{path}/invocations")
            self._plain_routes[name or ""] = route
        return route

    def knows(self, name: str | None) -> bool:
        """Return whether an agent has been asked what it serves."""
        return (name or "") in self._routes

    def route(self, name: str | None, options: RequestOptions) -> Route:
        """Return the way to an agent, which is asked once what it serves; those who come meanwhile wait for the answer.

        Args:
            name: As `agent_name` gives it; None for the bare agent server that the target is.
            options: How to ask.

        Raises:
            AgentTargetError: An app can't be found.
        """
        key = name or ""
        if (known := self._routes.get(key)) is not None:
            return known
        with self._lock:
            if (known := self._routes.get(key)) is not None:
                return known  # since the look above
            asked = self._asked.get(key)
            if asked is None:
                mine = self._asked[key] = Future()
        if asked is not None:
            return asked.result()
        try:
            route, is_lasting = self._find(name, options)
        except BaseException as error:
            self.forget(name)
            mine.set_exception(error)
            raise
        with self._lock:
            if is_lasting:
                self._routes[key] = route
            self._asked.pop(key, None)
        mine.set_result(route)
        return route

    def remember(self, name: str | None, route: Route) -> None:
        """Remember what an agent said that it serves."""
        self._routes[name or ""] = route

    def forget(self, name: str | None) -> None:
        """Forget what an agent serves: it may be another now."""
        with self._lock:
            self._routes.pop(name or "", None)
            self._asked.pop(name or "", None)
            self._descriptions.pop(name or "", None)

    def described(self, name: str, ask: Callable[[], ServingEndpoint]) -> ServingEndpoint:
        """Return what the platform knows of an endpoint: of a settled one for a minute, since MLflow asks at each row.

        Args:
            name: The endpoint's name.
            ask: Asks the platform.
        """
        asked, known = self._descriptions.get(name, (0.0, None))
        if known is None or time.monotonic() - asked > _DESCRIPTION_SECONDS:
            known = ask()
            state = known.get("state") or {}
            if state.get("ready") == "READY" and state.get("config_update") in (None, "NOT_UPDATING"):
                self._descriptions[name] = time.monotonic(), known
        return ServingEndpoint(known)

    def describe(self, name: str, options: RequestOptions) -> ServingEndpoint:
        """Ask the platform quickly what it knows of an endpoint.

        Raises:
            AgentTargetError: It doesn't say.
        """
        return self.described(name, lambda: get_endpoint(self.transport, name, _quick(options)))

    def _find(self, name: str | None, options: RequestOptions) -> tuple[Route, bool]:
        """Ask what an endpoint serves, and return the way to it, and whether that will do for the calls to come.

        A login that may query an endpoint may still be forbidden to describe it, and a gateway may describe nothing:
        then the payload goes as it is.
        """
        if name is not None and is_app(name):
            return self._app_route(name, _quick(options)), True
        route = self.plain_route(name)
        if name is None:
            return route, True
        try:
            described = self.describe(name, options)
        except AgentTargetError as error:
            _logger.debug("Endpoint '%s' can't be described: %s", name, error)
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
        return self._optimized(route, described), True

    def _optimized(self, route: Route, described: dict[str, Any]) -> Route:
        """Return the way to a route-optimized endpoint, which has a host and tokens of its own.

        https://docs.databricks.com/aws/en/machine-learning/model-serving/query-route-optimization
        """
        query = (described.get("data_plane_info") or {}).get("query_info") or {}
        url = query.get("endpoint_url") or described.get("endpoint_url")
        details = query.get("authorization_details")
        login = route.transport.login
        if not described.get("route_optimized") or not url or not details or not login.is_oauth:
            return route  # endpoints from before September 2025 answer here too, and to any login
        check_encrypted(url)
        return replace(route, transport=Transport(login.for_endpoint(url, details), self._verify_tls), url=url)

    def _app_route(self, name: str, options: RequestOptions) -> Route:
        if not self._is_workspace:
            raise InvalidInputError(
                f"'{name}' is looked up in a workspace, and the target is a base URL. Use the target 'agent-target', "
                "or the app's own URL: agent-target:https://... with an OAuth token in AGENT_TARGET_TOKEN."
            )
        login = self.transport.login
        if not login.is_oauth:
            raise AuthenticationError(
                f"'{name}' is a Databricks App, which takes OAuth only, no personal access token. Run `databricks auth "
                "login`, or use a service principal: DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET.",
                endpoint=name,
            )
        url = get_app_url(self.transport, app_of(name), replace(options, endpoint=name))
        check_encrypted(url)
        host = origin(url)
        with self._lock:
            if host not in self._other_hosts:
                self._other_hosts[host] = Transport(login.for_host(host), self._verify_tls)
        return Route(self._other_hosts[host], f"{url}/invocations")


def _quick(options: RequestOptions) -> RequestOptions:
    quick = min(options.timeout, options.total_timeout, _DESCRIBE_SECONDS)
    return replace(options, timeout=quick, wait_until_ready=None)


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Two processes must not write to one socket.
    for connection in list(_connections):
        connection.disconnect()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
