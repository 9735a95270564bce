"""The journal: what it refuses, what it survives, and any sequence of claims, outcomes and deaths."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlflow_agent_target import AgentTargetError, BatchResult, InvalidInputError
from mlflow_agent_target.batch import journal as journal_module
from mlflow_agent_target.batch.journal import Journal, Reader, delete, discard
from mlflow_agent_target.batch.records import FAILED, IN_DOUBT, OK, RELEASED, Claim, Outcome
from mlflow_agent_target.batch.sqlite import unusable
from tests.batch.old_journals import VERSION_3, make_old

ABOUT = {"endpoint": "a", "target": "http://127.0.0.1:1"}


def claim(position: int) -> Claim:
    return Claim(position, b"%16d" % position, "null")


def settle(position: int, state: str = OK) -> Outcome:
    return Outcome(*claim(position), state, response="{}")


def states(path: Path) -> dict[int, str]:
    return dict(Reader(path).select("SELECT position, state FROM rows"))


def test_it_knows_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, ABOUT)
    assert journal.known_until == 0
    journal.write([], [], [claim(0), claim(1), claim(2), claim(4)])
    journal.write([settle(0), settle(1, FAILED)], [4], [])
    journal.close()
    again = Journal(path, ABOUT)
    assert again.known_until == 5
    assert [(known.position, known.state) for known in again.known()] == [
        (0, OK),
        (1, FAILED),
        (2, IN_DOUBT),
        (4, RELEASED),
    ]
    again.close()


def test_the_format_is_that_of_version_3(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    Journal(path, ABOUT).close()
    made = Reader(path).select("SELECT sql FROM sqlite_master")
    assert [sql for (sql,) in made if sql.startswith("CREATE TABLE rows")] == [VERSION_3]
    assert Reader(path).select("PRAGMA user_version") == [(3,)]
    assert Reader(path).select("PRAGMA application_id") == [(int.from_bytes(b"agjl", "big"),)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_journal_of_an_earlier_version_is_gone_on_with(version: int, tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    make_old(path, version, ABOUT, [(0, b"d", OK, "t"), (1, b"e", FAILED, ""), (2, b"f", "claimed", "")])
    journal = Journal(path, ABOUT)
    known = [(0, b"d", "null", OK, 0), (1, b"e", "null", FAILED, 0), (2, b"f", "null", IN_DOUBT, 0)]
    assert list(journal.known()) == known
    journal.write([Outcome(3, b"g", "7", '{"a": 1}', 4, OK)], [], [Claim(1, b"e", "null", run=1)])
    its_uuid = journal.uuid
    journal.close()
    assert Reader(path).select("SELECT position, columns, run, output_text FROM rows") == [
        *((0, None, 0, "t"), (1, None, 1, ""), (2, None, 0, ""), (3, '{"a": 1}', 4, None)),
    ]
    again = Journal(path, ABOUT)
    assert again.uuid == its_uuid
    again.close()
    assert Reader(path).select("PRAGMA user_version") == [(3,)]


def test_each_journal_has_a_uuid_of_its_own_for_ever(tmp_path: Path) -> None:
    def uuid_of(name: str, durable: bool = True) -> uuid.UUID:
        journal = Journal(tmp_path / name, ABOUT, durable=durable)
        journal.close()
        return journal.uuid

    for version in (1, 2):
        make_old(tmp_path / f"old{version}", version, ABOUT, [])
    names = ["a", "b", "old1", "old2"]
    found = [uuid_of(name) for name in names]
    assert [uuid_of(name) for name in names] == found
    assert len({*found, uuid_of("c", durable=False), uuid_of("d", durable=False)}) == 6
    discard(tmp_path / "a")
    assert uuid_of("a") != found[0]  # begun anew, it asks anew


@pytest.mark.parametrize("change", ["DELETE FROM run", "UPDATE run SET value = 'x'", "UPDATE run SET value = 7"])
def test_a_journal_that_lost_its_uuid_is_damaged(change: str, tmp_path: Path) -> None:
    """Under another one, the agent would run again for what is in doubt."""
    path = tmp_path / "j.db"
    Journal(path, ABOUT).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"{change} WHERE key = 'uuid'")
        connection.commit()
    with pytest.raises(InvalidInputError, match="is damaged"):
        Journal(path, ABOUT)


def test_the_number_of_a_rows_run_is_that_of_its_last_claim(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, ABOUT)
    journal.write([settle(n, FAILED)._replace(run=5) for n in range(4)], [], [claim(4)])
    journal.write([], [], [claim(n)._replace(run=6) for n in range(1, 4)])
    journal.write([settle(3, FAILED)._replace(run=6)], [2], [])
    journal.close()
    again = Journal(path, ABOUT)
    assert [(known.state, known.run) for known in again.known()] == [
        *((FAILED, 5), (IN_DOUBT, 6), (RELEASED, 6), (FAILED, 6), (IN_DOUBT, 0)),
    ]
    again.close()


def damaged(whole: bytes, seed: int) -> bytes:
    randomly = random.Random(seed)
    if seed % 3 == 0:
        return whole[: randomly.randrange(len(whole))]
    changed = bytearray(whole)
    for _ in range(randomly.choice([1, 8, 200])):
        changed[randomly.randrange(len(changed))] = randomly.randrange(256)
    return bytes(changed)


def test_a_damaged_journal_is_an_error_in_words_or_still_read(tmp_path: Path) -> None:
    """Whatever happened to it."""
    path = tmp_path / "j.db"
    journal = Journal(path, ABOUT)
    rows = [Outcome(n, b"d" * 16, f'"{n}"', '{"a": 1}', 0, OK, '{"output": []}', "t", seconds=0.5) for n in range(300)]
    journal.write(rows, [], [])
    journal.close()
    whole = path.read_bytes()
    said = set()
    for seed in range(150):
        delete(path)
        path.with_name("j.db.saved").unlink(missing_ok=True)
        path.write_bytes(damaged(whole, seed))
        try:
            journal = Journal(path, ABOUT)
            try:
                list(journal.known())
                journal.write([Outcome(400, b"d", "1", None, 0, OK)], [], [])
            finally:
                journal.close()
            result = BatchResult(path)
            repr(result), result.summary(), list(result), result.latencies(), list(result.failed)
            for suffix in ("jsonl", "csv", "parquet"):
                result.write(tmp_path / f"a.{suffix}")
        except AgentTargetError as error:
            said.add("saved in" in str(error))
    assert True in said


def test_rows_without_an_order_are_damage_and_no_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that points back to itself."""
    journal = Journal(tmp_path / "j.db", ABOUT)
    journal.write([settle(0), settle(1)], [], [])
    journal.known_until = 2
    monkeypatch.setattr(journal_module, "_KNOWN", "SELECT 0, digest, id, state, run FROM rows WHERE ? < ? LIMIT ?")
    with pytest.raises(InvalidInputError, match=r"is damaged \(its rows have no order\)"):
        list(journal.known())
    journal.close()


