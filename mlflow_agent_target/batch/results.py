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
from mlflow_agent_target.batch.records import FAILED, IN_DOUBT, OK, SHOWN, SHOWN_NAMES, TOKENS, cost
from mlflow_agent_target.batch.shown import BatchRow, batch_row, kept_columns, parsed, record
from mlflow_agent_target.batch.sqlite import unusable

_ROWS_AT_A_TIME = 256
_MOST_LATENCIES = 10_000
_ENDED = f"state IN ('{OK}', '{FAILED}', '{IN_DOUBT}')"
_IS_FAILED = f"state = '{FAILED}'"
_PERCENTILES = (50, 90, 95, 99)
_SUMS = ", ".join(f"CASE WHEN count({name}) THEN total({name}) END" for name in ("attempts", *TOKENS))
_IS_TIMED = "attempts > 0 AND typeof(seconds) = 'real'"
_ALL = f"{', '.join(SHOWN)}, columns"


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

    def __copy__(self) -> BatchResult:
        return self  # nothing of it changes

    def __deepcopy__(self, memo: Any) -> BatchResult:
        return self

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
        return (batch_row(values, kept) for *values, kept in self._values(_ALL))

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
        *values, kept = self._reader.select(f"SELECT {_ALL} FROM rows WHERE position = ?", position)[0]
        return batch_row(values, kept)

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
        # total, since sum refuses what has no room in 64 bits: agents may send any number.
        attempts, *tokens = self._reader.select(f"SELECT {_SUMS} FROM rows WHERE {where}")[0]
        counted = {name: None if count is None else int(count) for name, count in zip(TOKENS, tokens, strict=True)}
        errors = self._reader.select(
            f"SELECT error, count(*) FROM rows WHERE {where} AND {_IS_FAILED} GROUP BY error "
            "ORDER BY count(*) DESC, error"
        )
        return {
            "rows": sum(counts.values()),
            OK: counts.get(OK, 0),
            FAILED: counts.get(FAILED, 0),
            IN_DOUBT: counts.get(IN_DOUBT, 0),
            "attempts": int(attempts or 0),
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
        where = f"{self._where} AND {_IS_TIMED}"
        count = self._reader.select(f"SELECT count(*) FROM rows WHERE {where}")[0][0]
        if not count:
            return {}
        names = {f"p{percent}": (count - 1) * percent // 100 for percent in _PERCENTILES} | {"max": count - 1}
        sql = f"SELECT seconds FROM rows WHERE {where} ORDER BY seconds LIMIT 1 OFFSET ?"
        return {name: round(self._reader.select(sql, offset)[0][0], 4) for name, offset in names.items()}

    def latencies(self) -> list[float]:
        """Return the seconds of the rows' last attempts; of many rows, those of every second, third, ... row."""
        sql = f"SELECT seconds FROM rows WHERE {self._where} AND {_IS_TIMED} AND seconds > 0 AND position % ? = 0"
        return [seconds for (seconds,) in self._reader.select(sql, len(self) // _MOST_LATENCIES + 1)]

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row for each, in order.

        Its columns are those of the input that were kept, and then those of `BatchRow`, tokens apart. A kept column
        whose name a result has is called `input_NAME`. The index is that of the frame that was given as the inputs.

        Raises:
            InvalidInputError: pandas is not installed.
        """
        frame = exports.to_pandas(self._records(reads_answers=True), self._names())
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
        exports.to_csv(self._records(), self._names(), Path(path))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file with a row for each, with the columns of `to_pandas`.

        `id` and kept columns have the type of their values, where all rows share one. Others, and `response`, are JSON
        text: Parquet has no type for what differs from row to row.

        Args:
            path: The file. It appears when it is complete; one that is there is replaced.

        Raises:
            InvalidInputError: pyarrow is not installed, or the file can't be written.
        """
        exports.to_parquet(self._records(), self._kinds(), Path(path))

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

    def _records(self, *, reads_answers: bool = False) -> Iterator[exports.Record]:
        for *values, kept in self._values(_ALL):
            yield record(values, kept, reads_answers=reads_answers)

    def _names(self) -> list[str]:
        return [*(name for name in self._kinds() if name not in SHOWN_NAMES), *SHOWN_NAMES]

    def _kinds(self) -> dict[str, exports.Kinds]:
        """Return what the kept columns hold, in the order of their first row, and the ids."""
        kinds: dict[str, exports.Kinds] = {}
        ids = exports.Kinds()
        for position, id_, kept in self._values("position, id, columns"):
            ids.see(parsed(position, id_))
            for name, value in kept_columns(position, kept).items():
                kinds.setdefault(name, exports.Kinds()).see(value)
        return {**kinds, "id": ids}

    def _values(self, columns: str) -> Iterator[tuple[Any, ...]]:
        """Yield these columns of the rows, of which the position is the first."""
        where = f"{self._where} AND position > ? ORDER BY position LIMIT {_ROWS_AT_A_TIME}"
        after = -1
        while found := self._reader.select(f"SELECT {columns} FROM rows WHERE {where}", after):
            yield from found
            if found[-1][0] <= after:  # it would never end
                raise unusable(self._reader.path, ValueError("its rows have no order"))
            after = found[-1][0]
