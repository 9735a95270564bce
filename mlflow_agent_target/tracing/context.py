"""The span that the caller is in, and whether what is called from it is recorded."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from opentelemetry.trace import get_current_span

from mlflow_agent_target.tracing.guard import forgiving, nothing


def is_evaluated() -> bool:
    """Return whether the call answers a row of MLflow's evaluation. Then it is traced, also outside of any span.

    MLflow tries the evaluated function once, and adds a span to each row if it saw none. But if the agent is served by
    this process, what it saw may be the agent's.
    """
    # Private, for there is no public way to know. Tried on MLflow 3.2 to 3.17. An evaluation has imported the module.
    current = getattr(sys.modules.get("mlflow.pyfunc.context"), "get_prediction_context", None)
    return current is not None and bool(getattr(current(), "is_evaluate", False))


@forgiving(bool)
def is_tracing() -> bool:
    """Return whether MLflow's tracing is on."""
    from mlflow.tracing.provider import is_tracing_enabled

    return bool(is_tracing_enabled())


@forgiving(bool)
def is_sampled_out() -> bool:
    """Return whether the caller is in a span that is not recorded (`MLFLOW_TRACE_SAMPLING_RATIO`)."""
    span = get_current_span(_context_api().get_current()).get_span_context()
    return span.is_valid and not span.trace_flags.sampled


def _opentelemetrys_own() -> Any:
    from opentelemetry import context

    return context


try:
    # Private, for there is no public way. Tried on MLflow 3.6 to 3.18; those before use OpenTelemetry's own.
    from mlflow.tracing.provider import get_context_api as _context_api
except ImportError:
    _context_api = _opentelemetrys_own


@contextlib.contextmanager
def same_context() -> Iterator[None]:
    """Leave the caller in the span that he was in, whatever becomes of those that are entered within."""
    context = _context_api()
    token = context.attach(context.get_current())
    try:
        yield
    finally:
        context.detach(token)


def _any_context() -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()


@forgiving(_any_context)
def no_active_span() -> contextlib.AbstractContextManager[Any]:
    """Let what is traced within begin a trace of its own, whatever span the caller is in."""
    from opentelemetry.context import Context

    context = _context_api()
    stack = contextlib.ExitStack()
    stack.callback(forgiving(nothing)(context.detach), context.attach(Context()))
    return stack
