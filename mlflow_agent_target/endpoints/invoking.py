"""A DurableAgentServer as a place where runs are started, each under its own id, so that no answer is lost for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mlflow_agent_target.endpoints.following import Run
from mlflow_agent_target.endpoints.routes import Agent, Route
from mlflow_agent_target.endpoints.run_events import RunEvents
from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    EndpointNotFoundError,
    InvalidInputError,
    InvalidResponseError,
    has_not_run,
    retold,
)
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.formats.invocations import Invocation
from mlflow_agent_target.formats.runs import InvocationApi, status_of
from mlflow_agent_target.http.body import Body
from mlflow_agent_target.http.options import CallTime, RequestOptions
from mlflow_agent_target.http.replies import Reply
from mlflow_agent_target.http.steps import Steps
from mlflow_agent_target.streams.stream import AgentStream

_T = TypeVar("_T")


def stream_of(run: Run, body: Body | None, call: CallTime, *, after: int | None = None) -> AgentStream:
    """Return the events of a run as a stream that goes on when its connection breaks.

    Args:
        run: The run.
        body: Its events as they come; None to ask for them.
        call: The time of the call.
        after: The number of the last event that its reader has; None for none.
    """
    given = run.options.idle_timeout
    events = RunEvents(
        run,
        body,
        after=after,
        idle_timeout=call.limits.timeout if given is None else given,
        most=call.limits.total_timeout,
    )
    is_rest = bool(after)
    reader = run.protocol.reader(run.id, is_rest)
    return AgentStream(events, events.facts, started=call.began, interface=reader, is_rest=is_rest)


@dataclass(frozen=True)
class Invoking:
    """Starts runs on a DurableAgentServer.

    A request that came to nothing is sent again as it is: the same id never starts a second run.

    Attributes:
        agent: What is known of it.
        route: The way to it.
        options: How it is asked.
    """

    agent: Agent
    route: Route
    options: RequestOptions

    def start(self, invocation: Invocation, call: CallTime) -> Steps[tuple[Run, Reply | None]]:
        """Start a run, and return it with what the server says of it; None where it has not said anything.

        Raises:
            InvalidInputError: The input can't be sent, or the caller's id was used for another request.
            AgentTargetError: It could not be started, or that is not known.
        """
        run = self._run(invocation)
        reply = yield from self._sent(self.route.transport.post, run, invocation, call, background=True)
        if reply is not None and not status_of(reply.value):
            said = json.dumps(reply.facts.redacted(reply.value))
            raise reply.facts.error(
                InvalidResponseError,
                f"{run.server} answered {said:.100}, which is no record of a run.",
                body=reply.value,
                invocation_id=run.id,
                retryable=True,
            )
        return run, reply

    def answer(self, invocation: Invocation, call: CallTime) -> Steps[AgentResponse]:
        """Start a run, and wait for its answer.

        Raises:
            AgentTargetError: As `start`; or the agent failed, or the run was not over in time.
        """
        run, reply = yield from self.start(invocation, call)
        return run.answer((yield from run.ended(call.began, call.limits.total_timeout, reply)))

    def stream(self, invocation: Invocation, call: CallTime) -> Steps[AgentStream]:
        """Start a run, and return its events as they come.

        Raises:
            AgentTargetError: As `start`.
        """
        run = self._run(invocation)
        body = yield from self._sent(self.route.transport.open_stream, run, invocation, call, stream=True)
        return stream_of(run, body, call)

    def _run(self, invocation: Invocation) -> Run:
        key = invocation.routing_key
        headers = {**self.options.headers, **({"X-Routing-Key": key} if key else {})}
        options = replace(self.options, headers=headers, idempotent=True)
        return Run(InvocationApi, self.route.transport, self.route.base, invocation.id, invocation.session_id, options)

    def _sent(
        self, send: Callable[..., Steps[_T]], run: Run, invocation: Invocation, call: CallTime, **mode: bool
    ) -> Steps[_T | None]:
        """Send what starts a run; return the answer, or None where it is only known that the run was started."""
        url = f"{self.route.base}{InvocationApi.path}"
        is_old = self.route.is_old
        try:
            try:
                return (yield from send(url, invocation.envelope(is_old, **mode), run.options, call))
            except InvalidInputError as error:
                if is_old or not _refuses_session(error):
                    raise
            body = invocation.envelope(is_old=True, **mode)
            self.agent.remember(replace(self.route, is_old=True))
            return (yield from send(url, body, run.options, call))
        except AgentTargetError as error:
            if isinstance(error, EndpointNotFoundError):
                self.agent.forget()  # it may be another now
            if error.status_code == 409 and invocation.is_callers:
                raise _conflict(run, error, invocation.may_change_in_store()) from error
            # The server refused what it may have taken all the same: it knows.
            is_crash = isinstance(error, AgentError) and error.status_code == 500 and error.retryable
            if (error.status_code == 409 or is_crash) and (yield from self._is_known(run, error)):
                return None
            if error.may_have_run:
                run.name_in(error)
                # What is none of the server's answers may hide one: the same id asks for that.
                error.retryable |= isinstance(error, InvalidResponseError)
            raise

    def _is_known(self, run: Run, error: AgentTargetError) -> Steps[bool]:
        """Ask whether a run was started. Where it was not, the error says so."""
        try:
            yield from run.record(run.options.limits().timeout)
        except AgentTargetError as asked:
            if run.protocol.knows_none(asked.status_code, asked.body):
                has_not_run(error)
            return False
        return True


def _refuses_session(error: InvalidInputError) -> bool:
    """Return whether a server refuses `session_id` beside the input, as those before version 0.4 do."""
    detail: Any = error.body.get("detail") if isinstance(error.body, dict) else None
    return isinstance(detail, list) and any(
        isinstance(fault, dict)
        and fault.get("loc") == ["body", "session_id"]
        and fault.get("type") == "extra_forbidden"
        for fault in detail
    )


def _conflict(run: Run, error: AgentTargetError, may_have_run: bool) -> InvalidInputError:
    maybe = (
        " Or it is this request's, which it took: the input has a number above 2**53 that its store can't keep."
        if may_have_run
        else " The agent was not started for this one."
    )
    return retold(
        error,
        InvalidInputError,
        f"{run.server}: the id {run.id} was already used for another request, or in another session. "
        f"{run.how_to_get} gives that run.{maybe} For a new run take a new id, or give none.",
        may_have_run=may_have_run,
        invocation_id=run.id,
    )