def test_damage_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    """Room would not mend it."""
    path = tmp_path / "j.db"
    journal = Journal(path, ABOUT)
    journal.write([settle(n)._replace(response='{"a": "' + "x" * 500 + '"}') for n in range(2000)], [], [])
    journal.close()
    whole = bytearray(path.read_bytes())
    again = Journal(path, ABOUT)
    again.write([], [], [])
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(len(whole) - 4096 * 3))
    again._connection.execute("PRAGMA shrink_memory")
    with pytest.raises(AgentTargetError, match="is damaged") as raised:
        again.write([settle(n) for n in range(2000)], [], [])
    assert "Make room" not in str(raised.value)
    again.close()


def test_a_file_that_may_not_be_written_to_is_not_called_damaged(tmp_path: Path) -> None:
    said = str(unusable(tmp_path, sqlite3.OperationalError("attempt to write a readonly database")))
    assert "may not be written to" in said
    assert "damaged" not in said


@pytest.mark.parametrize("value", ["no JSON", "7", '"text"', "null", "[]", "[" * 100_000])
def test_a_journal_of_which_nobody_knows_what_it_belongs_to(value: str, tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    Journal(path, ABOUT).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE run SET value = ?", (value,))
        connection.commit()
    with pytest.raises(InvalidInputError, match=r"damaged|belongs to another"):
        Journal(path, ABOUT)


def text_file(path: Path) -> None:
    path.write_text("questions, not answers\n" * 100, encoding="utf-8")


def other_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE rows (position INTEGER)")


def newer_version(path: Path) -> None:
    Journal(path, ABOUT).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def other_endpoint(path: Path) -> None:
    Journal(path, {**ABOUT, "endpoint": "b"}).close()


def other_endpoint_then(path: Path) -> None:
    make_old(path, 1, {**ABOUT, "endpoint": "b"}, [(0, b"d", "claimed", "")])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (text_file, "is no journal"),
    "another database": (other_database, "no journal of a batch"),
    "a newer version": (newer_version, r"newer version of this package \(format 99; this one knows 3\)"),
    "another endpoint": (other_endpoint, "belongs to another batch: endpoint 'b', not 'a'"),
    "another endpoint, in an earlier version": (other_endpoint_then, "belongs to another batch: endpoint 'b', not 'a'"),
    "a folder": (Path.mkdir, "can't be opened"),
    "no folder": (lambda path: path.parent.rmdir(), "can't be opened"),
}


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_journal_of_this_batch_is_refused_and_left_alone(
    make: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "j.db"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(InvalidInputError, match=said):
        Journal(path, ABOUT)
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.parametrize("make", [text_file, other_database])
def test_only_a_journal_is_discarded(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    discard(path)  # there is none
    make(path)
    with pytest.raises(InvalidInputError, match="is no journal"):
        discard(path)
    assert path.exists()
    path.unlink()
    Journal(path, ABOUT).close()
    discard(path)
    assert list(tmp_path.iterdir()) == []


def test_any_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Journal(Path(":memory:"), ABOUT).close()
    assert states(Path(":memory:")) == {}


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    path.touch()
    Journal(path, ABOUT).close()
    assert states(path) == {}


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    code = (
        "import sys\nfrom pathlib import Path\nfrom mlflow_agent_target.batch.journal import Journal\n"
        "from mlflow_agent_target.batch.records import Claim\n"
        f"journal = Journal(Path({str(path)!r}), {ABOUT!r})\n"
        "journal.write([], [], [Claim(0, b'0', 'null')])\nprint('open', flush=True)\nsys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdin
    assert child.stdout.readline() == b"open\n"
    for use in (lambda: Journal(path, ABOUT), lambda: discard(path), lambda: states(path)):
        with pytest.raises(InvalidInputError, match="is in use by another run"):
            use()
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    journal = Journal(path, ABOUT)
    assert [known.state for known in journal.known()] == [IN_DOUBT]
    journal.close()


def test_a_full_disk_leaves_the_journal_whole(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, ABOUT)
    journal._connection.execute("PRAGMA max_page_count = 20")
    written = -1

    def write_on() -> None:
        nonlocal written
        while True:
            outcome = settle(written + 1)._replace(response="x" * 1000)
            journal.write([outcome], [], [claim(written + 2)])
            written += 1

    with pytest.raises(AgentTargetError, match=r"can't be written: database or disk is full.*Make room"):
        write_on()
    journal.close()
    assert states(path) == {**dict.fromkeys(range(written + 1), OK), written + 1: "claimed"}
    again = Journal(path, ABOUT)
    again.write([settle(written + 1)], [], [])
    again.close()


def test_what_is_only_kept_for_the_result_claims_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, ABOUT, durable=False)
    journal.write([], [], [claim(0)])
    journal.write([settle(0)], [], [claim(1)])
    journal.close()
    assert states(path) == {0: OK}
    delete(path)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_was_deleted_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is not there any more"):
        states(tmp_path / "gone.db")
    assert list(tmp_path.iterdir()) == []


class AnyOrder(RuleBasedStateMachine):
    """Claims, releases, outcomes and deaths in any order; a dead process is its files, copied."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._number = 0
        self._path = Path(self._folder.name) / "0.db"
        self._journal = Journal(self._path, ABOUT)
        self._expected: dict[int, tuple[str, int]] = {}  # the state, and the number of the run

    @rule(
        claimed=st.dictionaries(st.integers(0, 12), st.integers(0, 3)),
        settled=st.dictionaries(st.integers(0, 12), st.tuples(st.sampled_from([OK, FAILED]), st.integers(0, 3))),
        released=st.sets(st.integers(0, 12)),
    )
    def write(self, claimed: dict[int, int], settled: dict[int, tuple[str, int]], released: set[int]) -> None:
        runs = {position: run for position, (state, run) in self._expected.items() if state == "claimed"}
        freed = {position: (RELEASED, runs[position]) for position in (runs.keys() & released) - settled.keys()}
        claimed = {position: run for position, run in claimed.items() if position not in settled}
        self._journal.write(
            [settle(position, state)._replace(run=run) for position, (state, run) in settled.items()],
            sorted(freed),
            [claim(position)._replace(run=run) for position, run in claimed.items()],
        )
        self._expected |= settled | freed | {position: ("claimed", run) for position, run in claimed.items()}

    @rule()
    def close(self) -> None:
        self._journal.close()
        self._open()

    @rule()
    def die(self) -> None:
        self._number += 1
        copy = Path(self._folder.name) / f"{self._number}.db"
        for suffix in ("", "-wal"):
            if os.path.exists(f"{self._path}{suffix}"):
                Path(f"{copy}{suffix}").write_bytes(Path(f"{self._path}{suffix}").read_bytes())
        self._journal.close()
        self._path = copy
        self._open()

    def _open(self) -> None:
        self._journal = Journal(self._path, ABOUT)
        for position, (state, run) in self._expected.items():
            self._expected[position] = IN_DOUBT if state == "claimed" else state, run

    @invariant()
    def holds_what_was_written(self) -> None:
        self._journal.known_until = max(self._expected, default=-1) + 1
        assert {known.position: (known.state, known.run) for known in self._journal.known()} == self._expected

    def teardown(self) -> None:
        self._journal.close()
        self._folder.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_rows_are_known_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_KNOWN_AT_A_TIME", 3)
    path = tmp_path / "j.db"
    journal = Journal(path, ABOUT)
    journal.write([settle(position) for position in range(10)], [], [])
    journal.close()
    again = Journal(path, ABOUT)
    seen = []
    for known in again.known():
        again.write([settle(known.position, FAILED)], [], [])
        seen.append(known.state)
    assert seen == [OK] * 10
    again.close()
