"""Results for other programs: pandas, JSON lines, CSV, Parquet. A file appears when it is whole."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import math
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mlflow_agent_target.batch.records import SHOWN, SHOWN_NAMES, is_storable
from mlflow_agent_target.batch.shown import Json
from mlflow_agent_target.errors import InvalidInputError

if TYPE_CHECKING:
    from mlflow_agent_target.batch.shown import BatchRow

_STANDARD_OUTPUT = Path("-")
_FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
# A Parquet file is read quickly if its groups are large; a group is held in memory while it is written.
_ROWS_IN_A_GROUP, _BYTES_IN_A_GROUP = 50_000, 64_000_000
_EXACT = 1 << 53  # floats hold all whole numbers up to this
_SCORED = ("output_text", "response", "error", "request_id")

Record = dict[str, Any]


class _Long(int):
    """A number that a float can't be trusted with."""


class Kinds:
    """What kinds of values a column holds, so that it gets a type of its own where all are of one."""

    def __init__(self) -> None:
        self._kinds: set[type | None] = set()

    def see(self, value: Any) -> None:
        """Take in a value."""
        kind: type | None = type(value)
        if value is None:
            return
        if kind is int and not -_EXACT <= value <= _EXACT:
            kind = _Long if -(1 << 63) <= value < 1 << 63 else None
        elif kind is str and not is_storable(value):
            kind = None
        self._kinds.add(kind)

    @property
    def arrow(self) -> str | None:
        """The type in Arrow; None where the values are mixed, or are lists and dicts, and are written as JSON text."""
        if self._kinds <= {str}:
            return "string"
        if self._kinds <= {int, _Long}:
            return "int64"
        if self._kinds <= {int, float}:
            return "float64"
        return "bool_" if self._kinds == {bool} else None


def format_of(path: Path) -> tuple[str, bool]:
    """Return what a results' file is written as, and whether it is compressed, by its name.

    Raises:
        InvalidInputError: No format is known by that name.
    """
    if path == _STANDARD_OUTPUT:
        return ".jsonl", False
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_gzip = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if is_gzip else suffixes)[-1:] or [""]
    if kind[0] not in _FORMATS or (is_gzip and kind[0] == ".parquet"):
        raise InvalidInputError(
            f"Results can't be written to {str(path)!r}: name a file of {', '.join(_FORMATS)} (text also as .gz), or - "
            "for JSON lines on standard output."
        )
    return kind[0], is_gzip


def check_writable(path: Path) -> None:
    """Try that results can be written to a file, before anything is paid for them. Leaves nothing behind.

    Raises:
        InvalidInputError: They can't.
    """
    format_of(path)
    if path == _STANDARD_OUTPUT:
        return
    if path.is_dir():
        raise InvalidInputError(f"{str(path)!r} can't be written: it is a folder.")
    if _is_special(path):
        return
    try:
        _beside(Path(os.path.realpath(path))).unlink()
    except OSError as error:
        raise InvalidInputError(f"{str(path)!r} can't be written: {error.strerror or error}.") from error


