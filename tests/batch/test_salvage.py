"""What is saved of a damaged journal."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_target import AgentTargetError, InvalidInputError
from mlflow_agent_target.batch.journal import Journal, Reader
from mlflow_agent_target.batch.records import OK, Claim, Outcome
from mlflow_agent_target.batch.salvage import _next_readable
from tests.batch.old_journals import make_old

ABOUT = {"endpoint": "a"}
ROWS = 2000
PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "j.db"
    journal = Journal(path, ABOUT)
    journal.write([outcome(n) for n in range(ROWS)], [], [Claim(ROWS, b"d", "null")])
    journal.close()
    return path


def outcome(position: int) -> Outcome:
    return Outcome(position, b"d" * 16, f'"{position}"', '{"q": 1}', 0, OK, '{"output": []}', "x" * 100)


def zero(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(bytes(PAGE))


def cut_off(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def saved(path: Path) -> dict[int, str]:
    assert Journal(path.with_name("j.db.saved"), ABOUT).close() is None
    return dict(Reader(path.with_name("j.db.saved")).select("SELECT position, state FROM rows"))


@pytest.mark.parametrize(
    ("damage", "least", "most"),
    [
        (lambda path: zero(path, 20), ROWS - 60, ROWS),
        (lambda path: zero(path, *range(20, 30)), ROWS - 300, ROWS - 100),
        (lambda path: zero(path, path.stat().st_size // PAGE - 1), ROWS - 60, ROWS),
        (cut_off, ROWS // 3, ROWS * 2 // 3),
    ],
)
def test_all_rows_but_those_on_damaged_pages_are_saved(damage: object, least: int, most: int, path: Path) -> None:
    assert callable(damage)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(InvalidInputError, match=r"is damaged \(.*\d+ rows could be read, and are saved in .*j.db.sav"):
        Journal(path, ABOUT)
    assert path.read_bytes() == before
    found = saved(path)
    assert least <= len(found) <= most
    assert all(state == OK for position, state in found.items() if position < ROWS)
    assert found.get(ROWS, "in_doubt") == "in_doubt"
    kept = Reader(path.with_name("j.db.saved")).select("SELECT * FROM rows WHERE position = 1")
    assert kept == [tuple(outcome(1))]


@given(st.integers(0, 1 << 30), st.integers(1, 1 << 20))
def test_nothing_that_can_be_read_is_jumped_over(start: int, lost: int) -> None:
    assert _next_readable(start, lambda place: place >= start + lost) == start + lost


def test_a_search_for_what_can_be_read_ends() -> None:
    assert _next_readable(7, lambda _: False) >= 1 << 40


def test_what_was_saved_before_is_never_replaced(path: Path) -> None:
    zero(path, 20)
    earlier = path.with_name("j.db.saved")
    earlier.write_text("a user's own", encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"j.db.saved' was made before: give that"):
        Journal(path, ABOUT)
    assert earlier.read_text(encoding="utf-8") == "a user's own"


def test_where_nothing_can_be_saved_nothing_is_left_behind(path: Path) -> None:
    zero(path, *range(1, path.stat().st_size // PAGE))
    with pytest.raises(InvalidInputError, match=r"Nothing of it could be saved\. Put back a copy"):
        Journal(path, ABOUT)
    assert [file.name for file in path.parent.iterdir()] == ["j.db"]


def test_rows_that_hold_no_outcome_are_left_out(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for position, change in enumerate(
            (
                "id = 'a'",
                "state = 'done'",
                "response = '{'",
                "columns = 7",
                "seconds = 'long'",
                "digest = 'text'",
                "run = 'one'",
            )
        ):
            connection.execute(f"UPDATE rows SET {change} WHERE position = ?", (position,))  # noqa: S608
        connection.commit()
    zero(path, 30)
    with pytest.raises(InvalidInputError, match="saved in"):
        Journal(path, ABOUT)
    assert min(saved(path)) == 7


@pytest.mark.parametrize("version", [1, 2])
def test_of_an_earlier_version_as_much_is_saved(version: int, tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    make_old(path, version, ABOUT, ((n, b"d" * 16, OK, "x" * 100) for n in range(ROWS)))
    zero(path, 20)
    with pytest.raises(InvalidInputError, match="saved in"):
        Journal(path, ABOUT)
    assert len(saved(path)) >= ROWS - 60
    kept = Reader(path.with_name("j.db.saved")).select("SELECT columns, run, output_text FROM rows WHERE position = 1")
    assert kept == [(None, 0, "x" * 100)]


def test_what_is_saved_is_asked_under_the_same_ids(path: Path) -> None:
    journal = Journal(path, ABOUT)
    journal.write([outcome(n)._replace(run=n % 5) for n in range(ROWS)], [], [Claim(ROWS, b"d", "null", run=3)])
    journal.close()
    zero(path, 20)
    with pytest.raises(InvalidInputError, match="saved in"):
        Journal(path, ABOUT)
    again = Journal(path.with_name("j.db.saved"), ABOUT)
    known = list(again.known())
    assert again.uuid == journal.uuid
    assert all(row.run == row.position % 5 for row in known if row.position < ROWS)
    assert known[-1] == (ROWS, b"d", "null", "in_doubt", 3)
    again.close()


def test_where_the_uuid_is_lost_the_rows_are_saved_all_the_same(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE run SET value = 'x' WHERE key = 'uuid'")
        connection.commit()
    with pytest.raises(InvalidInputError, match=f"{ROWS + 1} rows could be read"):
        Journal(path, ABOUT)
    assert len(saved(path)) == ROWS + 1


def test_damage_that_is_met_later_saves_as_much(path: Path) -> None:
    journal = Journal(path, ABOUT)
    journal._connection.execute("UPDATE rows SET id = CAST(x'22c822' AS TEXT) WHERE position = 5")
    with pytest.raises(AgentTargetError, match=rf"is damaged .*{ROWS} rows could be read"):
        list(journal.known())
    journal.close()
    with pytest.raises(AgentTargetError, match="was made before"):
        Reader(path).select("SELECT id FROM rows")
    assert len(saved(path)) == ROWS
