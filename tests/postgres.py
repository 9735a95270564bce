"""A PostgreSQL of a test's own: made in a folder that is thrown away, on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


class Postgres:
    """A cluster, started and stopped. Skips the test where PostgreSQL or its driver is not installed."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg", reason="needs psycopg, which comes with databricks-agentbricks")
        pytest.importorskip("sqlalchemy.ext.asyncio", reason="needs SQLAlchemy with asyncio")
        programs = _programs()
        if programs is None:
            pytest.skip("needs PostgreSQL (initdb and postgres)")
        # PostgreSQL refuses to run as root.
        owner = _unprivileged() if os.geteuid() == 0 else None
        self._user: int | None = owner and owner[0]
        self._group: int | None = owner and owner[1]
        self._folder = Path(tempfile.mkdtemp(prefix="postgres_"))
        if owner is not None:
            os.chown(self._folder, *owner)
        self._run(
            [programs / "initdb", "--pgdata=data", "--username=test", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        ).wait(60)
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        settings = ("listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "fsync=off")
        self._process = self._run(
            [programs / "postgres", "-D", "data", *(word for setting in settings for word in ("-c", setting))]
        )
        self.url = f"postgresql+psycopg://test@127.0.0.1:{port}/postgres"
        self._wait_for(port)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, command: list[str | Path]) -> subprocess.Popen[bytes]:
        with (self._folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._group,
                extra_groups=None if self._user is None else [],
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            )

    def _wait_for(self, port: int) -> None:
        import psycopg

        ends = time.monotonic() + 30
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(host="127.0.0.1", port=port, user="test", dbname="postgres").close()
                return
            if self._process.poll() is not None or time.monotonic() > ends:
                said = (self._folder / "log.txt").read_text(encoding="utf-8")[-3000:]
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start:\n{said}")
            time.sleep(0.05)


def _programs() -> Path | None:
    """The folder of initdb and postgres, which distributions leave off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def _unprivileged() -> tuple[int, int]:
    import pwd

    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return found.pw_uid, found.pw_gid
    pytest.skip("PostgreSQL does not run as root, and there is no other user")
