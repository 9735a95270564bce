"""What is known of a row: its columns, its claim, its outcome."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from mlflow_agent_target import (
    AgentError,
    AgentResponse,
    AuthenticationError,
    EndpointUnavailableError,
    InvalidInputError,
    InvalidResponseError,
    RequestTimeoutError,
)
from mlflow_agent_target.batch.records import (
    CLAIMED,
    COLUMNS,
    FAILED,
    IN_DOUBT,
    OK,
    RELEASED,
    SHOWN,
    SHOWN_NAMES,
    TOKENS,
    Claim,
    Outcome,
    answer_outcome,
    digest,
    error_outcome,
    is_same_id,
    row_claim,
)

HALF = chr(0xD800)  # half of a surrogate pair
CLAIM = Claim(7, b"d" * 16, '"a"')


def test_the_columns_are_an_outcomes_fields() -> None:
    assert tuple(COLUMNS) == Outcome._fields
    assert Outcome._fields[:5] == Claim._fields
    assert TOKENS == ("input_tokens", "output_tokens", "total_tokens")


def test_the_journal_has_them_as_earlier_versions_had() -> None:
    assert [f"{name} {column.sql}" for name, column in COLUMNS.items()] == [
        *("position INTEGER PRIMARY KEY", "digest BLOB NOT NULL", "id TEXT NOT NULL", "columns TEXT"),
        *("run INTEGER NOT NULL DEFAULT 0", "state TEXT NOT NULL"),
        *("response TEXT", "output_text TEXT", "error TEXT", "error_message TEXT"),
        *("attempts INTEGER NOT NULL DEFAULT 0", "seconds REAL"),
        *("input_tokens INTEGER", "output_tokens INTEGER", "total_tokens INTEGER", "request_id TEXT"),
    ]


def test_states_are_what_journals_of_earlier_versions_hold() -> None:
    assert (OK, FAILED, IN_DOUBT, CLAIMED, RELEASED) == ("ok", "failed", "in_doubt", "claimed", "released")


def test_results_show_all_but_the_digest_and_the_number_of_the_run() -> None:
    assert set(COLUMNS) - set(SHOWN) == {"digest", "columns", "run"}
    assert (
        *("index", "id", "status", "response", "output_text", "error", "error_message", "attempts", "seconds"),
        *("input_tokens", "output_tokens", "total_tokens", "request_id"),
    ) == SHOWN_NAMES
    assert [column.arrow for column in SHOWN.values()] == [
        *("int64", "string", "string", "string", "string", "string", "string", "int64", "float64"),
        *("int64", "int64", "int64", "string"),
    ]


def test_a_run_has_the_same_id_in_every_version_and_none_has_anothers() -> None:
    """Rows in doubt are asked under it, whoever claimed them."""
    assert str(CLAIM.run_id(UUID(int=1))) == "5b403556-777c-54ce-bbf6-46cbdc15036d"
    assert CLAIM.run_id(UUID(int=1)) == CLAIM._replace(digest=b"", id="0", columns="{}").run_id(UUID(int=1))
    claims = [Claim(position, b"d", "null", run=run) for position in (1, 11, 111) for run in (0, 1, 11)]
    assert len({claim.run_id(UUID(int=journal)) for journal in range(3) for claim in claims}) == 3 * len(claims)


@pytest.mark.parametrize(
    ("error", "run"),
    [
        (AgentError("failed", invocation_id="i"), 1),
        (InvalidResponseError("no answer", invocation_id="i"), 1),
        (AgentError("by its record", invocation_id="i", status_code=200), 1),
        (AgentError("forgotten", invocation_id="i", status_code=404), 1),
        (AgentError("a proxy's", invocation_id="i", status_code=410, body="<html>"), 0),
        (AgentError("MCP", invocation_id="i", status_code=403, body={"error": {"code": "MCP_X", "message": "m"}}), 1),
        (AgentError("500, and may be asked again", invocation_id="i", retryable=True), 0),
        (AgentError("of a server that keeps no runs"), 0),
        (RequestTimeoutError("it goes on", invocation_id="i"), 0),
        (EndpointUnavailableError("cut", invocation_id="i", may_have_run=True), 0),
        (AuthenticationError("401, while it goes on", invocation_id="i", may_have_run=True), 0),
        (ValueError("none of ours"), 0),
    ],
)
def test_only_after_a_run_that_is_over_is_a_row_another_run(error: Exception, run: int) -> None:
    assert CLAIM.after(error) == CLAIM._replace(run=run)
    assert error_outcome(CLAIM, error, 1, None).run == run


IDS = [
    (7, "7"),
    ("7", '"7"'),
    (None, "null"),
    (float("nan"), "null"),
    (float("inf"), '"inf"'),
    (1.5, "1.5"),
    ([1, "b"], '[1, "b"]'),
    ({(1, 2): 3}, '"{(1, 2): 3}"'),
    (1j, '"1j"'),
    ([float("nan")], '"[nan]"'),
    (HALF, '"\\ud800"'),
]


@pytest.mark.parametrize(("id_", "text"), IDS, ids=[text for _, text in IDS])
def test_any_id_is_claimed_as_json(id_: Any, text: str) -> None:
    assert row_claim(3, id_, "hi", None) == (Claim(3, digest("hi"), text), 4)


class Unsayable:
    def __str__(self) -> str:
        raise RuntimeError


WITHIN_ITSELF: list[Any] = []
WITHIN_ITSELF.append(WITHIN_ITSELF)
KEPT: dict[str, tuple[dict[Any, Any], dict[str, Any]]] = {
    "what JSON knows": ({"q": "ä", "n": 1, "l": [1, None]}, {"q": "ä", "n": 1, "l": [1, None]}),
    "names that are no text": ({1: "a", ("b", "c"): 2}, {"1": "a", "('b', 'c')": 2}),
    "keys that are no text": ({"d": {(1, 2): 3}, "q": "a"}, {"d": "{(1, 2): 3}", "q": "a"}),
    "a value within itself": ({"l": WITHIN_ITSELF, "n": 1}, {"l": "[[...]]", "n": 1}),
    "an object": ({"z": 1j}, {"z": "1j"}),
    "an object that can't be said": ({"z": Unsayable(), "n": 1}, {"z": "Unsayable", "n": 1}),
    "half of a pair": ({"q": HALF}, {"q": "?"}),
}


@pytest.mark.parametrize(("columns", "kept"), KEPT.values(), ids=KEPT)
def test_columns_are_kept_whatever_they_hold(columns: dict[Any, Any], kept: dict[str, Any]) -> None:
    claim, size = row_claim(0, None, "hi", columns)
    assert claim.columns is not None
    claim.columns.encode()  # can be stored
    assert json.loads(claim.columns) == kept
    assert size == 4 + len(claim.columns)
    assert row_claim(0, Unsayable(), "hi", None)[0].id == '"Unsayable"'


@pytest.mark.parametrize(
    ("then", "now", "is_same"),
    [
        ("7", "7", True),
        ('"7"', "7", True),
        ("7", "8", False),
        ('"7"', "8", False),
        ("null", "7", False),
        ('"null"', "null", True),
        ("7", '"7"', False),
    ],
)
def test_ids_are_the_same_though_earlier_versions_kept_numbers_as_text(then: str, now: str, is_same: bool) -> None:
    assert is_same_id(then, now) is is_same


def test_an_answer_that_is_nested_too_deeply_is_an_error_with_its_text() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidResponseError, match=r"nested too deeply to be recorded\. Its text: ä"):
        answer_outcome(CLAIM, AgentResponse({"output": [TEXT], "deep": deep}), attempts=1)


class Odd:
    pass


class Broken:
    def to_dict(self) -> Any:
        raise RuntimeError


class Model:
    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self) -> Any:
        return self.fields

    to_dict = 1


class Table:
    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def to_dict(self) -> Any:
        return self.fields


def test_digests_tell_inputs_apart() -> None:
    loop: list[Any] = []
    loop.append(loop)
    inputs: list[Any] = [
        *("a", "b", ["a"], {"a": 1}, {"a": 2}, {"a": float("nan")}, None, {1: "x"}, Odd(), Broken(), loop, HALF),
        *(Model(a=3), Model(a=4), Table(a=5), Table(a=6), InvalidInputError("line 2"), InvalidInputError("line 3")),
    ]
    assert len({digest(value) for value in inputs}) == len(inputs)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("inputs", "hexadecimal"),
    [
        ("hi", "da6dc3954ff1f2cfaf89c77a97377474"),
        ({"input": [{"role": "user", "content": "ä"}]}, "8d6d9f12f10793b0f4a2092c58052478"),
        (Model(a=1), "6903fb303cd60ccb0a2b9c2592fa773b"),
        ([Odd(), Odd()], "fa3fb1e6fd5f66471e50011bbe8415cd"),
        (InvalidInputError("line 2"), "6f6d31de821a7aa60d8092adedc14b32"),
        ({1: 2, "a": 3}, "4bd4c0f61088c2a0457a9ee0c4160190"),
    ],
)
def test_digests_are_the_same_in_every_version(inputs: Any, hexadecimal: str) -> None:
    """Journals hold them: rows that were recorded by an earlier version are known by the next."""
    assert digest(inputs).hex() == hexadecimal


USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
TEXT = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ä"}]}
ANSWERS: dict[str, tuple[dict[str, Any], str | None, dict[str, Any]]] = {
    "text": ({"output": [TEXT]}, None, {"output_text": "ä"}),
    "a request's id": ({"output": []}, "q7", {"request_id": "q7"}),
    "an id that is no text": ({"output": [], "id": 7}, None, {"request_id": "7"}),
    "tokens": ({"output": [], "usage": USAGE}, None, USAGE),
    "the largest count": ({"usage": {**USAGE, "total_tokens": 2**63 - 1}}, None, {**USAGE, "total_tokens": 2**63 - 1}),
    "too large a count": ({"usage": {**USAGE, "total_tokens": 2**63}}, None, {**USAGE, "total_tokens": None}),
    "the lowest count": ({"usage": {**USAGE, "total_tokens": 1 - 2**63}}, None, {**USAGE, "total_tokens": 1 - 2**63}),
    "no counts": ({"usage": "many"}, None, {}),
    "halves of pairs": (
        {"output": [{**TEXT, "content": [{"type": "output_text", "text": f"a{HALF}"}]}], "id": f"q{HALF}"},
        None,
        {"output_text": "a?", "request_id": "q?"},
    ),
}


@pytest.mark.parametrize(("answer", "request_id", "kept"), ANSWERS.values(), ids=ANSWERS)
def test_what_is_recorded_of_an_answer(answer: dict[str, Any], request_id: str | None, kept: dict[str, Any]) -> None:
    outcome = answer_outcome(CLAIM, AgentResponse(answer, request_id=request_id), attempts=2)
    assert outcome.response is not None
    outcome.response.encode()  # can be stored
    assert json.loads(outcome.response) == answer
    assert ("ä" in outcome.response) == ("ä" in str(answer))
    expected = Outcome(*CLAIM, OK, response=outcome.response, output_text="", attempts=2)
    assert outcome == expected._replace(**kept)


@pytest.mark.parametrize(
    ("error", "name", "message", "request_id"),
    [
        (AgentError("boom", request_id="q7"), "AgentError", "boom", "q7"),
        (AgentError(f"b{HALF}m", request_id=f"{HALF}"), "AgentError", "b?m", "?"),
        (ValueError("no"), "ValueError", "no", None),
        (AgentError("boom", invocation_id="i7"), "AgentError", "boom", "i7"),  # with which the run can be picked up
        (AgentError("boom", invocation_id="i7", request_id="q7"), "AgentError", "boom", "q7"),
    ],
)
@pytest.mark.parametrize("seconds", [0.5, None])
def test_what_is_recorded_of_a_failure(
    error: Exception, name: str, message: str, request_id: str | None, seconds: float | None
) -> None:
    assert error_outcome(CLAIM, error, 3, seconds) == Outcome(
        *CLAIM.after(error),
        FAILED,
        error=name,
        error_message=message,
        attempts=3,
        seconds=seconds,
        request_id=request_id,
    )
