"""AgentTargetClient: MLflow's deployments contract on top of `Endpoint`. Adapts arguments, decides nothing."""

from __future__ import annotations

import copy
import functools
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlflow.deployments.base import BaseDeploymentClient

from mlflow_agent_target.answers import AgentResponse
from mlflow_agent_target.endpoint import Connection, Endpoint, endpoint_name
from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.interfaces import INTERFACES, Interface, interface_for_task
from mlflow_agent_target.retry import RetryPolicy
from mlflow_agent_target.streams import AgentStream
from mlflow_agent_target.target import Settings, Target, credentials_of
from mlflow_agent_target.transport import RequestOptions

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

    from mlflow_agent_target.workspace import ServingEndpoint


@functools.lru_cache(maxsize=64)
def _connection(target: Target, verify_tls: bool) -> Connection:
    # MLflow makes a new client at every get_deploy_client, so connections belong to the target.
    return Connection(target.connect, verify_tls)


_connecting = threading.Lock()

if hasattr(os, "register_at_fork"):
    # Two processes must not write to one socket.
    os.register_at_fork(after_in_child=_connection.cache_clear)


class AgentTargetClient(BaseDeploymentClient):
    """Queries agents that were authored with MLflow and are deployed to Databricks Model Serving, or served locally.

    Usually made by `mlflow.deployments.get_deploy_client("agent-target")`. Clients of one target share their
    connections and may be used from any number of threads.

    Args:
        target_uri: `agent-target` (the workspace of the environment), `agent-target://PROFILE` (a profile of
            `~/.databrickscfg`), or `agent-target:http://HOST:PORT` (a base URL, such as `run_local`'s).
        workspace_client: A databricks-sdk `WorkspaceClient` whose host and login to use instead of the target's.

    Raises:
        InvalidInputError: The target URI, or a setting in the environment, can't be read.
    """

    def __init__(self, target_uri: str = "agent-target", workspace_client: WorkspaceClient | None = None) -> None:
        super().__init__(target_uri)
        self._target = Target.parse(target_uri)
        self._settings = Settings.read()
        self._options = RequestOptions(
            timeout=self._settings.timeout,
            total_timeout=self._settings.total_timeout,
            retries=RetryPolicy(
                self._settings.max_retries, self._settings.backoff_factor, self._settings.backoff_jitter
            ),
        )
        self._interface: type[Interface] | None = None
        self._own_connection: Connection | None = None
        if workspace_client is not None:
            # Of one user's making, so never shared.
            config = workspace_client.config
            self._own_connection = Connection(lambda: credentials_of(config), self._settings.verify_tls)

    def __repr__(self) -> str:
        return f"AgentTargetClient({self._target.uri!r})"

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> AgentResponse | Any:
        """Send one request to an agent and wait for its whole answer.

        Args:
            deployment_name: Synonym of `endpoint`.
            inputs: What to ask: `{"input": [...]}` (ResponsesAgent), `{"messages": [...]}` (ChatAgent, ChatModel), a
                string (one user message), a list of messages or items, or MLflow's `ResponsesAgentRequest`,
                `ChatAgentRequest`, `ChatCompletionRequest`. Converted where the endpoint serves the other schema, with
                nothing dropped. Or a pandas DataFrame or Series, whose every row is sent. Not modified.
            endpoint: The endpoint's name, "my-agent" or "endpoints:/my-agent". May be left out where the target is a
                base URL that is itself an agent server.

        Returns:
            What the endpoint answered, a dict in the endpoint's own schema, which also reads as attributes:
            `output_text`, `tool_calls`, `usage`, `trace`, `custom_outputs`. For a DataFrame, a DataFrame on its index
            with the columns `output_text`, `response`, `error`, `request_id`.

        Raises:
            InvalidInputError: The payload or the name can't be used. Nothing was sent.
            InterfaceMismatchError: The payload can't be said in the schema that the endpoint takes. Nothing was sent.
            AgentError: The agent failed.
            AgentTargetError: The request failed in another way; the subclasses in `mlflow_agent_target.errors` say how.
        """
        from mlflow_agent_target.frames import is_frame, predict_frame

        agent = self._endpoint(deployment_name, endpoint)
        return predict_frame(inputs, agent.query) if is_frame(inputs) else agent.query(inputs)

    def predict_stream(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> AgentStream:
        """Send one request to an agent and return its answer as it comes.

        The request is sent by this call, so an error in it is raised here.

        Args:
            deployment_name: Synonym of `endpoint`.
            inputs: As for `predict`.
            endpoint: As for `predict`.

        Returns:
            An iterator of events, dicts as the endpoint sends them, with `text_stream` and `get_final_response()`. Use
            it in a `with` block, or read it to its end. It ends complete or with an exception.

        Raises:
            AgentTargetError: As for `predict`. While it is read: `AgentError` when the agent fails in the midst of its
                answer, `StreamInterruptedError` when the stream breaks off.
        """
        return self._endpoint(deployment_name, endpoint).stream(inputs)

    def with_options(
        self,
        timeout: float | None = None,
        total_timeout: float | None = None,
        idle_timeout: float | None = None,
        idempotent: bool | None = None,
        interface: str | None = None,
    ) -> AgentTargetClient:
        """Return the same client with other settings, on the same connections. None keeps a setting.

        Args:
            timeout: Seconds for one attempt: until the answer, or a stream's first event, is there.
            total_timeout: Seconds for all attempts together.
            idle_timeout: Seconds of silence allowed between a stream's events; as `timeout` unless it is set.
            idempotent: True says that the agent may safely run twice, so that every passing failure is retried.
            interface: What the endpoints serve, "ResponsesAgent", "ChatAgent" or "ChatModel", or a task such as
                "agent/v1/responses", so that they are not asked.

        Raises:
            InvalidInputError: A value can't be used.
        """
        times = {"timeout": timeout, "total_timeout": total_timeout, "idle_timeout": idle_timeout}
        changes: dict[str, Any] = {name: value for name, value in times.items() if value is not None}
        for name, value in changes.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise InvalidInputError(f"{name} must be a number of seconds above 0, not {value!r}.")
        if idempotent is not None:
            changes["idempotent"] = bool(idempotent)
        if interface is not None:
            known = next((kind for kind in INTERFACES if kind.name == interface), None) or interface_for_task(interface)
            if known is None:
                names = ", ".join(f"'{kind.name}'" for kind in INTERFACES)
                raise InvalidInputError(f"interface must be one of {names} or a task of theirs, not {interface!r}.")
            changes["interface"] = known
        client = copy.copy(self)
        client._interface = changes.pop("interface", self._interface)
        client._options = replace(self._options, **changes)
        return client

    def get_endpoint(self, endpoint: str) -> ServingEndpoint:
        """Return an endpoint's description as the platform gives it: a dict, which also reads as attributes.

        Args:
            endpoint: The endpoint's name.

        Raises:
            EndpointNotFoundError: There is no such endpoint.
        """
        from mlflow_agent_target.workspace import get_endpoint

        return get_endpoint(self._connect().transport, endpoint_name(endpoint), self._options)

    def list_endpoints(self) -> list[ServingEndpoint]:
        """Return the descriptions of all serving endpoints that the login may see."""
        from mlflow_agent_target.workspace import list_endpoints

        return list_endpoints(self._connect().transport, self._options)

    def get_deployment(self, name: str, endpoint: str | None = None) -> ServingEndpoint:
        """Return an endpoint's description: a deployment is an endpoint here. See `get_endpoint`."""
        return self.get_endpoint(endpoint or name)

    def list_deployments(self, endpoint: str | None = None) -> list[ServingEndpoint]:
        """Return all endpoints: a deployment is an endpoint here. See `list_endpoints`."""
        return [self.get_endpoint(endpoint)] if endpoint else self.list_endpoints()

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: dict[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Not offered: agents are deployed with `databricks.agents.deploy`."""
        raise self._not_offered("create a deployment")

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: dict[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Not offered: agents are deployed with `databricks.agents.deploy`."""
        raise self._not_offered("update a deployment")

    def delete_deployment(self, name: str, config: dict[str, Any] | None = None, endpoint: str | None = None) -> None:
        """Not offered: agents are deleted with `databricks.agents.delete_deployment`."""
        raise self._not_offered("delete a deployment")

    @staticmethod
    def _not_offered(what: str) -> InvalidInputError:
        return InvalidInputError(
            f"The agent-target client queries agents; it can't {what}. Deploy agents with databricks.agents.deploy, "
            "or serve one on this machine with `mlflow deployments run-local -t agent-target`."
        )

    def _endpoint(self, deployment_name: str | None, endpoint: str | None) -> Endpoint:
        names = [endpoint_name(name) for name in (deployment_name, endpoint) if name is not None]
        if len(set(names)) > 1:
            raise InvalidInputError(f"Two endpoints were named, {names[0]!r} and {names[1]!r}. Name one.")
        if not names and self._target.base_url is None:
            raise InvalidInputError("No endpoint was named. Give its name: predict(endpoint='my-agent', inputs=...).")
        return Endpoint(self._connect(), names[0] if names else None, self._options, self._interface)

    def _connect(self) -> Connection:
        if self._own_connection is not None:
            return self._own_connection
        with _connecting:  # the cache alone would let threads that start together make one each
            return _connection(self._target, self._settings.verify_tls)
