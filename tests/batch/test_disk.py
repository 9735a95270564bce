"""Which file systems a journal is not put on, and the room that is kept for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_agent_target import AgentTargetError, InvalidInputError
from mlflow_agent_target.batch.disk import Reserve, untrusted
from mlflow_agent_target.batch.journal import Journal, Reader
from mlflow_agent_target.batch.records import OK, Claim, Outcome

MOUNTS = """\
1 0 8:1 / / rw,relatime - overlay overlay rw
2 1 0:5 / /data rw shared:1 - ext4 /dev/sda rw
3 1 0:6 / /data/share rw - nfs4 server:/share rw
4 1 0:7 / /windows\\040share rw - cifs //server/share rw
5 1 0:8 / /host rw - 9p host rw
6 1 0:9 / /cloud rw - fuse.s3fs s3fs rw
7 1 0:10 / /container rw - fuse.fuse-overlayfs fuse-overlayfs rw
8 1 0:11 / /vm rw - virtiofs share rw
11 1 0:14 / /sshfs rw - fuse.sshfs ann@host:/home rw
12 1 0:15 / /blob rw - fuse blobfuse2 rw
13 1 0:16 / /volume rw - fuse.glusterfs server:/volume rw
15 1 0:18 / /tab\\011share rw - nfs server:/tab rw
16 1 0:19 / /sshfs-backup rw - ext4 /dev/sdc rw
9 1 0:12 / /memory rw - tmpfs tmpfs rw
10 1 0:13 / /data/share/local rw - xfs /dev/sdb rw
a line that is none
"""
PATHS: dict[str, str | None] = {
    "/j.db": None,
    "/data/j.db": None,
    "/data/shared/j.db": None,
    "/data/share/j.db": "kind nfs4, mounted at /data/share",
    "/data/share/local/j.db": None,
    "/windows share/a/j.db": "kind cifs, mounted at /windows share",
    "/host/j.db": "kind 9p",
    "/cloud/j.db": "kind fuse.s3fs",
    "/sshfs/j.db": "kind fuse.sshfs",
    "/blob/j.db": "kind fuse blobfuse2, mounted at /blob",
    "/volume/j.db": "kind fuse.glusterfs",
    "/tab\tshare/j.db": "kind nfs",
    "/sshfs-backup/j.db": None,
    "/container/j.db": None,
    "/vm/j.db": None,
    "/memory/j.db": None,
    "/Volumes/main/default/j.db": "/Volumes, which is cloud storage",
    "/dbfs/j.db": "/dbfs",
    "/Workspace/Users/ann/j.db": "/Workspace",
    "/Volumes2/j.db": None,
}


@pytest.mark.parametrize(("path", "where"), PATHS.items())
def test_network_shares_and_cloud_storage_are_not_trusted(path: str, where: str | None) -> None:
    found = untrusted(Path(path), MOUNTS)
    assert found is None if where is None else where in (found or "")


@pytest.mark.parametrize(("at", "is_trusted"), [("/", True), ("/mnt/c", False)])
def test_the_root_of_a_sandbox_is_its_own(at: str, is_trusted: bool) -> None:
    """gVisor mounts it as 9p; so do virtual machines mount folders of their host."""
    assert (untrusted(Path("/mnt/c/j.db"), f"1 0 0:1 / {at} rw - 9p none rw") is None) == is_trusted


def test_this_machines_own_disk_is(tmp_path: Path) -> None:
    assert untrusted(tmp_path / "j.db") is None
    assert untrusted(tmp_path / "j.db", "") is None


def test_a_journal_there_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidInputError, match=r"'/Volumes/x/j.db' is on /Volumes.*a disk of this machine.*copy it"):
        Journal(Path("/Volumes/x/j.db"), {})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system of its own can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_what_was_answered_is_recorded_though_the_disk_is_full(small_disk: Path) -> None:
    path = small_disk / "j.db"
    journal = Journal(path, {})
    journal.write([], [], [Claim(n, b"d", "null") for n in range(8)])
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    answers = [Outcome(n, b"d", "null", None, 0, OK, "x" * 100_000) for n in range(8)]
    with pytest.raises(AgentTargetError, match=r"can't be written.*Make room, and run the same again"):
        journal.write(answers, [], [Claim(9, b"d", "null")])
    journal.close()
    assert dict(Reader(path).select("SELECT position, state FROM rows")) == dict.fromkeys(range(8), "ok")
    assert sorted(path.name for path in small_disk.iterdir()) == ["j.db", "other"]


def test_a_disk_that_is_small_is_not_filled(small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 2_000_000))
    Reserve(small_disk / "j.db")
    assert shutil.disk_usage(small_disk).free > 1_900_000


def test_a_disk_that_is_nearly_full_has_room_for_a_small_batch(small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 1_000_000))
    journal = Journal(small_disk / "j.db", {})
    journal.write([Outcome(0, b"d", "null", None, 0, OK, "{}")], [], [])
    journal.close()
    assert Reader(small_disk / "j.db").select("SELECT state FROM rows") == [("ok",)]


def test_a_reserve_is_given_back_once(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "j.db")
    assert (reserve.release(), reserve.release()) == (True, False)
    assert not list(tmp_path.iterdir())
