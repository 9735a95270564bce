"""An agent's own trace: how it is read, and how it is copied below the span of the call."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

_logger = logging.getLogger(__name__)

# https://mlflow.org/docs/latest/genai/tracing/token-usage-cost/
USAGE = "mlflow.chat.tokenUsage"
SESSION = "mlflow.trace.session"
_USER = "mlflow.trace.user"
# Attributes that MLflow itself sets on each copy of a span.
_SPANS_OWN = (
    "mlflow.experimentId",
    "mlflow.spanInputs",
    "mlflow.spanOutputs",
    "mlflow.spanStartTimeNs",
    "mlflow.spanType",
    "mlflow.traceRequestId",
)


class AgentTrace:
    """An agent's trace, in the layout of MLflow 3 or MLflow 2. Of either, parts may be missing.

    Raises:
        Exception: Its spans can't be read. MLflow raises many kinds.
    """

    def __init__(self, trace: Mapping[str, Any]) -> None:
        from mlflow.entities import Span

        self._info = dict(trace.get("info") or {})
        self._spans = _root_first([Span.from_dict(span) for span in trace["data"]["spans"]])
        if not self._spans:
            raise ValueError("it has no spans")
        self.trace_id = str(self._info.get("trace_id") or self._info.get("request_id"))
        experiment = _mapping(_mapping(self._info.get("trace_location")).get("mlflow_experiment")) or self._info
        self.experiment_id: str | None = experiment.get("experiment_id")
        self.has_usage = any(span.attributes.get(USAGE) for span in self._spans)

    def copy_below(self, parent: Any) -> None:
        """Copy the spans below `parent`, and the tags, metadata and assessments to the trace that `parent` is in."""
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
        for key, value in _mapping(self._info.get("tags")).items():
            if not key.startswith("mlflow."):
                info.tags.setdefault(key, str(value))  # MLflow loses the whole trace if a value is no text
        metadata = _mapping(self._info.get("trace_metadata") or self._info.get("request_metadata"))
        for key, value in metadata.items():
            if key in (SESSION, _USER) or not key.startswith("mlflow."):
                info.trace_metadata.setdefault(key, str(value))
        for assessment in _assessments(self._info.get("assessments")):
            assessment.assessment_id = None  # it gets one of its own
            assessment.trace_id = info.trace_id
            assessment.span_id = span_ids.get(assessment.span_id)
            info.assessments.append(assessment)


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return what should be a mapping, or an empty one if it is none."""
    return value if isinstance(value, Mapping) else {}


def _assessments(values: Any) -> Iterator[Any]:
    """Give the assessments that this MLflow can read: a newer one has kinds that it does not know."""
    from mlflow.entities import Assessment

    for value in values if isinstance(values, list) else ():
        try:
            assessment = Assessment.from_dictionary(value)
        except Exception as error:
            _logger.debug("An assessment of an agent's trace can't be read: %s", type(error).__name__)
        else:
            yield assessment


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
    """Return a context that gives a trace that is still being recorded, locked. It gives None if there is none."""
    # Private, for there is no public way to it. Tried on MLflow 3.2 to 3.17.
    try:
        from mlflow.tracing.trace_manager import InMemoryTraceManager

        return InMemoryTraceManager.get_instance().get_trace(trace_id)
    except (ImportError, AttributeError):
        return nullcontext()


def stored_trace(trace_id: str) -> Any:
    """Return a trace of the tracking store, or None."""
    try:
        return mlflow.MlflowClient().get_trace(trace_id)
    except MlflowException:
        return None


def trace_of_session(session: str, experiment_id: str, since_ns: int) -> Any:
    """Return the newest trace of a session that began since then in an experiment, or None."""
    if "'" in session:  # no filter can say it
        return None
    search = mlflow.MlflowClient().search_traces
    # The argument's later name; the older one is deprecated.
    place = "locations" if "locations" in inspect.signature(search).parameters else "experiment_ids"
    try:
        found = search(
            **{place: [experiment_id]},
            filter_string=f"metadata.`{SESSION}` = '{session}' AND timestamp_ms >= {since_ns // 1_000_000}",
            order_by=["timestamp_ms DESC"],
            max_results=1,
        )
    except MlflowException:
        return None
    return found[0] if found else None
