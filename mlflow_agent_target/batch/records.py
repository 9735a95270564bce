"""What is known of a row: its state, its claim, its outcome. Pure.

`Outcome` is the one table of the columns: the journal's schema, the results and the exports are made from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, get_type_hints

from mlflow_agent_target.errors import AgentError, AgentTargetError, InvalidResponseError
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.http.statuses import is_failed_run
from mlflow_agent_target.text import plain

# The states of a row. A row of which the journal says nothing was never sent.
OK = "ok"
FAILED = "failed"
IN_DOUBT = "in_doubt"  # it was in flight when its process ended: the agent may have run or not
CLAIMED = "claimed"  # it is being sent
RELEASED = "released"  # it was being sent, but the agent has certainly not run


@dataclass(frozen=True)
class Column:
    """How one field of an outcome is stored and shown.

    Attributes:
        sql: Its type and constraints in the journal.
        arrow: Its type in Arrow and Parquet; None where results don't show it.
        shown_as: Its name in results and exports; None for the field's own.
        is_json: Whether it holds a value as JSON text.
    """

    sql: str
    arrow: str | None = None
    shown_as: str | None = None
    is_json: bool = False


_Text = Annotated[str | None, Column("TEXT", "string")]
_Tokens = Annotated[int | None, Column("INTEGER", "int64")]


class Outcome(NamedTuple):
    """How a row ended. Its fields are the columns of the journal's table, in this order."""

    position: Annotated[int, Column("INTEGER PRIMARY KEY", "int64", shown_as="index")]
    digest: Annotated[bytes, Column("BLOB NOT NULL")]
    id: Annotated[str, Column("TEXT NOT NULL", "string", is_json=True)]
    columns: Annotated[str | None, Column("TEXT")]
    run: Annotated[int, Column("INTEGER NOT NULL DEFAULT 0")]  # the number of the agent's run that is asked for next
    state: Annotated[str, Column("TEXT NOT NULL", "string", shown_as="status")]
    response: Annotated[str | None, Column("TEXT", "string", is_json=True)] = None
    output_text: _Text = None
    error: _Text = None
    error_message: _Text = None
    attempts: Annotated[int, Column("INTEGER NOT NULL DEFAULT 0", "int64")] = 0
    seconds: Annotated[float | None, Column("REAL", "float64")] = None
    input_tokens: _Tokens = None
    output_tokens: _Tokens = None
    total_tokens: _Tokens = None
    request_id: _Text = None


COLUMNS: dict[str, Column] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Outcome, include_extras=True).items()
}
# The columns that results and exports show, by their names in the journal, and those names in theirs.
SHOWN = {name: column for name, column in COLUMNS.items() if column.arrow is not None}
SHOWN_NAMES = tuple(column.shown_as or name for name, column in SHOWN.items())
TOKENS = tuple(name for name in COLUMNS if name.endswith("_tokens"))


class Claim(NamedTuple):
    """A row that is about to be sent: the first fields of its outcome."""

    position: int
    digest: bytes
    id: str
    columns: str | None = None
    run: int = 0

    def run_id(self, journal: uuid.UUID) -> uuid.UUID:
        """Return the id of the agent's run for this row: the same in every process, and no other run's.

        Args:
            journal: That of the journal. Were it made of the row's content, another batch would get this one's answers.
        """
        return uuid.uuid5(journal, f"{self.position}:{self.run}")

    def after(self, error: BaseException) -> Claim:
        """Return the claim under which the row is asked after an error: of another run, where that one is over.

        A run that may be going on, or whose end is not known, is asked for under the same id.
        """
        if not isinstance(error, (AgentError, InvalidResponseError)) or not error.invocation_id or error.retryable:
            return self
        # By the run's own record, or by the server's word that it has none.
        is_over = error.status_code in (None, 200, 404) or is_failed_run(error.body)
        return self._replace(run=self.run + 1) if is_over else self


class Known(NamedTuple):
    """What a journal knows of a row from earlier runs."""

    position: int
    digest: bytes
    id: str
    state: str
    run: int


def row_claim(position: int, id_: Any, inputs: Any, columns: Mapping[str, Any] | None) -> tuple[Claim, int]:
    """Return the claim of a row, and its size in characters, about.

    Args:
        position: Its place among the rows, from 0.
        id_: Its id, whatever that is.
        inputs: What the agent is asked.
        columns: The columns of its record that the result carries; None for none.
    """
    text = _text(inputs)
    kept = None if columns is None else _storable(_columns_text(columns))
    return Claim(position, _digest(text), _id_text(id_), kept), len(text) + len(kept or "")


