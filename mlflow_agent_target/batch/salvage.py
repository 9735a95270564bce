"""What can still be read of a damaged journal, saved in a new one beside it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

from mlflow_agent_target.batch.records import CLAIMED, COLUMNS, FAILED, IN_DOUBT, OK, RELEASED, Outcome
from mlflow_agent_target.batch.sqlite import UNREADABLE, connect

_LOSES = "Rows that it lacks would be asked again."
_ROWS_AT_A_TIME = 256
_LAST = 1 << 40  # no batch has as many rows
_STATES = {OK, FAILED, IN_DOUBT, CLAIMED, RELEASED}
_IN_EARLIER_VERSIONS = {"run": "0"}
_TYPES = tuple(get_type_hints(Outcome).values())


def salvage(source: sqlite3.Connection, path: Path, make: Callable[[sqlite3.Connection, str, uuid.UUID], None]) -> str:
    """Save the rows of a damaged journal that can be read in a new one beside it, and leave the journal as it is.

    Args:
        source: The journal.
        path: Its file.
        make: Makes a new journal of an empty database, that belongs to a run, with this UUID.

    Returns:
        What to do now.
    """
    saved = Path(f"{path}.saved")
    if saved.exists():
        return f"Of what could be read of it, {str(saved)!r} was made before: give that as the journal. {_LOSES}"
    count = 0
    with contextlib.suppress(*UNREADABLE, OSError), contextlib.closing(connect(saved)) as target:
        source.execute("PRAGMA writable_schema = ON")  # else SQLite reads nothing of a file that was cut off
        target.execute("BEGIN")
        (run,) = source.execute("SELECT value FROM run WHERE key = 'run'").fetchone()
        make(target, run, _uuid(source))
        target.executemany(f"INSERT INTO rows VALUES ({', '.join('?' * len(COLUMNS))})", _rows(source))
        found = target.execute("SELECT count(*) FROM rows").fetchone()[0]
        target.execute("COMMIT")
        count = found
    if not count:
        saved.unlink(missing_ok=True)
        return "Nothing of it could be saved. Put back a copy of it that is whole; a new file would ask all rows again."
    return f"{count} rows could be read, and are saved in {str(saved)!r}: give that as the journal. {_LOSES}"


def _uuid(source: sqlite3.Connection) -> uuid.UUID:
    """Return the journal's UUID, so that what is in doubt is asked under the same ids; another where it has none."""
    with contextlib.suppress(*UNREADABLE):
        return uuid.UUID(source.execute("SELECT value FROM run WHERE key = 'uuid'").fetchone()[0])
    return uuid.uuid4()


def _rows(source: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that can be read, in order. A page that is damaged takes those with it that are on it."""
    names = {name for _, name, *_ in source.execute("PRAGMA table_info(rows)")}
    values = (name if name in names else _IN_EARLIER_VERSIONS.get(name, "NULL") for name in COLUMNS)
    select = f"SELECT {', '.join(values)} FROM rows WHERE position >= ?"

    def read(start: int, count: int) -> list[tuple[Any, ...]] | None:
        try:
            found = source.execute(f"{select} ORDER BY position LIMIT {count}", (start,)).fetchall()
        except UNREADABLE:
            return None
        positions = [row[0] for row in found]
        return found if positions == sorted(set(positions)) and min(positions, default=start) >= start else None

    start, count = 0, _ROWS_AT_A_TIME
    while start < _LAST:
        found = read(start, count)
        if found == []:
            return
        if found:
            yield from filter(_is_whole, found)
            start, count = found[-1][0] + 1, _ROWS_AT_A_TIME
        elif count > 1:
            count = 1
        else:
            start = _next_readable(start, lambda place: read(place, 1) is not None)


def _next_readable(start: int, is_readable: Callable[[int], bool]) -> int:
    """Return the first place after one that can't be read where something can: jump ahead, then look between."""
    step = 1
    while not is_readable(start + step):
        if start + step > _LAST:
            return _LAST
        step *= 2
    bad, good = start + step // 2, start + step
    while good - bad > 1:
        middle = (bad + good) // 2
        bad, good = (bad, middle) if is_readable(middle) else (middle, good)
    return good


def _is_whole(row: tuple[Any, ...]) -> bool:
    outcome = Outcome(*row)
    try:
        json.loads(outcome.id)
        objects = [json.loads(text) for text in (outcome.columns, outcome.response) if text is not None]
    except (ValueError, TypeError, RecursionError):
        return False
    if not all(isinstance(value, dict) for value in objects):
        return False
    return outcome.state in _STATES and all(map(isinstance, row, _TYPES))
