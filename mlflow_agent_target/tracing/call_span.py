"""The span of one call, and what the call sends for it: the agent's own trace is brought home below it."""

from __future__ import annotations

import contextlib
import functools
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlflow

from mlflow_agent_target.errors import AgentTargetError, server_name
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.streams.stream import AgentStream
from mlflow_agent_target.text import printable
from mlflow_agent_target.tracing.agent_trace import (
    SESSION,
    USAGE,
    AgentTrace,
    stored_trace,
    trace_in_memory,
    trace_of_session,
)
from mlflow_agent_target.tracing.context import is_evaluated, is_sampled_out, is_tracing, same_context
from mlflow_agent_target.tracing.guard import forgiving, no_headers, nothing, warn_once
from mlflow_agent_target.tracing.one_writer import write_one_at_a_time

# The id of a trace in MLflow ends with OpenTelemetry's. That of a span that is not recorded doesn't.
_TRACE_ID = re.compile(r"(?:tr-|trace:/.*/)([0-9a-f]{32})")
# Keys of events that say what they belong to.
_NAMES = ("type", "id", "object", "created", "model", "index", "role")
_ONLY_CALLS = "The calls themselves are traced, with inputs and outputs."

# Functions that close the spans of dropped streams, for the next traced call. The garbage collector, which finds those
# streams, must not close a span: MLflow takes locks for that, and the code that was interrupted may hold one of them.
_dropped: deque[Callable[[], None]] = deque()

# How often the traces of agents on DurableAgentServers were looked for in vain, by endpoint; 0 for ever once one was
# found. After so often they are not waited for.
_missed: dict[tuple[str | None, str], int] = {}
_MOST_MISSED = 3
_PATIENCE_SECONDS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.5)


@dataclass
class TraceRequest:
    """What a traced call sends for the agent's trace.

    Attributes:
        headers: Headers of the request, beside its own.
        wanted: Whether the agent's trace is to be asked for: not where the call's own is not recorded.
        asked: Whether the agent's trace was asked for although the caller did not ask for it.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    wanted: bool = True
    asked: bool = False

    def asked_for_in(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return a payload's `databricks_options` with `return_trace`, as the caller set it or else true."""
        options = payload.get("databricks_options") or {}
        self.asked = "return_trace" not in options
        return {"return_trace": True, **options}


