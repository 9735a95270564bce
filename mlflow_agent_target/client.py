"""AgentTargetClient: MLflow's deployments contract on top of `Endpoint`. Adapts arguments, decides nothing."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.endpoints.access import Access
from mlflow_agent_target.endpoints.management import EndpointManagement
from mlflow_agent_target.endpoints.openai_client import open_ai_client
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.scoring import BatchScoring
from mlflow_agent_target.streams.stream import AgentStream
from mlflow_agent_target.tracing import spans as tracing

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from openai import OpenAI

    from mlflow_agent_target.endpoints.platform import ServingEndpoint
    from mlflow_agent_target.endpoints.runs import AgentRun


class AgentTargetClient(BatchScoring, EndpointManagement):
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
        self._access = Access(target_uri, workspace_client)

    def __repr__(self) -> str:
        return f"AgentTargetClient({self._access.target.uri!r})"

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

        agent = self._access.endpoint(deployment_name, endpoint)
        if is_frame(inputs):
            return self._score_frame(agent.name, inputs)
        if tracing.is_wanted():
            answer = tracing.query(agent, inputs, sends_context=self._access.sends_context)
        else:
            answer = agent.query(inputs)
        if self._access.as_chat:
            from mlflow_agent_target.evaluation import as_chat_completion

            return as_chat_completion(answer, agent.name)
        return answer

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
        agent = self._access.endpoint(deployment_name, endpoint)
        if tracing.is_wanted():
            return tracing.stream(agent, inputs, sends_context=self._access.sends_context)
        return agent.stream(inputs)

    def start(
        self,
        endpoint: str | None = None,
        inputs: Any = None,
        *,
        id: str | None = None,  # noqa: A002 (as OpenAI's)
        session_id: str | None = None,
    ) -> AgentRun:
        """Start a run of an agent, and return at once: the agent works on, whatever becomes of this process.

        Runs are kept by a DurableAgentServer (https://docs.databricks.com/aws/en/agents/deploy/agent-server), and by
        servers of OpenAI's `background`, LongRunningAgentServer among them.

        Args:
            endpoint: As for `predict`.
            inputs: As for `predict`.
            id: A UUID that names the run: the same id never starts a second one. None for a new one. Where the server
                makes the ids, it must be None.
            session_id: The session that the agent remembers; None for a new one.

        Returns:
            The run: `status`, `done`, `result(timeout=...)`, `stream()`. `get_run` finds it again by its `id`.

        Raises:
            InvalidInputError: The payload or an id can't be used, or the id was used for another request.
            InterfaceMismatchError: The endpoint keeps no runs, or the payload has no counterpart there.
            AgentTargetError: It could not be started. Where `may_have_run` is true it may have been: `invocation_id` is
                what to ask for, and the same call with that id starts no second run.
        """
        from mlflow_agent_target.endpoints.runs import start

        return start(self._access, self._access.endpoint(None, endpoint), inputs, id, session_id)

    def get_run(self, endpoint: str | None = None, id: str | None = None) -> AgentRun:  # noqa: A002
        """Return a run by its id: of this process, or of another one.

        Args:
            endpoint: As for `predict`.
            id: The run's id.

        Raises:
            InvalidInputError: It is no id of a run.
            EndpointNotFoundError: There is no such run.
            AgentTargetError: The server can't be asked.
        """
        from mlflow_agent_target.endpoints.runs import get_run

        return get_run(self._access, self._access.endpoint(None, endpoint), id)

    def to_predict_fn(
        self, endpoint: str | None = None, journal: str | os.PathLike[str] | None = None
    ) -> Callable[..., AgentResponse]:
        """Return an endpoint as a function for `mlflow.genai.evaluate(predict_fn=...)`.

        It takes what a dataset's `inputs` hold, as keyword arguments: `input`, `messages`, or one field of text under
        any name, which is asked as the user's question; and beside these all that a request may hold, such as
        `custom_inputs`, `context` or `temperature`. `mlflow_session_id`, which MLflow's ConversationSimulator passes,
        is not sent: it becomes the trace's session. The agent's own trace is brought into the experiment, below the
        call's span.

        Args:
            endpoint: As for `predict`.
            journal: A file that answers are recorded in, so that an evaluation that was stopped goes on without asking
                again what was answered. Rows that ask the same share one answer. It is open as long as the function is
                there. None to ask each time.

        Returns:
            A function that returns what `predict` does, without `databricks_output`, and raises what `predict` does.

        Raises:
            InvalidInputError: The name or the journal can't be used.
        """
        from mlflow_agent_target.evaluation import predict_fn, waits_out_rate_limits

        options = replace(self._access.options, leaves_rate_limits=waits_out_rate_limits)
        agent = self._access.with_request_options(options).endpoint(None, endpoint)
        uri = f"endpoints:/{agent.name}" if agent.name else self._access.target.uri
        return predict_fn(
            agent,
            uri,
            sends_context=self._access.sends_context,
            journal=None if journal is None else Path(journal),
            target=self._access.routes.transport.base_url if journal is not None else "",
        )

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
            interface: What the endpoints serve, "ResponsesAgent", "ChatAgent", "ChatModel" or "DurableAgentServer", or
                a task such as "agent/v1/responses", so that they are not asked. Or "chat", whatever they serve: they
                look like chat models, for callers that know only those: `predict` gives `choices`, `get_endpoint` says
                "llm/v1/chat". Streams stay as they are.
            wait_until_ready: Seconds to wait for an endpoint that is starting or scaled to zero: that answers 503, 404
                though it exists, or not at all. Beside `total_timeout`, which counts from then.

        Raises:
            InvalidInputError: A value can't be used.
        """
        client = copy.copy(self)
        client._access = self._access.with_options(
            timeout=timeout,
            total_timeout=total_timeout,
            idle_timeout=idle_timeout,
            idempotent=idempotent,
            interface=interface,
            wait_until_ready=wait_until_ready,
        )
        return client

    def get_endpoint(self, endpoint: str) -> ServingEndpoint:
        """Return an endpoint's description as the platform gives it: a dict, which also reads as attributes.

        Of an endpoint that is ready and not changing, it may be a minute old.

        Args:
            endpoint: The endpoint's name.
        """
        described = super().get_endpoint(endpoint)
        if self._access.as_chat:
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
        routes = self._access.routes
        return open_ai_client(routes.transport.login, routes.is_workspace, routes.verify_tls)
