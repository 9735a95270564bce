"""The disk under a journal: whether SQLite can trust its file system, and some room kept for when it is full."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import IO

# SQLite needs locks and shared memory that work between processes: https://www.sqlite.org/wal.html,
# https://www.sqlite.org/faq.html#q5. Over a network they often don't, and the file is then damaged.
_NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "gluster", "lustre", "beegfs", "davfs")
# Programs that mount such by FUSE are in the type (fuse.sshfs), or else in the source (blobfuse2).
_NETWORK_FUSE = (
    *("sshfs", "s3fs", "goofys", "gcsfuse", "blobfuse", "rclone", "mountpoint-s3", "dbfs", "wsfs", "juicefs"),
    *("gluster", "ceph", "davfs", "alluxio"),
)
# Folders of Databricks that are mounted from cloud storage.
_DATABRICKS = ("/Volumes/", "/dbfs/", "/Workspace/")
# Answers of all that is in flight have room in so many bytes.
_RESERVED_BYTES = 4_000_000


def untrusted(path: Path, mounts: str | None = None) -> str | None:
    """Return what file system a file is on, if SQLite can't be trusted with it; None where it can.

    Args:
        path: The file.
        mounts: What /proc/self/mountinfo says; None to read it. Where there is none, only known folders are recognised.
    """
    real = os.path.realpath(path)
    for folder in _DATABRICKS:
        if real.startswith(folder):
            return f"{folder[:-1]}, which is cloud storage"
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    best, kind, source = "", "", ""
    for line in mounts.splitlines():
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw: see man 5 proc. A space in a path is \040.
        before, _, after = line.partition(" - ")
        fields, mounted = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(mounted) < 2:
            continue
        mount = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        if len(mount) >= len(best) and (real == mount or real.startswith(mount.rstrip("/") + "/")):
            best, kind, source = mount, mounted[0].lower(), mounted[1].lower()
    if kind == "9p" and best == "/":  # the root of a container (gVisor), which no other machine shares
        return None
    named = f"{kind} {source}" if kind == "fuse" else kind
    is_network = kind.startswith(_NETWORK) or (
        kind.startswith("fuse") and any(known in named for known in _NETWORK_FUSE)
    )
    return f"a file system of the kind {named}, mounted at {best}" if is_network else None


class Reserve:
    """Some room on the disk of a journal, in a file without a name, that is given back when the disk is full.

    Args:
        path: The journal.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            self._file = tempfile.TemporaryFile(dir=path.parent, buffering=0)  # noqa: SIM115 (it stays open)
            if self._file.write(bytes(_RESERVED_BYTES)) < _RESERVED_BYTES:
                self.release()  # a disk that is as small as that needs all of it

    def release(self) -> bool:
        """Give the room back. Return whether there was some."""
        if self._file is None:
            return False
        self._file.close()
        self._file = None
        return True
