"""SQLite's files: how they are opened, and what it means when they can't be used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from mlflow_agent_target.errors import InvalidInputError

# What using a damaged file may raise: SQLite's own errors, and Python's, since it may hold anything.
UNREADABLE = (sqlite3.Error, ValueError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError)
# What SQLite says where a file can't be used though it isn't damaged: what that is, and what to do.
_KNOWN = {
    "locked": ("is in use by another run", "Wait for that to end, or name another file."),
    "not a database": (
        "is no journal, or its beginning is damaged",
        "Name another file as the journal, which asks all rows, or put back a copy of it that is whole.",
    ),
    "unable to open": ("can't be opened", "Check that its folder exists and may be written to."),
    "readonly": ("may not be written to", "Change its permissions, or go on with a copy of it."),
    "disk is full": ("can't be written: the disk is full", "Make room, and make the same call again."),
    "disk I/O": ("can't be read or written: disk I/O error", "Look after the disk, and make the same call again."),
}


def connect(path: Path) -> sqlite3.Connection:
    """Open a file; SQLite makes one where there is none.

    Raises:
        InvalidInputError: It can't be opened.
    """
    try:
        # Another process's lock is not waited for: it may run for hours. The path is absolute, since a file may be
        # called ":memory:".
        return sqlite3.connect(path.absolute(), timeout=0.0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: Exception, save: Callable[[], str] = lambda: "") -> InvalidInputError:
    """Return the error that a journal can't be used.

    Args:
        path: The journal.
        error: What SQLite or Python say of it.
        save: Saves what can be read of a damaged one, and says what to do.
    """
    said = str(error)
    for known, (what, advice) in _KNOWN.items():
        if known in said:
            return InvalidInputError(f"The journal {str(path)!r} {what}. {advice}")
    return InvalidInputError(f"The journal {str(path)!r} is damaged ({said}). {save()}".rstrip())
