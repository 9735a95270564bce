"""MLflow's traces are written to a database by one thread at a time, which takes along the spans that others wait with.

For a span or a trace MLflow's store opens a second connection while it holds the first. Of as many threads as its pool
has connections (15), each may hold one and wait for another: for 30 seconds, and then what they write is lost.
Evaluations write each span in the thread that asks, and so get there with 15 rows at a time.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlflow_agent_target.tracing.guard import forgiving, nothing

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_turn = threading.RLock()


@dataclass(eq=False)
class _Spans:
    """Spans that a thread waits to have written: where to, and how that went."""

    place: tuple[str, str]
    spans: list[Any]
    is_written: bool = False
    error: Exception | None = None


_waiting: list[_Spans] = []


@functools.cache
@forgiving(nothing)
def write_one_at_a_time() -> None:
    """See to it, for the rest of this process. Other stores are written to as before."""
    # Private, for there is no public way. Tried on MLflow 3.2 to 3.18. Where it is not there, MLflow writes as it does.
    from mlflow.tracing.client import TracingClient

    if hasattr(TracingClient, "log_spans"):
        TracingClient.log_spans = _in_turn(TracingClient.log_spans, _write_spans)
    TracingClient.start_trace = _in_turn(TracingClient.start_trace, _write_alone)


def _in_turn(method: Callable[..., Any], write: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(client: Any, *values: Any, **named: Any) -> Any:
        if not str(getattr(client, "tracking_uri", "")).startswith(_DATABASES):
            return method(client, *values, **named)
        return write(functools.partial(method, client), client.tracking_uri, *values, **named)

    return call


def _write_alone(method: Callable[..., Any], _uri: str, *values: Any, **named: Any) -> Any:
    with _turn:
        return method(*values, **named)


def _write_spans(method: Callable[..., Any], uri: str, location: str, spans: list[Any]) -> list[Any]:
    mine = _Spans((uri, location), spans)
    _waiting.append(mine)
    try:
        with _turn:
            if not mine.is_written:
                unwritten = [each for each in _waiting[:] if each.place == mine.place and not each.is_written]
                _write_together(method, location, unwritten)
    finally:
        _waiting.remove(mine)
    if mine.error is not None:
        raise mine.error
    return spans


def _write_together(method: Callable[..., Any], location: str, all_spans: list[_Spans]) -> None:
    try:
        method(location, [span for each in all_spans for span in each.spans])
    except Exception as error:
        if len(all_spans) == 1:  # an older MLflow writes those of one trace alone, or one of these can't be written
            all_spans[0].error = error
        else:
            for each in all_spans:
                _write_together(method, location, [each])
    for each in all_spans:
        each.is_written = True
