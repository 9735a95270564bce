"""SQLite: every row's state and outcome. Survives a killed process.

A row is claimed before it is sent and settled when it has ended. Both are written in groups, one transaction each, so
that a claim costs little; what is committed outlives the process (WAL). A row that is claimed when a journal is opened
was in flight when its process ended: the agent may have run for it or not, and it is in doubt from then on.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_agent_target.errors import AgentTargetError, InvalidInputError

OK, FAILED, IN_DOUBT, CLAIMED, RELEASED = "ok", "failed", "in_doubt", "claimed", "released"

_APPLICATION_ID = 0x61676A6C  # "agjl", so that other databases are told from journals
_VERSION = 1
_KNOWN_AT_A_TIME = 1000
_SCHEMA = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rows (
    position INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    response TEXT,
    output_text TEXT,
    error TEXT,
    error_message TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    seconds REAL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    total_tokens INTEGER,
    request_id TEXT
);
CREATE INDEX failed ON rows (position) WHERE state = 'failed';
"""


class Claim(NamedTuple):
    """A row that is about to be sent."""

    position: int
    digest: bytes
    id: str


class Outcome(NamedTuple):
    """How a row ended: the columns of `rows`."""

    position: int
    digest: bytes
    id: str
    state: str
    response: str | None = None
    output_text: str | None = None
    error: str | None = None
    error_message: str | None = None
    attempts: int = 0
    seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    request_id: str | None = None


class Known(NamedTuple):
    """What a journal knows of a row from earlier runs."""

    position: int
    digest: bytes
    state: str


_COLUMNS = ", ".join(Outcome._fields)
_CLAIM = (
    f"INSERT INTO rows (position, digest, id, state) VALUES (?, ?, ?, '{CLAIMED}') "
    "ON CONFLICT (position) DO UPDATE SET state = excluded.state"
)
_RELEASE = f"UPDATE rows SET state = '{RELEASED}' WHERE position = ?"
_SETTLE = f"INSERT OR REPLACE INTO rows ({_COLUMNS}) VALUES ({', '.join('?' * len(Outcome._fields))})"


