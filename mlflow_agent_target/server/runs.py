"""The trace of one run of an agent. It is a part of the caller's trace, if the request names one."""

from __future__ import annotations

import re
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import mlflow
from mlflow.entities import Trace, TraceData, TraceInfo, TraceLocation, TraceLocationType, TraceState
from mlflow.pyfunc.context import Context, set_prediction_context
from mlflow.tracing.trace_manager import InMemoryTraceManager
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mlflow_agent_target.tracing.agent_trace import tracking_store
from mlflow_agent_target.tracing.call_span import STORE_HEADER

try:
    from mlflow.tracing.provider import get_context_api
except ImportError:  # an MLflow that knows no distributed tracing
    get_context_api = None

# A caller's span, marked as recorded there (https://www.w3.org/TR/trace-context/).
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]")
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
        traceparent: The header that names the caller's span; None for none to join.
    """
    join = nullcontext() if traceparent is None else _callers.joined(traceparent)
    with join, mlflow.start_span(name=name, span_type="AGENT") as span:
        span.set_inputs(inputs)
        run = Run(span)
        try:
            yield run
        finally:
            run.end_spans()


def joinable(headers: Mapping[str, str]) -> str | None:
    """Return the `traceparent` of a request whose trace runs can join; None where they can't.

    They can't if the caller says that it keeps its traces in another store: it would not find their spans there.
    """
    traceparent = headers.get("traceparent", "")
    kept = headers.get(STORE_HEADER)
    if get_context_api is None or not _TRACEPARENT.fullmatch(traceparent) or kept not in (None, tracking_store()):
        return None
    return traceparent


class _CallersTraces:
    """The callers' traces that runs are in at the moment.

    MLflow's `set_tracing_context_from_http_request_headers` forgets a trace when the first of several runs in it ends.
    """

    def __init__(self) -> None:
        self._runs: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def joined(self, traceparent: str) -> Iterator[None]:
        """Run the block within the caller's span."""
        manager = InMemoryTraceManager.get_instance()
        number = traceparent.split("-")[1]
        trace_id = f"tr-{number}"
        with self._lock:
            with manager.get_trace(trace_id) as known:
                caller_is_here = known is not None and trace_id not in self._runs
            if known is None:
                info = TraceInfo(trace_id, _NOWHERE, request_time=0, state=TraceState.IN_PROGRESS)
                manager.register_trace(int(number, 16), info, is_remote_trace=True)
            if not caller_is_here:
                self._runs[trace_id] += 1
        token = get_context_api().attach(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
        # MLflow exports spans some seconds after they end, and drops them if it has forgotten their trace by then. In
        # an evaluation, which this makes it believe, it exports them at once.
        at_once = Context(request_id=uuid.uuid4().hex, is_evaluate=True)
        try:
            with set_prediction_context(at_once):
                yield
        finally:
            get_context_api().detach(token)
            if not caller_is_here:
                with self._lock:
                    self._runs[trace_id] -= 1
                    if not self._runs[trace_id]:
                        del self._runs[trace_id]
                        manager.pop_trace(int(number, 16))


_callers = _CallersTraces()
