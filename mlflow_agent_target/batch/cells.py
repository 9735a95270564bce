"""What a cell or a record of a table means: a payload, a question, a setting that goes along, an id. Pure."""

from __future__ import annotations

import json
import math
from ast import literal_eval
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from mlflow_agent_target.errors import InvalidInputError

KEYS = ("input", "messages")
# Columns that hold a row's inputs, where none is named: the two requests' own, and that of evaluation datasets.
_INPUT_COLUMNS = (*KEYS, "inputs")
ID = "id"
# Columns that are known to say what the right answer is, or where a row comes from.
_LABELS = {
    *("expectations", "expected_response", "expected_facts", "expected_retrieved_context", "guidelines"),
    *("outputs", "trace", "tags", "source", "ground_truth", "targets", "retrieved_context"),
}
# Settings that hold text; lists or dicts; either. Others are numbers, or true and false.
_TEXT_SETTINGS = ("client_request_id", "model", "previous_response_id", "tool_choice", "truncation", "user")
_STRUCTURED = {
    *("custom_inputs", "context", "databricks_options", "usage_context", "metadata", "tools", "reasoning", "include"),
    *("text", "response_format", "logit_bias"),
}
_TEXT_OR_STRUCTURED = {"stop", "instructions", "reasoning_effort", "tool_choice"}
# Columns that go with their row. No others do: what the right answer is must not reach the agent.
SETTINGS = {
    "custom_inputs",
    "context",
    "databricks_options",
    "client_request_id",
    "usage_context",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning",
    "reasoning_effort",
    "previous_response_id",
    "instructions",
    "include",
    "background",
    "store",
    "text",
    "response_format",
    "truncation",
    "user",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "n",
}


Nulls = Literal["keep", "drop", "drop_in_structs"]


class Row(NamedTuple):
    """A row of a batch.

    Attributes:
        id: Its id; None where it has none.
        inputs: What to ask; an error where that can't be read.
        columns: The columns of its record that the result carries, by name; None where it carries none.
    """

    id: Any
    inputs: Any
    columns: Mapping[str, Any] | None = None


def columns_of(names: list[Any], column: str | None, id_column: str | None, table: str) -> tuple[Any, Any]:
    """Return the column that holds the inputs, and the one that holds the ids; None for that where there is none.

    Args:
        names: The table's columns.
        column: The one that the caller named for the inputs; None for the known ones.
        id_column: The one that the caller named for the ids; None for `id`, where there is one.
        table: What errors call the table.

    Raises:
        InvalidInputError: The table doesn't have a column that was named, or it is not clear which one is meant.
    """
    for named in (column, id_column):
        if named is not None and named not in names:
            raise InvalidInputError(f"{table} has no column {named!r}; it has {names}.")
    if column is None:
        found = [name for name in _INPUT_COLUMNS if name in names]
        if len(found) != 1:
            has = "more than one of" if found else "none of"
            raise InvalidInputError(
                f"{table} has {has} the columns {', '.join(map(repr, _INPUT_COLUMNS))}; it has {names}. Name the one "
                "that holds the inputs: column=..."
            )
        column = found[0]
    id_column = id_column or (ID if ID in names else None)
    for name in (column, id_column):
        if names.count(name) > 1:
            raise InvalidInputError(f"{table} has more than one column {name!r}. Name each differently.")
    return column, id_column


def row_of(
    record: Mapping[str, Any],
    column: str | None,
    id_column: str | None,
    *,
    keeps: bool = False,
    is_text: bool = False,
    is_arrow: bool = False,
    drops: Callable[[set[str]], None] | None = None,
) -> Row:
    """Return a record as a row: the same record is the same request and id, whatever held it.

    What is asked is in one column; settings of a request go along; no other column does, since what the right answer is
    must not reach the agent.

    Args:
        record: The columns of a row by name.
        column: The one that holds what is asked; None for the known ones.
        id_column: The one that holds the id; None for `id`, where there is one.
        keeps: Whether the result carries the columns.
        is_text: Whether cells can only be text, as in CSV, so that settings are read from it.
        is_arrow: Whether a field that only some structs have is null in the others.
        drops: Told of columns that nobody knows and that are not sent.
    """
    id_column = id_column or ID
    nulls: Nulls = "drop" if is_arrow else "drop_in_structs"
    id_ = plain(record.get(id_column))
    if is_text and isinstance(id_, str) and id_.isdecimal() and str(int(id_)) == id_:
        id_ = int(id_)  # as any other holder of the same record has it
    kept = {name: _kept(value) for name, value in record.items() if name != id_column} if keeps else None
    if column is None:
        found = [name for name in _INPUT_COLUMNS if name in record]
        if len(found) != 1:  # no question, or two: the request's own check says what is wrong
            return Row(id_, {name: value for name, value in record.items() if name != id_column}, kept)
        column = found[0]
    if column not in record:
        return Row(id_, InvalidInputError(f"The row has no {column!r}, but {sorted(map(str, record))}."), kept)
    asked = plain(record[column], nulls)
    if _is_missing(asked):
        return Row(id_, InvalidInputError(f"The row asks nothing: its {column!r} is empty."), kept)
    others = {name: value for name, value in record.items() if name not in (column, id_column)}
    if drops is not None:
        drops({name for name in others if name not in SETTINGS and name not in _LABELS})
    settings: dict[str, Any] = {}
    for name, value in others.items():
        cell = plain(value, nulls)
        if name in SETTINGS and not _is_missing(cell):
            try:
                settings[name] = _setting(name, cell) if is_text else cell
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                return Row(id_, InvalidInputError(f"The row's {name!r} can't be read: {cell!r:.80}."), kept)
    try:
        return Row(id_, _request(asked, column, settings), kept)
    except InvalidInputError as error:
        return Row(id_, error, kept)


