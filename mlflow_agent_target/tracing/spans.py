"""MLflow spans of calls: one for each, and the agent's own trace brought home below it.

Nothing is traced unless the caller is within a span of its own, or `autolog` was called.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import mlflow

from mlflow_agent_target.errors import AgentTargetError, RateLimitError, reword
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.streams.stream import AgentStream
from mlflow_agent_target.tracing.call_span import CallSpan, TraceRequest, end_dropped
from mlflow_agent_target.tracing.context import is_evaluated, is_sampled_out, no_active_span
from mlflow_agent_target.tracing.guard import forgiving

# Asks MLflow's AgentServer for the id of the trace that it writes.
_RETURN_ID = {"x-mlflow-return-trace-id": "true"}

_autologging = False


def autolog(disable: bool = False) -> None:
    """Trace every call of this package's clients, also outside of any span.

    Within a span of the caller's own, `predict` and `predict_stream` are traced without it. Of a batch or a DataFrame,
    each attempt of a row is a trace of its own.

    Args:
        disable: True turns it off again.
    """
    global _autologging  # noqa: PLW0603 (like MLflow's own autologs, for the whole process)
    _autologging = not disable


def is_wanted() -> bool:
    """Return whether a call that starts now is to be traced."""
    return _autologging or _is_within()


@forgiving(bool)
def _is_within() -> bool:
    return mlflow.get_current_active_span() is not None or is_evaluated() or is_sampled_out()


def is_autologging() -> bool:
    """Return whether calls are traced wherever they are made."""
    return _autologging


class Queryable(Protocol):
    """What is traced: an endpoint."""

    name: str | None

    def query(
        self, inputs: Any, trace: TraceRequest | None = None, run_id: uuid.UUID | None = None
    ) -> AgentResponse: ...
    def stream(self, inputs: Any, trace: TraceRequest | None = None) -> AgentStream: ...


def query(
    endpoint: Queryable,
    inputs: Any,
    *,
    sends_context: bool,
    prepare: Callable[[Any], Any] = lambda inputs: inputs,
    session: str | None = None,
    run_id: uuid.UUID | None = None,
) -> AgentResponse:
    """Query an endpoint in a span of its own, which ends with the call.

    Args:
        endpoint: The endpoint.
        inputs: What to ask it. The span shows this.
        sends_context: Whether the server is told of the trace, so that it can add the agent's spans to it.
        prepare: Makes the request from the inputs.
        session: The id of the conversation that the trace belongs to; None for none.
        run_id: The id of the agent's run, where the endpoint takes one; None for a fresh one.

    Raises:
        AgentTargetError: As `Endpoint.query`. The span records it.
    """
    end_dropped()
    started = time.monotonic()
    call = CallSpan(endpoint.name)
    call.enter(inputs)
    try:
        if session is not None:
            call.belongs_to(session)
        if sends_context:
            call.request.headers = {**call.context(), **_RETURN_ID}
        response = endpoint.query(prepare(inputs), call.request, run_id)
    except BaseException as error:
        call.leave(error)
        if isinstance(error, AgentTargetError) and not isinstance(error, RateLimitError) and is_evaluated():
            reword(error, _no_rate_limit(error.message))
        raise
    call.answered(response, latency_seconds=time.monotonic() - started)
    call.leave()
    return response


def _no_rate_limit(message: str) -> str:
    """Return the message of an error that is no rate limit, so that MLflow's evaluation doesn't take it for one.

    It looks for these words in the text of any error, and would run the agent again. It reads as before.
    """
    return re.sub("429|rate limit", lambda found: f"{found[0][0]}\N{WORD JOINER}{found[0][1:]}", message, flags=re.I)


def query_row(endpoint: Queryable, inputs: Any, run_id: uuid.UUID, *, sends_context: bool) -> AgentResponse:
    """Query an endpoint for a row of a batch, in a trace of its own: within the caller's, a million would be too many.

    MLflow keeps the agent's trace, so that the answer is without it, unless the caller asked for it.

    Raises:
        AgentTargetError: As `Endpoint.query`. The span records it.
    """
    with no_active_span():
        answer = query(endpoint, inputs, sends_context=sends_context, run_id=run_id)
    is_asked_for = isinstance(inputs, Mapping) and "databricks_options" in inputs
    return answer if is_asked_for else answer.without("databricks_output")


def stream(endpoint: Queryable, inputs: Any, *, sends_context: bool) -> AgentStream:
    """Start a stream in a span of its own, which ends with the stream. See `query`."""
    end_dropped()
    call = CallSpan(endpoint.name)
    call.start(inputs)
    if sends_context:
        call.request.headers = {**call.context(), **_RETURN_ID}
    try:
        answer = endpoint.stream(inputs, call.request)
    except BaseException as error:
        call.failed(error)
        raise
    answer.observe(call)
    return answer
