"""What came of a batch: its rows in the order of the inputs, read from the journal as they are looked at."""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from mlflow_agent_target.batch import exports
from mlflow_agent_target.batch.journal import Reader, delete
from mlflow_agent_target.batch.records import FAILED, IN_DOUBT, OK, SHOWN, TOKENS, BatchRow, shown
from mlflow_agent_target.formats.answers import AgentResponse

_ROWS_AT_A_TIME = 256
_MOST_LATENCIES = 10_000
_ENDED = f"state IN ('{OK}', '{FAILED}', '{IN_DOUBT}')"
_IS_FAILED = f"state = '{FAILED}'"
_PERCENTILES = (50, 90, 95, 99)
_SELECT = f"SELECT {', '.join(SHOWN)} FROM rows"


class BatchResult(Sequence[BatchRow]):
    """The rows of a batch that have ended, in the order of the inputs.

    They are read from the journal as they are looked at, so that a million of them need no memory. Without a journal
    they are in a temporary file, which is deleted with this object.

    Attributes:
        interrupted: Whether Ctrl-C ended the run before all rows were sent.
    """

    def __init__(
        self,
        path: Path,
        *,
        is_temporary: bool = False,
        seconds: float = 0.0,
        sent: int = 0,
        interrupted: bool = False,
    ) -> None:
        self.interrupted = interrupted
        self._seconds = seconds
        self._sent = sent
        self._where = _ENDED
        self._reader = Reader(path)
        if is_temporary:
            # When the reader goes, not when this object does: a `failed` that is still used has the same reader.
            weakref.finalize(self._reader, delete, path)

    def __len__(self) -> int:
        return int(self._reader.select(f"SELECT count(*) FROM rows WHERE {self._where}")[0][0])

    def __iter__(self) -> Iterator[BatchRow]:
        return map(_row, self._values())

    @overload
    def __getitem__(self, index: int) -> BatchRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[BatchRow]: ...
    def __getitem__(self, index: int | slice) -> BatchRow | list[BatchRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = operator.index(index)
        offset = index + len(self) if index < 0 else index
        found = offset >= 0 and self._reader.select(
            f"{_SELECT} WHERE {self._where} ORDER BY position LIMIT 1 OFFSET ?", offset
        )
        if not found:
            raise IndexError(f"There is no row {index}: {len(self)} have ended.")
        return _row(found[0])

    def __repr__(self) -> str:
        counts = self._reader.select(f"SELECT state, count(*) FROM rows WHERE {self._where} GROUP BY state")
        said = ", ".join(f"{count} {state}" for state, count in sorted(counts, reverse=True))
        return f"<BatchResult: {said or 'no rows'}{', interrupted' if self.interrupted else ''}>"

    @property
    def failed(self) -> BatchResult:
        """The rows that failed. The same call with the same journal sends them again."""
        view = BatchResult.__new__(BatchResult)
        view.__dict__.update(self.__dict__)
        view._where = _IS_FAILED
        return view

    def summary(self) -> dict[str, Any]:
        """Return counts, rate, latencies, tokens and errors.

        Returns:
            `rows`, `ok`, `failed`, `in_doubt` (counts), `attempts` (requests of all kept rows), `seconds` and
            `rows_per_second` (of this run), `latency` (`p50`, `p90`, `p95`, `p99`, `max`: seconds of the rows' last
            attempts), `tokens` (sums of `input_tokens`, `output_tokens`, `total_tokens`) and `errors` (how many rows
            failed with each class).
        """
        where = self._where
        counts = dict(self._reader.select(f"SELECT state, count(*) FROM rows WHERE {where} GROUP BY state"))
        attempts, *tokens = self._reader.select(
            f"SELECT sum(attempts), {', '.join(f'sum({name})' for name in TOKENS)} FROM rows WHERE {where}"
        )[0]
        errors = self._reader.select(
            f"SELECT error, count(*) FROM rows WHERE {_IS_FAILED} GROUP BY error ORDER BY count(*) DESC, error"
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
            "tokens": {name: count or 0 for name, count in zip(TOKENS, tokens, strict=True)},
            "errors": dict(errors),
        }

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
        """Return a pandas DataFrame with a row for each, in order, and the columns of `BatchRow`, tokens apart.

        Raises:
            InvalidInputError: pandas is not installed.
        """
        return exports.to_pandas(map(shown, self._values()))

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write a file with a JSON object for each row, a line each, with the columns of `BatchRow`, tokens apart.

        Args:
            path: The file. It appears when it is complete; one that is there is replaced.

        Raises:
            InvalidInputError: The file can't be written.
        """
        exports.to_jsonl(map(shown, self._values()), Path(path))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file with a row for each, and the columns of `BatchRow`, tokens apart.

        `id` and `response` are JSON text: Parquet has no type for what differs from row to row.

        Args:
            path: The file. It appears when it is complete; one that is there is replaced.

        Raises:
            InvalidInputError: pyarrow is not installed, or the file can't be written.
        """
        exports.to_parquet(self._values(), Path(path))

    def _values(self) -> Iterator[tuple[Any, ...]]:
        after = -1
        while found := self._reader.select(
            f"{_SELECT} WHERE {self._where} AND position > ? ORDER BY position LIMIT ?",
            after,
            _ROWS_AT_A_TIME,
        ):
            yield from found
            after = found[-1][0]


def _row(values: tuple[Any, ...]) -> BatchRow:
    record = shown(values)
    tokens = {name: record.pop(name) for name in TOKENS}
    usage = None if tokens["input_tokens"] is None else tokens
    response = record.pop("response")
    return BatchRow(
        **record,
        usage=usage,
        response=None if response is None else AgentResponse(response, request_id=record["request_id"]),
    )
