"""The ids under which the agent is asked: the same for a row that is in doubt, another after a failure."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest

from mlflow_agent_target import (
    AgentError,
    AgentResponse,
    AgentTargetClient,
    AgentTargetError,
    AuthenticationError,
    EndpointUnavailableError,
    InvalidInputError,
    RateLimitError,
    RequestTimeoutError,
)
from mlflow_agent_target.batch.journal import Journal, Reader
from mlflow_agent_target.batch.memory import open_memory
from mlflow_agent_target.batch.policy import BatchOptions
from mlflow_agent_target.batch.run import run
from mlflow_agent_target.batch.tables import Rows
from mlflow_agent_target.endpoints.endpoint import Endpoint
from mlflow_agent_target.target.settings import Backoff
from mlflow_agent_target.tracing import spans
from tests.counting_server import CountingServer

ABOUT = {"endpoint": "a", "target": "http://127.0.0.1:1"}
BEGUN: dict[str, Any] = {"invocation_id": "5b403556-777c-54ce-bbf6-46cbdc15036d", "may_have_run": True}
QUICK = Backoff(max_retries=2, factor=0.001, jitter=0.0)
FAILED = AgentError("failed", **BEGUN)
CUT = EndpointUnavailableError("reset", **BEGUN)
SLOW = RequestTimeoutError("slow", **BEGUN)
BUSY = RateLimitError("429", retry_after=0.01)
BUSY_MEANWHILE = RateLimitError("429", retry_after=0.01, **BEGUN)
UNSENT = InvalidInputError("nan")


class Agent:
    """Ends each call for a row as it is told, then answers; remembers under which ids it was asked."""

    def __init__(self, ends: dict[str, list[AgentTargetError]]) -> None:
        self._ends = {question: list(errors) for question, errors in ends.items()}
        self.asked: dict[str, list[UUID]] = {}

    def __call__(self, question: Any, run_id: UUID) -> AgentResponse:
        self.asked.setdefault(question, []).append(run_id)
        if self._ends.get(question):
            raise self._ends[question].pop(0)
        return AgentResponse({"output": [], "id": str(run_id)})


def uuid_of(path: Path) -> UUID:
    return UUID(Reader(path).select("SELECT value FROM run WHERE key = 'uuid'")[0][0])


def ids(path: Path, position: int, runs: list[int]) -> list[UUID]:
    return [uuid5(uuid_of(path), f"{position}:{number}") for number in runs]


def score(agent: Agent, rows: Any, path: Path, **options: Any) -> Any:
    return run(agent, Rows(rows), journal=path, about=ABOUT, options=BatchOptions(**{"retries": QUICK, **options}))


# How the calls for a row end, the options, and the numbers of its runs in each of three calls with one journal.
CASES: dict[str, tuple[list[AgentTargetError], dict[str, Any], list[list[int]]]] = {
    "answered": ([], {}, [[0], [], []]),
    "failed": ([FAILED], {}, [[0], [1], []]),
    "failed twice": ([FAILED, FAILED], {}, [[0], [1], [2]]),
    "cut off, and asked again": ([CUT], {}, [[0, 0], [], []]),
    "cut off, and failed": ([CUT, FAILED], {}, [[0, 0], [1], []]),
    "slow": ([SLOW, SLOW], {}, [[0, 0, 0], [], []]),
    "refused": ([BUSY], {}, [[0, 0], [], []]),
    "refused while it runs": ([BUSY_MEANWHILE], {}, [[0, 0], [], []]),
    "cut off for too long": ([CUT, CUT, CUT], {}, [[0, 0, 0], [0], []]),
    "never sent": ([UNSENT], {}, [[0], [0], []]),
    "failed, and run anew": ([FAILED], {"retry_on": (AgentError,)}, [[0, 1], [], []]),
    "failed, cut off, and failed": ([FAILED, CUT, FAILED], {"retry_on": (AgentError,)}, [[0, 1, 1], [2], []]),
    "named, though its run may be going on": ([SLOW], {"retry_on": (RequestTimeoutError,)}, [[0, 0], [], []]),
    "named, and has no id": ([AgentError("boom", attempts=1)], {"retry_on": (AgentError,)}, [[0, 0], [], []]),
}


@pytest.mark.parametrize(("ends", "options", "runs"), CASES.values(), ids=CASES)
def test_a_row_is_asked_under_the_id_of_its_run(
    ends: list[AgentTargetError], options: dict[str, Any], runs: list[list[int]], tmp_path: Path
) -> None:
    path, agent = tmp_path / "j.db", Agent({"row 1": ends})
    for numbers in runs:
        agent.asked.clear()
        result = score(agent, ["row 0", "row 1"], path, **options)
        assert agent.asked.get("row 1", []) == ids(path, 1, numbers)
    assert agent.asked.get("row 0", []) == []
    assert [row.status for row in result] == ["ok", "ok"]
    assert result[0].request_id == str(ids(path, 0, [0])[0])


def test_what_waits_to_be_sent_again_goes_before_what_was_never_sent(tmp_path: Path) -> None:
    """Its answer may be there already."""
    agent, order = Agent({"row 0": [CUT]}), list[str]()

    def asking(question: Any, run_id: UUID) -> AgentResponse:
        order.append(question)
        return agent(question, run_id)

    options = BatchOptions(retries=Backoff(max_retries=2, factor=0.0, jitter=0.0), concurrency=1)
    run(asking, Rows(["row 0", "row 1", "row 2"]), journal=tmp_path / "j.db", about=ABOUT, options=options)
    assert order == ["row 0", "row 0", "row 1", "row 2"]


@pytest.mark.parametrize("journals", [("a.db", "b.db"), (None, None)])
def test_equal_rows_and_other_journals_share_no_id(journals: tuple[str | None, str | None], tmp_path: Path) -> None:
    agent = Agent({})
    for name in journals:
        path = None if name is None else tmp_path / name
        run(agent, Rows(["same"] * 5), journal=path, about=ABOUT, options=BatchOptions())
    assert len(set(agent.asked["same"])) == 10


def test_without_a_journal_a_row_keeps_its_id_too() -> None:
    agent = Agent({"row 0": [CUT, FAILED]})
    run(agent, Rows(["row 0"]), journal=None, about=ABOUT, options=BatchOptions(retries=QUICK, retry_on=(AgentError,)))
    first, again, anew = agent.asked["row 0"]
    assert first == again != anew


# What a row waits after when all stops, how the journal has it, and the number of its run in the next call.
LEFT: dict[str, tuple[AgentTargetError, dict[str, Any], str, int]] = {
    "cut off": (CUT, {}, "claimed", 0),
    "refused while it runs": (RateLimitError("429", retry_after=60.0, **BEGUN), {}, "claimed", 0),
    "refused": (RateLimitError("429", retry_after=60.0), {}, "released", 0),
    "failed": (FAILED, {"retry_on": (AgentError,)}, "failed", 1),
    "cut off, and has no id": (EndpointUnavailableError("reset", may_have_run=True), {"idempotent": True}, "failed", 0),
}


@pytest.mark.parametrize(("error", "options", "state", "number"), LEFT.values(), ids=LEFT)
def test_a_row_that_waits_when_all_stops_has_failed_only_if_its_run_has(
    error: AgentTargetError, options: dict[str, Any], state: str, number: int, tmp_path: Path
) -> None:
    path, agent, is_asked = tmp_path / "j.db", Agent({"row 0": [error]}), threading.Event()

    def rows() -> Iterator[str]:
        yield "row 0"
        assert is_asked.wait(30.0)
        raise LookupError("the source is gone")

    def asking(question: Any, run_id: UUID) -> AgentResponse:
        is_asked.set()
        return agent(question, run_id)

    patient = BatchOptions(retries=Backoff(max_retries=2, factor=60.0), **options)
    with pytest.raises(LookupError):
        run(asking, Rows(rows()), journal=path, about=ABOUT, options=patient)
    assert Reader(path).select("SELECT state, run FROM rows") == [(state, number)]
    score(agent, ["row 0"], path)
    assert agent.asked["row 0"] == ids(path, 0, [0, number])


def test_a_login_that_ends_in_mid_run_leaves_the_row_in_doubt(tmp_path: Path) -> None:
    path, agent = tmp_path / "j.db", Agent({"row 0": [AuthenticationError("401", status_code=401, **BEGUN)]})
    with pytest.raises(AuthenticationError):
        score(agent, ["row 0"], path)
    assert Reader(path).select("SELECT state FROM rows") == [("claimed",)]
    score(agent, ["row 0"], path)
    assert agent.asked["row 0"] == ids(path, 0, [0, 0])


CHILD = """
import os, sys, time
from pathlib import Path
from mlflow_agent_target.batch.policy import BatchOptions
from mlflow_agent_target.batch.run import run
from mlflow_agent_target.batch.tables import Rows

