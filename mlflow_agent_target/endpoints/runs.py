"""Runs that outlive a request: started, and picked up again by their ids."""

from __future__ import annotations

import contextlib
import time
import uuid
from dataclasses import replace
from typing import Any

from mlflow_agent_target.endpoints.access import Access
from mlflow_agent_target.endpoints.endpoint import Endpoint
from mlflow_agent_target.endpoints.following import Run
from mlflow_agent_target.endpoints.invoking import stream_of
from mlflow_agent_target.endpoints.routes import Route
from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    EndpointNotFoundError,
    InterfaceMismatchError,
    InvalidInputError,
    has_not_run,
    retold,
    reword,
    server_name,
)
from mlflow_agent_target.formats.answers import AgentResponse, whole_answer
from mlflow_agent_target.formats.durable_agent import DurableAgentServer
from mlflow_agent_target.formats.inputs import as_plain
from mlflow_agent_target.formats.invocations import read_invocation
from mlflow_agent_target.formats.responses import ResponsesAgent
from mlflow_agent_target.formats.runs import InvocationApi, ResponsesApi, is_going, keeps_responses, status_of
from mlflow_agent_target.http.exchange import Transport
from mlflow_agent_target.http.options import CallTime
from mlflow_agent_target.http.replies import Reply
from mlflow_agent_target.http.steps import Steps, perform
from mlflow_agent_target.streams.stream import AgentStream
from mlflow_agent_target.target.settings import TimeLimits

# Whoever looks at a run's status all the time asks its server no more often.
_FRESH_SECONDS = 0.5


class AgentRun:
    """A run of an agent that outlives the request which started it, and this process, too.

    Made by `client.start` and `client.get_run`. It pickles as what it is: the target, the endpoint and the id, with no
    login in it.

    Attributes:
        id: The run's id.
        endpoint: The endpoint's name; None where the target is itself an agent server.
        session_id: The session that a DurableAgentServer's run belongs to; None where that is not known.
    """

    def __init__(self, access: Access, endpoint: Endpoint, id_: str, session_id: str | None = None) -> None:
        self.id = id_
        self.endpoint = endpoint.name
        self.session_id = session_id
        self._access = access
        self._agent = endpoint
        self._run: Run | None = None
        self._reply: Reply | None = None
        self._asked = 0.0

    def __repr__(self) -> str:
        where = f" of {self.endpoint!r}" if self.endpoint else ""
        return f"<AgentRun {self.id!r}{where}: {status_of(self._reply.value) if self._reply else 'not asked yet'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._access.is_of_target:
            raise TypeError(
                "A run of a client that was made with a workspace_client can't be pickled: its login can't."
            )
        return _restore, (self._access.target.uri, self.endpoint, self.id, self.session_id)

    @property
    def status(self) -> str:
        """How the run stands: `queued`, `in_progress`, `completed` or `failed`. Asks the server while it is not over.

        Raises:
            AgentTargetError: The server can't be asked, or does not know the run.
        """
        reply = self._reply
        if reply is None or (is_going(reply.value) and time.monotonic() - self._asked > _FRESH_SECONDS):
            reply = perform(self._refreshing())
        return status_of(reply.value)

    @property
    def done(self) -> bool:
        """Whether the run is over, well or not. Asks the server, as `status` does."""
        return self.status not in ("queued", "in_progress")

    def refresh(self) -> AgentRun:
        """Ask the server how the run stands, and return the run.

        Raises:
            AgentTargetError: The server can't be asked, or does not know the run.
        """
        perform(self._refreshing())
        return self

    def result(self, timeout: float | None = None) -> AgentResponse:
        """Wait for the run's answer, and return it.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Raises:
            RequestTimeoutError: It is not over by then. The run goes on, and may be waited for again.
            AgentError: The agent failed, or the server has forgotten the run.
            AgentTargetError: The server can't be asked.
        """
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout < 0):
            raise InvalidInputError(f"timeout must be a number of seconds, 0 or more, or None, not {timeout!r}.")
        return perform(self._ending(float("inf") if timeout is None else timeout))

    def stream(self, after: int | None = None) -> AgentStream:
        """Return the run's events: those that were, and those that come. A connection that breaks is made anew.

        Args:
            after: Leave out the events up to the one of this number, a DurableAgentServer's `id:` or the
                `sequence_number` of a response; None for all. `text_stream` then gives what the events after it say.

        Returns:
            The events, as `predict_stream` gives them. Leaving them does not stop the run.

        Raises:
            AgentTargetError: The server can't be asked, or does not know the run.
        """
        if after is not None and (type(after) is not int or after < 0):
            raise InvalidInputError(f"after must be the number of an event, 0 or more, not {after!r}.")
        return perform(self._streaming(after))

    def _refreshing(self) -> Steps[Reply]:
        run = yield from self._found()
        if self._reply is not None and run.protocol.is_whole(self._reply.value):
            return self._reply
        call = self._agent.begin()
        reply = yield from run.patiently(run.record, call.began, call.limits.total_timeout, None)
        self._knows(reply)
        return reply

    def _ending(self, most: float) -> Steps[AgentResponse]:
        began = time.monotonic()
        run = yield from self._found()
        if self._reply is None or not run.protocol.is_whole(self._reply.value):
            # Once at any rate, however little time there is.
            with contextlib.suppress(AgentTargetError):
                self._knows((yield from run.record(max(most, 1.0))))
        reply = yield from run.ended(began, most, self._reply)
        self._knows(reply)
        return run.answer(reply)

    def _streaming(self, after: int | None) -> Steps[AgentStream]:
        call = self._agent.begin()
        run = yield from self._found()
        try:
            body = yield from run.patiently(lambda left: run.events(after, left), call.began, call.limits.total_timeout)
        except AgentError as error:
            # OpenAI's API: only a run that was begun as a stream can be streamed later, too.
            if error.status_code == 400 and run.protocol is ResponsesApi:
                reword(error, f"{error.message} Where the server streams no run that was started: run.result() waits.")
            raise
        return stream_of(run, body, call, after=after)

    def _found(self) -> Steps[Run]:
        if self._run is None:
            self._run = yield from _run_at(self._agent, self.id, self.session_id)
        return self._run

    def _knows(self, reply: Reply) -> None:
        self._reply, self._asked = reply, time.monotonic()

    def _is(self, run: Run, reply: Reply | None) -> AgentRun:
        self._run = run
        if reply is not None:
            self._knows(reply)
        return self


