"""The rows of a batch, one at a time, whatever holds them: an iterable, a frame, a file."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_agent_target.errors import InvalidInputError

# Columns that hold a row's inputs, where none is named: the two requests' own, and evaluation datasets'.
_COLUMNS = ("input", "messages", "inputs")
_ID = "id"
_ROWS_AT_A_TIME = 256


class Row(NamedTuple):
    """A row's id and what to ask; an error in its place where the row can't be read."""

    id: Any
    inputs: Any


class Rows:
    """A batch's rows, to be read once.

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
        return self._items(iter(inputs))

    def _items(self, items: Iterator[Any]) -> Iterator[Row]:
        for item in items:
            is_record = isinstance(item, Mapping) and not {"input", "messages"} & item.keys()
            if self._column or (is_record and "inputs" in item):
                yield self._record(item, self._id_column)
            else:
                named = self._id_column and isinstance(item, Mapping)
                yield Row(_plain(item.get(self._id_column)) if named else None, item)

    def _frame(self, frame: Any) -> Iterator[Row]:
        column, id_column = self._columns_of(list(frame.columns), "The DataFrame")
        ids = iter(frame[id_column]) if id_column is not None else itertools.repeat(None)
        return (Row(_plain(id_), _cell(cell)) for id_, cell in zip(ids, frame[column], strict=False))

    def _file(self, path: Path) -> Iterator[Row]:
        read = _FILES.get(path.suffix.lower())
        if read is None:
            raise InvalidInputError(f"{str(path)!r} can't be read as rows: name a file of {', '.join(_FILES)}.")
        if not path.is_file():
            raise InvalidInputError(f"There is no file {str(path)!r}.")
        return read(self, path)

    def _csv(self, path: Path) -> Iterator[Row]:
        csv.field_size_limit(1 << 30)
        file = path.open(encoding="utf-8-sig", newline="")
        records = csv.DictReader(file)
        with _reading(path):
            header = records.fieldnames or []
        column, id_column = self._columns_of(list(header), str(path))

        def rows() -> Iterator[Row]:
            with file, _reading(path):
                for record in records:
                    yield Row(record.get(id_column) if id_column else None, _cell(record[column]))

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
                if not isinstance(value, dict):
                    yield Row(None, value)
                elif self._column or (not {"input", "messages"} & value.keys() and "inputs" in value):
                    yield self._record(value, self._id_column or _ID)
                else:
                    yield Row(value.pop(self._id_column or _ID, None), value)

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
        column, id_column = self._columns_of(file.schema_arrow.names, str(path))

        def rows() -> Iterator[Row]:
            wanted = [column] if id_column is None else [column, id_column]
            with file, _reading(path):
                for part in file.iter_batches(_ROWS_AT_A_TIME, columns=wanted):
                    for record in part.to_pylist():
                        yield Row(record[id_column] if id_column else None, _cell(_without_nulls(record[column])))

        return rows()

    def _columns_of(self, columns: list[Any], whose: str) -> tuple[Any, Any]:
        for named in (self._column, self._id_column):
            if named is not None and named not in columns:
                raise InvalidInputError(f"{whose} has no column {named!r}; it has {columns}.")
        column = self._column
        if column is None:
            found = [name for name in _COLUMNS if name in columns]
            if len(found) != 1:
                has = "more than one of" if found else "none of"
                raise InvalidInputError(
                    f"{whose} has {has} the columns {', '.join(map(repr, _COLUMNS))}; it has {columns}. Name the one "
                    "that holds the inputs: column=..."
                )
            column = found[0]
        id_column = self._id_column or (_ID if _ID in columns else None)
        for name in (column, id_column):
            if columns.count(name) > 1:
                raise InvalidInputError(f"{whose} has more than one column {name!r}. Name each differently.")
        return column, id_column

    def _record(self, record: Any, id_column: str | None) -> Row:
        column = self._column or "inputs"
        if not isinstance(record, Mapping) or column not in record:
            given = sorted(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
            return Row(None, InvalidInputError(f"The row has no {column!r}, but {given}."))
        return Row(_plain(record.get(id_column)) if id_column else None, _cell(record[column]))


_FILES: dict[str, Callable[[Rows, Path], Iterator[Row]]] = {
    ".csv": Rows._csv,
    ".jsonl": Rows._jsonl,
    ".parquet": Rows._parquet,
}


def _cell(value: Any) -> Any:
    """Return a cell of a table as inputs: text may be a payload's JSON, a dict may be of an evaluation dataset."""
    value = _plain(value)
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        if isinstance(parsed, dict) or (
            parsed and isinstance(parsed, list) and all(isinstance(item, dict) for item in parsed)
        ):
            value = parsed
    if isinstance(value, dict) and not {"input", "messages"} & value.keys() and len(value) == 1:
        (only,) = value.values()  # {"question": "..."}
        return only if isinstance(only, (str, list)) else value
    return value


def _plain(value: Any) -> Any:
    """Return numpy's values, which frames hold, as Python's own."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value


def _without_nulls(value: Any) -> Any:
    """Drop the keys that Parquet adds as nulls to a list of structs of which only some have them."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a file's reader raises into an error that names the file."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (csv.Error, UnicodeDecodeError, OSError)) or type(error).__module__.startswith("pyarrow"):
            raise InvalidInputError(f"{str(path)!r} can't be read: {error}.") from error
        raise
