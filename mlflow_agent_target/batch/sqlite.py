"""SQLite's files: how they are opened, and what it means when they can't be used."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mlflow_agent_target.errors import InvalidInputError


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


def unusable(path: Path, error: Exception) -> InvalidInputError:
    """Return the error that a journal can't be used, from what SQLite or Python says of it."""
    said = str(error)
    if "locked" in said:
        what, advice = "is in use by another run", "Wait for that to end, or name another file."
    elif "not a database" in said:
        what, advice = "is no journal", "Name another file as the journal."
    elif "unable to open" in said:
        what, advice = "can't be opened", "Check that its folder exists and may be written to."
    else:
        what = f"is damaged, or can't be read ({said})"
        advice = (
            f"What it holds can be saved to a new file, which the same call then goes on with: sqlite3 '{path}' "
            ".recover | sqlite3 NEW_FILE. With a file of another name all rows are asked again."
        )
    return InvalidInputError(f"The journal {str(path)!r} {what}. {advice}")
