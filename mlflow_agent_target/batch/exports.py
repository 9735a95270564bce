"""Results for other programs: pandas, JSON lines, Parquet. A file appears when it is whole."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.batch.records import SHOWN, SHOWN_NAMES
from mlflow_agent_target.errors import InvalidInputError

if TYPE_CHECKING:
    from mlflow_agent_target.batch.records import BatchRow

_ROWS_IN_A_GROUP = 256
_SCORED = ("output_text", "response", "error", "request_id")


def to_pandas(records: Iterable[dict[str, Any]]) -> Any:
    """Return records of the columns `SHOWN_NAMES` as a DataFrame.

    Raises:
        InvalidInputError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise InvalidInputError("to_pandas needs pandas: pip install 'mlflow-agent-target[local]'.") from error
    return pandas.DataFrame(records, columns=list(SHOWN_NAMES))


def to_jsonl(records: Iterable[dict[str, Any]], path: Path) -> None:
    """Write each record as a line of JSON."""
    with _replacing(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for record in records:
            # UTF-8 has no halves of surrogate pairs. Written as backslash and number, they are what JSON makes of them.
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def to_parquet(rows: Iterator[tuple[Any, ...]], path: Path) -> None:
    """Write rows of the columns `SHOWN`, with the values as the journal has them.

    Raises:
        InvalidInputError: pyarrow is not installed, or the file can't be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InvalidInputError("to_parquet needs pyarrow: pip install 'mlflow-agent-target[local]'.") from error
    types = [getattr(pyarrow, str(column.arrow))() for column in SHOWN.values()]
    schema = pyarrow.schema(list(zip(SHOWN_NAMES, types, strict=True)))
    with _replacing(path) as part, pyarrow.parquet.ParquetWriter(part, schema) as writer:
        while group := list(itertools.islice(rows, _ROWS_IN_A_GROUP)):
            columns = zip(*group, strict=True)
            writer.write_table(pyarrow.table(dict(zip(SHOWN_NAMES, columns, strict=True)), schema=schema))


def to_scored_frame(rows: Iterable[BatchRow], frame: Any) -> Any:
    """Return what `predict` gives for a DataFrame.

    Args:
        rows: What came of each request that the frame holds, in its order.
        frame: The frame, a DataFrame or Series.

    Returns:
        A DataFrame on the index of `frame` (its first label, for a conversation that is spread over its rows) with the
        columns `output_text`, `response` (the answer as a dict), `error` ("ErrorClass: message", or None) and
        `request_id`, after the `id` of `frame`, where it has one.
    """
    import pandas

    cells = [
        (
            row.output_text,
            None if row.response is None else dict(row.response),
            f"{row.error}: {row.error_message}" if row.error else None,
            row.request_id,
        )
        for row in rows
    ]
    scored = pandas.DataFrame(cells, frame.index[: len(cells)], columns=list(_SCORED), dtype=object)
    if "id" in getattr(frame, "columns", ()) and len(cells) == len(frame):
        scored.insert(0, "id", frame["id"])
    return scored


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` that takes its place when all went well."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise InvalidInputError(f"{str(path)!r} can't be written: {error}.") from error
    finally:
        part.unlink(missing_ok=True)