def ask(question, run_id):
    os.write(1, f"{question}={run_id}\\n".encode())
    time.sleep(60.0)

run(ask, Rows(["row 0", "row 1", "row 2"]), journal=Path(sys.argv[1]), about=%r, options=BatchOptions(concurrency=3))
"""


def killed_with_all_in_flight(path: Path) -> dict[str, UUID]:
    """Run a batch in a process that is killed; return the ids under which its rows were asked."""
    child = subprocess.Popen([sys.executable, "-c", CHILD % ABOUT, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    try:
        said = [child.stdout.readline().strip().split("=") for _ in range(3)]
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    return {question: UUID(run_id) for question, run_id in said}


def test_what_a_killed_process_had_in_flight_is_asked_under_the_same_ids(tmp_path: Path) -> None:
    """However often that happens, and also where what was in flight had failed before."""
    path, rows = tmp_path / "j.db", ["row 0", "row 1", "row 2"]
    score(Agent({row: [FAILED] for row in rows[:2]}), rows[:2], path)
    first = killed_with_all_in_flight(path)
    assert killed_with_all_in_flight(path) == first
    agent = Agent({"row 1": [FAILED]})
    score(agent, rows, path)
    assert agent.asked == {question: [run_id] for question, run_id in first.items()}
    assert agent.asked == {"row 0": ids(path, 0, [1]), "row 1": ids(path, 1, [1]), "row 2": ids(path, 2, [0])}
    agent.asked.clear()
    score(agent, rows, path)
    assert agent.asked == {"row 1": ids(path, 1, [2])}


def test_a_claim_of_another_run_is_written_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a process that is killed then would ask for the run that failed."""
    path, written, write = tmp_path / "j.db", list[str](), Journal._write

    def noted(journal: Journal, settled: Any, released: Any, claimed: Any) -> None:
        write(journal, settled, released, claimed)
        written.extend(f"claimed {claim.run}" for claim in claimed)

    monkeypatch.setattr(Journal, "_write", noted)
    agent = Agent({"row 0": [FAILED]})

    def asking(question: Any, run_id: UUID) -> AgentResponse:
        written.append("sent")
        return agent(question, run_id)

    options = BatchOptions(retries=QUICK, retry_on=(AgentError,))
    run(asking, Rows(["row 0"]), journal=path, about=ABOUT, options=options)
    assert written == ["claimed 0", "sent", "claimed 1", "sent"]


