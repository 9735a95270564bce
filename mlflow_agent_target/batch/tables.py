"""Tables of any kind: iterables, frames, files. The rows of a batch are read one at a time."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

from mlflow_agent_target.batch.cells import Row, columns_of, row_of
from mlflow_agent_target.batch.files import KINDS, File, kind_of
from mlflow_agent_target.batch.values import is_missing, plain, question
from mlflow_agent_target.errors import InvalidInputError

_logger = logging.getLogger(__name__)


class Rows:
    """A batch's rows, which can be read once.

    Args:
        inputs: Any iterable of what `predict` takes, or of records; a DataFrame of pandas, polars or Spark, an Arrow
            table, a Series, an evaluation dataset; or the name of a file.
        column: The column that holds a row's inputs. None for `input`, `messages` or `inputs`.
        id_column: The column that names a row. None for `id`, where there is one.
        limit: The most rows to read; None for all.
        keep_columns: Whether rows carry the other columns of their records. None for those of frames and Parquet.

    Attributes:
        size: How many there are; None where that is not known before they are read.
        index: The labels of a pandas frame's rows; None for anything else.

    Raises:
        InvalidInputError: They can't be read, or don't have the column.
    """

    def __init__(
        self,
        inputs: Any,
        column: str | None = None,
        id_column: str | None = None,
        limit: int | None = None,
        keep_columns: bool | None = None,
    ) -> None:
        self._column = column
        self._id_column = id_column
        self._keeps = keep_columns
        self._file: File | None = None
        self._dropped: set[str] = set()
        self.size: int | None = None
        self.index: Any = None
        self._rows = self._read(inputs)
        if limit is not None:
            self._rows = itertools.islice(self._rows, limit)
            self.size = limit if self.size is None else min(limit, self.size)

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    @property
    def share_read(self) -> float | None:
        """The part of a file that has been read, from 0 to 1; None where that is not known."""
        return None if self._file is None else self._file.share_read

    def _read(self, inputs: Any) -> Iterator[Row]:
        is_name = isinstance(inputs, str) and (kind_of(inputs) is not None or os.path.isdir(inputs))
        if is_name or isinstance(inputs, os.PathLike):
            return self._of_file(Path(inputs))
        if hasattr(inputs, "to_df") and not hasattr(inputs, "columns"):
            inputs = inputs.to_df()  # an evaluation dataset
        if (records := self._of_frame(inputs)) is not None:
            return records
        if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable):
            raise InvalidInputError(
                f"The inputs of a batch must be many: a list or another iterable, a DataFrame, or the name of a file "
                f"({', '.join(KINDS)}), not {type(inputs).__name__} {inputs!r:.60}. For one, use predict."
            )
        if isinstance(inputs, Sized):
            self.size = len(inputs)
        if hasattr(inputs, "iloc") and hasattr(inputs, "index"):  # a Series
            self.index = inputs.index
        return map(self._of_item, inputs)

    def _of_file(self, path: Path) -> Iterator[Row]:
        self._file = file = File(path)
        self.size = file.size
        if file.names is None:
            return map(self._of_item, file)
        columns = columns_of(file.names, self._column, self._id_column, str(path))
        keeps = self._keeps is not False and (self._keeps or not file.is_text)
        return (
            Row(None, found)
            if isinstance(found, Exception)
            else row_of(found, *columns, keeps=keeps, is_text=file.is_text, is_arrow=not file.is_text)
            for found in file
        )

    def _of_frame(self, frame: Any) -> Iterator[Row] | None:
        """Return the rows of a frame of whatever library; None where it is none."""
        if hasattr(frame, "columns") and hasattr(frame, "itertuples"):  # pandas
            names, self.size, self.index = list(frame.columns), len(frame), frame.index
            records: Iterable[Any] = (
                dict(zip(names, values, strict=True)) for values in frame.itertuples(index=False, name=None)
            )
        elif hasattr(frame, "columns") and hasattr(frame, "iter_rows"):  # polars
            names, self.size = list(frame.columns), len(frame)
            records = frame.iter_rows(named=True)
        elif hasattr(frame, "schema") and hasattr(frame, "to_pylist"):  # Arrow
            names, self.size = list(frame.schema.names), frame.num_rows
            groups = frame.to_batches(max_chunksize=256) if hasattr(frame, "to_batches") else [frame]
            records = (record for group in groups for record in group.to_pylist())
        elif hasattr(frame, "columns") and hasattr(frame, "toLocalIterator"):  # Spark
            names = list(frame.columns)
            records = (record.asDict(recursive=True) for record in frame.toLocalIterator())
        elif hasattr(frame, "collect") and hasattr(frame, "collect_schema"):
            raise InvalidInputError("The frame is lazy, and has no rows yet: give frame.collect().")
        else:
            return None
        columns = columns_of(names, self._column, self._id_column, "The DataFrame")
        keeps = self._keeps is not False
        is_arrow = self.index is None  # or keeps its values in the same way
        return (row_of(record, *columns, keeps=keeps, is_arrow=is_arrow) for record in records)

    def _of_item(self, item: Any) -> Row:
        """Return an element of an iterable, or of a file of JSON lines, as a row."""
        if isinstance(item, Row):
            return item
        if isinstance(item, Exception):
            return Row(None, item)
        if hasattr(item, "asDict"):  # a row of Spark's
            row = item.asDict(recursive=True)
            return row_of(row, self._column, self._id_column, keeps=bool(self._keeps), is_arrow=True)
        if isinstance(item, Mapping):
            return row_of(item, self._column, self._id_column, keeps=bool(self._keeps), drops=self._warn_of)
        if self._column is not None:
            return Row(None, InvalidInputError(f"The row has no {self._column!r}: it is {type(item).__name__}."))
        asked = plain(item) if hasattr(item, "tolist") or hasattr(item, "as_py") else item
        if is_missing(asked):
            return Row(None, InvalidInputError("The row asks nothing: it is empty."))
        return Row(None, question(asked))

    def _warn_of(self, names: set[str]) -> None:
        if new := names - self._dropped:
            self._dropped |= new
            _logger.warning(
                "The rows have %s beside what is asked, which is not sent: it may say what the right answer is. What "
                "the agent is to know goes into custom_inputs.",
                ", ".join(map(repr, sorted(map(str, new)))),
            )
