"""What came of a batch: its rows in the order of the inputs, read from the journal as they are looked at."""

from __future__ import annotations

import operator
import os
import pickle
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from mlflow_agent_target.batch import exports
from mlflow_agent_target.batch.journal import Reader, delete
from mlflow_agent_target.batch.records import (
    FAILED,
    IN_DOUBT,
    OK,
    SHOWN,
    SHOWN_NAMES,
    TOKENS,
    BatchRow,
    cost,
    parsed,
    shown,
)
from mlflow_agent_target.formats.answers import AgentResponse

_ROWS_AT_A_TIME = 256
_MOST_LATENCIES = 10_000
_ENDED = f"state IN ('{OK}', '{FAILED}', '{IN_DOUBT}')"
_IS_FAILED = f"state = '{FAILED}'"
_PERCENTILES = (50, 90, 95, 99)
_SELECT = f"SELECT {', '.join(SHOWN)}, columns FROM rows"
# What goes before the name of a kept column that a result has, too.
_CLASH = "input_"


class BatchResult(Sequence[BatchRow]):
    """The rows of a batch that have ended, in the order of the inputs.

    They are read from the journal as they are looked at, so that a million of them need no memory. Without a journal
    they are in a temporary file, which is deleted with this object.

    One with a journal can be pickled. One without can't: it would be a file that is gone.

    Attributes:
        stopped: Why the run ended before all rows were sent ("Ctrl-C", "SIGTERM", or the ceiling that was reached);
            None where it did not.
    """

    def __init__(
        self,
        path: Path,
        *,
        is_temporary: bool = False,
        seconds: float = 0.0,
        sent: int = 0,
        stopped: str | None = None,
        price_per_million: Sequence[float] | None = None,
        index: Any = None,
    ) -> None:
        self.stopped = stopped
        self._price_per_million = price_per_million
        self._index = index  # the labels of the frame's rows, where a frame was given
        self._seconds = seconds
        self._sent = sent
        self._where = _ENDED
        self._is_temporary = is_temporary
        self._found: tuple[Any, array[int]] | None = None
        self._reader = Reader(path)
        if is_temporary:
            # When the reader goes, not when this object does: a `failed` that is still used has the same reader.
            weakref.finalize(self._reader, delete, path)

    @property
    def interrupted(self) -> bool:
        """Whether the run ended before all rows were sent."""
        return self.stopped is not None

    def __getstate__(self) -> dict[str, Any]:
        if self._is_temporary:
            raise pickle.PicklingError(
                "These results are in a temporary file, which a pickle would not hold. Give predict_batch a journal=, "
                "or pickle results.to_pandas()."
            )
        return {**self.__dict__, "_found": None}

    def __len__(self) -> int:
        return len(self._positions())

    def _positions(self) -> array[int]:
        """Return the places of the rows, which are few bytes each, as long as nobody writes to the journal."""
        stamp = self._reader.stamp()
        if self._found is None or self._found[0] != stamp:
            found = self._reader.select(f"SELECT position FROM rows WHERE {self._where} ORDER BY position")
            self._found = stamp, array("q", (position for (position,) in found))
        return self._found[1]

    def __iter__(self) -> Iterator[BatchRow]:
        return map(_row, self._values())

    @overload
    def __getitem__(self, index: int) -> BatchRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[BatchRow]: ...
    def __getitem__(self, index: int | slice) -> BatchRow | list[BatchRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        positions = self._positions()
        try:
            position = positions[operator.index(index)]
        except IndexError:
            raise IndexError(f"There is no row {index}: {len(positions)} have ended.") from None
        return _row(self._reader.select(f"{_SELECT} WHERE position = ?", position)[0])

    def __repr__(self) -> str:
        counts = self._reader.select(f"SELECT state, count(*) FROM rows WHERE {self._where} GROUP BY state")
        said = ", ".join(f"{count} {state}" for state, count in sorted(counts, reverse=True))
        return f"<BatchResult: {said or 'no rows'}{', interrupted' if self.interrupted else ''}>"

    @property
    def failed(self) -> BatchResult:
        """The rows that failed. The same call with the same journal sends them again."""
        view = BatchResult.__new__(BatchResult)
        view.__dict__.update(self.__dict__)
        view._where, view._found = _IS_FAILED, None
        return view

    def summary(self) -> dict[str, Any]:
        """Return counts, rate, latencies, tokens and errors.

        Returns:
            `rows`, `ok`, `failed`, `in_doubt` (counts), `attempts` (requests of all kept rows), `seconds` and
            `rows_per_second` (of this run), `latency` (`p50`, `p90`, `p95`, `p99`, `max`: seconds of the rows' last
            attempts), `tokens` (sums of `input_tokens`, `output_tokens`, `total_tokens`; None where no agent counted
            any), `cost` (of the tokens, only where `price_per_million` was given) and `errors` (how many rows
            failed with each class).
        """
        where = self._where
        counts = dict(self._reader.select(f"SELECT state, count(*) FROM rows WHERE {where} GROUP BY state"))
        attempts, *tokens = self._reader.select(
            f"SELECT sum(attempts), {', '.join(f'sum({name})' for name in TOKENS)} FROM rows WHERE {where}"
        )[0]
        counted: dict[str, int | None] = dict(zip(TOKENS, tokens, strict=True))
        errors = self._reader.select(
            f"SELECT error, count(*) FROM rows WHERE {where} AND {_IS_FAILED} GROUP BY error "
            "ORDER BY count(*) DESC, error"
        )
        return {
            "rows": sum(counts.values()),
            OK: counts.get(OK, 0),
            FAILED: counts.get(FAILED, 0),
            IN_DOUBT: counts.get(IN_DOUBT, 0),
            "attempts": attempts or 0,
            "seconds": round(self._seconds, 3),
            "rows_per_second": round(self._sent / self._seconds, 3) if self._seconds else 0.0,
            "latency": self._latency(),
            "tokens": counted,
            **({} if self._price_per_million is None else {"cost": self._cost(counted)}),
            "errors": dict(errors),
        }

    def _cost(self, counted: dict[str, int | None]) -> float | None:
        return cost(counted["input_tokens"], counted["output_tokens"], self._price_per_million)

    def _latency(self) -> dict[str, float]:
        where = f"{self._where} AND attempts > 0 AND seconds IS NOT NULL"
        count = self._reader.select(f"SELECT count(*) FROM rows WHERE {where}")[0][0]
        if not count:
            return {}
        names = {f"p{percent}": (count - 1) * percent // 100 for percent in _PERCENTILES} | {"max": count - 1}
        sql = f"SELECT seconds FROM rows WHERE {where} ORDER BY seconds LIMIT 1 OFFSET ?"
        return {name: round(self._reader.select(sql, offset)[0][0], 4) for name, offset in names.items()}

    def latencies(self) -> list[float]:
        """Return the seconds of the rows' last attempts; of many rows, those of every second, third, ... row."""
        sql = f"SELECT seconds FROM rows WHERE {self._where} AND attempts > 0 AND position % ? = 0 AND seconds > 0"
        return [seconds for (seconds,) in self._reader.select(sql, len(self) // _MOST_LATENCIES + 1)]

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row for each, in order.

        Its columns are those of the input that were kept, and then those of `BatchRow`, tokens apart. A kept column
        whose name a result has is called `input_NAME`. The index is that of the frame that was given as the inputs.

        Raises:
            InvalidInputError: pandas is not installed.
        """
        frame = exports.to_pandas(self._records(), [*self._kinds(), *SHOWN_NAMES])
        if self._index is not None:
            frame.index = self._index[list(self._positions())]
        return frame

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write a file with a JSON object for each row, a line each, with the columns of `to_pandas`.

        Args:
            path: The file. It appears when it is complete; one that is there is replaced.

        Raises:
            InvalidInputError: The file can't be written.
        """
        exports.to_jsonl(self._records(), Path(path))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file with a row for each, with the columns of `to_pandas`. Lists and dicts are JSON text.

        Args:
            path: The file; one of the suffix `.tsv` has tabs. It appears when it is complete; one that is there is
                replaced.

        Raises:
            InvalidInputError: The file can't be written.
        """
        exports.to_csv(self._records(), [*self._kinds(), *SHOWN_NAMES], Path(path))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file with a row for each, with the columns of `to_pandas`.

        `id` and kept columns have the type of their values, where all rows share one. Others, and `response`, are JSON
        text: Parquet has no type for what differs from row to row.

        Args:
            path: The file. It appears when it is complete; one that is there is replaced.

        Raises:
            InvalidInputError: pyarrow is not installed, or the file can't be written.
        """
        ids = exports.Kinds()
        kinds = self._kinds(ids)
        exports.to_parquet(self._records(), {**kinds, "id": ids}, Path(path))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a file of the format that its suffix says: .jsonl, .ndjson, .csv, .tsv (each also .gz) or .parquet.

        Args:
            path: The file; "-" for JSON lines on standard output.

        Raises:
            InvalidInputError: The suffix says no format, or the file can't be written.
        """
        kind, _ = exports.format_of(Path(path))
        write = {".csv": self.to_csv, ".tsv": self.to_csv, ".parquet": self.to_parquet}.get(kind, self.to_jsonl)
        write(path)

    def _records(self) -> Iterator[dict[str, Any]]:
        """Yield each row by the names of its columns: kept ones, then the results'."""
        for *values, kept in self._values():
            yield {**{_name(name): value for name, value in _kept(kept).items()}, **shown(tuple(values))}

    def _kinds(self, ids: exports.Kinds | None = None) -> dict[str, exports.Kinds]:
        """Return the names of the kept columns in the order of their first row, and what they hold."""
        kinds: dict[str, exports.Kinds] = {}
        for *values, kept in self._values():
            for name, value in _kept(kept).items():
                kinds.setdefault(_name(name), exports.Kinds()).see(value)
            if ids is not None:
                ids.see(shown(tuple(values))["id"])
        return kinds

    def _values(self) -> Iterator[tuple[Any, ...]]:
        after = -1
        while found := self._reader.select(
            f"{_SELECT} WHERE {self._where} AND position > ? ORDER BY position LIMIT ?",
            after,
            _ROWS_AT_A_TIME,
        ):
            yield from found
            after = found[-1][0]


def _name(name: str) -> str:
    # One that is called so by itself is moved on, so that two are never one.
    own = name
    while own.startswith(_CLASH) and own not in SHOWN_NAMES:
        own = own.removeprefix(_CLASH)
    return f"{_CLASH}{name}" if own in SHOWN_NAMES else name


def _kept(columns: str | None) -> dict[str, Any]:
    return {} if columns is None else parsed(columns)


def _row(values: tuple[Any, ...]) -> BatchRow:
    *given, kept = values
    record = shown(tuple(given))
    tokens = {name: record.pop(name) for name in TOKENS}
    usage = None if tokens["input_tokens"] is None else tokens
    response = record.pop("response")
    return BatchRow(
        **record,
        usage=usage,
        response=None if response is None else AgentResponse(response, request_id=record["request_id"]),
        columns=None if kept is None else parsed(kept),
    )
