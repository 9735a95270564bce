"""A row as results show it, from what the journal has of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from mlflow_agent_target.batch.records import SHOWN, SHOWN_NAMES, TOKENS, Outcome
from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.formats.answers import AgentResponse

# What goes before the name of a kept column that a result has, too.
_CLASH = "input_"
_TYPES = tuple(get_type_hints(Outcome)[name] for name in SHOWN)


@dataclass(frozen=True)
class BatchRow:
    """What came of one row.

    Attributes:
        index: Its place among the inputs, from 0.
        id: The value of its `id` column; None where there is none.
        status: "ok", "failed", or "in_doubt" for a row that an earlier process had in flight when it ended, where
            `rerun_in_doubt=False` left it so.
        response: The whole answer; None unless "ok".
        output_text: All text of the answer; None unless "ok".
        error: The error's class; None unless "failed".
        error_message: What the error says; None unless "failed".
        attempts: How many times it was sent.
        seconds: How long the last attempt took.
        columns: The columns of its record that the result carries, by name; None where it carries none.
        usage: The answer's tokens (`input_tokens`, `output_tokens`, `total_tokens`); None where they are not counted.
        request_id: The platform's id of the request; where it gave none, that of a failed row's run on a
            DurableAgentServer; else None.
    """

    index: int
    id: Any
    status: str
    response: AgentResponse | None = field(repr=False)
    output_text: str | None
    error: str | None
    error_message: str | None
    attempts: int
    seconds: float | None
    usage: dict[str, int] | None
    request_id: str | None
    columns: dict[str, Any] | None = None


class Json(str):
    """Text that is JSON."""

    __slots__ = ()


def batch_row(values: Sequence[Any], kept: str | None) -> BatchRow:
    """Return a row as users see it.

    Args:
        values: Of the columns `SHOWN`.
        kept: The columns of its record, as the journal has them.

    Raises:
        InvalidInputError: The journal is damaged.
    """
    shown = record(values, None)
    tokens = {name: shown.pop(name) for name in TOKENS}
    response = shown.pop("response")
    return BatchRow(
        **shown,
        usage=None if all(count is None for count in tokens.values()) else tokens,
        response=None if response is None else AgentResponse(response, request_id=shown["request_id"]),
        columns=None if kept is None else _object(values[0], kept),
    )


def record(values: Sequence[Any], kept: str | None, *, reads_answers: bool = True) -> dict[str, Any]:
    """Return a row by the names that exports give its columns: those that were kept of its record, then the results'.

    Args:
        values: Of the columns `SHOWN`.
        kept: The columns of its record, as the journal has them.
        reads_answers: False to leave the answer as the JSON that it is in the journal.

    Raises:
        InvalidInputError: The journal is damaged.
    """
    for name, kind, value in zip(SHOWN, _TYPES, values, strict=True):
        if not isinstance(value, kind):
            raise _damaged(values[0], f"its {name} is a {type(value).__name__}")
    shown = {**kept_columns(values[0], kept), **dict(zip(SHOWN_NAMES, values, strict=True))}
    shown["id"] = parsed(values[0], shown["id"])
    if (response := shown["response"]) is not None:
        shown["response"] = _object(values[0], response) if reads_answers else Json(response)
    return shown


def kept_columns(position: int, text: str | None) -> dict[str, Any]:
    """Return the kept columns of a row by the names that exports give them: one that a result has, too, gets another.

    Raises:
        InvalidInputError: The journal is damaged.
    """
    kept = {} if text is None else _object(position, text)
    return {_name(name): value for name, value in kept.items()}


def _name(name: str) -> str:
    # One that is called so by itself is moved on, so that two are never one.
    own = name
    while own.startswith(_CLASH) and own not in SHOWN_NAMES:
        own = own.removeprefix(_CLASH)
    return f"{_CLASH}{name}" if own in SHOWN_NAMES else name


def parsed(position: int, text: Any) -> Any:
    """Return the JSON of a cell as a value.

    Raises:
        InvalidInputError: The journal is damaged: it is none.
    """
    try:
        try:
            return json.loads(text)
        except RecursionError:
            # Callers count, too. It was written in a thread that has few of them, and can be read in such a one.
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(json.loads, text).result()
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(position, f"a cell is no JSON: {error}") from error


def _object(position: int, text: str) -> dict[str, Any]:
    value = parsed(position, text)
    if not isinstance(value, dict):
        raise _damaged(position, f"a cell is {text:.20}, and no JSON object")
    return value


def _damaged(position: int, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"Row {position} of the journal is damaged ({why}). To have it asked again, delete it there, where `position` "
        f"is {position} in the table `rows`, and make the same call again. That touches no other row."
    )
