"""Faults to rehearse: what is to go wrong at an endpoint, and with which of its calls. Pure."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_agent_target.errors import InvalidInputError

# A stream is cut after so many events at most.
_LONGEST_CUT = 8
_JSON, _HTML = "application/json", "text/html"


@dataclass(frozen=True)
class Refusal:
    """An answer that is no agent's.

    Attributes:
        status: The HTTP status.
        body: What is answered, byte for byte.
        content_type: What that is.
        agent_runs: Whether the agent runs all the same, and its answer is lost.
    """

    status: int
    body: str
    content_type: str = _JSON
    agent_runs: bool = False


@dataclass(frozen=True)
class Fate:
    """What one call meets with.

    Attributes:
        fault: The option of `Faults` that makes it fail; None where it goes well, late maybe.
        refusal: What is answered in place of the agent's answer; None for that answer.
        latency: Seconds before it is answered.
        cut_after: The number of events after which its stream, if it is one, breaks off; None for a whole stream.
        silence: Seconds of silence after a stream's first event.
    """

    fault: str | None = None
    refusal: Refusal | None = None
    latency: float = 0
    cut_after: int | None = None
    silence: float = 0


def _json_refusal(status: int, error_code: str, message: str, agent_runs: bool = False) -> Refusal:
    return Refusal(status, json.dumps({"error_code": error_code, "message": message}), agent_runs=agent_runs)


# The platform tells its callers as little as this of whether the agent has run.
_BROKEN = "The server received an error while processing the request. Please try again later."
_NO_GATE = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n"
)
_FAILURES = (
    _json_refusal(500, "INTERNAL_ERROR", _BROKEN),
    _json_refusal(500, "INTERNAL_ERROR", _BROKEN, agent_runs=True),
    Refusal(502, _NO_GATE, _HTML),
    Refusal(502, _NO_GATE, _HTML, agent_runs=True),
    _json_refusal(504, "DEADLINE_EXCEEDED", "The request timed out while it was being processed.", agent_runs=True),
)
STARTING = Fate(
    "cold_start",
    _json_refusal(503, "TEMPORARILY_UNAVAILABLE", "The endpoint is scaled to zero and is starting. Try again later."),
)
LIMITED = Fate(
    "rate_limit",
    _json_refusal(429, "REQUEST_LIMIT_EXCEEDED", "The endpoint's limit of requests a second is exceeded."),
)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong at each endpoint of a local server, to rehearse a bad day: `serve(agents, faults=Faults(...))`.

    Which calls fail follows from `seed` alone: of the calls of one endpoint that its rate limit and its start let
    through, the first, second, ... meet with the same each time, whatever the other endpoints are asked.

    Attributes:
        latency: Seconds that pass before an answer; a pair for any time between two.
        error_rate: The share of calls, from 0 to 1, that end as when the platform breaks: with 500 or 502, half of
            them after the agent has run, which they don't tell, or with 504, when it has.
        rate_limit: Requests a second that are let through; the others are answered 429. None for no limit.
        retry_after: The seconds in the header `Retry-After` of 429 and 503; None for no such header.
        cold_start: Seconds from an endpoint's first request on for which it is not ready and answers 503.
        cut_streams: The share of streams, from 0 to 1, whose connection breaks after some events.
        silence: Seconds of silence within each stream, after its first event.
        seed: Another seed makes other calls fail.

    Raises:
        InvalidInputError: A value can't be used.
    """

    latency: float | tuple[float, float] = 0
    error_rate: float = 0
    rate_limit: float | None = None
    retry_after: float | None = None
    cold_start: float = 0
    cut_streams: float = 0
    silence: float = 0
    seed: int = 0

    def __post_init__(self) -> None:
        least, most = self.latencies
        if not (_is_seconds(least) and _is_seconds(most) and least <= most):
            _refuse("latency", self.latency, "a number of seconds, 0 or more, or a pair of them, the smaller one first")
        for name in ("cold_start", "silence", "retry_after"):
            value = getattr(self, name)
            if not (_is_seconds(value) or (value is None and name == "retry_after")):
                _refuse(name, value, "a number of seconds, 0 or more")
        for name in ("error_rate", "cut_streams"):
            value = getattr(self, name)
            if not (_is_seconds(value) and value <= 1):
                _refuse(name, value, "a share of the calls, from 0 to 1")
        if self.rate_limit is not None and not (_is_seconds(self.rate_limit) and self.rate_limit > 0):
            _refuse("rate_limit", self.rate_limit, "a number of requests a second, above 0")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            _refuse("seed", self.seed, "a whole number")

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Return the names of all faults, as options of a command."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Faults:
        """Return the faults that are given as a command's options are: as text, a pair of seconds as `0.1-0.5`.

        Raises:
            InvalidInputError: There is no such fault, or its value can't be used.
        """
        if unknown := sorted(set(options) - set(cls.option_names())):
            raise InvalidInputError(
                f"No fault is named {', '.join(unknown)}. There are {', '.join(cls.option_names())}."
            )
        return cls(**{name: _read(name, value) for name, value in options.items()})

    @property
    def latencies(self) -> tuple[float, float]:
        """The least and the most seconds before an answer."""
        given: Any = self.latency
        least, most = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, given)
        return least, most

    def fate(self, endpoint: str, number: int) -> Fate:
        """Return what the call of this number meets with, counted for each endpoint, once it is let through."""
        drawn = random.Random(f"{self.seed}:{endpoint}:{number}")  # noqa: S311 (a rehearsal, guards nothing)
        # All are drawn, in this order, whether or not they are wanted: a further fault changes none of the others.
        latency = drawn.uniform(*self.latencies)
        fails, failure = drawn.random() < self.error_rate, drawn.choice(_FAILURES)
        is_cut, events = drawn.random() < self.cut_streams, drawn.randint(1, _LONGEST_CUT)
        return Fate(
            "error_rate" if fails else None,
            failure if fails else None,
            latency,
            events if is_cut else None,
            self.silence,
        )


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _refuse(name: str, value: Any, allowed: str) -> None:
    raise InvalidInputError(f"{name} of Faults must be {allowed}, not {value!r:.100}.")


def _read(name: str, value: Any) -> Any:
    """Return an option's value; a text that is no number as it is, to be refused with the others."""
    if not isinstance(value, str):
        return value
    try:
        return int(value) if name == "seed" else float(value)
    except ValueError:
        if name != "latency":
            return value
    least, _, most = value.partition("-")
    try:
        return float(least), float(most)
    except ValueError:
        return value