class CallSpan:
    """One call's span, and what the call sends for it. If the answer is a stream, it is the stream's observer."""

    def __init__(self, endpoint: str | None) -> None:
        if is_evaluated():  # MLflow writes its spans in this thread
            write_one_at_a_time()
        self.request = TraceRequest()
        self._endpoint = endpoint
        self._span: Any = None  # where there is none, all is quiet
        self._otel_trace_id: re.Match[str] | None = None
        self._leave: contextlib.ExitStack | None = None

    @forgiving(nothing)
    def enter(self, inputs: Any) -> None:
        """Begin the span, within which the call is made in this thread, until `leave`."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(same_context())
            self._has(stack.enter_context(mlflow.start_span(name=self._name, span_type="AGENT")))
            self._leave = stack.pop_all()
        self._span.set_inputs(inputs)

    @forgiving(nothing)
    def leave(self, error: BaseException | None = None) -> None:
        """End the span that was entered, with the error that the call ended in."""
        if error is not None and not isinstance(error, Exception) and self._span is not None:
            self._write("set_status", "ERROR")  # of Ctrl-C, MLflow would say that all went well
        if self._leave is not None:
            self._leave.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    @forgiving(nothing)
    def start(self, inputs: Any) -> None:
        """Begin the span of a stream, which is read wherever its reader likes."""
        if is_sampled_out():  # MLflow would begin a trace of its own
            self.request.wanted = False
            return
        parent = mlflow.get_current_active_span()
        self._has(mlflow.start_span_no_context(name=self._name, span_type="AGENT", parent_span=parent, inputs=inputs))

    def _has(self, span: Any) -> None:
        self._span, self._otel_trace_id = span, _TRACE_ID.fullmatch(str(span.trace_id))
        self.request.wanted = self._otel_trace_id is not None

    @property
    def _name(self) -> str:
        return self._endpoint or "agent"

    @forgiving(no_headers)
    def context(self) -> dict[str, str]:
        """Return the header that names this span to a server (https://www.w3.org/TR/trace-context/).

        Of a call that was sampled out it says so, that the agent's trace is, too.
        """
        if self._otel_trace_id is not None:
            return {"traceparent": f"00-{self._otel_trace_id[1]}-{self._span.span_id}-01"}
        if is_tracing():
            return {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"}
        return {}

    @forgiving(nothing)
    def belongs_to(self, session: str) -> None:
        """Record which conversation the trace belongs to."""
        if self._otel_trace_id is not None:
            mlflow.update_current_trace(metadata={SESSION: session})

    @forgiving(nothing)
    def answered(self, response: AgentResponse, **seconds: float | None) -> None:
        """Record an answer, and bring the agent's trace home."""
        if self._otel_trace_id is None:  # not recorded: tracing is off, or the trace was not sampled
            return
        self._write("set_outputs", {key: value for key, value in response.items() if key != "databricks_output"})
        run = {"invocation_id": response.invocation_id, "session_id": response.session_id}
        facts = {"endpoint": self._endpoint, "request_id": response.request_id, **run, **seconds}
        self._write("set_attributes", {key: value for key, value in facts.items() if value is not None})
        has_usage = False
        try:
            has_usage = self._bring_home(response)
        except Exception as error:  # nothing that a trace holds may fail the call
            reason = f"{type(error).__name__}: {printable(str(error), 200)}"
            warn_once(f"The trace that {server_name(self._endpoint)} sent can't be read ({reason}). {_ONLY_CALLS}")
        if response.usage is not None and not has_usage:
            self._span.set_attribute(USAGE, response.usage)

    @forgiving(nothing)
    def failed(self, error: BaseException) -> None:
        """Close the span of a stream with an error."""
        if self._span is None:
            return
        if isinstance(error, Exception):
            self._write("record_exception", error)
            self._write("end", status=_status(error))
        else:
            self._write("end", status="ERROR")

    @forgiving(bool)
    def hides(self, event: Mapping[str, Any]) -> bool:
        """Return whether a stream's event only brings a trace that the caller did not ask for."""
        if {key for key, value in event.items() if value is not None} == {"trace_id"}:
            return bool(self.request.headers)
        output = event.get("databricks_output")
        if not self.request.asked or not output or output.get("error"):
            return False
        rest = {key: value for key, value in event.items() if key not in ("databricks_output", *_NAMES)}
        return _is_empty(rest) and event.get("type") in (None, "response.databricks_output")

    @forgiving(nothing)
    def ended(
        self,
        stream: AgentStream,
        answer: AgentResponse,
        error: AgentTargetError | None,
        left_early: bool,
        end_time_ns: int | None = None,
    ) -> None:
        """Close the span of a stream with what arrived."""
        if error is not None or left_early:
            self.request.asked = False  # the trace comes last: no warning that it did not come
        if self._span is None:
            return
        self.answered(answer, latency_seconds=stream.duration, time_to_first_event_seconds=stream.time_to_first_event)
        if left_early:  # the reader had enough: no failure
            self._span.end(attributes={"left_early": True}, end_time_ns=end_time_ns)
        elif error is None:
            self._span.end()
        else:
            self.failed(error)

    def dropped(self, stream: AgentStream, answer: AgentResponse) -> None:
        """Let the next traced call close the span, since the stream was dropped without being closed. Takes no lock."""
        _dropped.append(functools.partial(self.ended, stream, answer, None, True, time.time_ns()))

    @forgiving(nothing)
    def _write(self, method: str, *values: Any, **more: Any) -> None:
        """Call a method of the span. Where this fails, what comes after it is recorded all the same."""
        getattr(self._span, method)(*values, **more)

    def _bring_home(self, response: AgentResponse) -> bool:
        """Copy the agent's spans below this one, and return whether they say how many tokens were used."""
        if response.trace:
            trace = AgentTrace(response.trace)
        elif (trace_id := _told_trace_id(response)) is not None:
            self._span.set_attribute("agent_trace_id", trace_id)
            found = stored_trace(trace_id)
            if found is None:
                return False
            trace = AgentTrace(found.to_dict())
        elif response.session_id is not None and response.invocation_id is not None:
            found = self._of_session(response.session_id)
            if found is None:
                return False
            trace = AgentTrace(found.to_dict())
        else:
            if self.request.asked:
                warn_once(f"{server_name(self._endpoint)} sent no trace of its agent. {_ONLY_CALLS}")
            return False
        if trace.trace_id == self._span.trace_id:
            return trace.has_usage  # the server joined this trace: its spans are here
        if self._is_home(trace):
            self._span.set_attribute("agent_trace_id", trace.trace_id)
            if not is_evaluated():  # there, scorers look for the agent's spans in the trace of the row
                return False
        trace.copy_below(self._span)
        return trace.has_usage

    def _of_session(self, session: str) -> Any:
        """Return the trace that a DurableAgentServer's agent wrote to this experiment, or None.

        No answer names it. It may be written a moment after the answer: an evaluation, whose scorers look for it, waits
        for that, unless the endpoint's agent writes none here.
        """
        with trace_in_memory(self._span.trace_id) as mine:
            experiment_id = mine.info.experiment_id if mine is not None else None
        if experiment_id is None or not is_evaluated():
            return None
        agent = self._endpoint, experiment_id
        missed = _missed.setdefault(agent, 1)
        for seconds in _PATIENCE_SECONDS if missed <= _MOST_MISSED else (0.0,):
            time.sleep(seconds)
            found = trace_of_session(session, experiment_id, self._span.start_time_ns)
            if found is not None:
                _missed[agent] = 0
                return found
        _missed[agent] = missed and missed + 1
        return None

    def _is_home(self, trace: AgentTrace) -> bool:
        """Return whether the agent itself wrote its trace to this experiment."""
        with trace_in_memory(self._span.trace_id) as mine:
            if trace.experiment_id is None or mine is None or mine.info.experiment_id != trace.experiment_id:
                return False
        if mlflow.get_tracking_uri().startswith("databricks"):
            return True  # other stores may number different experiments alike; a workspace doesn't
        with trace_in_memory(trace.trace_id) as pending:
            if pending is not None:
                return True
        return stored_trace(trace.trace_id) is not None


def _is_empty(value: Any) -> bool:
    """Return whether an event's value says nothing but what it belongs to."""
    if isinstance(value, dict):
        return all(key in _NAMES or _is_empty(part) for key, part in value.items())
    return all(map(_is_empty, value)) if isinstance(value, list) else value in (None, "")


def _status(error: Exception) -> Any:
    from mlflow.entities import SpanStatus

    return SpanStatus("ERROR", f"{type(error).__name__}: {error}")


def end_dropped() -> None:
    """Close the spans of streams that were dropped since the last traced call."""
    while _dropped:
        try:
            end = _dropped.popleft()
        except IndexError:
            return  # another thread took the last
        end()


def _told_trace_id(response: AgentResponse) -> str | None:
    """Return the id that MLflow's AgentServer gives of the trace that it wrote itself."""
    metadata = response.get("metadata")
    trace_id = metadata.get("trace_id") if isinstance(metadata, dict) else None
    return trace_id if isinstance(trace_id, str) else None