def answer_outcome(claim: Claim, answer: AgentResponse, attempts: int) -> Outcome:
    """Return what is recorded of an answer. How long it took is not known here.

    Raises:
        InvalidResponseError: It is nested too deeply to be written.
    """
    try:
        response = json.dumps(answer, ensure_ascii=False)
    except RecursionError as error:
        raise InvalidResponseError(
            f"The agent answered, but its answer is nested too deeply to be recorded. Its text: {answer.output_text}",
            attempts=attempts,
        ) from error
    tokens = _tokens(answer)
    return Outcome(
        *claim,
        OK,
        response=response if is_storable(response) else json.dumps(answer),
        output_text=_storable(answer.output_text),
        attempts=attempts,
        input_tokens=tokens.get("input_tokens"),
        output_tokens=tokens.get("output_tokens"),
        total_tokens=tokens.get("total_tokens"),
        request_id=_request_id(answer),
    )


def error_outcome(claim: Claim, error: BaseException, attempts: int, seconds: float | None) -> Outcome:
    """Return what is recorded of a failure."""
    return Outcome(
        *claim.after(error),
        FAILED,
        error=type(error).__name__,
        error_message=_storable(str(error)),
        attempts=attempts,
        seconds=seconds,
        request_id=_request_id(error),
    )


def cost(input_tokens: int | None, output_tokens: int | None, prices: Sequence[float] | None) -> float | None:
    """Return what tokens cost; None where no price is known, or nothing was counted.

    Args:
        input_tokens, output_tokens: How many there are; None where they were not counted.
        prices: What a million of each costs; None where that is not known.
    """
    if prices is None or (input_tokens is None and output_tokens is None):
        return None
    return ((input_tokens or 0) * prices[0] + (output_tokens or 0) * prices[1]) / 1e6


def is_same_id(then: str, now: str) -> bool:
    """Return whether an id is the one that a journal has. Earlier versions kept the numbers of CSV as text."""
    return then in (now, json.dumps(now))


def digest(inputs: Any) -> bytes:
    """Return 16 bytes that differ where a row's inputs differ, whatever they are."""
    return _digest(_text(inputs))


def _text(inputs: Any) -> str:
    try:
        return json.dumps(inputs, sort_keys=True, default=_described)
    except Exception:  # whatever a caller's object raises: it will be refused, the same way the next time
        return type(inputs).__name__


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _described(value: Any) -> Any:
    """Return something that JSON knows for an object that it doesn't: what tells it from others, in every process."""
    if isinstance(value, AgentTargetError):
        return str(value)
    dump = getattr(value, "model_dump", None) or getattr(value, "to_dict", None)
    if callable(dump):
        return dump()
    try:
        return plain(value)  # what is sent of numpy's and pandas' values must tell them apart, too
    except TypeError:
        return type(value).__name__


def _id_text(id_: Any) -> str:
    """Return a row's id as JSON, whatever it is: as text where it is nothing that JSON knows."""
    if isinstance(id_, float) and math.isnan(id_):
        return "null"  # a frame's missing id
    try:
        return json.dumps(id_, default=str, allow_nan=False)
    except Exception:  # whatever a caller's object raises
        return json.dumps(_said(id_))


def _columns_text(columns: Mapping[str, Any]) -> str:
    """Return the columns of a record as JSON, whatever they hold: as text what is nothing that JSON knows."""
    try:
        return json.dumps(columns, ensure_ascii=False, default=str)
    except Exception:  # names that are no text, values within themselves, whatever a caller's object raises
        return json.dumps({str(name): _cell(value) for name, value in columns.items()}, ensure_ascii=False)


def _cell(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=str))
    except Exception:
        return _said(value)


def _said(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return type(value).__name__


def _request_id(ended: AgentResponse | BaseException) -> str | None:
    request_id = getattr(ended, "request_id", None)
    if request_id is None and isinstance(ended, AgentTargetError):
        request_id = ended.invocation_id  # with which the run can be picked up
    return None if request_id is None else _storable(str(request_id))


def _tokens(answer: AgentResponse) -> dict[str, Any]:
    """Return the tokens that an answer counts, as far as they are numbers that can be stored."""
    try:
        usage = answer.usage or {}
    except TypeError:  # the endpoint counts in something else
        return {}
    return {key: count for key, count in usage.items() if isinstance(count, int) and abs(count) < 1 << 63}


def is_storable(text: str) -> bool:
    """Return whether text has no halves of surrogate pairs, which JSON can hold, and UTF-8 and SQLite can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _storable(text: str) -> str:
    return text if is_storable(text) else text.encode("utf-8", "replace").decode()
