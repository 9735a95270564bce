"""What a cell or a record of a table means: a payload, a question, a setting that goes along, an id. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mlflow_agent_target.batch.values import Nulls, identity, is_missing, json_value, messages_of, plain, question, read
from mlflow_agent_target.errors import InvalidInputError

KEYS = ("input", "messages")
# Columns that hold a row's inputs, where none is named: the two requests' own, and that of evaluation datasets.
INPUT_COLUMNS = (*KEYS, "inputs")
ID = "id"
# Columns that are known to say what the right answer is, or where a row comes from.
LABELS = {
    *("expectations", "expected_response", "expected_facts", "expected_retrieved_context", "guidelines"),
    *("outputs", "trace", "tags", "source", "ground_truth", "targets", "retrieved_context"),
}
# Settings that hold text; dicts; lists or dicts; text or those; whole numbers. Others are numbers, or true and false.
_TEXT_SETTINGS = ("client_request_id", "model", "previous_response_id", "tool_choice", "truncation", "user")
_OBJECTS = {
    *("custom_inputs", "context", "databricks_options", "usage_context", "metadata", "reasoning", "text"),
    *("response_format", "logit_bias"),
}
_STRUCTURED = {*_OBJECTS, "tools", "include"}
_WHOLE = {
    *("top_k", "max_tokens", "max_completion_tokens", "max_output_tokens", "max_tool_calls", "top_logprobs"),
    *("seed", "n"),
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
        found = [name for name in INPUT_COLUMNS if name in names]
        if len(found) != 1:
            has = "more than one of" if found else "none of"
            raise InvalidInputError(
                f"{table} has {has} the columns {', '.join(map(repr, INPUT_COLUMNS))}; it has {names}. Name the one "
                "that holds the inputs: column=..."
            )
        column = found[0]
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise InvalidInputError(
            f"{table} has more than one column {', '.join(map(repr, twice))}. Name each differently."
        )
    return column, id_column or (ID if ID in names else None)


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
    id_, others = None, dict(record)
    try:
        id_ = identity(plain(others.pop(id_column or ID, None)), is_text=is_text)
        return _row_of(id_, others, column, keeps, is_text, is_arrow, drops)
    except RecursionError:
        return Row(id_, InvalidInputError("The row is nested too deeply to be read."))


def _row_of(
    id_: Any,
    record: dict[str, Any],
    column: str | None,
    keeps: bool,
    is_text: bool,
    is_arrow: bool,
    drops: Callable[[set[str]], None] | None,
) -> Row:
    nulls: Nulls = "drop" if is_arrow else "drop_in_structs"
    kept = {str(name): json_value(plain(value, nulls)) for name, value in record.items()} if keeps else None
    if column is None:
        found = [name for name in INPUT_COLUMNS if name in record]
        if len(found) != 1:  # no question, or two: the request's own check says what is wrong
            return Row(id_, record, kept)
        column = found[0]
    if column not in record:
        return Row(id_, InvalidInputError(f"The row has no {column!r}, but {sorted(map(str, record))}."), kept)
    asked = plain(record.pop(column), nulls)
    if is_missing(asked):
        return Row(id_, InvalidInputError(f"The row asks nothing: its {column!r} is empty."), kept)
    if drops is not None:
        drops({name for name in record if name not in SETTINGS and name not in LABELS})
    settings: dict[str, Any] = {}
    for name, value in record.items():
        cell = plain(value, nulls) if name in SETTINGS else None
        if not is_missing(cell):
            try:
                settings[name] = _setting(name, cell, is_text=is_text)
            except ValueError:
                error = InvalidInputError(
                    f"The row's {name!r} can't be read: {cell!r:.80}. A column of this name is a setting of the "
                    "request. Name it otherwise if yours is none."
                )
                return Row(id_, error, kept)
    try:
        return Row(id_, _request(asked, column, settings, is_text=is_text), kept)
    except InvalidInputError as unclear:
        return Row(id_, unclear, kept)


def _request(asked: Any, column: str, settings: dict[str, Any], *, is_text: bool) -> Any:
    """Return what is asked, with its settings, as what `predict` takes."""
    asked = question(asked)
    if isinstance(asked, str):
        asked = _payload(asked, is_record=column == "inputs", is_text=is_text)
    if isinstance(asked, Mapping):
        return {**settings, **request_of_fields(dict(asked))}
    key = column if column in KEYS else "input"
    if settings or column == "messages":
        return {key: messages_of(asked), **settings}
    return {key: asked} if column in KEYS and isinstance(asked, list) else asked


def _payload(text: str, *, is_record: bool, is_text: bool) -> Any:
    """Return text as what it is: a payload or messages as JSON, else a question."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        value = read(text) if is_text else json.loads(text)
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


def _setting(name: str, cell: Any, *, is_text: bool) -> Any:
    """Return a cell as the setting that it is meant to be.

    Raises:
        ValueError: It is no such setting.
    """
    if isinstance(cell, str):
        cell = _of_text(name, cell, is_text=is_text)
    if name in _OBJECTS and isinstance(cell, list) and all(isinstance(item, list) and len(item) == 2 for item in cell):
        return {str(key): value for key, value in cell}  # what Arrow makes of a map, in pandas, too
    if name in _WHOLE and isinstance(cell, float) and cell.is_integer():
        return int(cell)  # what pandas makes of a column that misses one
    return cell


def _of_text(name: str, text: str, *, is_text: bool) -> Any:
    """Return the setting that a text stands for. Those that can only be dicts or lists are read whatever holds them.

    Raises:
        ValueError: It is no such setting, but may be a label of its name.
    """
    may_be_structured = is_text and name in _TEXT_OR_STRUCTURED and text.lstrip()[:1] in ("{", "[")
    if name in _STRUCTURED or may_be_structured:
        value = read(text)
        if not isinstance(value, dict if name in _OBJECTS else (dict, list)):
            raise ValueError(name)
        return value
    if not is_text or name in _TEXT_OR_STRUCTURED or name in _TEXT_SETTINGS:
        return text
    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not math.isfinite(number):
        raise ValueError(name)
    return number