def _request(asked: Any, column: str, settings: dict[str, Any]) -> Any:
    """Return what is asked, with its settings, as what `predict` takes."""
    asked = question(asked)
    if isinstance(asked, str):
        asked = _payload(asked, is_record=column == "inputs")
    if isinstance(asked, Mapping):
        return {**settings, **request_of_fields(dict(asked))}
    key = column if column in KEYS else "input"
    if not settings:
        return {key: asked} if column in KEYS and isinstance(asked, list) else asked
    return {key: messages_of(asked), **settings}


def _payload(text: str, *, is_record: bool) -> Any:
    """Return text as what it is: a payload or messages as JSON, else a question."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict):
        return value if is_record or any(key in value for key in KEYS) else text
    is_messages = bool(value) and all(isinstance(item, dict) and ("role" in item or "type" in item) for item in value)
    return value if is_messages else text


def request_of_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an evaluation dataset's row as a request.

    A row with `input` or `messages` is one already. In any other, the one field of text is the question.

    Raises:
        InvalidInputError: No field, or more than one, can be the question.
    """
    if "input" in fields or isinstance(fields.get("messages"), list):
        return fields
    questions = [name for name, value in fields.items() if isinstance(value, str) and name not in _TEXT_SETTINGS]
    if len(questions) != 1:
        raise InvalidInputError(
            f"The row can't be sent: it has {len(questions)} fields that could be the question, of {sorted(fields)}. "
            "Give it 'input', 'messages' or one field of text, or evaluate a function of yours that calls the client."
        )
    (name,) = questions
    rest = {key: value for key, value in fields.items() if key != name}
    return {"input": [{"role": "user", "content": fields[name]}], **rest}


def _setting(name: str, text: Any) -> Any:
    """Return a setting that a table of text holds.

    Raises:
        ValueError, SyntaxError: It is no such setting.
    """
    if not isinstance(text, str):
        return text
    if name in _STRUCTURED or (name in _TEXT_OR_STRUCTURED and text.lstrip()[:1] in ("{", "[")):
        try:
            value = json.loads(text)
        except ValueError:
            value = literal_eval(text)  # what str() and pandas write of dicts and lists
        if name in _STRUCTURED and not isinstance(value, (dict, list)):
            raise ValueError(name)
        return value
    if name in _TEXT_OR_STRUCTURED or name in _TEXT_SETTINGS:
        return text
    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        return int(text)
    except ValueError:
        return float(text)


def _is_missing(cell: Any) -> bool:
    """Return whether a cell holds nothing, in whatever way a table says so."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return True
    # NaN and NaT are unlike themselves; pandas.NA is neither.
    return type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float) and math.isnan(cell))


def _kept(value: Any) -> Any:
    """Return a cell as JSON knows it."""
    cell = plain(value)
    if isinstance(cell, str) or not _is_missing(cell):
        return cell.isoformat() if hasattr(cell, "isoformat") else cell
    return None


def plain(value: Any, nulls: Nulls = "keep") -> Any:
    """Return numpy's values and Spark's rows, which tables hold, as Python's own.

    Args:
        value: A cell, or what is in one.
        nulls: What becomes of keys whose value is None. Where only some structs of a column have a field, Arrow and
            Spark add it to the others as null. "drop_in_structs" drops those keys where the values come from Arrow or
            Spark, as arrays and rows, and keeps them in dicts that are Python's own.
    """
    within = "drop" if nulls == "drop_in_structs" else nulls
    if hasattr(value, "asDict"):
        return plain(value.asDict(), within)
    if isinstance(value, dict):
        items = {key: plain(item, nulls) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not None} if nulls == "drop" else items
    if isinstance(value, (list, tuple)):
        return [plain(item, nulls) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), within)
    return value


def question(cell: Any) -> Any:
    """Return a cell as inputs: a number is a question that a reader of tables took for one."""
    return str(cell) if isinstance(cell, (int, float)) and not isinstance(cell, bool) else cell


def messages_of(cell: Any) -> Any:
    cell = question(cell)
    return [{"role": "user", "content": cell}] if isinstance(cell, str) else cell