# How asking ends, and the number of the run of the same question, in this process and in the next.
REMEMBERED: dict[str, tuple[Exception, int]] = {
    "failed": (FAILED, 1),
    "cut off": (CUT, 0),
    "refused while it runs": (BUSY_MEANWHILE, 0),
    "an error of none of ours": (ValueError("?"), 0),
}


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(("error", "number"), REMEMBERED.values(), ids=REMEMBERED)
def test_an_evaluation_asks_under_the_id_of_the_run(
    error: Exception, number: int, restarts: bool, tmp_path: Path
) -> None:
    path, asked, ends = tmp_path / "j.db", list[UUID](), [None, error]

    def ask(run_id: UUID) -> AgentResponse:
        asked.append(run_id)
        if (end := ends.pop(0) if ends else None) is not None:
            raise end
        return AgentResponse({"output": []})

    memory = open_memory(path, ABOUT)
    memory.answer("one", ask)
    with pytest.raises(type(error)):
        memory.answer("two", ask)
    error.__traceback__ = None  # it holds the memory, which has the journal open
    if restarts:
        del memory
        memory = open_memory(path, ABOUT)
    for question in ("two", "one", "two"):
        memory.answer(question, ask)
    del memory
    assert asked == [*ids(path, 0, [0]), *ids(path, 1, [0, number])]


