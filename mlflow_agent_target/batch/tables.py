"""Tables of any kind: iterables, frames, CSV, JSONL, Parquet. The rows of a batch are read one at a time."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

from mlflow_agent_target.batch.cells import (
    Row,
    columns_of,
    inputs_of,
    plain,
    question,
    requests,
    row_of_item,
    row_of_line,
)
from mlflow_agent_target.errors import InvalidInputError

_ROWS_AT_A_TIME = 256


class Rows:
    """A batch's rows, which can be read once.

    Args:
        inputs: Any iterable of what `predict` takes, a pandas DataFrame or Series, or the name of a CSV, JSONL or
            Parquet file.
        column: The column that holds a row's inputs. None for `input`, `messages` or `inputs`.
        id_column: The column that names a row. None for `id`, where there is one.
        limit: The most rows to read; None for all.

    Raises:
        InvalidInputError: They can't be read, or don't have the column.
    """

    def __init__(
        self, inputs: Any, column: str | None = None, id_column: str | None = None, limit: int | None = None
    ) -> None:
        self._column = column
        self._id_column = id_column
        self.size: int | None = None
        """How many there are; None where that is not known before they are read."""
        self._rows = self._read(inputs)
        if limit is not None:
            self._rows = itertools.islice(self._rows, limit)
            self.size = limit if self.size is None else min(limit, self.size)

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def _read(self, inputs: Any) -> Iterator[Row]:
        if isinstance(inputs, Path) or (isinstance(inputs, str) and Path(inputs).suffix.lower() in _FILES):
            return self._file(Path(inputs))
        if hasattr(inputs, "to_df") and not hasattr(inputs, "columns"):
            inputs = inputs.to_df()  # an evaluation dataset
        if hasattr(inputs, "columns") and hasattr(inputs, "itertuples"):
            self.size = len(inputs)
            return self._frame(inputs)
        if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable):
            raise InvalidInputError(
                f"The inputs of a batch must be many: a list or another iterable, a DataFrame, or the name of a file "
                f"({', '.join(_FILES)}), not {type(inputs).__name__} {inputs!r:.60}. For one, use predict."
            )
        if isinstance(inputs, Sized):
            self.size = len(inputs)
        return (row_of_item(item, self._column, self._id_column) for item in inputs)

    def _frame(self, frame: Any) -> Iterator[Row]:
        column, id_column = columns_of(list(frame.columns), self._column, self._id_column, "The DataFrame")
        ids = iter(frame[id_column]) if id_column is not None else itertools.repeat(None)
        return (Row(plain(id_), inputs_of(cell)) for id_, cell in zip(ids, frame[column], strict=False))

    def _file(self, path: Path) -> Iterator[Row]:
        read = _FILES.get(path.suffix.lower())
        if read is None:
            raise InvalidInputError(f"{str(path)!r} can't be read as rows: name a file of {', '.join(_FILES)}.")
        if not path.is_file():
            raise InvalidInputError(f"There is no file {str(path)!r}.")
        return read(self, path)

    def _csv(self, path: Path) -> Iterator[Row]:
        csv.field_size_limit(1 << 30)  # a long conversation is longer than its own limit, 128 kB
        file = path.open(encoding="utf-8-sig", newline="")
        records = csv.DictReader(file)
        with _reading(path):
            header = records.fieldnames or []
        column, id_column = columns_of(list(header), self._column, self._id_column, str(path))

        def rows() -> Iterator[Row]:
            with file, _reading(path):
                for record in records:
                    yield Row(record.get(id_column) if id_column else None, inputs_of(record[column]))

        return rows()

    def _jsonl(self, path: Path) -> Iterator[Row]:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield Row(None, InvalidInputError(f"Line {number} of {str(path)!r} is no JSON: {error}."))
                    continue
                yield row_of_line(value, self._column, self._id_column)

    def _parquet(self, path: Path) -> Iterator[Row]:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise InvalidInputError(
                "Parquet files need pyarrow: pip install 'mlflow-agent-target[local]', or give CSV or JSONL."
            ) from error
        with _reading(path):
            file = pyarrow.parquet.ParquetFile(path)
        self.size = file.metadata.num_rows
        column, id_column = columns_of(file.schema_arrow.names, self._column, self._id_column, str(path))

        def rows() -> Iterator[Row]:
            wanted = [column] if id_column is None else [column, id_column]
            with file, _reading(path):
                for part in file.iter_batches(_ROWS_AT_A_TIME, columns=wanted):
                    for record in part.to_pylist():
                        yield Row(record[id_column] if id_column else None, inputs_of(plain(record[column], "drop")))

        return rows()


_FILES: dict[str, Callable[[Rows, Path], Iterator[Row]]] = {
    ".csv": Rows._csv,
    ".jsonl": Rows._jsonl,
    ".parquet": Rows._parquet,
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
        return list(map(question, map(_plain_or_missing, frame)))
    if not frame.columns.is_unique:
        names = ", ".join(repr(str(name)) for name in frame.columns)
        raise InvalidInputError(f"The DataFrame has columns of the same name: {names}. Name each differently.")
    return requests({str(name): map(_plain_or_missing, frame[name]) for name in frame.columns})


def _plain_or_missing(cell: Any) -> Any:
    """Return a frame's cell as plain values; None where it is missing, in whatever way pandas says so."""
    import pandas

    if pandas.api.types.is_scalar(cell) and pandas.isna(cell):
        return None
    return plain(cell, "drop_in_structs")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a file's reader raises into an error that names the file."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (csv.Error, UnicodeDecodeError, OSError)) or type(error).__module__.startswith("pyarrow"):
            raise InvalidInputError(f"{str(path)!r} can't be read: {error}.") from error
        raise
