"""pandas in, pandas out: the rows of a DataFrame as requests, outcomes as a DataFrame. Only its calls need pandas."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.errors import InvalidInputError

if TYPE_CHECKING:
    from mlflow_agent_target.batch.results import BatchRow

_KEYS = ("input", "messages")
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


def is_frame(inputs: Any) -> bool:
    """Return whether `inputs` is a pandas DataFrame or Series, without importing pandas."""
    return hasattr(inputs, "iloc") and hasattr(inputs, "index")


def requests_of(frame: Any) -> list[Any]:
    """Return the requests that a frame holds: one a row, or one for a conversation that is spread over its rows.

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
        return [_question(cell) for cell in map(_plain, frame)]
    if not frame.columns.is_unique:
        raise InvalidInputError(f"The DataFrame has columns of the same name: {_names(frame)}. Name each differently.")
    cells = {str(name): frame[name] for name in frame.columns}
    if any(key in cells for key in _KEYS):
        return _by_key(_rows(cells, {*_KEYS, *_SETTINGS}))
    if "role" in cells:
        if others := cells.keys() - _MESSAGE:
            raise InvalidInputError(
                f"The DataFrame's rows are messages, of which {', '.join(map(repr, sorted(others)))} is no part. Drop "
                "it, or give a list of messages a row, in a column 'messages'."
            )
        messages = _rows(cells, _MESSAGE)
        return [messages] if messages else []
    if "inputs" in cells:
        return [_question(cell) for cell in map(_plain, cells["inputs"])]
    asked = [name for name in cells if name != "id" and name not in _SETTINGS]
    if len(asked) != 1:
        raise InvalidInputError(
            f"The DataFrame has the columns {_names(frame)}, and it is not clear which of them is the question. Name "
            "it 'input'."
        )
    cells["input"] = cells.pop(asked[0])
    return _by_key(_rows(cells, {"input", *_SETTINGS}))


def frame_of(outcomes: Sequence[BatchRow], frame: Any) -> Any:
    """Return what came of a frame's requests as a DataFrame.

    Args:
        outcomes: What came of each request of `requests_of(frame)`, in that order.
        frame: The frame itself.

    Returns:
        A DataFrame on the index of `frame` (its first label, for a conversation spread over its rows) with the columns
        `output_text`, `response` (the answer as a dict), `error` ("ErrorClass: message", or None) and `request_id`,
        after the `id` of `frame`, where it has one.
    """
    import pandas

    columns = {
        "output_text": [row.output_text for row in outcomes],
        "response": [None if row.response is None else dict(row.response) for row in outcomes],
        "error": [f"{row.error}: {row.error_message}" if row.error else None for row in outcomes],
        "request_id": [row.request_id for row in outcomes],
    }
    scored = pandas.DataFrame(columns, index=frame.index[: len(outcomes)], dtype=object)
    if "id" in getattr(frame, "columns", ()) and len(outcomes) == len(frame):
        scored.insert(0, "id", frame["id"])
    return scored


def _rows(cells: dict[str, Any], names: Container[str]) -> list[dict[str, Any]]:
    """Return the named columns as rows, without the cells that are missing."""
    columns = {name: map(_plain, column) for name, column in cells.items() if name in names}
    return [
        {name: cell for name, cell in zip(columns, row, strict=True) if cell is not None}
        for row in zip(*columns.values(), strict=True)
    ]


def _by_key(rows: list[dict[str, Any]]) -> list[Any]:
    given = [(key, row[key]) for row in rows for key in _KEYS if key in row]
    spread = [isinstance(cell, dict) and ("role" in cell or "type" in cell) for _, cell in given]
    if not any(spread):
        return [{**row, **{key: _messages(row[key]) for key in _KEYS if key in row}} for row in rows]
    if not all(spread) or len(given) != len(rows) or len({key for key, _ in given}) != 1:
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
    # What looks like a number, pandas.read_json has made one.
    return [{"role": "user", "content": str(cell)}] if isinstance(cell, (str, int, float)) else cell


def _question(cell: Any) -> Any:
    return str(cell) if isinstance(cell, (int, float)) else cell


def _plain(cell: Any) -> Any:
    """Return a cell without numpy, pandas and Spark's rows in it; None where it is missing."""
    import pandas

    if pandas.api.types.is_scalar(cell) and pandas.isna(cell):
        return None
    return _plain_value(cell)


def _plain_value(value: Any, in_array: bool = False) -> Any:
    if hasattr(value, "asDict"):  # a struct, as Spark gives it
        value, in_array = value.asDict(), True
    if isinstance(value, dict):
        # Structs have all the fields of their column: in those, as in cells, what is null is missing.
        values = {key: _plain_value(item, in_array) for key, item in value.items()}
        return {key: item for key, item in values.items() if item is not None} if in_array else values
    if isinstance(value, (list, tuple)):
        return [_plain_value(item, in_array) for item in value]
    if hasattr(value, "tolist"):
        return _plain_value(value.tolist(), in_array=True)
    return value


def _names(frame: Any) -> str:
    return ", ".join(repr(str(name)) for name in frame.columns)
