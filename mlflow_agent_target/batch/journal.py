"""SQLite: every row's state and outcome, so that they outlive a process that is killed.

A row is claimed before it is sent, and settled when it has ended. Claims and outcomes are written in groups, one
transaction each, so that they cost little; what is committed outlives the process (WAL). A row that is still claimed
when a journal is opened was in flight when its process ended: the agent may have run for it or not. From then on the
row is in doubt.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlflow_agent_target.batch.disk import Reserve, untrusted
from mlflow_agent_target.batch.records import CLAIMED, COLUMNS, FAILED, IN_DOUBT, RELEASED, Claim, Known, Outcome
from mlflow_agent_target.batch.salvage import salvage
from mlflow_agent_target.batch.sqlite import UNREADABLE, connect, unusable
from mlflow_agent_target.errors import AgentTargetError, InvalidInputError

_APPLICATION_ID = 0x61676A6C  # "agjl", so that other databases are told from journals
_VERSION = 3
_KNOWN_AT_A_TIME = 1000
# A journal that was begun by one version of this package is gone on with by the next.
_SCHEMA = (
    "CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE rows (\n    " + ",\n    ".join(f"{name} {column.sql}" for name, column in COLUMNS.items()) + "\n)",
    f"CREATE INDEX failed ON rows (position) WHERE state = '{FAILED}'",
)
_CLAIM = (
    f"INSERT INTO rows ({', '.join(Claim._fields)}, state) VALUES (?, ?, ?, ?, ?, '{CLAIMED}') "
    "ON CONFLICT (position) DO UPDATE SET state = excluded.state, columns = excluded.columns, run = excluded.run"
)
_RELEASE = f"UPDATE rows SET state = '{RELEASED}' WHERE position = ?"
_SETTLE = f"INSERT OR REPLACE INTO rows ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_KNOWN = f"SELECT {', '.join(Known._fields)} FROM rows WHERE position > ? AND position < ? ORDER BY position LIMIT ?"


class JournalFullError(AgentTargetError):
    """A journal can't be written, as when the disk is full.

    Attributes:
        is_settled: Whether the outcomes that were to be written could be.
    """

    def __init__(self, message: str, *, is_settled: bool = False, may_have_run: bool | None = None) -> None:
        super().__init__(message, may_have_run=may_have_run)
        self.is_settled = is_settled


class Journal:
    """A journal that is open for writing, by this process alone. Any thread may use it.

    Args:
        path: The file; made where there is none.
        run: What the journal belongs to, such as the endpoint. A journal of something else is refused.
        durable: False for a file that is deleted after the run: no claims are written, and nothing waits for the disk.

    Raises:
        InvalidInputError: The file can't be used: it is no journal, belongs to another run, is in use, or can't be
            opened.
    """

    def __init__(self, path: Path, run: dict[str, Any], durable: bool = True) -> None:
        if durable and (where := untrusted(path)) is not None:
            raise InvalidInputError(
                f"The journal {str(path)!r} is on {where}, where SQLite's files get damaged. Name a file on a disk of "
                "this machine (such as /local_disk0 or /tmp), and copy it there after the run."
            )
        self.path = path
        self._durable = durable
        self._lock = threading.Lock()
        self._connection = connect(path)
        try:
            self._open(run)
        except BaseException as error:
            try:
                if isinstance(error, UNREADABLE) and not isinstance(error, AgentTargetError):
                    raise self._unusable(error) from error
                raise
            finally:
                self._connection.close()

    def _open(self, run: dict[str, Any]) -> None:
        execute = self._connection.execute
        if not self._durable:
            execute("PRAGMA journal_mode = OFF")
            execute("PRAGMA synchronous = OFF")
        # A lock of the operating system's, so that it ends with the process, however that ends.
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
            # Only after the check: WAL would change a database that is not ours.
            execute("PRAGMA journal_mode = WAL")
            execute("PRAGMA synchronous = NORMAL")
            self._reserve = Reserve(self.path)
        #: All rows that are known, settled or not, have a position below this.
        self.known_until: int = execute("SELECT coalesce(max(position) + 1, 0) FROM rows").fetchone()[0]

    def _check_or_make(self, run: str) -> None:
        execute = self._connection.execute
        application_id, version = execute("SELECT * FROM pragma_application_id, pragma_user_version").fetchone()
        if not application_id and not execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            _make(self._connection, run, uuid.uuid4())
        elif application_id != _APPLICATION_ID:
            raise InvalidInputError(
                f"{str(self.path)!r} is a database, but no journal of a batch. Name another file as the journal."
            )
        elif version > _VERSION:
            raise InvalidInputError(
                f"The journal {str(self.path)!r} was written by a newer version of this package (format {version}; "
                f"this one knows {_VERSION}). Update the package, or name another file, which asks all rows."
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
        if 0 < version < _VERSION:
            for name in ("columns", "run")[version - 1 :]:  # what versions 2 and 3 added
                execute(f"ALTER TABLE rows ADD COLUMN {name} {COLUMNS[name].sql}")
            _mark(self._connection, uuid.uuid4())
        #: Of this journal alone. The ids of its rows' runs are made of it.
        self.uuid = uuid.UUID(execute("SELECT value FROM run WHERE key = 'uuid'").fetchone()[0])

    def known(self) -> Iterator[Known]:
        """Yield what earlier runs left, in order. It is read in parts, so that rows may be written meanwhile."""
        until = -1
        while until < self.known_until:
            try:
                with self._lock:
                    found = self._connection.execute(_KNOWN, (until, self.known_until, _KNOWN_AT_A_TIME)).fetchall()
                    if found and found[-1][0] <= until:  # it would never end
                        raise ValueError("its rows have no order")
            except UNREADABLE as error:
                raise self._unusable(error) from error
            if not found:
                return
            yield from map(Known._make, found)
            until = found[-1][0]

    def response(self, position: int) -> str | None:
        """Return the answer of a row, as JSON; None where there is none."""
        try:
            with self._lock:
                found = self._connection.execute("SELECT response FROM rows WHERE position = ?", (position,)).fetchone()
        except UNREADABLE as error:
            raise self._unusable(error) from error
        return None if found is None else found[0]

    def _unusable(self, error: Exception) -> InvalidInputError:
        return unusable(self.path, error, lambda: salvage(self._connection, self.path, _make))

    def write(self, settled: Sequence[Outcome], released: Sequence[int], claimed: Sequence[Claim]) -> None:
        """Write all of this or nothing.

        Args:
            settled: Outcomes of rows that have ended.
            released: Positions of rows that were claimed, and for which the agent has certainly not run.
            claimed: Rows that are about to be sent.

        Raises:
            JournalFullError: It can't be written, as when the disk is full. At most the outcomes are.
        """
        with self._lock:
            try:
                self._write(settled, released, claimed)
            except sqlite3.Error as error:
                if "malformed" in str(error) or "not a database" in str(error):
                    raise self._unusable(error) from error
                # What has been answered is recorded in the room that was reserved; nothing more is begun.
                if self._durable and self._reserve.release() and settled:
                    with contextlib.suppress(sqlite3.Error):
                        self._write(settled, released, ())
                        settled = ()
                again = "run the same again" if self._durable else f"make the same call with journal={str(self.path)!r}"
                raise JournalFullError(
                    f"The journal {str(self.path)!r} can't be written: {error}. Everything that it holds is whole. "
                    f"Make room, and {again} to go on where it stopped.",
                    may_have_run=True,
                    is_settled=not settled,
                ) from error

    def _write(self, settled: Sequence[Outcome], released: Sequence[int], claimed: Sequence[Claim]) -> None:
        execute, executemany = self._connection.execute, self._connection.executemany
        try:
            execute("BEGIN")
            executemany(_SETTLE, settled)
            if self._durable:
                executemany(_RELEASE, ((position,) for position in released))
                executemany(_CLAIM, claimed)
            execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file. It is one file then, that others may use and copy."""
        with self._lock:
            if self._durable:
                self._reserve.release()  # the journal may need it now
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()


