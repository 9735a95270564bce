"""A target as one client sees it: its routes, how calls are made, and its endpoints by name."""

from __future__ import annotations

import copy
import functools
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.endpoints.endpoint import Endpoint
from mlflow_agent_target.endpoints.routes import Routes
from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.registry import INTERFACES, interface_for_task
from mlflow_agent_target.http.options import RequestOptions
from mlflow_agent_target.target.names import agent_name, one_name
from mlflow_agent_target.target.sdk import sdk_login
from mlflow_agent_target.target.settings import Backoff, TimeLimits, network, verifies_tls
from mlflow_agent_target.target.uri import Target

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

# What endpoints look like, whatever they serve.
_CHAT = "chat"
# `with_options(interface=...)` for clients that MLflow makes by itself: in legacy evaluations, and for judges.
_INTERFACE_VARIABLE = "AGENT_TARGET_INTERFACE"


@functools.lru_cache(maxsize=64)
def _shared_routes(target: Target, verify_tls: bool, _network: tuple[tuple[str, str], ...]) -> Routes:
    # MLflow makes a new client at every get_deploy_client, so connections belong to the target, and to the network that
    # they go through.
    return Routes(target.log_in, verify_tls, is_workspace=target.base_url is None, name=target.place)


_sharing = threading.Lock()


class Access:
    """A target as one client sees it.

    Attributes:
        target: The target.
        options: How calls are made.
        as_chat: Whether endpoints look like chat models, whatever they serve.

    Args:
        uri: The target URI.
        workspace_client: databricks-sdk's, whose host and login to use instead of the target's; None for those.

    Raises:
        InvalidInputError: The target URI, or a setting in the environment, can't be read.
    """

    def __init__(self, uri: str, workspace_client: WorkspaceClient | None = None) -> None:
        self.target = Target.parse(uri)
        # They are read when a call is made. What can't be read is better told now.
        TimeLimits.read()
        Backoff.read()
        self.options = RequestOptions()
        self.as_chat = False
        self._interface: type[Interface] | None = None
        if interface := os.environ.get(_INTERFACE_VARIABLE, "").strip():
            self._set_interface(interface, _INTERFACE_VARIABLE)
        self._config = None if workspace_client is None else workspace_client.config
        self._network = network()
        self._endpoints: dict[tuple[str | None, str | None], Endpoint] = {}
        self._routes = self._routes_for(verifies_tls())

    @property
    def routes(self) -> Routes:
        """The ways to the target's agents, as the environment now has certificates checked."""
        verify_tls = verifies_tls()
        if verify_tls is not self._routes.verify_tls:
            self._routes = self._routes_for(verify_tls)
            self._endpoints = {}
        return self._routes

    @property
    def is_of_target(self) -> bool:
        """Whether the target's URI says all of where requests go and who sends them."""
        return self._config is None

    @property
    def sends_context(self) -> bool:
        """Whether servers may be told of the caller's trace: Model Serving loses the agent's own when it is."""
        return self.target.base_url is not None

    def endpoint(self, deployment_name: str | None, endpoint: str | None) -> Endpoint:
        """Return the endpoint that is named, by either of two names.

        Raises:
            InvalidInputError: It is no name, two differ, or there is none where one is needed.
        """
        routes = self.routes
        try:
            return self._endpoints[deployment_name, endpoint]
        except (KeyError, TypeError):  # TypeError: no name can be compared with it
            pass
        name = one_name(agent_name, deployment_name, endpoint)
        if name is None and self.target.base_url is None:
            raise InvalidInputError("No endpoint was named. Give its name: predict(endpoint='my-agent', inputs=...).")
        made = Endpoint(routes, name, self.options, self._interface)
        self._endpoints[deployment_name, endpoint] = made
        return made

    def with_options(
        self, *, interface: str | None = None, idempotent: bool | None = None, **seconds: float | None
    ) -> Access:
        """Return the same access with other options; None keeps one. See `AgentTargetClient.with_options`.

        Raises:
            InvalidInputError: A value can't be used.
        """
        changes: dict[str, Any] = {name: value for name, value in seconds.items() if value is not None}
        for name, value in changes.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise InvalidInputError(f"{name} must be a number of seconds above 0, not {value!r}.")
        if idempotent is not None:
            changes["idempotent"] = bool(idempotent)
        access = self.with_request_options(replace(self.options, **changes))
        if interface is not None:
            access._set_interface(interface, "interface")
        return access

    def with_request_options(self, options: RequestOptions) -> Access:
        """Return the same access with calls made in another way."""
        access = copy.copy(self)
        access.options = options
        access._endpoints = {}
        return access

    def _set_interface(self, interface: str, given_by: str) -> None:
        if interface == _CHAT:
            self.as_chat = True
            return
        self._interface = next((kind for kind in INTERFACES if kind.name == interface), interface_for_task(interface))
        if self._interface is None:
            names = ", ".join(f"'{kind.name}'" for kind in INTERFACES)
            raise InvalidInputError(
                f"{given_by} must be one of {names}, a task of theirs, or '{_CHAT}', not {interface!r}."
            )

    def _routes_for(self, verify_tls: bool) -> Routes:
        if self._config is not None:
            config = self._config  # of one user's making, so never shared
            return Routes(lambda: sdk_login(config), verify_tls, is_workspace=True)
        with _sharing:  # the cache alone would let threads that start together make one each
            return _shared_routes(self.target, verify_tls, self._network)
