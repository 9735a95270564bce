"""The trace of one run of an agent. It is a part of the caller's trace if that is made in this process."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import mlflow
from mlflow.entities import Trace, TraceData, TraceInfo, TraceLocation, TraceLocationType, TraceState
from mlflow.pyfunc.context import Context, set_prediction_context
from mlflow.tracing.constant import TraceTagKey
from mlflow.tracing.trace_manager import InMemoryTraceManager
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mlflow_agent_target.tracing.one_writer import write_one_at_a_time

try:
    from mlflow.tracing.provider import get_context_api
except ImportError:  # an MLflow that knows no distributed tracing
    get_context_api = None

_TRACEPARENT = re.compile(r"00-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})")
# The place of a caller's trace, which only the caller knows.
_NOWHERE = TraceLocation(TraceLocationType.TRACE_LOCATION_TYPE_UNSPECIFIED)


class Run:
    """One run's span, and what MLflow records of its trace."""

    def __init__(self, span: Any) -> None:
        self.span = span
        with InMemoryTraceManager.get_instance().get_trace(span.trace_id) as recorded:
            self._recorded = recorded

    def trace(self) -> dict[str, Any] | None:
        """Return the finished run's trace; None where MLflow's tracing is off.

        MLflow forgets the record when it exports it to its tracking store. This object still holds it.
        """
        if self._recorded is None:
            return None
        trace = self._recorded.to_mlflow_trace() if self.span.parent_id is None else self._part_of_callers_trace()
        described: dict[str, Any] = trace.to_dict()
        return described

    def _part_of_callers_trace(self) -> Trace:
        """Return this run's spans as a trace. The caller's trace may hold others, if the caller is in this process."""
        spans = [span.to_immutable_span() for span in _below(self.span, list(self._recorded.span_dict.values()))]
        info = TraceInfo(
            trace_id=self.span.trace_id,
            trace_location=_NOWHERE,
            request_time=self.span.start_time_ns // 1_000_000,
            execution_duration=(self.span.end_time_ns - self.span.start_time_ns) // 1_000_000,
            state=TraceState.from_otel_status(self.span.status.to_otel_status()),
        )
        return Trace(info, TraceData(spans))

    def end_spans(self) -> None:
        """End spans that the agent left open: MLflow leaves them so in streams closed early, and loses the trace."""
        if self._recorded is not None:
            for span in _below(self.span, list(self._recorded.span_dict.values())):
                if span is not self.span and span.end_time_ns is None:
                    span.end()


def _below(top: Any, spans: list[Any]) -> list[Any]:
    """Return a span and those below it."""
    inside = {top.span_id}
    for _ in spans:
        inside |= {span.span_id for span in spans if span.parent_id in inside}
    return [span for span in spans if span.span_id in inside]


@contextmanager
def traced(name: str, inputs: Any, traceparent: str | None) -> Iterator[Run]:
    """Run the block in a span of its own, since MLflow itself does not trace ChatAgents and ChatModels.

    Args:
        name: The endpoint's name.
        inputs: What the span shows as its inputs.
        traceparent: The request's header that names the caller's span (https://www.w3.org/TR/trace-context/).
            None, and one that is not understood: the run has a trace of its own.
    """
    write_one_at_a_time()
    with _within(traceparent or ""), mlflow.start_span(name=name, span_type="AGENT") as span:
        span.set_inputs(inputs)
        run = Run(span)
        try:
            yield run
        finally:
            run.end_spans()


@contextmanager
def _within(traceparent: str) -> Iterator[None]:
    """Run the block within the caller's span: unrecorded if that is, and as a part of its trace if that is made here.

    The trace of a caller in another process can't be added to. It is given this run's trace, to copy.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    is_recorded = found is not None and int(found["flags"], 16) & 1
    evaluation = _evaluation_of(int(found["trace"], 16)) if found is not None and is_recorded else None
    if found is None or get_context_api is None or (is_recorded and evaluation is None):
        yield
        return
    with ExitStack() as stack:
        token = get_context_api().attach(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
        stack.callback(get_context_api().detach, token)
        if evaluation:
            # The evaluation reads its row's trace as soon as it has the answer, so MLflow must write this part of it
            # at once, as it does in the evaluation's own threads.
            stack.enter_context(set_prediction_context(Context(request_id=uuid.uuid4().hex, is_evaluate=True)))
        yield


def _evaluation_of(trace_number: int) -> str | None:
    """Return the id of the evaluation's row that a trace is made for, "" for none; None if it isn't made here."""
    manager = InMemoryTraceManager.get_instance()
    with manager.get_trace(manager.get_mlflow_trace_id_from_otel_id(trace_number)) as trace:
        return None if trace is None else trace.info.tags.get(TraceTagKey.EVAL_REQUEST_ID, "")
