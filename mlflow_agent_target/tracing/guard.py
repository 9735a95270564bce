"""A call is never failed by its trace: the one place where what MLflow's tracing raises is stopped."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mlflow_agent_target.text import printable

_logger = logging.getLogger(__name__)

_warned: set[str] = set()
P = ParamSpec("P")
T = TypeVar("T")


def forgiving(otherwise: Callable[[], T]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function of tracing that raises nothing, but warns once, and then returns what `otherwise` gives."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                reason = f"{type(error).__name__}: {printable(str(error), 200)}"
                warn_once(
                    f"MLflow's tracing failed ({reason}). The call goes on; what its trace lacks is lost.", "failed"
                )
                return otherwise()

        return call

    return decorate


def nothing() -> None:
    """Give nothing."""


def no_headers() -> dict[str, str]:
    """Give no headers."""
    return {}


def warn_once(message: str, kind: str | None = None) -> None:
    """Log a warning, once for each message, or for each kind of message."""
    if (kind or message) not in _warned:
        _warned.add(kind or message)
        _logger.warning("%s", message)
