"""MLflow's traces are written to a database by one thread at a time.

For a span or a trace MLflow's store opens a second connection while it holds the first. Of as many threads as its pool
has connections (15), each may hold one and wait for another: for 30 seconds, and then what they write is lost.
Evaluations write in the threads that ask, and so get there with 15 rows at a time.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from mlflow_agent_target.tracing.guard import forgiving, nothing

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_writing = threading.Lock()


@functools.cache
@forgiving(nothing)
def write_one_at_a_time() -> None:
    """See to it, for the rest of this process. Other stores are written to as before."""
    # Private, for there is no public way. Tried on MLflow 3.2 to 3.18. Where it is not there, MLflow writes as it does.
    from mlflow.tracing.client import TracingClient

    for name in ("log_spans", "start_trace"):
        method = getattr(TracingClient, name, None)
        if method is not None:
            setattr(TracingClient, name, _one_at_a_time(method))


def _one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def write(client: Any, *values: Any, **named: Any) -> Any:
        if not str(getattr(client, "tracking_uri", "")).startswith(_DATABASES):
            return method(client, *values, **named)
        with _writing:
            return method(client, *values, **named)

    return write
