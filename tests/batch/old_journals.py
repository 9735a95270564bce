"""Journals as earlier versions of this package made them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VERSION_1 = """CREATE TABLE rows (
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
)"""
VERSION_2 = VERSION_1.replace("    state", "    columns TEXT,\n    state")
VERSION_3 = VERSION_2.replace("    state", "    run INTEGER NOT NULL DEFAULT 0,\n    state")


def make_old(path: Path, version: int, about: dict[str, Any], rows: Iterable[tuple[int, bytes, str, str]]) -> None:
    """Make a journal of version 1 or 2 with these rows: position, digest, state, output text."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        connection.execute({1: VERSION_1, 2: VERSION_2}[version])
        connection.execute("CREATE INDEX failed ON rows (position) WHERE state = 'failed'")
        connection.execute("INSERT INTO run VALUES ('run', ?)", (json.dumps(about, sort_keys=True),))
        connection.executemany(
            "INSERT INTO rows (position, digest, id, state, output_text) VALUES (?, ?, 'null', ?, ?)", rows
        )
        connection.execute(f"PRAGMA application_id = {int.from_bytes(b'agjl', 'big')}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
