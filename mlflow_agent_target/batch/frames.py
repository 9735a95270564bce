"""What `predict` takes as a DataFrame: a request a row, or one conversation that is spread over its rows."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from mlflow_agent_target.batch.cells import ID, INPUT_COLUMNS, KEYS, LABELS, SETTINGS, row_of
from mlflow_agent_target.batch.values import is_missing, plain
from mlflow_agent_target.errors import InvalidInputError

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


def is_frame(inputs: Any) -> bool:
    """Return whether `inputs` is a pandas DataFrame or Series, without importing pandas."""
    return hasattr(inputs, "iloc") and hasattr(inputs, "index")


def requests_of(frame: Any) -> list[Any]:
    """Return the requests that a frame holds: one a row, or one for a conversation that is spread over its rows.

    A row means what it means in a batch; one that can't be read is its error.

    Args:
        frame: A DataFrame with a column `input` or `messages` (a list, or a text, a row; or a message a row), with
            columns `role` and `content` (a message a row), with a column `inputs` (a request a row), or with one
            column of questions. The settings of a request (`custom_inputs`, `context`, `temperature`, ...) go with
            their row; no other column does: expectations, labels and ids are not sent. Or a Series of requests or
            questions.

    Raises:
        InvalidInputError: It is not clear what the frame's columns mean.
    """
    if not hasattr(frame, "columns"):
        return [_asked({"input": _plain_or_missing(cell)}) for cell in frame]
    if not frame.columns.is_unique:
        names = ", ".join(repr(str(name)) for name in frame.columns)
        raise InvalidInputError(f"The DataFrame has columns of the same name: {names}. Name each differently.")
    return requests({str(name): map(_plain_or_missing, frame[name]) for name in frame.columns})


def _plain_or_missing(cell: Any) -> Any:
    """Return a frame's cell as plain values; None where it is missing, in whatever way pandas says so."""
    cell = plain(cell, "drop_in_structs")
    return None if is_missing(cell) else cell


def requests(columns: Mapping[str, Iterable[Any]]) -> list[Any]:
    """Return the requests that a table holds: one a row, or one for a conversation that is spread over its rows.

    Args:
        columns: The table's columns by name. Cells are plain values; one that is missing is None.

    Raises:
        InvalidInputError: It is not clear what the columns mean.
    """
    if any(key in columns for key in KEYS):
        return _requests_by_key(_rows(columns, {*KEYS, *SETTINGS}))
    if "role" in columns:
        if others := columns.keys() - _MESSAGE:
            raise InvalidInputError(
                f"The DataFrame's rows are messages, of which {', '.join(map(repr, sorted(others)))} is no part. Drop "
                "it, or give a list of messages a row, in a column 'messages'."
            )
        messages = _rows(columns, _MESSAGE)
        return [messages] if messages else []
    if "inputs" in columns:
        return list(map(_asked, _rows(columns, {"inputs", *SETTINGS})))
    asked = [name for name in columns if name != ID and name not in SETTINGS and name not in LABELS]
    if len(asked) != 1:
        raise InvalidInputError(
            f"The DataFrame has the columns {', '.join(map(repr, columns))}, and it is not clear which of them is the "
            "question. Name it 'input'."
        )
    settings = {name: cells for name, cells in columns.items() if name in SETTINGS}
    return _requests_by_key(_rows({**settings, "input": columns[asked[0]]}, {"input", *SETTINGS}))


def _asked(record: dict[str, Any]) -> Any:
    """Return what a row asks, or the error that it is."""
    return row_of(record if any(key in record for key in INPUT_COLUMNS) else {"input": None}, None, None).inputs


def _rows(columns: Mapping[str, Iterable[Any]], names: Container[str]) -> list[dict[str, Any]]:
    """Return the named columns as rows, without the cells that are missing."""
    wanted = {name: cells for name, cells in columns.items() if name in names}
    return [
        {name: cell for name, cell in zip(wanted, row, strict=True) if cell is not None}
        for row in zip(*wanted.values(), strict=True)
    ]


def _requests_by_key(rows: list[dict[str, Any]]) -> list[Any]:
    """Return rows with `input` or `messages` as requests: a list or text a row, or a message a row."""
    given = [(key, row[key]) for row in rows for key in KEYS if key in row]
    is_message = [isinstance(cell, dict) and ("role" in cell or "type" in cell) for _, cell in given]
    if not any(is_message):
        return list(map(_asked, rows))
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
