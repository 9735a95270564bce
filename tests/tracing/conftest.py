"""Every test of tracing gets an experiment of its own. What agents answer and send, and how traces are read."""

from __future__ import annotations

import base64
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
from mlflow.entities import Trace

from mlflow_agent_target.tracing import guard

AGENT = {"name": "a", "task": "agent/v1/responses", "state": {"ready": "READY", "config_update": "NOT_UPDATING"}}
ANSWER = {
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}],
    "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7},
}


@pytest.fixture(autouse=True)
def experiment(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An experiment of the test's own, so that its traces can be counted; and no warning was given yet."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")  # no waiting for it
    before = mlflow.MlflowClient().get_experiment_by_name("tests")
    own = mlflow.create_experiment(uuid.uuid4().hex, artifact_location=before.artifact_location)
    mlflow.set_experiment(experiment_id=own)
    monkeypatch.setattr(guard, "_warned", set())
    yield own
    mlflow.set_experiment(experiment_id=before.experiment_id)


def traces() -> list[Trace]:
    """The experiment's traces."""
    mlflow.flush_trace_async_logging()
    found: list[Trace] = mlflow.search_traces(return_type="list")
    return found


def mine() -> Trace:
    """The trace that a test's own span made. Older MLflow's agents in this process make others of their own."""
    for _ in range(200):
        found = [trace for trace in traces() if any(span.name == "mine" for span in trace.data.spans)]
        if found:
            break
        time.sleep(0.05)  # an agent whose stream was left early is still at work, and MLflow waits for its spans
    (trace,) = found
    return trace


def tree(trace: Trace) -> list[str]:
    """The names of a trace's spans, each below those that it lies in. Older MLflow numbers those that are the same."""
    parents = {span.span_id: (span.parent_id, re.sub(r"_\d+$", "", span.name)) for span in trace.data.spans}

    def path(span_id: str | None) -> str:
        if span_id not in parents:
            return ""
        parent, name = parents[span_id]
        return f"{path(parent)}/{name}"

    return sorted(path(span.span_id) for span in trace.data.spans)


def span_named(trace: Trace, name: str) -> Any:
    return next(span for span in trace.data.spans if re.fullmatch(rf"{name}(_\d+)?", span.name))


def remote_trace(**info: Any) -> dict[str, Any]:
    """A trace as Model Serving returns it, its root last, with an error, an event, tokens, a tag and an assessment."""

    def encoded(number: int, length: int) -> str:
        return base64.b64encode(number.to_bytes(length, "big")).decode()

    def span(number: int, parent: int | None, name: str, **more: Any) -> dict[str, Any]:
        return {
            "trace_id": encoded(1 << 100, 16),
            "span_id": encoded(number, 8),
            "parent_span_id": None if parent is None else encoded(parent, 8),
            "name": name,
            "start_time_unix_nano": 1_700_000_000_000_000_000 + number,
            "end_time_unix_nano": 1_700_000_001_000_000_000 + number,
            "events": [],
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {"mlflow.traceRequestId": '"tr-far"', "mlflow.spanType": '"AGENT"'},
            **more,
        }

    usage = '{"input_tokens": 50, "output_tokens": 20, "total_tokens": 70}'
    own = {"mlflow.traceRequestId": '"tr-far"', "mlflow.spanType": '"LLM"', "mlflow.spanInputs": '{"q": 1}'}
    event = {"name": "retried", "time_unix_nano": 1_700_000_000_500_000_000, "attributes": {"times": 2}}
    return {
        "info": {
            "trace_id": "tr-far",
            "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "far"}},
            "request_time": "2026-01-01T00:00:00Z",
            "state": "OK",
            "trace_metadata": {
                "mlflow.trace_schema.version": "3",
                "mlflow.trace.user": "ann",
                "mlflow.trace.session": "s-7",
                "release": "7",
            },
            "tags": {"team": "blue", "mlflow.traceName": "agent"},
            "assessments": [
                {
                    "assessment_id": "a-1",
                    "assessment_name": "polite",
                    "trace_id": "tr-far",
                    "span_id": f"{3:016x}",
                    "source": {"source_type": "CODE", "source_id": "check"},
                    "create_time": "2026-01-01T00:00:01Z",
                    "last_update_time": "2026-01-01T00:00:01Z",
                    "feedback": {"value": True},
                }
            ],
            **info,
        },
        "data": {
            "spans": [
                span(3, 2, "model", attributes={**own, "mlflow.chat.tokenUsage": usage}, events=[event]),
                span(2, 1, "tool", status={"code": "STATUS_CODE_ERROR", "message": "no such row"}),
                span(1, None, "agent"),
            ]
        },
    }


V2_TRACE = {
    "info": {
        "request_id": "tr-old",
        "experiment_id": "far",
        "timestamp_ms": 1_700_000_000_000,
        "execution_time_ms": 5,
        "status": "OK",
        "request_metadata": {"release": "2"},
        "tags": {"team": "red"},
    },
    "data": {
        "spans": [
            {
                "name": name,
                "context": {"span_id": f"0x{number:016x}", "trace_id": "0x1"},
                "parent_id": parent,
                "start_time": 1_700_000_000_000_000_000,
                "end_time": 1_700_000_000_005_000_000,
                "status_code": "OK",
                "status_message": "",
                "attributes": {"mlflow.traceRequestId": '"tr-old"', "mlflow.spanType": '"CHAIN"'},
                "events": [],
            }
            for number, parent, name in ((1, None, "chain"), (2, f"0x{1:016x}", "retriever"))
        ],
        "request": '"hi"',
        "response": '"Hi."',
    },
}