def start(access: Access, endpoint: Endpoint, inputs: Any, id_: Any, session_id: str | None) -> AgentRun:
    """Start a run. See `AgentTargetClient.start`."""
    run, reply = perform(_starting(endpoint, inputs, id_, session_id))
    return AgentRun(access, endpoint, run.id, run.session_id)._is(run, reply)


def get_run(access: Access, endpoint: Endpoint, id_: Any) -> AgentRun:
    """Return a run by its id. See `AgentTargetClient.get_run`."""
    run, reply = perform(_getting(endpoint, id_))
    return AgentRun(access, endpoint, run.id)._is(run, reply)


def _restore(target: str, endpoint: str | None, id_: str, session_id: str | None) -> AgentRun:
    access = Access(target)
    return AgentRun(access, access.endpoint(None, endpoint), id_, session_id)


def _run_at(endpoint: Endpoint, id_: Any, session_id: str | None = None) -> Steps[Run]:
    route = yield from endpoint.runs_route()
    protocol = InvocationApi if route.interface is DurableAgentServer else ResponsesApi
    return replace(endpoint.run(route, protocol, protocol.check_id(id_)), session_id=session_id)


def _getting(endpoint: Endpoint, id_: Any) -> Steps[tuple[Run, Reply]]:
    run = yield from _run_at(endpoint, id_)
    call = endpoint.begin()
    try:
        return run, (yield from run.patiently(run.record, call.began, call.limits.total_timeout, None))
    except (AgentError, EndpointNotFoundError) as error:
        if error.status_code != 404:
            raise
        raise retold(
            error,
            EndpointNotFoundError,
            f"{run.server} has no run {run.id}: no agent is at work under this id. (A server that keeps its runs in "
            "memory forgets them when it is started anew.)",
        ) from None


def _starting(endpoint: Endpoint, inputs: Any, id_: Any, session_id: str | None) -> Steps[tuple[Run, Reply | None]]:
    call = endpoint.begin()
    route = yield from endpoint.runs_route()
    if route.interface is DurableAgentServer:
        invocation = read_invocation(inputs, id_=id_, session_id=session_id)
        return (yield from (yield from endpoint.invoking()).start(invocation, call))
    yield from _check_keeps_runs(endpoint, route)
    if id_ is not None:
        raise InvalidInputError(f"{server_name(endpoint.name)} makes the ids of its runs itself: leave 'id' out.")
    return (yield from _starting_a_response(endpoint, route, inputs, session_id, call))


def _starting_a_response(
    endpoint: Endpoint, route: Route, inputs: Any, session_id: str | None, call: CallTime
) -> Steps[tuple[Run, Reply | None]]:
    more: dict[str, Any] = {"background": True}
    if session_id is not None:
        given = as_plain(inputs)
        context = (given.get("context") if isinstance(given, dict) else None) or {}
        if (named := context.get("conversation_id", session_id)) != session_id:
            raise InvalidInputError(
                f"Two sessions of a run were given, {session_id!r} and {named!r}. Nothing was sent."
            )
        more["context"] = {**context, "conversation_id": session_id}
    _, reply = yield from endpoint.sent(Transport.post, inputs, more, None, call)
    run = endpoint.begun(route, reply)
    if run is None:  # it is over already: the server took no note of 'background'
        answer = whole_answer(reply.value, reply.facts)
        run = endpoint.run(route, ResponsesApi, str(answer.get("id") or ""))
    return run, reply


def _check_keeps_runs(endpoint: Endpoint, route: Route) -> Steps[None]:
    """Check that runs can be started which outlive a request.

    Raises:
        InterfaceMismatchError: The endpoint keeps none.
        AgentTargetError: It doesn't say.
    """
    can = route.is_agent and route.interface in (None, ResponsesAgent)
    if can:
        agent = endpoint.agent
        can = agent.keeps_runs = agent.keeps_runs or (yield from _keeps_runs(endpoint, route))
    if not can:
        raise InterfaceMismatchError(
            f"{server_name(endpoint.name)} keeps no runs that outlive a request: it is neither a DurableAgentServer "
            "nor a LongRunningAgentServer with a database. Nothing was started. Ask with predict or predict_stream.",
            endpoint=endpoint.name,
        )


def _keeps_runs(endpoint: Endpoint, route: Route) -> Steps[bool]:
    """Ask for a run that is not there: the answer tells whether there are any, and nothing is run."""
    try:
        yield from endpoint.run(route, ResponsesApi, f"resp_{uuid.uuid4().hex[:24]}").record(TimeLimits.read().timeout)
    except AgentTargetError as error:
        if error.status_code in (None, 401, 403, 407, 429) or (error.retryable and error.status_code != 501):
            has_not_run(error)
            raise
        return keeps_responses(error.status_code, error.body)
    return True