def _make(connection: sqlite3.Connection, run: str, journal: uuid.UUID) -> None:
    """Make a journal of an empty database."""
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO run VALUES ('run', ?)", (run,))
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    _mark(connection, journal)


def _mark(connection: sqlite3.Connection, journal: uuid.UUID) -> None:
    """Say which journal it is, and that it has the present format."""
    connection.execute("INSERT INTO run VALUES ('uuid', ?)", (str(journal),))
    connection.execute(f"PRAGMA user_version = {_VERSION}")


class Reader:
    """Reads a journal that nobody is writing to. Keeps it closed in between, so that the next run may open it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def stamp(self) -> tuple[int, int]:
        """Return what changes when somebody writes to the file.

        Raises:
            InvalidInputError: The file is gone.
        """
        try:
            stat = self.path.stat()
        except OSError as error:
            raise InvalidInputError(f"The journal {str(self.path)!r} is not there any more.") from error
        return stat.st_mtime_ns, stat.st_size

    def select(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query.

        Raises:
            InvalidInputError: The file is gone or in use.
        """
        if not self.path.exists():
            raise InvalidInputError(f"The journal {str(self.path)!r} is not there any more.")
        with contextlib.closing(connect(self.path)) as connection:
            try:
                return connection.execute(sql, values).fetchall()
            except UNREADABLE as error:
                raise unusable(self.path, error, lambda: salvage(connection, self.path, _make)) from error


def discard(path: Path) -> None:
    """Delete a journal, if there is one, to begin anew.

    Raises:
        InvalidInputError: The file is no journal, or is in use.
    """
    if not path.exists():
        return
    connection = connect(path)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    except UNREADABLE as error:
        raise unusable(path, error) from error
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