def test_a_question_that_comes_after_one_that_was_asked_again_has_an_id_of_its_own(tmp_path: Path) -> None:
    path, asked, ends = tmp_path / "j.db", list[UUID](), [FAILED]

    def ask(run_id: UUID) -> AgentResponse:
        asked.append(run_id)
        if ends:
            raise ends.pop()
        return AgentResponse({"output": []})

    memory = open_memory(path, ABOUT)
    with contextlib.suppress(AgentError):
        memory.answer("one", ask)
    FAILED.__traceback__ = None  # it holds the memory, which has the journal open
    for question in ("two", "one", "three"):
        memory.answer(question, ask)
    del memory
    assert asked == [*ids(path, 0, [0]), *ids(path, 1, [0]), *ids(path, 0, [1]), *ids(path, 2, [0])]


def test_what_a_killed_evaluation_had_in_flight_is_asked_under_the_same_id(tmp_path: Path) -> None:
    path, asked = tmp_path / "j.db", list[UUID]()

    class Killed(BaseException):
        pass

    def ask(run_id: UUID) -> AgentResponse:
        asked.append(run_id)
        if len(asked) == 1:
            raise Killed
        return AgentResponse({"output": []})

    for _ in range(2):
        memory = open_memory(path, ABOUT)
        with contextlib.suppress(Killed):
            memory.answer("one", ask)
        del memory
    assert asked == ids(path, 0, [0, 0])


@pytest.fixture
def run_ids(monkeypatch: pytest.MonkeyPatch) -> list[UUID | None]:
    """The ids that reach an endpoint's `query`."""
    query, seen = Endpoint.query, list[UUID | None]()

    def noted(self: Endpoint, inputs: Any, trace: Any = None, run_id: UUID | None = None) -> AgentResponse:
        seen.append(run_id)
        return query(self, inputs, trace, run_id)

    monkeypatch.setattr(Endpoint, "query", noted)
    return seen


@pytest.mark.parametrize("is_traced", [False, True])
def test_a_clients_batches_and_evaluations_give_the_endpoint_these_ids(
    is_traced: bool, run_ids: list[UUID | None], counting: CountingServer, tmp_path: Path
) -> None:
    client, batch, evaluation = AgentTargetClient(counting.target_uri), tmp_path / "b.db", tmp_path / "e.db"
    spans.autolog(disable=not is_traced)
    try:
        client.predict_batch("instant", ["row 0", "row 1"], concurrency=1, journal=batch)
        ask = client.to_predict_fn("instant", journal=evaluation)
        ask(question="row 0")
        del ask
        client.to_predict_fn("instant")(question="row 0")
        client.predict(endpoint="instant", inputs="row 0")
    finally:
        spans.autolog(disable=True)
    assert run_ids == [*ids(batch, 0, [0]), *ids(batch, 1, [0]), *ids(evaluation, 0, [0]), None, None]


@pytest.mark.parametrize(
    ("rerun_in_doubt", "asks_once", "sent", "is_asked"),
    [(True, False, 1, False), (False, False, 0, True), (False, True, 1, True)],
)
def test_where_no_run_happens_twice_no_row_is_left_in_doubt(
    rerun_in_doubt: bool,
    asks_once: bool,
    sent: int,
    is_asked: bool,
    counting: CountingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[None] = []

    def answer(_: Endpoint) -> bool:
        asked.append(None)
        return asks_once

    monkeypatch.setattr(Endpoint, "asks_once", answer)
    client, path = AgentTargetClient(counting.target_uri), tmp_path / "j.db"
    client.predict_batch("instant", ["row 0"], journal=path)
    asked.clear()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE rows SET state = 'claimed'")
        connection.commit()
    results = client.predict_batch("instant", ["row 0"], journal=path, rerun_in_doubt=rerun_in_doubt)
    assert [row.status for row in results] == ["ok" if sent else "in_doubt"]
    assert counting.counts()["asked"] == {"row 0": 1 + sent}
    assert bool(asked) == is_asked


def test_no_interface_has_runs_yet(counting: CountingServer) -> None:
    assert not AgentTargetClient(counting.target_uri)._access.endpoint(None, "instant").asks_once()
