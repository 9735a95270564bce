"""AgentTargetClient: MLflow's deployments contract on top of `Endpoint`. Adapts arguments, decides nothing."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow_agent_target.endpoints.endpoint import Endpoint
from mlflow_agent_target.endpoints.management import EndpointManagement
from mlflow_agent_target.endpoints.platform import open_ai_client
from mlflow_agent_target.endpoints.routes import Connection
from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.registry import INTERFACES, interface_for_task
from mlflow_agent_target.http.exchange import RequestOptions
from mlflow_agent_target.http.retry import RetryPolicy
from mlflow_agent_target.streams.stream import AgentStream
from mlflow_agent_target.target.login import sdk_login
from mlflow_agent_target.target.names import agent_name, one_name
from mlflow_agent_target.target.uri import Settings, Target
from mlflow_agent_target.tracing import spans as tracing

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from openai import OpenAI

    from mlflow_agent_target.batch.progress import Progress
    from mlflow_agent_target.batch.results import BatchResult
    from mlflow_agent_target.endpoints.platform import ServingEndpoint


# What endpoints look like, whatever they serve.
_CHAT = "chat"
# `with_options(interface=...)` for clients that MLflow makes by itself: in legacy evaluations, and for judges.
_INTERFACE_VARIABLE = "AGENT_TARGET_INTERFACE"


@functools.lru_cache(maxsize=64)
def _connection(target: Target, verify_tls: bool, _network: tuple[tuple[str, str], ...]) -> Connection:
    # MLflow makes a new client at every get_deploy_client, so connections belong to the target, and to the network that
    # they go through.
    return Connection(target.log_in, verify_tls, is_workspace=target.base_url is None)


_connecting = threading.Lock()


class AgentTargetClient(EndpointManagement):
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
        self._as_chat = False
        if interface := os.environ.get(_INTERFACE_VARIABLE, "").strip():
            self._set_interface(interface, _INTERFACE_VARIABLE)
        self._endpoints: dict[tuple[str | None, str | None], Endpoint] = {}
        if workspace_client is not None:
            # Of one user's making, so never shared.
            config = workspace_client.config
            self._connection = Connection(lambda: sdk_login(config), self._settings.verify_tls, is_workspace=True)
        else:
            with _connecting:  # the cache alone would let threads that start together make one each
                self._connection = _connection(self._target, self._settings.verify_tls, self._settings.network)

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
        from mlflow_agent_target.batch.frames import is_frame

        agent = self._endpoint(deployment_name, endpoint)
        if is_frame(inputs):
            return self._predict_frame(agent.name, inputs)
        if tracing.is_wanted():
            answer = tracing.query(agent, inputs, sends_context=self._sends_context)
        else:
            answer = agent.query(inputs)
        if self._as_chat:
            from mlflow_agent_target.evaluation import as_chat_completion

            return as_chat_completion(answer, agent.name)
        return answer

    def _predict_frame(self, endpoint: str | None, frame: Any) -> Any:
        from mlflow_agent_target.batch.frames import frame_of, requests_of

        result = self.predict_batch(endpoint, requests_of(frame), progress=False, mlflow_run=False)
        if result.interrupted:
            raise KeyboardInterrupt
        return frame_of(result, frame)

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
        agent = self._endpoint(deployment_name, endpoint)
        if tracing.is_wanted():
            return tracing.stream(agent, inputs, sends_context=self._sends_context)
        return agent.stream(inputs)

    def to_predict_fn(self, endpoint: str | None = None) -> Callable[..., AgentResponse]:
        """Return an endpoint as a function for `mlflow.genai.evaluate(predict_fn=...)`.

        It takes what a dataset's `inputs` hold, as keyword arguments: `input`, `messages`, or one field of text under
        any name, which is asked as the user's question; and beside these all that a request may hold, such as
        `custom_inputs`, `context` or `temperature`. `mlflow_session_id`, which MLflow's ConversationSimulator passes,
        is not sent: it becomes the trace's session. The agent's own trace is brought into the experiment, below the
        call's span.

        Args:
            endpoint: As for `predict`.

        Returns:
            A function that returns what `predict` does, without `databricks_output`, and raises what `predict` does.

        Raises:
            InvalidInputError: The name can't be used.
        """
        from mlflow_agent_target.evaluation import predict_fn

        agent = self._endpoint(None, endpoint)
        uri = f"endpoints:/{agent.name}" if agent.name else self._target.uri
        return predict_fn(agent, uri, sends_context=self._sends_context)

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
        from mlflow_agent_target.batch.mlflow_run import logged
        from mlflow_agent_target.batch.policy import BatchOptions
        from mlflow_agent_target.batch.progress import observer_for
        from mlflow_agent_target.batch.run import run
        from mlflow_agent_target.batch.tables import Rows

        once = replace(self._options, retries=RetryPolicy(max_retries=0))  # the batch has a retry layer of its own
        agent = self._with(once)._endpoint(None, endpoint)
        query = functools.partial(self._traced_row, agent) if tracing.is_autologging() else agent.query
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
        about = {"endpoint": agent.name, "target": self._connection.transport.base_url}
        settings = {"concurrency": concurrency or "adaptive", "requests_per_minute": requests_per_minute}
        with observer_for(progress) as observers, logged(mlflow_run, {**about, **settings}) as log:
            result = run(
                query,
                rows,
                journal=None if journal is None else Path(journal),
                about=about,
                options=options,
                observers=[*observers, *([log] if log else [])],
            )
            if log:
                log.finish(result)
        return result

    def _traced_row(self, agent: Endpoint, inputs: Any) -> AgentResponse:
        answer = tracing.query(agent, inputs, sends_context=self._sends_context)
        if isinstance(inputs, Mapping) and "databricks_options" in inputs:
            return answer
        return answer.without("databricks_output")  # the trace is kept by MLflow, and not with the row once more

    def with_options(
        self,
        timeout: float | None = None,
        total_timeout: float | None = None,
        idle_timeout: float | None = None,
        idempotent: bool | None = None,
        interface: str | None = None,
        wait_until_ready: float | None = None,
    ) -> AgentTargetClient:
        """Return the same client with other settings, on the same connections. None keeps a setting.

        Args:
            timeout: Seconds for one attempt: until the answer, or a stream's first event, is there.
            total_timeout: Seconds for all attempts together.
            idle_timeout: Seconds of silence allowed between a stream's events; as `timeout` unless it is set.
            idempotent: True says that the agent may safely run twice, so that every passing failure is retried.
            interface: What the endpoints serve, "ResponsesAgent", "ChatAgent" or "ChatModel", or a task such as
                "agent/v1/responses", so that they are not asked. Or "chat", whatever they serve: they look like chat
                models, for callers that know only those: `predict` gives `choices`, `get_endpoint` says "llm/v1/chat".
                Streams stay as they are.
            wait_until_ready: Seconds to wait for an endpoint that is starting or scaled to zero: that answers 503, 404
                though it exists, or not at all. Beside `total_timeout`, which counts from then.

        Raises:
            InvalidInputError: A value can't be used.
        """
        times = {
            "timeout": timeout,
            "total_timeout": total_timeout,
            "idle_timeout": idle_timeout,
            "wait_until_ready": wait_until_ready,
        }
        changes: dict[str, Any] = {name: value for name, value in times.items() if value is not None}
        for name, value in changes.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise InvalidInputError(f"{name} must be a number of seconds above 0, not {value!r}.")
        if idempotent is not None:
            changes["idempotent"] = bool(idempotent)
        client = self._with(replace(self._options, **changes))
        if interface is not None:
            client._set_interface(interface, "interface")
        return client

    def _with(self, options: RequestOptions) -> AgentTargetClient:
        client = copy.copy(self)
        client._options = options
        client._endpoints = {}
        return client

    def _set_interface(self, interface: str, given_by: str) -> None:
        if interface == _CHAT:
            self._as_chat = True
            return
        self._interface = next((kind for kind in INTERFACES if kind.name == interface), interface_for_task(interface))
        if self._interface is None:
            names = ", ".join(f"'{kind.name}'" for kind in INTERFACES)
            raise InvalidInputError(
                f"{given_by} must be one of {names}, a task of theirs, or '{_CHAT}', not {interface!r}."
            )

    def get_endpoint(self, endpoint: str) -> ServingEndpoint:
        """Return an endpoint's description as the platform gives it: a dict, which also reads as attributes.

        Of an endpoint that is ready and not changing, it may be a minute old.

        Args:
            endpoint: The endpoint's name.
        """
        described = super().get_endpoint(endpoint)
        if self._as_chat:
            from mlflow_agent_target.evaluation import as_chat_endpoint

            return as_chat_endpoint(described)
        return described

    def get_open_ai_client(self) -> OpenAI:
        """Return an OpenAI client for this target's serving endpoints, with its login.

        `client.get_open_ai_client().responses.create(model="my-agent", input=[...])` queries a ResponsesAgent,
        `chat.completions.create` the others. Time limits and retries are the OpenAI client's own: it may run an agent
        again. The login is asked for each request, so that it may expire; redirects are not followed.

        Returns:
            databricks-openai's `DatabricksOpenAI` where that is installed and the target is a workspace, else OpenAI's
            own client.

        Raises:
            InvalidInputError: The `openai` package is not installed, or is too old.
            AuthenticationError: No usable login was found.
        """
        return open_ai_client(
            self._connection.transport.login, self._target.base_url is None, self._settings.verify_tls
        )

    def _endpoint(self, deployment_name: str | None, endpoint: str | None) -> Endpoint:
        try:
            return self._endpoints[deployment_name, endpoint]
        except (KeyError, TypeError):  # TypeError: no name can be compared with it
            pass
        name = one_name(agent_name, deployment_name, endpoint)
        if name is None and self._target.base_url is None:
            raise InvalidInputError("No endpoint was named. Give its name: predict(endpoint='my-agent', inputs=...).")
        made = Endpoint(self._connection, name, self._options, self._interface)
        self._endpoints[deployment_name, endpoint] = made
        return made

    @property
    def _sends_context(self) -> bool:
        """Whether servers may be told of the caller's trace: Model Serving loses the agent's own when it is."""
        return self._target.base_url is not None
