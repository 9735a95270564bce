"""What the environment says about requests, in MLflow's own variables. The only place with defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from mlflow_agent_target.errors import InvalidInputError

_TIMEOUT = "MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT"
_TOTAL_TIMEOUT = "MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT"
_MAX_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_BACKOFF_FACTOR = "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"
_BACKOFF_JITTER = "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER"
_INSECURE_TLS = "MLFLOW_TRACKING_INSECURE_TLS"
# A time limit of 0 would let nothing through.
_SHORTEST_SECONDS = 0.001
_NETWORK_VARIABLES = ("_proxy", "_ca_bundle")

_T = TypeVar("_T", int, float)


@dataclass(frozen=True)
class TimeLimits:
    """How long a call may take, in seconds.

    Attributes:
        timeout: For one attempt: until the answer, or a stream's first event, is there.
        total_timeout: For all attempts together.
    """

    timeout: float = 120.0
    total_timeout: float = 600.0

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> TimeLimits:
        """Read `MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT` and `MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT`.

        Raises:
            InvalidInputError: One holds something that is no such number.
        """
        timeout, total = environment.get(_TIMEOUT), environment.get(_TOTAL_TIMEOUT)
        if timeout is None and total is None:
            return _DEFAULT_LIMITS
        return cls(
            _number(_TIMEOUT, timeout, cls.timeout, _SHORTEST_SECONDS),
            _number(_TOTAL_TIMEOUT, total, cls.total_timeout, _SHORTEST_SECONDS),
        )


_DEFAULT_LIMITS = TimeLimits()


@dataclass(frozen=True)
class Backoff:
    """How often a request may be sent again, and how long to wait before that.

    Attributes:
        max_retries: Retries after the first attempt.
        factor: Seconds before the first retry; doubled for each further one.
        jitter: Seconds of randomness added to each wait.
    """

    max_retries: int = 7
    factor: float = 2.0
    jitter: float = 1.0

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Backoff:
        """Read `MLFLOW_HTTP_REQUEST_MAX_RETRIES`, `..._BACKOFF_FACTOR` and `..._BACKOFF_JITTER`.

        Raises:
            InvalidInputError: One holds something that is no such number.
        """
        get = environment.get
        return cls(
            _number(_MAX_RETRIES, get(_MAX_RETRIES), cls.max_retries),
            _number(_BACKOFF_FACTOR, get(_BACKOFF_FACTOR), cls.factor),
            _number(_BACKOFF_JITTER, get(_BACKOFF_JITTER), cls.jitter),
        )


def verifies_tls(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether servers' certificates are checked: unless `MLFLOW_TRACKING_INSECURE_TLS` says they aren't."""
    said = environment.get(_INSECURE_TLS)
    return said is None or said.strip().lower() not in ("true", "1")


def network(environment: Mapping[str, str] = os.environ) -> tuple[tuple[str, str], ...]:
    """Return the variables of proxies and certificates, which requests reads: others mean other connections."""
    return tuple(sorted((k, v) for k, v in environment.items() if k.lower().endswith(_NETWORK_VARIABLES)))


def has_proxies(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment names a proxy."""
    names = [name.lower() for name, value in environment.items() if value]
    return any(name.endswith("_proxy") and name != "no_proxy" for name in names)


def _number(variable: str, text: str | None, default: _T, least: float = 0.0) -> _T:
    if text is None or not text.strip():
        return default
    try:
        value = type(default)(text.strip())
    except ValueError:
        value = None
    if value is None or not least <= value < float("inf"):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise InvalidInputError(f"{variable} must be {kind}, {least:g} or more, not {text.strip()!r}.")
    return value
