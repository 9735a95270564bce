"""AgentTargetClient: MLflow's deployments contract on top of `Endpoint`. Adapts arguments, decides nothing."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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

    from mlflow_agent_target.progress import Progress
    from mlflow_agent_target.results import BatchResult
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
    ) -> AgentResponse:
        """Send one request to an agent and wait for its whole answer.

        Args:
            deployment_name: Synonym of `endpoint`.
            inputs: What to ask: `{"input": [...]}` (ResponsesAgent), `{"messages": [...]}` (ChatAgent, ChatModel), a
                string (one user message), a list of messages or items, or MLflow's `ResponsesAgentRequest`,
                `ChatAgentRequest`, `ChatCompletionRequest`. Converted where the endpoint serves the other schema, with
                nothing dropped. Not modified.
            endpoint: The endpoint's name, "my-agent" or "endpoints:/my-agent". May be left out where the target is a
                base URL that is itself an agent server.

        Returns:
            What the endpoint answered, a dict in the endpoint's own schema, which also reads as attributes:
            `output_text`, `tool_calls`, `usage`, `trace`, `custom_outputs`.

        Raises:
            InvalidInputError: The payload or the name can't be used. Nothing was sent.
            InterfaceMismatchError: The payload can't be said in the schema that the endpoint takes. Nothing was sent.
            AgentError: The agent failed.
            AgentTargetError: The request failed in another way; the subclasses in `mlflow_agent_target.errors` say how.
        """
        return self._endpoint(deployment_name, endpoint).query(inputs)

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

    def predict_batch(
        self,
        endpoint: str | None = None,
        inputs: Any = None,
        *,
        concurrency: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        requests_per_minute: float | None = None,
        on_error: Literal["record", "raise"] = "record",
        retry_on: type[Exception] | tuple[type[Exception], ...] = (),
        rerun_in_doubt: bool = True,
        progress: bool | Callable[[Progress], None] | None = None,
        mlflow_run: bool | None = None,
        column: str | None = None,
        id_column: str | None = None,
    ) -> BatchResult:
        """Ask an agent once for each of many rows, as many at a time as the endpoint bears.

        A row that fails is a result. A failure that every row would share (401, 403, 404, no login) stops the run at
        once. Ctrl-C lets what is in flight end and returns what is there; a second one stops at once.

        Args:
            endpoint: As for `predict`.
            inputs: Any iterable of what `predict` takes (a generator is read as rows are sent), a pandas DataFrame or
                Series, an evaluation dataset, or the name of a CSV, JSONL or Parquet file.
            concurrency: The most requests in flight. None to find out what the endpoint bears, 192 at most.
            journal: A file that every row is recorded in before it is sent and when it has ended, so that the same call
                goes on where an earlier one stopped, however that ended: rows that are ok are not sent again, failed
                ones are. None to record for the result only.
            requests_per_minute: The most requests in any minute, attempts that fail included. None for no limit but
                what the endpoint's own answers say.
            on_error: "record" a row that fails, or "raise" its error, when what is in flight has ended.
            retry_on: Errors after which a row is sent again although the agent may have run for it: for agents that may
                safely run twice. `with_options(idempotent=True)` names every passing failure.
            rerun_in_doubt: Whether rows that were in flight when an earlier process was killed are sent again, although
                the agent may have run for them. False leaves them "in_doubt" in the result.
            progress: True or False for a bar on stderr, None for one where somebody may be looking; or a function that
                is called from time to time with how it goes.
            mlflow_run: True to log to the active MLflow run, or to one of its own. None for only to one that is active,
                False for none.
            column: The column of a frame or file that holds a row's inputs. None for `input`, `messages` or `inputs`.
            id_column: The column whose value is kept as the row's `id`. None for `id`, where there is one.

        Returns:
            What came of each row, in the order of the inputs.

        Raises:
            InvalidInputError: The inputs, an option or the journal can't be used, or the journal is of other inputs.
            AgentTargetError: What every row would share, or what one failed with if `on_error` is "raise".
        """
        from mlflow_agent_target.batch import run
        from mlflow_agent_target.progress import observer_for
        from mlflow_agent_target.report import logged
        from mlflow_agent_target.rows import Rows
        from mlflow_agent_target.scheduler import BatchOptions

        once = replace(self._options, retries=RetryPolicy(max_retries=0))  # the batch has a retry layer of its own
        agent = self._endpoint(None, endpoint, once)
        options = BatchOptions(
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            on_error=on_error,
            retry_on=retry_on if isinstance(retry_on, tuple) else (retry_on,),
            idempotent=self._options.idempotent,
            rerun_in_doubt=rerun_in_doubt,
            retries=self._options.retries,
            total_timeout=self._options.total_timeout,
        )
        rows = inputs if isinstance(inputs, Rows) else Rows(inputs, column, id_column)
        about = {"endpoint": agent.name, "target": self._connect().transport.base_url}
        settings = {"concurrency": concurrency or "adaptive", "requests_per_minute": requests_per_minute}
        with observer_for(progress) as observers, logged(mlflow_run, {**about, **settings}) as log:
            result = run(
                agent.query,
                rows,
                journal=None if journal is None else Path(journal),
                about=about,
                options=options,
                observers=[*observers, *([log] if log else [])],
            )
            if log:
                log.finish(result)
        return result

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

    def _endpoint(
        self, deployment_name: str | None, endpoint: str | None, options: RequestOptions | None = None
    ) -> Endpoint:
        names = [endpoint_name(name) for name in (deployment_name, endpoint) if name is not None]
        if len(set(names)) > 1:
            raise InvalidInputError(f"Two endpoints were named, {names[0]!r} and {names[1]!r}. Name one.")
        if not names and self._target.base_url is None:
            raise InvalidInputError("No endpoint was named. Give its name: predict(endpoint='my-agent', inputs=...).")
        return Endpoint(self._connect(), names[0] if names else None, options or self._options, self._interface)

    def _connect(self) -> Connection:
        if self._own_connection is not None:
            return self._own_connection
        with _connecting:  # the cache alone would let threads that start together make one each
            return _connection(self._target, self._settings.verify_tls)