def to_pandas(records: Iterable[Record], names: list[str]) -> Any:
    """Return records as a DataFrame.

    Raises:
        InvalidInputError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise InvalidInputError("to_pandas needs pandas: pip install 'mlflow-agent-target[local]'.") from error
    return pandas.DataFrame(records, columns=names)


def to_jsonl(records: Iterable[Record], path: Path) -> None:
    """Write each record as a line of JSON."""
    with _writing(path) as file:
        for record in records:
            file.write(_line(record) + "\n")


def _line(record: Record) -> str:
    parts = []
    for is_json, group in itertools.groupby(record.items(), lambda item: isinstance(item[1], Json)):
        items = dict(group)
        parts += [f'"{name}": {_json(items[name])}' for name in items] if is_json else [_json(items)[1:-1]]
    return "{" + ", ".join(parts) + "}"


def to_csv(records: Iterable[Record], names: list[str], path: Path) -> None:
    """Write records as a table of text, after RFC 4180: lists and dicts as JSON text, what is missing as nothing."""
    delimiter = "\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else ","
    with _writing(path) as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(names)
        for record in records:
            table.writerow([_text(record.get(name)) for name in names])


def to_parquet(records: Iterator[Record], kinds: Mapping[str, Kinds], path: Path) -> None:
    """Write records as Parquet, with a type of its own for each column whose values are of one.

    Raises:
        InvalidInputError: pyarrow is not installed, or the file can't be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InvalidInputError("to_parquet needs pyarrow: pip install 'mlflow-agent-target[local]'.") from error
    shown = {name: column.arrow for name, column in zip(SHOWN_NAMES, SHOWN.values(), strict=True)}
    own = {name: kind.arrow for name, kind in kinds.items()}
    types = {**{name: kind for name, kind in own.items() if name not in shown}, **shown, "response": None}
    types.update(own)
    schema = pyarrow.schema([(name, getattr(pyarrow, kind or "string")()) for name, kind in types.items()])
    with _replacing(path) as part, pyarrow.parquet.ParquetWriter(part, schema) as writer:
        rows = (_cells(record, types) for record in records)
        while group := list(_group(rows)):
            columns = map(pyarrow.array, zip(*group, strict=True), schema.types)
            writer.write_table(pyarrow.Table.from_arrays(list(columns), schema=schema))


def _cells(record: Record, types: Mapping[str, str | None]) -> list[Any]:
    cells = [record.get(name) for name in types]
    return [cell if cell is None or kind else _json(cell) for cell, kind in zip(cells, types.values(), strict=True)]


def _group(rows: Iterator[list[Any]]) -> Iterator[list[Any]]:
    size = 0
    for row in itertools.islice(rows, _ROWS_IN_A_GROUP):
        yield row
        size += sum(len(cell) for cell in row if isinstance(cell, str))
        if size > _BYTES_IN_A_GROUP:
            return


def _json(value: Any) -> str:
    """Return a value as JSON that UTF-8 can hold, and that other programs read: it knows no NaN and no infinity."""
    if isinstance(value, Json):
        if "NaN" not in value and "Infinity" not in value:
            return value
        value = json.loads(value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        value = _finite(value)
        text = json.dumps(value, ensure_ascii=False)
    return text if is_storable(text) else json.dumps(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> Any:
    return _json(value) if isinstance(value, (dict, list, bool, Json)) else value


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
def _writing(path: Path) -> Iterator[IO[str]]:
    """Yield a text file that becomes `path` when all went well; standard output for `-`."""
    if path == _STANDARD_OUTPUT:
        sys.stdout.flush()
        if not hasattr(sys.stdout, "buffer"):  # as in a notebook
            yield sys.stdout
            return
        out = _text_of(sys.stdout.buffer)
        try:
            yield out
            out.flush()
        finally:
            out.detach()
        return
    with _replacing(path) as part, open(part, "wb") as raw:
        if path.suffix.lower() != ".gz":
            with _text_of(raw) as file:
                yield file
            return
        with gzip.GzipFile(path.stem, "wb", fileobj=raw) as packed, _text_of(packed) as file:  # it names what is in it
            yield file


def _text_of(file: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a new file that takes the place of `path` when all went well; of what it points to, if it is a link.

    What is no file, such as a pipe, is itself yielded: nothing may take its place.
    """
    real = Path(os.path.realpath(path))
    part: Path | None = None
    try:
        if _is_special(path):
            yield path
            return
        part = _beside(real)
        yield part
        os.replace(part, real)
        part = None
    except OSError as error:
        raise InvalidInputError(f"{str(path)!r} can't be written: {error.strerror or error}.") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Make a new file in the folder of `path`, with the permissions that a file there has or would get."""
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(13, "it may not be written to")
    part = path.with_name(f".agent-target-{secrets.token_hex(8)}")
    part.touch(0o666, exist_ok=False)
    if path.exists():
        part.chmod(path.stat().st_mode & 0o777)
    return part


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()
