"""How a batch is run: what may be chosen, and checked before anything is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.target.settings import Backoff


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run.

    Attributes:
        concurrency: The most requests in flight; None to find out what the endpoint bears.
        requests_per_minute: The most requests in any minute; None for no limit.
        on_error: "record" a row that fails, or "raise" its error and stop.
        retry_on: Errors after which a row is sent again although the agent may have run for it.
        idempotent: Whether the agent may safely run twice, so that every passing failure is retried.
        rerun_in_doubt: Whether rows that were in flight when an earlier process ended are sent again.
        retries: When to try again after a failure that is not the endpoint's refusal.
        total_timeout: Seconds for all attempts of a row, and for an endpoint that answers nothing to come back.

    Raises:
        InvalidInputError: A value can't be used.
    """

    concurrency: int | None = None
    requests_per_minute: float | None = None
    on_error: Literal["record", "raise"] = "record"
    retry_on: tuple[type[Exception], ...] = ()
    idempotent: bool = False
    rerun_in_doubt: bool = True
    retries: Backoff = field(default_factory=Backoff)
    total_timeout: float = 600.0

    def __post_init__(self) -> None:
        concurrency, rate = self.concurrency, self.requests_per_minute
        if concurrency is not None and (
            isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1
        ):
            raise InvalidInputError(f"concurrency must be a whole number, 1 or more, not {concurrency!r}.")
        if rate is not None and (type(rate) not in (int, float) or not 0 < rate < math.inf):
            raise InvalidInputError(f"requests_per_minute must be a number above 0, not {rate!r}.")
        if self.on_error not in ("record", "raise"):
            raise InvalidInputError(f"on_error must be 'record' or 'raise', not {self.on_error!r}.")
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in self.retry_on):
            raise InvalidInputError(f"retry_on must be a class of errors or several, not {self.retry_on!r}.")
