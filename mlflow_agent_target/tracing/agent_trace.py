"""An agent's own trace: where it is kept, how it is read, and copied below the span of the call that brought it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

# https://mlflow.org/docs/latest/genai/tracing/token-usage-cost/
USAGE = "mlflow.chat.tokenUsage"
SESSION = "mlflow.trace.session"
_USER = "mlflow.trace.user"
# What MLflow writes on each span anew.
_SPANS_OWN = (
    "mlflow.experimentId",
    "mlflow.spanInputs",
    "mlflow.spanOutputs",
    "mlflow.spanStartTimeNs",
    "mlflow.spanType",
    "mlflow.traceRequestId",
)


class AgentTrace:
    """An agent's trace as it came: MLflow 3's layout or MLflow 2's, with what may be missing in either.

    Raises:
        Exception: Its spans can't be read. MLflow says in many ways why.
    """

    def __init__(self, trace: Mapping[str, Any]) -> None:
        from mlflow.entities import Span

        self._info = dict(trace.get("info") or {})
        self._spans = _root_first([Span.from_dict(span) for span in trace["data"]["spans"]])
        if not self._spans:
            raise ValueError("it has no spans")
        self.trace_id = str(self._info.get("trace_id") or self._info.get("request_id"))
        location = self._info.get("trace_location") or {}
        experiment = location.get("mlflow_experiment") or self._info
        self.experiment_id: str | None = experiment.get("experiment_id")
        self.has_usage = any(span.attributes.get(USAGE) for span in self._spans)

    def copy_below(self, parent: Any) -> None:
        """Make the spans anew below `parent`, and give its trace the tags, metadata and assessments of this one."""
        made: dict[str, Any] = {}
        for span in self._spans:
            copy = mlflow.start_span_no_context(
                name=span.name,
                span_type=span.span_type,
                parent_span=made.get(span.parent_id or "", parent),
                inputs=span.inputs,
                attributes={key: value for key, value in span.attributes.items() if key not in _SPANS_OWN},
                start_time_ns=span.start_time_ns,
            )
            for event in span.events:
                copy.add_event(event)
            copy.end(outputs=span.outputs, status=span.status, end_time_ns=span.end_time_ns)
            made[span.span_id] = copy
        with trace_in_memory(parent.trace_id) as trace:
            if trace is not None and made:
                self._copy_info(trace.info, {old: new.span_id for old, new in made.items()})

    def _copy_info(self, info: Any, span_ids: Mapping[str, str]) -> None:
        from mlflow.entities import Assessment

        for key, value in (self._info.get("tags") or {}).items():
            if not key.startswith("mlflow."):
                info.tags.setdefault(key, str(value))  # with any other than text, MLflow writes no trace at all
        metadata = self._info.get("trace_metadata") or self._info.get("request_metadata") or {}
        for key, value in metadata.items():
            if key in (SESSION, _USER) or not key.startswith("mlflow."):
                info.trace_metadata.setdefault(key, str(value))
        for said in self._info.get("assessments") or []:
            assessment = Assessment.from_dictionary(said)
            assessment.assessment_id = None  # it gets one of its own
            assessment.trace_id = info.trace_id
            assessment.span_id = span_ids.get(assessment.span_id)
            info.assessments.append(assessment)


def tracking_store() -> str | None:
    """Return what tells the tracking store of this process from others; None for one that keeps no trace in pieces.

    A trace can only be joined where it is kept.
    """
    uri = mlflow.get_tracking_uri()
    scheme, colon, rest = uri.partition("://")
    if uri.startswith("databricks"):
        return None
    if scheme == "sqlite":
        uri = f"{scheme}:{os.path.abspath(rest.removeprefix('/'))}"
    elif not colon or scheme == "file":
        uri = f"{uri}#{os.getpid()}"  # files are written as a whole, by one process
    else:
        uri = rest.rpartition("@")[2]  # a login is no part of it
    return hashlib.sha256(uri.encode()).hexdigest()


def _root_first(spans: list[Any]) -> list[Any]:
    parents = {span.span_id: span.parent_id for span in spans}

    def depth(span: Any) -> int:
        above: set[str] = set()
        current = span.parent_id
        while current in parents and current not in above:
            above.add(current)
            current = parents[current]
        return len(above)

    return sorted(spans, key=depth)


def trace_in_memory(trace_id: str) -> Any:
    """Return a context that gives a trace which is being recorded, locked, or None."""
    from mlflow.tracing.trace_manager import InMemoryTraceManager

    return InMemoryTraceManager.get_instance().get_trace(trace_id)


def stored_trace(trace_id: str) -> Any:
    """Return a trace of the tracking store, or None."""
    try:
        return mlflow.MlflowClient().get_trace(trace_id)
    except MlflowException:
        return None