class Journal:
    """A journal that is open for writing, by this process alone. Used by any thread.

    Args:
        path: The file; made where there is none.
        run: What the journal belongs to, such as the endpoint. A journal of something else is refused.
        durable: False for a file that is thrown away with its process: nothing is claimed in it.

    Raises:
        InvalidInputError: The file can't be used: it is no journal, belongs to another run, is in use, or can't be
            opened.
    """

    def __init__(self, path: Path, run: dict[str, Any], durable: bool = True) -> None:
        self.path = path
        self._durable = durable
        self._lock = threading.Lock()
        self._connection = _connect(path)
        try:
            self._open(run)
        except sqlite3.Error as error:
            self._connection.close()
            raise _unusable(path, error) from error
        except BaseException:
            self._connection.close()
            raise

    def _open(self, run: dict[str, Any]) -> None:
        execute = self._connection.execute
        if not self._durable:
            execute("PRAGMA journal_mode = OFF")
            execute("PRAGMA synchronous = OFF")
        # The operating system's lock on the file, which ends with the process however that ends.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("BEGIN EXCLUSIVE")
        try:
            self._check_or_make(json.dumps(run, sort_keys=True))
            execute(f"UPDATE rows SET state = '{IN_DOUBT}' WHERE state = '{CLAIMED}'")
            execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                execute("ROLLBACK")
            raise
        if self._durable:
            # After the check, since it would change a database that is none of ours.
            execute("PRAGMA journal_mode = WAL")
            execute("PRAGMA synchronous = NORMAL")
        #: How many rows from the first are known, settled or not.
        self.known_until: int = execute("SELECT coalesce(max(position) + 1, 0) FROM rows").fetchone()[0]

    def _check_or_make(self, run: str) -> None:
        execute = self._connection.execute
        application_id = execute("PRAGMA application_id").fetchone()[0]
        version = execute("PRAGMA user_version").fetchone()[0]
        if not application_id and not execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                execute(statement)
            execute("INSERT INTO run VALUES ('run', ?)", (run,))
            execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            execute(f"PRAGMA user_version = {_VERSION}")
            return
        if application_id != _APPLICATION_ID:
            raise InvalidInputError(
                f"{str(self.path)!r} is a database, but no journal of a batch. Name another file as the journal."
            )
        if version > _VERSION:
            raise InvalidInputError(
                f"The journal {str(self.path)!r} was written by a newer version of this package (format {version}; "
                f"this one knows {_VERSION}). Update the package, or name another file."
            )
        (earlier,) = execute("SELECT value FROM run WHERE key = 'run'").fetchone()
        if earlier != run:
            then, now = json.loads(earlier), json.loads(run)
            changed = ", ".join(
                f"{key} {then.get(key)!r}, not {now[key]!r}" for key in now if then.get(key) != now[key]
            )
            raise InvalidInputError(
                f"The journal {str(self.path)!r} belongs to another batch: {changed}. Name another, or delete it."
            )

    def known(self) -> Iterator[Known]:
        """Yield what earlier runs left, in order; a part at a time, so that it may be read while rows are written."""
        until = -1
        while until < self.known_until:
            with self._lock:
                found = self._connection.execute(
                    "SELECT position, digest, state FROM rows WHERE position > ? AND position < ? "
                    "ORDER BY position LIMIT ?",
                    (until, self.known_until, _KNOWN_AT_A_TIME),
                ).fetchall()
            if not found:
                return
            yield from map(Known._make, found)
            until = found[-1][0]

    def write(self, settled: Sequence[Outcome], released: Sequence[int], claimed: Sequence[Claim]) -> None:
        """Write outcomes, claims that are given back because the agent has not run, and new claims: all or nothing.

        Raises:
            AgentTargetError: It can't be written, as when the disk is full. The journal is as it was before.
        """
        with self._lock:
            execute, executemany = self._connection.execute, self._connection.executemany
            try:
                execute("BEGIN")
                executemany(_SETTLE, settled)
                if self._durable:
                    executemany(_RELEASE, ((position,) for position in released))
                    executemany(_CLAIM, claimed)
                execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    execute("ROLLBACK")
                raise AgentTargetError(
                    f"The journal {str(self.path)!r} can't be written: {error}. Everything that it holds is whole. "
                    "Make room, and run the same again to go on where it stopped.",
                    may_have_run=True,
                ) from error

    def close(self) -> None:
        """Close the file, for others to use, as one file that can be copied."""
        with self._lock:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()


class Reader:
    """Reads a journal that nobody is writing to. Holds nothing open, so that the next run may have it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def select(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query.

        Raises:
            InvalidInputError: The file is gone or in use.
        """
        if not self._path.exists():
            raise InvalidInputError(f"The journal {str(self._path)!r} is not there any more.")
        with contextlib.closing(_connect(self._path)) as connection:
            try:
                return connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise _unusable(self._path, error) from error


def discard(path: Path) -> None:
    """Delete a journal, if there is one, to begin anew.

    Raises:
        InvalidInputError: The file is no journal, or is in use.
    """
    if not path.exists():
        return
    connection = _connect(path)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    finally:
        connection.close()
    if application_id != _APPLICATION_ID:
        raise InvalidInputError(f"{str(path)!r} is no journal of a batch, and is not deleted.")
    delete(path)


def delete(path: Path) -> None:
    """Delete a journal and the files that SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # Not waiting for another process: it may run for hours.
        # Absolute, since a file may be called ":memory:".
        return sqlite3.connect(path.absolute(), timeout=0.0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: sqlite3.Error) -> InvalidInputError:
    said = str(error)
    if "locked" in said:
        what, advice = "is in use by another run", "Wait for that to end, or name another file."
    elif "not a database" in said:
        what, advice = "is no journal", "Name another file as the journal."
    elif "unable to open" in said:
        what, advice = "can't be opened", "Check that its folder exists and may be written to."
    else:
        what, advice = f"can't be used: {said}", "Name another file as the journal."
    return InvalidInputError(f"The journal {str(path)!r} {what}. {advice}")
