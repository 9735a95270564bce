"""What a cell or a record of a table means: a payload, a question, a setting that goes along, an id. Pure.

Two calls take tables, and each reads them in its own way. `predict_batch` sends one column, and keeps one as the rows'
ids (`Row` and what makes one). `predict` with a DataFrame sends rows with their settings (`requests`).
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from mlflow_agent_target.errors import InvalidInputError

_KEYS = ("input", "messages")
# Columns that hold a row's inputs, where none is named: the two requests' own, and that of evaluation datasets.
_INPUT_COLUMNS = (*_KEYS, "inputs")
_ID = "id"
# Columns that go with their row. No others do: what the right answer is must not reach the agent.
_SETTINGS = {
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
# Columns of messages that are spread over rows: what the schemas know of messages and items.
_MESSAGE = {
    "role",
    "content",
    "type",
    "id",
    "name",
    "status",
    "tool_calls",
    "tool_call_id",
    "refusal",
    "attachments",
    "call_id",
    "arguments",
    "output",
    "summary",
    "encrypted_content",
    "server_label",
    "approval_request_id",
    "approve",
    "reason",
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
        found = [name for name in _INPUT_COLUMNS if name in names]
        if len(found) != 1:
            has = "more than one of" if found else "none of"
            raise InvalidInputError(
                f"{table} has {has} the columns {', '.join(map(repr, _INPUT_COLUMNS))}; it has {names}. Name the one "
                "that holds the inputs: column=..."
            )
        column = found[0]
    id_column = id_column or (_ID if _ID in names else None)
    for name in (column, id_column):
        if names.count(name) > 1:
            raise InvalidInputError(f"{table} has more than one column {name!r}. Name each differently.")
    return column, id_column


def row_of_item(item: Any, column: str | None, id_column: str | None) -> Row:
    """Return an element of the caller's iterable as a row. Only a named id is looked for."""
    if column or _is_evaluation_record(item):
        return _row_of_record(item, column, id_column)
    return Row(plain(item.get(id_column)) if id_column and isinstance(item, Mapping) else None, item)


def row_of_line(value: Any, column: str | None, id_column: str | None) -> Row:
    """Return what a line of a JSONL file holds as a row. The id is no part of what is sent."""
    if not isinstance(value, dict):
        return Row(None, value)
    id_column = id_column or _ID
    if column or _is_evaluation_record(value):
        return _row_of_record(value, column, id_column)
    inputs = {key: item for key, item in value.items() if key != id_column}
    return Row(value.get(id_column), inputs)


def _is_evaluation_record(value: Any) -> bool:
    """Return whether a mapping holds its inputs in one field, beside labels, and is not itself a payload."""
    return isinstance(value, Mapping) and "inputs" in value and not any(key in value for key in _KEYS)


def _row_of_record(record: Any, column: str | None, id_column: str | None) -> Row:
    column = column or "inputs"
    if not isinstance(record, Mapping) or column not in record:
        given = sorted(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        return Row(None, InvalidInputError(f"The row has no {column!r}, but {given}."))
    return Row(plain(record.get(id_column)) if id_column else None, inputs_of(record[column]))


def inputs_of(cell: Any) -> Any:
    """Return a cell as what `predict` takes: text may be a payload as JSON, a dict may be a question under a name."""
    value = plain(cell)
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        if isinstance(parsed, dict) or (
            parsed and isinstance(parsed, list) and all(isinstance(item, dict) for item in parsed)
        ):
            value = parsed
    if isinstance(value, dict) and len(value) == 1 and not any(key in value for key in _KEYS):
        (only,) = value.values()  # {"question": "..."}
        return only if isinstance(only, (str, list)) else value
    return value


def plain(value: Any, nulls: Literal["keep", "drop", "drop_in_structs"] = "keep") -> Any:
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


def requests(columns: Mapping[str, Iterable[Any]]) -> list[Any]:
    """Return the requests that a table holds: one a row, or one for a conversation that is spread over its rows.

    Args:
        columns: The table's columns by name. Cells are plain values; one that is missing is None.

    Raises:
        InvalidInputError: It is not clear what the columns mean.
    """
    if any(key in columns for key in _KEYS):
        return _requests_by_key(_rows(columns, {*_KEYS, *_SETTINGS}))
    if "role" in columns:
        if others := columns.keys() - _MESSAGE:
            raise InvalidInputError(
                f"The DataFrame's rows are messages, of which {', '.join(map(repr, sorted(others)))} is no part. Drop "
                "it, or give a list of messages a row, in a column 'messages'."
            )
        messages = _rows(columns, _MESSAGE)
        return [messages] if messages else []
    if "inputs" in columns:
        return list(map(question, columns["inputs"]))
    asked = [name for name in columns if name != _ID and name not in _SETTINGS]
    if len(asked) != 1:
        raise InvalidInputError(
            f"The DataFrame has the columns {', '.join(map(repr, columns))}, and it is not clear which of them is the "
            "question. Name it 'input'."
        )
    settings = {name: cells for name, cells in columns.items() if name in _SETTINGS}
    return _requests_by_key(_rows({**settings, "input": columns[asked[0]]}, {"input", *_SETTINGS}))


def question(cell: Any) -> Any:
    """Return a cell as inputs: a number is a question that pandas.read_json took for one."""
    return str(cell) if isinstance(cell, (int, float)) else cell


def _rows(columns: Mapping[str, Iterable[Any]], names: Container[str]) -> list[dict[str, Any]]:
    """Return the named columns as rows, without the cells that are missing."""
    wanted = {name: cells for name, cells in columns.items() if name in names}
    return [
        {name: cell for name, cell in zip(wanted, row, strict=True) if cell is not None}
        for row in zip(*wanted.values(), strict=True)
    ]


def _requests_by_key(rows: list[dict[str, Any]]) -> list[Any]:
    """Return rows with `input` or `messages` as requests: a list or text a row, or a message a row."""
    given = [(key, row[key]) for row in rows for key in _KEYS if key in row]
    is_message = [isinstance(cell, dict) and ("role" in cell or "type" in cell) for _, cell in given]
    if not any(is_message):
        return [{**row, **{key: _messages(row[key]) for key in _KEYS if key in row}} for row in rows]
    if not all(is_message) or len(given) != len(rows) or len({key for key, _ in given}) != 1:
        raise InvalidInputError(
            "Some rows of the DataFrame hold a message, others something else. Give a list of messages a row, or one "
            "conversation with a message a row."
        )
    key = given[0][0]
    settings = [{name: cell for name, cell in row.items() if name != key} for row in rows]
    if any(row != settings[0] for row in settings):
        raise InvalidInputError(
            f"The DataFrame's rows are the messages of one conversation (column '{key}'), but they differ in other "
            f"columns ({', '.join(sorted(set().union(*settings)))}). Give a list of messages a row, or the same values."
        )
    return [{key: [cell for _, cell in given], **settings[0]}]


def _messages(cell: Any) -> Any:
    cell = question(cell)
    return [{"role": "user", "content": cell}] if isinstance(cell, str) else cell
