"""Records of files: CSV, TSV, JSON lines (each also compressed), Parquet and folders of it. Read one at a time."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import unquote

from mlflow_agent_target.batch.values import identity
from mlflow_agent_target.errors import InvalidInputError

_ROWS_AT_A_TIME = 256
_TEXT = (".csv", ".tsv", ".jsonl", ".ndjson")
KINDS = (*_TEXT, ".parquet")
STANDARD_INPUT = "-"
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # what Spark calls the folder of rows without a value

# A record, or the error that is the outcome of its row.
Found = Any


def kind_of(path: str | Path) -> str | None:
    """Return what a file holds, by its name; None where that is not known."""
    if str(path) == STANDARD_INPUT:
        return ".jsonl"
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes[-1:] == [".gz"] and suffixes[-2:-1] and suffixes[-2] in _TEXT:
        return suffixes[-2]
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else None


class File:
    """A file of records, which can be read once.

    Args:
        path: The file; a folder of Parquet; "-" for JSON lines on standard input.

    Attributes:
        names: The names of its columns; None where each record has its own.
        size: How many records there are; None where that is not known before they are read.
        is_text: Whether its cells can only be text.

    Raises:
        InvalidInputError: It can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.names: list[str] | None = None
        self.size: int | None = None
        self._path = path
        self._raw: IO[bytes] | None = None
        self._bytes = 0
        kind = kind_of(path) or (".parquet" if path.is_dir() else None)
        if kind is None:
            raise InvalidInputError(
                f"{str(path)!r} can't be read as rows: name a file of {', '.join(KINDS)} (text also as .gz), or a "
                "folder of Parquet."
            )
        if str(path) != STANDARD_INPUT and not path.exists():
            raise InvalidInputError(f"There is no file {str(path)!r}.")
        self.is_text = kind in (".csv", ".tsv")
        open_: dict[str, Callable[[], Iterator[Found]]] = {
            ".csv": lambda: self._table(","),
            ".tsv": lambda: self._table("\t"),
            ".parquet": self._parquet,
        }
        self._records = open_.get(kind, self._lines)()

    def __iter__(self) -> Iterator[Found]:
        return self._records

    @property
    def share_read(self) -> float | None:
        """The part of the file's bytes that has been read, from 0 to 1; None where that is not known."""
        if self._raw is None or not self._bytes:
            return None
        try:
            return min(self._raw.tell() / self._bytes, 1.0)
        except (ValueError, OSError):  # it is closed: all is read
            return 1.0

    def close(self) -> None:
        """Close the file."""
        if self._raw is not None and self._raw is not sys.stdin.buffer:
            self._raw.close()

    def _open(self) -> IO[bytes]:
        if str(self._path) == STANDARD_INPUT:
            self._raw = sys.stdin.buffer
            return self._raw
        with reading(self._path):
            self._bytes = self._path.stat().st_size
            self._raw = self._path.open("rb")
        return gzip.open(self._raw) if self._path.suffix.lower() == ".gz" else self._raw  # type: ignore[return-value]

    def _lines(self) -> Iterator[Found]:
        with contextlib.closing(self), reading(self._path):
            for number, line in enumerate(self._open(), 1):
                if not line.strip():
                    continue
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield InvalidInputError(f"Line {number} of {str(self._path)!r} is no JSON: {error}.")

    def _table(self, delimiter: str) -> Iterator[Found]:
        csv.field_size_limit(1 << 30)  # a long conversation is longer than its own limit, 128 kB
        with contextlib.closing(self):  # rows that nobody reads must not hold it open
            lines = _Lines(self._open())
            with reading(self._path, lines):
                self.names = next(csv.reader(lines, delimiter=delimiter, strict=True), [])
        return self._rows_of_table(delimiter, self.names)

    def _rows_of_table(self, delimiter: str, names: list[str]) -> Iterator[Found]:
        with contextlib.closing(self):
            lines = _Lines(self._open())
            with reading(self._path, lines):
                yield from self._records_of(lines, delimiter, names)

    def _records_of(self, lines: _Lines, delimiter: str, names: list[str]) -> Iterator[Found]:
        table = csv.reader(lines, delimiter=delimiter, strict=True)
        next(table, None)  # the header
        while True:
            lines.begin()
            try:
                row = next(table, None)
            except csv.Error as error:
                # A quote that is not closed takes all that follows. Only its own line is given up.
                yield self._broken(lines.first, f"{error}: a quote that is opened there is not closed as it must be")
                lines.return_to_second()
                table = csv.reader(lines, delimiter=delimiter, strict=True)
                continue
            if row is None:
                return
            if not row:
                continue
            if len(row) != len(names):
                yield self._broken(
                    lines.first,
                    f"{len(row)} fields, where the header has {len(names)}: quote those with {delimiter!r} in them",
                )
            elif any("\0" in cell for cell in row):
                yield self._broken(lines.first, "a NUL byte: it is not text")
            else:
                yield dict(zip(names, row, strict=True))

    def _broken(self, line: int, what: str) -> InvalidInputError:
        return InvalidInputError(f"Line {line} of {str(self._path)!r} can't be read: {what}.")

    def _parquet(self) -> Iterator[Found]:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise InvalidInputError(
                "Parquet files need pyarrow: pip install 'mlflow-agent-target[local]', or give CSV or JSONL."
            ) from error
        parts = _parts(self._path) if self._path.is_dir() else [_Part(self._path, {})]
        self.size = 0
        for part in parts:
            with reading(part.path), pyarrow.parquet.ParquetFile(part.path) as file:
                self.size += file.metadata.num_rows
                names = [*file.schema_arrow.names, *part.columns]
            if self.names is not None and sorted(names) != sorted(self.names):
                raise InvalidInputError(
                    f"{str(part.path)!r} has the columns {names}, but another part has {self.names}."
                )
            self.names = self.names or names
        return self._rows_of_parquet(parts)

    def _rows_of_parquet(self, parts: list[_Part]) -> Iterator[Found]:
        import pyarrow.parquet

        for part in parts:
            with reading(part.path), pyarrow.parquet.ParquetFile(part.path) as file:
                for group in file.iter_batches(_ROWS_AT_A_TIME):
                    for record in group.to_pylist():
                        yield {**record, **part.columns}


