"""A row as results show it: its columns, their names, and cells that are damaged."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.batch.records import FAILED, OK, SHOWN, SHOWN_NAMES, Claim, Outcome
from mlflow_agent_target.batch.shown import Json, batch_row, kept_columns, parsed, record

CLAIM = Claim(7, b"d" * 16, '"a"')
WHOLE = Outcome(*CLAIM, OK, response='{"output": []}')


def values(outcome: Outcome) -> tuple[Any, ...]:
    return tuple(getattr(outcome, name) for name in SHOWN)


@pytest.mark.parametrize(
    ("outcome", "differs"),
    [
        (Outcome(*CLAIM, OK, response='{"a": [1]}', output_text="{}"), {"response": {"a": [1]}, "output_text": "{}"}),
        (Outcome(*CLAIM, FAILED, error="E"), {"status": "failed", "error": "E"}),
        (Outcome(7, b"", "null", None, 0, OK), {"id": None}),
    ],
)
def test_what_is_shown_of_a_row(outcome: Outcome, differs: dict[str, Any]) -> None:
    empty = {**dict.fromkeys(SHOWN_NAMES), "index": 7, "id": "a", "status": "ok", "attempts": 0}
    assert record(values(outcome), None) == {**empty, **differs}


NAMES: dict[str, dict[str, str]] = {
    "its own": {"q": "q"},
    "one that a result has": {"index": "input_index", "q": "q"},
    "and what that would be called": {"index": "input_index", "input_index": "input_input_index"},
    "one that begins so": {"input_q": "input_q"},
    "a result's own that begins so": {"input_tokens": "input_input_tokens"},
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_kept_columns_take_no_name_from_each_other_or_the_results(names: dict[str, str]) -> None:
    kept = json.dumps({name: f"of {name}" for name in names})
    assert kept_columns(7, kept) == {shown: f"of {name}" for name, shown in names.items()}
    shown = record(values(WHOLE), kept)
    assert list(shown) == [*names.values(), *SHOWN_NAMES]
    assert shown["index"] == 7


def test_an_answer_may_stay_as_it_is_written() -> None:
    shown = record(values(WHOLE), None, reads_answers=False)
    assert (type(shown["response"]), shown["response"]) == (Json, WHOLE.response)


DAMAGED: dict[str, tuple[Outcome, str | None]] = {
    "an id that is no JSON": (WHOLE._replace(id="a"), None),
    "an answer that is no JSON": (WHOLE._replace(response="{"), None),
    "an answer that is a number": (WHOLE._replace(response="7"), None),
    "text for a number": (WHOLE._replace(seconds="long"), None),  # type: ignore[arg-type]
    "bytes for text": (WHOLE._replace(output_text=b"x"), None),  # type: ignore[arg-type]
    "columns that are no JSON": (WHOLE, "{"),
    "columns that are a list": (WHOLE, "[]"),
}


@pytest.mark.parametrize(("outcome", "kept"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_row_is_an_error_that_says_which(outcome: Outcome, kept: str | None) -> None:
    with pytest.raises(InvalidInputError, match=r"^Row 7 of the journal is damaged.*delete it there"):
        batch_row(values(outcome), kept)


@pytest.mark.parametrize("counted", [{"total_tokens": 7}, {"input_tokens": 3}])
def test_tokens_are_there_where_any_were_counted(counted: dict[str, int]) -> None:
    none = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"))
    assert batch_row(values(WHOLE._replace(**counted)), None).usage == {**none, **counted}
    assert batch_row(values(WHOLE), None).usage is None


def test_what_a_worker_wrote_is_read_however_deep_its_reader_is() -> None:
    deep = "[" * 900 + "]" * 900

    def read(callers: int) -> Any:
        return read(callers - 1) if callers else parsed(7, deep)

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(read(200)))
    thread.start()
    thread.join()
    assert json.dumps(found[0]) == deep
    with pytest.raises(InvalidInputError, match="Row 7 of the journal is damaged"):
        parsed(7, "[" * 100_000)