class _Part(NamedTuple):
    """A file of a folder of Parquet, and the columns that the names of its folders say (`day=2026-01-02`)."""

    path: Path
    columns: dict[str, Any]


def _parts(folder: Path) -> list[_Part]:
    """Return the files of a folder of Parquet, in the order of their names.

    Raises:
        InvalidInputError: It has none, or it is a table of Delta's.
    """
    if (folder / "_delta_log").is_dir():
        raise InvalidInputError(
            f"{str(folder)!r} is a Delta table, whose folder holds deleted rows, too. Give the DataFrame that Spark or "
            "deltalake reads of it."
        )
    parts = []
    for path in sorted(folder.rglob("*.parquet")):
        *folders, name = path.relative_to(folder).parts
        if path.is_file() and not any(part[0] in "._" for part in (*folders, name)):  # Spark's own files
            pairs = (part.partition("=") for part in folders if "=" in part)
            columns = {unquote(key): None if value == _NO_VALUE else unquote(value) for key, _, value in pairs}
            parts.append(_Part(path, {key: identity(value, is_text=True) for key, value in columns.items()}))
    if not parts:
        raise InvalidInputError(f"There is no Parquet file in {str(folder)!r}.")
    return parts


class _Lines(Iterator[str]):
    """The lines of a file of text. Knows where the record began that is being read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.number = 0
        #: The line in which the record began.
        self.first = 1
        self._second_at = 0
        self._is_first = True

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.number += 1
        if self._is_first:
            self.first, self._second_at, self._is_first = self.number, self._file.tell(), False
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8")

    def begin(self) -> None:
        """A record begins with the next line."""
        self._is_first = True

    def return_to_second(self) -> None:
        """Go back to the line after the first of the record."""
        self._file.seek(self._second_at)
        self.number = self.first


@contextlib.contextmanager
def reading(path: Path, lines: _Lines | None = None) -> Iterator[None]:
    """Turn what a file's reader raises into an error that names the file."""
    try:
        yield
    except Exception as error:
        is_ours = isinstance(error, (csv.Error, UnicodeDecodeError, OSError, EOFError))
        if is_ours or type(error).__module__.startswith(("pyarrow", "zlib")):
            where = f", line {lines.number}" if lines is not None and lines.number else ""
            raise InvalidInputError(f"{str(path)!r} can't be read{where}: {error}.") from error
        raise
