"""Batches against real servers: outcomes, what stops a run, what it survives."""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config, credentials_strategy

from mlflow_agent_target import (
    AgentError,
    AgentTargetClient,
    AgentTargetError,
    AuthenticationError,
    EndpointUnavailableError,
    InvalidInputError,
    PermissionDeniedError,
    RateLimitError,
)
from mlflow_agent_target.batch.journal import Journal, Reader
from mlflow_agent_target.batch.progress import Progress
from tests.conftest import user
from tests.counting_server import CountingServer
from tests.durable_server import DurableServer
from tests.scripted import RESET, ScriptedServer, whole

Make = Callable[..., ScriptedServer]
GOOD = whole(
    {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}]}
)
DESCRIBED = whole({"name": "a", "task": "agent/v1/responses"})


@pytest.fixture
def agent(counting: CountingServer) -> AgentTargetClient:
    return AgentTargetClient(counting.target_uri)


def questions(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


def test_every_row_has_an_outcome_in_the_order_of_the_inputs(agent: AgentTargetClient) -> None:
    inputs = [*questions(40), {"input": [user("a payload")]}, [user("a list")], {"messages": [user("converted")]}]
    results = agent.predict_batch("lognormal-20", inputs[:40], concurrency=16)
    assert [row.output_text for row in results] == [f"answer to row {number}" for number in range(40)]
    more = agent.predict_batch("instant", inputs)
    assert [row.output_text for row in more[40:]] == [f"answer to {x}" for x in ("a payload", "a list", "converted")]
    row = results[-1]
    assert (row.index, row.status, row.attempts, row.error, row.request_id) == (39, "ok", 1, None, "r1")
    assert row.response is not None
    assert row.response.output_text == "answer to row 39"
    assert row.usage == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert row.seconds is not None
    assert 0 < row.seconds < 5
    assert len(results) == 40
    assert results[3:5] == [results[3], results[numpy.int64(4)]]
    with pytest.raises(IndexError, match="There is no row 40"):
        results[40]


@pytest.mark.parametrize("journal", [None, "j.db"])
@pytest.mark.parametrize("count", [0, 1])
def test_few_rows(count: int, journal: str | None, agent: AgentTargetClient, tmp_path: Path) -> None:
    results = agent.predict_batch("instant", questions(count), journal=journal and tmp_path / journal)
    assert [row.output_text for row in results] == [f"answer to row {number}" for number in range(count)]
    assert (results.summary()["rows"], len(results.failed)) == (count, 0)


def test_equal_rows_are_each_asked(agent: AgentTargetClient, counting: CountingServer, tmp_path: Path) -> None:
    for _ in range(2):
        results = agent.predict_batch("instant", ["same"] * 50, journal=tmp_path / "j.db")
        assert len(results) == 50
        assert counting.counts()["asked"] == {"same": 50}


def test_rows_that_cannot_be_sent_fail_alone(
    agent: AgentTargetClient, counting: CountingServer, tmp_path: Path
) -> None:
    bad: list[Any] = [float("nan"), {"input": [user("x" + chr(0xD800))]}, {"neither": 1}, None, [], {1: 2}, object()]
    nan = {"input": [user("x")], "custom_inputs": {"k": float("nan")}}
    for _ in range(2):
        results = agent.predict_batch("instant", ["good", *bad, nan, "fine"], journal=tmp_path / "j.db")
        assert [row.status for row in results] == ["ok", *["failed"] * 8, "ok"]
        assert {row.error for row in results.failed} == {"InvalidInputError"}
        assert {row.attempts for row in results.failed} == {0}
        assert "custom_inputs.k is nan" in (results[8].error_message or "")
    assert counting.counts()["asked"] == {"good": 1, "fine": 1}


def test_a_generator_is_read_as_rows_are_sent(agent: AgentTargetClient) -> None:
    read = 0
    most_ahead = 0
    seen: list[Progress] = []

    def rows() -> Iterator[str]:
        nonlocal read, most_ahead
        for question in questions(3000):
            read += 1
            most_ahead = max(most_ahead, read - (seen[-1].done if seen else 0))
            yield question

    results = agent.predict_batch("after-1", rows(), concurrency=4, progress=seen.append)
    assert (len(results), read) == (3000, 3000)
    assert seen[-1].done == 3000
    assert seen[0].done < 3000


def test_an_error_of_the_generator_is_raised_when_what_was_sent_has_ended(
    agent: AgentTargetClient, counting: CountingServer, tmp_path: Path
) -> None:
    def rows() -> Iterator[str]:
        yield from questions(5)
        raise LookupError("the source is gone")

    with pytest.raises(LookupError, match="the source is gone"):
        agent.predict_batch("after-20", rows(), journal=tmp_path / "j.db")
    counts = counting.counts()
    assert counts["asked"] == counts["answered"]
    results = agent.predict_batch("after-20", questions(8), journal=tmp_path / "j.db")
    assert [row.status for row in results] == ["ok"] * 8
    assert counting.counts()["asked"] == dict.fromkeys(questions(8), 1)


FAILURES_OF_EVERY_ROW = {
    "401": (whole({"message": "no"}, 401), AuthenticationError),
    "403": (whole({"message": "no"}, 403), PermissionDeniedError),
    "404": (whole({"message": "no"}, 404), AgentTargetError),
    "a redirect": (whole({}, 302, headers="Location: http://example.com/login\r\n"), AgentTargetError),
    "the other interface": (
        whole({"error_code": "BAD_REQUEST", "message": "Model is missing inputs ['messages']."}, 400),
        AgentTargetError,
    ),
}


@pytest.mark.parametrize(("answer", "error"), FAILURES_OF_EVERY_ROW.values(), ids=FAILURES_OF_EVERY_ROW)
def test_what_every_row_would_share_stops_the_run_at_once(
    answer: Any, error: type[AgentTargetError], scripted: Make, tmp_path: Path
) -> None:
    server = scripted(GOOD, answer, describe=DESCRIBED)
    client = AgentTargetClient(server.target_uri)
    with pytest.raises(error):
        client.predict_batch("a", questions(500), concurrency=1, journal=tmp_path / "j.db")
    assert len(server.posts) == 2
    server.answers[:] = [GOOD]
    results = client.predict_batch("a", questions(500), concurrency=4, journal=tmp_path / "j.db")
    assert [row.status for row in results] == ["ok"] * 500
    assert len(server.posts) == 501


def test_an_address_where_nobody_listens_stops_the_run_soon() -> None:
    started = time.monotonic()
    with pytest.raises(EndpointUnavailableError, match="no connection"):
        AgentTargetClient("agent-target:http://127.0.0.1:9").predict_batch("a", questions(500))
    assert time.monotonic() - started < 30


def test_a_failed_row_is_a_result_and_is_sent_again_by_the_same_call(scripted: Make, tmp_path: Path) -> None:
    server = scripted(GOOD, whole({"error_code": "X", "message": "boom"}, 500, headers="x-request-id: q7\r\n"), GOOD)
    client = AgentTargetClient(server.target_uri)
    results = client.predict_batch("a", questions(3), concurrency=1, journal=tmp_path / "j.db")
    assert [row.status for row in results] == ["ok", "failed", "ok"]
    (failed,) = results.failed
    assert (failed.index, failed.error, failed.attempts, failed.request_id) == (1, "AgentError", 1, "q7")
    assert "boom" in (failed.error_message or "")
    assert (failed.response, failed.output_text, failed.usage) == (None, None, None)
    assert results.summary()["errors"] == {"AgentError": 1}
    assert repr(results) == "<BatchResult: 2 ok, 1 failed>"
    again = client.predict_batch("a", questions(3), concurrency=1, journal=tmp_path / "j.db")
    assert [row.status for row in again] == ["ok"] * 3
    assert len(server.posts) == 4


def test_on_error_raise_stops_at_the_first_failed_row(scripted: Make, tmp_path: Path) -> None:
    server = scripted(GOOD, whole({"message": "boom"}, 500))
    client = AgentTargetClient(server.target_uri)
    with pytest.raises(AgentError, match="boom"):
        client.predict_batch("a", questions(9), concurrency=1, on_error="raise", journal=tmp_path / "j.db")
    assert len(server.posts) == 2


BOOM = whole({"message": "boom"}, 500)


@pytest.mark.parametrize(
    ("options", "retry_on", "sent"),
    [({}, (), 1), ({}, AgentError, 3), ({}, (RateLimitError,), 1), ({"idempotent": True}, (), 3)],
)
def test_a_row_for_which_the_agent_may_have_run_is_sent_again_only_if_the_caller_says_so(
    options: dict[str, Any], retry_on: Any, sent: int, scripted: Make
) -> None:
    server = scripted(BOOM, BOOM, GOOD)
    client = AgentTargetClient(server.target_uri).with_options(**options)
    (row,) = client.predict_batch("a", ["one"], retry_on=retry_on)
    assert (row.attempts, len(server.posts), row.status) == (sent, sent, "ok" if sent == 3 else "failed")


def test_refusals_are_sent_again_and_held_back_for_everyone(scripted: Make) -> None:
    slow_down = whole({"message": "slow down"}, 429, headers="Retry-After: 0.3\r\n")
    server = scripted(slow_down, whole({}, 503), GOOD)
    started = time.monotonic()
    results = AgentTargetClient(server.target_uri).predict_batch("a", questions(20), concurrency=1)
    assert time.monotonic() - started >= 0.3
    assert [row.status for row in results] == ["ok"] * 20
    assert results.summary()["attempts"] == len(server.posts) == 22


def test_no_retries_at_all_where_mlflows_setting_says_so(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = scripted(whole({"message": "slow down"}, 429), GOOD)
    results = AgentTargetClient(server.target_uri).predict_batch("a", questions(2), concurrency=1)
    assert [row.error for row in results] == ["RateLimitError", None]


def test_a_server_that_dies_and_comes_back_loses_no_row(tmp_path: Path) -> None:
    servers = [CountingServer()]
    client = AgentTargetClient(servers[0].target_uri).with_options(idempotent=True)

    def watch(progress: Progress) -> None:
        if progress.done > 100 and len(servers) == 1:
            servers[0].stop()  # connections are refused from now on
            time.sleep(0.5)
            servers.append(CountingServer(port=servers[0].port))

    results = client.predict_batch("instant", slowly(600), concurrency=8, progress=watch, journal=tmp_path / "j.db")
    assert len(servers) == 2
    servers[1].stop()
    assert [row.status for row in results] == ["ok"] * 600


def slowly(count: int) -> Iterator[str]:
    for question in questions(count):
        time.sleep(0.002)
        yield question


def test_a_token_that_expires_in_mid_run_stops_it_and_a_new_one_goes_on(
    scripted: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(*[GOOD] * 20, whole({"message": "token expired"}, 401), describe=DESCRIBED)
    monkeypatch.setenv("AGENT_TARGET_TOKEN", "old-token")
    with pytest.raises(AuthenticationError, match="expired"):
        AgentTargetClient(server.target_uri).predict_batch("a", questions(50), concurrency=2, journal=tmp_path / "j.db")
    server.answers[:] = [GOOD]
    sent = len(server.posts)
    assert sent <= 23
    monkeypatch.setenv("AGENT_TARGET_TOKEN", "new-token")
    results = AgentTargetClient(server.target_uri).predict_batch("a", questions(50), journal=tmp_path / "j.db")
    assert [row.status for row in results] == ["ok"] * 50
    assert {request.headers["authorization"] for request in server.posts[sent:]} == {"Bearer new-token"}
    assert len(server.posts) - sent == 30
    assert b"old-token" not in (tmp_path / "j.db").read_bytes()


def test_broken_connections_are_failed_rows(scripted: Make) -> None:
    server = scripted(GOOD, [RESET], GOOD)
    results = AgentTargetClient(server.target_uri).predict_batch("a", questions(3), concurrency=1)
    assert [row.error for row in results] == [None, "EndpointUnavailableError", None]


OTHER_INPUTS = {
    "another question": (["row 0", "other", "row 2"], "Row 1 is not the one"),
    "another order": (["row 1", "row 0", "row 2"], "Row 0 is not the one"),
    "fewer": (["row 0", "row 1"], "The inputs end after 2 rows, but the journal .* has more"),
    "none": ([], "The inputs end after 0 rows"),
}


@pytest.mark.parametrize(("inputs", "said"), OTHER_INPUTS.values(), ids=OTHER_INPUTS)
def test_a_journal_of_other_inputs_is_refused(
    inputs: list[str], said: str, agent: AgentTargetClient, counting: CountingServer, tmp_path: Path
) -> None:
    agent.predict_batch("instant", questions(3), journal=tmp_path / "j.db")
    with pytest.raises(InvalidInputError, match=said):
        agent.predict_batch("instant", inputs, journal=tmp_path / "j.db")
    with pytest.raises(InvalidInputError, match="endpoint 'instant', not 'after-1'"):
        agent.predict_batch("after-1", questions(3), journal=tmp_path / "j.db")
    assert sum(counting.counts()["asked"].values()) == 3


def test_rows_that_were_added_are_sent(agent: AgentTargetClient, counting: CountingServer, tmp_path: Path) -> None:
    agent.predict_batch("instant", questions(3), journal=tmp_path / "j.db")
    assert len(agent.predict_batch("instant", questions(5), journal=tmp_path / "j.db")) == 5
    assert counting.counts()["asked"] == dict.fromkeys(questions(5), 1)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no concurrency": ({"concurrency": 0}, "concurrency must be a whole number"),
    "half a request": ({"concurrency": 1.5}, "concurrency must be"),
    "a rate of nothing": ({"requests_per_minute": 0}, "requests_per_minute must be a number above 0"),
    "on_error": ({"on_error": "ignore"}, "on_error must be 'record' or 'raise'"),
    "retry_on": ({"retry_on": "AgentError"}, "retry_on must be"),
    "one question": ({"inputs": "What?"}, "must be many"),
    "one payload": ({"inputs": {"input": []}}, "must be many"),
    "no inputs": ({"inputs": None}, "must be many"),
    "a missing file": ({"inputs": "none.csv"}, "There is no file 'none.csv'"),
    "no folder for the journal": ({"journal": "/nowhere/j.db"}, "can't be opened"),
}


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_what_cannot_be_used_is_refused_before_anything_is_sent(
    options: dict[str, Any], said: str, agent: AgentTargetClient, counting: CountingServer
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        agent.predict_batch(**{"endpoint": "instant", "inputs": questions(3), **options})
    assert counting.counts()["asked"] == {}


@pytest.mark.parametrize("is_temporary", [False, True])
def test_a_full_disk_stops_the_run_in_order(
    is_temporary: bool,
    agent: AgentTargetClient,
    counting: CountingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow_agent_target.batch import journal as journal_module

    path = tmp_path / "j.db"
    connect = journal_module.connect

    def small(path: Path) -> Any:
        connection = connect(path)
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(journal_module, "connect", small)
        with pytest.raises(AgentTargetError, match="database or disk is full") as caught:
            agent.predict_batch("instant", questions(2000), concurrency=8, journal=None if is_temporary else path)
    if is_temporary:  # what was answered is kept, and the error says how to go on
        path = Path(re.findall(r"make the same call with journal='(.*?)'", str(caught.value))[0])
    states = [state for (state,) in Reader(path).select("SELECT state FROM rows")]
    assert states.count("ok") > 50
    # What finds the disk full may be the claim of the next rows, then none is lost, or the record of answers.
    assert 0 <= sum(counting.counts()["asked"].values()) - states.count("ok") <= 8
    results = agent.predict_batch("instant", questions(2000), journal=path)
    assert [row.output_text for row in results] == [f"answer to {question}" for question in questions(2000)]
    assert sum(counting.counts()["asked"].values()) <= 2008
    path.unlink()


CHILD = """
import json, os, signal, sys
from mlflow_agent_target import AgentTargetClient
target, journal, count, endpoint, concurrency = sys.argv[1:]
rows = [f"row {number}" for number in range(int(count))]
client = AgentTargetClient(target)
import mlflow_agent_target.batch.run, mlflow_agent_target.batch.mlflow_run
for line in sys.stdin:
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            result = client.predict_batch(
                endpoint or None, rows, concurrency=int(concurrency), journal=journal, progress=False,
                **json.loads(line)
            )
            said = {**result.summary(), "interrupted": result.interrupted, "stopped": result.stopped}
        except BaseException as error:
            said = {"raised": type(error).__name__}
        os.write(1, json.dumps(said).encode() + b"\\n")
        os._exit(0)
    os.write(1, b"%d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"ended\\n")
"""


class Children:
    """Runs the same batch in one process after the other."""

    def __init__(
        self, server: CountingServer | DurableServer, journal: Path, count: int, endpoint: str, concurrency: int
    ) -> None:
        arguments = [server.target_uri, str(journal), str(count), endpoint, str(concurrency)]
        self._parent = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self, **options: Any) -> int:
        assert self._parent.stdin
        self._parent.stdin.write(json.dumps(options) + "\n")
        self._parent.stdin.flush()
        return int(self._line())

    def wait(self) -> dict[str, Any] | None:
        """Return what the child said at its end; None where it was killed."""
        line = self._line()
        if line == "ended":
            return None
        assert self._line() == "ended"
        said: dict[str, Any] = json.loads(line)
        return said

    def logged(self, text: str) -> str:
        """Wait until a child logs a line with this, and return it."""
        assert self._parent.stderr
        return next(line for line in self._parent.stderr if text in line)

    def _line(self) -> str:
        assert self._parent.stdout
        return self._parent.stdout.readline().strip()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate()


def states_of(path: Path) -> dict[str, str]:
    if not Reader(path).select("SELECT 1 FROM sqlite_master WHERE name = 'rows'"):
        return {}  # its process was killed while it made the file
    return {f"row {position}": state for position, state in Reader(path).select("SELECT position, state FROM rows")}


def test_a_run_that_is_killed_at_any_moment_goes_on_where_it_stopped(
    agent: AgentTargetClient, counting: CountingServer, tmp_path: Path
) -> None:
    path, count, concurrency = tmp_path / "j.db", 2000, 16
    randomly = random.Random(7)
    settled: set[str] = set()
    kills = 0
    with Children(counting, path, count, "instant", concurrency) as children:
        while True:
            before = counting.counts()["asked"]
            child = children.start()
            time.sleep(randomly.uniform(0.0, 0.25))
            with contextlib.suppress(ProcessLookupError):  # it was quicker
                os.kill(child, signal.SIGKILL)
            said = children.wait()
            asked = counting.counts()["asked"]
            assert all(asked[question] == before[question] for question in settled)
            if said is not None and said["rows"] == count:
                break
            kills += 1
            if path.exists():
                states = states_of(path)
                settled = {question for question, state in states.items() if state == "ok"}
                # Nothing was asked that is not known, and no more are in doubt than were in flight.
                assert asked.keys() <= states.keys()
                assert sum(state in ("claimed", "in_doubt") for state in states.values()) <= concurrency
            if kills > 15:  # to its end, now
                children.start()
                assert (children.wait() or {})["ok"] == count
                break
    assert kills >= 5
    results = agent.predict_batch("instant", questions(count), journal=path)
    assert [row.output_text for row in results] == [f"answer to {question}" for question in questions(count)]
    asked = counting.counts()["asked"]
    assert asked.keys() == set(questions(count))
    assert sum(asked.values()) <= count + kills * concurrency


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rows_in_doubt_are_left_if_the_user_wishes_so(
    agent: AgentTargetClient, counting: CountingServer, tmp_path: Path
) -> None:
    path = tmp_path / "j.db"
    with Children(counting, path, 6, "after-600", 4) as children:
        child = children.start()
        wait_for(lambda: len(counting.counts()["asked"]) == 4)
        os.kill(child, signal.SIGKILL)
        assert children.wait() is None
        children.start(rerun_in_doubt=False)
        said = children.wait() or {}
    assert (said["ok"], said["in_doubt"], said["rows"]) == (2, 4, 6)
    assert counting.counts()["asked"] == dict.fromkeys(questions(6), 1)
    results = agent.predict_batch("after-600", questions(6), journal=path, rerun_in_doubt=False)
    assert [row.status for row in results] == ["in_doubt"] * 4 + ["ok"] * 2
    results = agent.predict_batch("after-600", questions(6), journal=path)
    assert [row.status for row in results] == ["ok"] * 6


SIGNALS: dict[str, tuple[int, str, dict[str, Any] | None]] = {
    "Ctrl-C": (signal.SIGINT, "Ctrl-C again stops now", {"raised": "KeyboardInterrupt"}),
    "SIGTERM": (signal.SIGTERM, "in 25 seconds all ends", None),  # a second one ends it as it ends any program
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_lets_what_is_in_flight_end_and_a_second_one_ends_all(
    name: str, agent: AgentTargetClient, counting: CountingServer, tmp_path: Path
) -> None:
    number, how, at_the_second = SIGNALS[name]
    path, endpoint = tmp_path / "j.db", "after-1500"
    with Children(counting, path, 1000, endpoint, 4) as children:
        child = children.start()
        wait_for(lambda: len(counting.counts()["asked"]) == 4)
        os.kill(child, number)
        assert f"{name}: nothing more is sent. 4 requests are in flight, and may end; {how}." in children.logged(name)
        said = children.wait() or {}
        assert (said["stopped"], said["interrupted"], said["ok"], said["rows"]) == (name, True, 4, 4)
        assert set(states_of(path).values()) == {"ok"}
        child = children.start()
        wait_for(lambda: len(counting.counts()["asked"]) == 8)
        os.kill(child, number)
        children.logged(name)
        os.kill(child, number)
        assert children.wait() == at_the_second
    states = list(states_of(path).values())
    assert (states.count("ok"), states.count("claimed"), len(states)) == (4, 4, 8)
    again = agent.predict_batch(endpoint, questions(8), journal=path, rerun_in_doubt=False)
    assert again.summary()["in_doubt"] == 4
    assert counting.counts()["asked"] == dict.fromkeys(questions(8), 1)
    results = agent.predict_batch(endpoint, questions(12), journal=path, concurrency=12)
    assert [row.status for row in results] == ["ok"] * 12


def test_what_takes_longer_than_sigterms_grace_is_in_doubt(
    agent: AgentTargetClient, counting: CountingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_agent_target.batch.scheduler._GRACE_SECONDS", 0.3)

    def rows() -> Iterator[str]:
        yield from questions(3)
        wait_for(lambda: len(counting.counts()["asked"]) == 3)
        os.kill(os.getpid(), signal.SIGTERM)
        yield "row 3"

    results = agent.predict_batch("after-3000", rows(), journal=tmp_path / "j.db")
    assert (len(results), results.stopped) == (0, "SIGTERM")
    assert set(states_of(tmp_path / "j.db").values()) == {"claimed"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class Stop(BaseException):
    """What stops at once, as a second Ctrl-C does."""


def test_what_was_answered_is_kept_when_all_stops_at_once(
    agent: AgentTargetClient, counting: CountingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, is_slow, goes_on = Journal.write, threading.Event(), threading.Event()

    def slow_write(journal: Journal, *what: Any) -> None:
        if is_slow.is_set():
            goes_on.wait(30.0)
        write(journal, *what)

    def rows() -> Iterator[str]:
        yield from questions(8)
        wait_for(lambda: len(counting.counts()["asked"]) == 8)
        is_slow.set()
        wait_for(lambda: len(counting.counts()["answered"]) == 8)
        threading.Timer(0.5, goes_on.set).start()  # all have come by then, and wait for the disk
        raise Stop

    monkeypatch.setattr(Journal, "write", slow_write)
    with pytest.raises(Stop):
        agent.predict_batch("after-200", rows(), concurrency=8, journal=tmp_path / "j.db")
    assert list(states_of(tmp_path / "j.db").values()) == ["ok"] * 8


def test_a_refused_row_is_in_no_doubt_after_a_full_disk(
    scripted: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failures = Journal._write, [sqlite3.OperationalError("database or disk is full")]

    def full_once(journal: Journal, settled: Any, released: Any, claimed: Any) -> None:
        if released and failures:
            raise failures.pop()
        write(journal, settled, released, claimed)

    monkeypatch.setattr(Journal, "_write", full_once)
    client = AgentTargetClient(scripted(whole({}, 503)).target_uri)
    with pytest.raises(AgentTargetError, match="disk is full"):
        client.predict_batch("a", questions(1), journal=tmp_path / "j.db")
    assert list(states_of(tmp_path / "j.db").values()) == ["released"]


STOPS: dict[str, tuple[Callable[[], None], dict[str, Any], str]] = {
    "Ctrl-C": (lambda: os.kill(os.getpid(), signal.SIGINT), {}, "Ctrl-C"),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), {}, "SIGTERM"),
    "a ceiling": (lambda: None, {"max_failures": 2}, "max_failures=2: 2 of 4 rows failed"),
}


@pytest.mark.parametrize(("send", "options", "why"), STOPS.values(), ids=STOPS)
def test_a_source_of_rows_that_blocks_holds_up_nothing(
    send: Callable[[], None],
    options: dict[str, Any],
    why: str,
    agent: AgentTargetClient,
    counting: CountingServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = threading.Event()

    def rows() -> Iterator[Any]:
        try:
            yield from ["row 0", "row 1"]
            wait_for(lambda: len(counting.counts()["answered"]) == 2)
            time.sleep(0.1)
            yield from [None, None]
            threading.Timer(0.2, send).start()
            threading.Event().wait(60.0)
            raise AssertionError("it waited")
        finally:
            left.set()

    started = time.monotonic()
    results = agent.predict_batch("after-20", rows(), **options)
    assert time.monotonic() - started < 30
    assert (results.stopped, results.summary()["ok"], left.is_set()) == (why, 2, True)
    assert any(why.partition(":")[0] in record.getMessage() for record in caplog.records)


def test_nor_does_it_hold_up_a_login_that_is_refused(scripted: Make) -> None:
    server = scripted(GOOD, whole({"message": "no"}, 401), describe=DESCRIBED)

    def rows() -> Iterator[str]:
        yield from questions(2)
        threading.Event().wait(60.0)

    with pytest.raises(AuthenticationError):
        AgentTargetClient(server.target_uri).predict_batch("a", rows(), concurrency=1)


def test_in_another_thread_a_stop_is_noticed_with_the_next_row(agent: AgentTargetClient) -> None:
    def rows() -> Iterator[Any]:
        yield None
        time.sleep(0.2)
        yield from questions(500)

    with ThreadPoolExecutor(1) as pool:
        results = pool.submit(agent.predict_batch, "after-20", rows(), max_failures=1).result(30)
    assert (results.summary()["failed"], results.stopped) == (1, "max_failures=1: 1 of 1 rows failed")


def test_a_signal_of_others_stops_nothing(agent: AgentTargetClient) -> None:
    """What wakes the reader is also what Go's runtime sends to its own threads."""

    def rows() -> Iterator[str]:
        for question in questions(20):
            os.kill(os.getpid(), signal.SIGURG)
            yield question

    results = agent.predict_batch("instant", rows())
    assert (results.summary()["ok"], results.stopped) == (20, None)


def test_a_handler_that_the_source_of_rows_sets_stays(agent: AgentTargetClient) -> None:
    def rows() -> Iterator[str]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        yield "row 0"

    try:
        agent.predict_batch("instant", rows())
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_programs_own_handlers_are_left_alone(agent: AgentTargetClient) -> None:
    seen: list[int] = []

    def own(number: int, _: Any) -> None:
        seen.append(number)

    def rows() -> Iterator[str]:
        yield "row 0"
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        yield "row 1"

    before = {number: signal.signal(number, own) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert agent.predict_batch("instant", rows()).summary()["ok"] == 2
        assert all(signal.getsignal(number) is own for number in before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [signal.SIGTERM, signal.SIGINT]


CEILINGS: dict[str, tuple[dict[str, Any], list[Any], int, str | None]] = {
    "so many failures": ({"max_failures": 3}, [None] * 40, 3, "max_failures=3: 3 of 3 rows failed"),
    "a share of failures": ({"max_failures": 0.5}, [None] * 40, 20, "max_failures=0.5: 20 of 20 rows failed"),
    "a share that is not reached": ({"max_failures": 0.5}, [None, "a", "b"] * 10, 30, None),
    "so many, in the last row": ({"max_failures": 3}, [None] * 3, 3, None),
    "fewer failures": ({"max_failures": 3}, ["a", None, "b", None], 4, None),
    "so many tokens": ({"max_tokens": 20}, ["a"] * 40, 3, "max_tokens=20: the answers of 3 rows have 21 tokens"),
    "just so many tokens": ({"max_tokens": 21}, ["a"] * 40, 3, "max_tokens=21: the answers of 3 rows have 21 tokens"),
    "fewer tokens": ({"max_tokens": 22}, ["a"] * 3, 3, None),
}


@pytest.mark.parametrize(("options", "rows", "ended", "why"), CEILINGS.values(), ids=CEILINGS)
def test_a_ceiling_stops_the_run_and_keeps_what_is_there(
    options: dict[str, Any], rows: list[Any], ended: int, why: str | None, agent: AgentTargetClient
) -> None:
    results = agent.predict_batch("instant", rows, concurrency=1, **options)
    assert (len(results), results.stopped, results.interrupted) == (ended, why, why is not None)


def test_failures_of_earlier_runs_do_not_count(agent: AgentTargetClient, tmp_path: Path) -> None:
    rows = [None, None, *questions(30)]
    agent.predict_batch("instant", rows, journal=tmp_path / "j.db", concurrency=1)
    results = agent.predict_batch("instant", rows, journal=tmp_path / "j.db", concurrency=1, max_failures=3)
    assert (results.stopped, results.summary()["failed"]) == (None, 2)


def test_large_rows_are_read_a_few_ahead(agent: AgentTargetClient) -> None:
    text, ahead, read, seen = "x" * 4_000_000, [0], 0, [0]

    def rows() -> Iterator[str]:
        nonlocal read
        for number in range(24):
            read += 1
            ahead.append(read - seen[0])
            yield f"{text} row {number}"

    def ask(row: Progress) -> None:
        seen[0] = row.done

    results = agent.predict_batch("after-300", rows(), concurrency=2, progress=ask)
    assert len(results) == 24
    assert max(ahead) < 16  # 5 are ready, 2 in flight; the rest is how seldom the progress is told


@pytest.fixture
def limit_workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    start, left = threading.Thread.start, 0

    def limited(thread: threading.Thread) -> None:
        nonlocal left
        if "_work" in repr(getattr(thread, "_args", "")):
            if not left:
                raise RuntimeError("can't start new thread")
            left -= 1
        start(thread)

    def limit(workers: int) -> None:
        nonlocal left
        left = workers
        monkeypatch.setattr(threading.Thread, "start", limited)

    return limit


@pytest.mark.parametrize("workers", [1, 3])
def test_with_fewer_threads_than_wanted_it_goes_on_with_those(
    workers: int, agent: AgentTargetClient, counting: CountingServer, limit_workers: Callable[[int], None]
) -> None:
    limit_workers(workers)
    seen: list[Progress] = []
    assert agent.predict_batch("after-20", questions(30), concurrency=8, progress=seen.append).summary()["ok"] == 30
    assert (counting.counts()["most_in_flight"], seen[-1].concurrency) == (workers, workers)


def test_what_waits_for_a_thread_is_not_sent_after_a_stop(
    agent: AgentTargetClient, counting: CountingServer, tmp_path: Path, limit_workers: Callable[[int], None]
) -> None:
    def rows() -> Iterator[str]:
        yield from questions(20)
        wait_for(lambda: len(counting.counts()["asked"]) == 2)
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(60.0)

    limit_workers(2)
    results = agent.predict_batch("after-1000", rows(), concurrency=8, journal=tmp_path / "j.db")
    assert (results.stopped, [row.status for row in results]) == ("Ctrl-C", ["ok"] * 2)
    assert len(counting.counts()["asked"]) == 2


def test_where_no_thread_asks_no_row_is_in_doubt(
    agent: AgentTargetClient, tmp_path: Path, limit_workers: Callable[[int], None]
) -> None:
    limit_workers(0)
    with pytest.raises(AgentTargetError, match=r"lets no thread be started.*ulimit -u"):
        agent.predict_batch("after-20", questions(30), concurrency=8, journal=tmp_path / "j.db")
    assert states_of(tmp_path / "j.db") == {}


def test_without_any_thread_it_says_so(agent: AgentTargetClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    agent.predict(endpoint="instant", inputs="row 0")
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(AgentTargetError, match="lets no thread be started"):
        agent.predict_batch("instant", questions(3), progress=print)


def test_a_batch_that_is_in_use_is_refused(agent: AgentTargetClient, counting: CountingServer, tmp_path: Path) -> None:
    with Children(counting, tmp_path / "j.db", 4, "after-400", 4) as children:
        children.start()
        wait_for(lambda: len(counting.counts()["asked"]) == 4)
        with pytest.raises(InvalidInputError, match="in use by another run"):
            agent.predict_batch("after-400", questions(4), journal=tmp_path / "j.db")
        assert (children.wait() or {})["ok"] == 4


def test_memory_is_flat_and_nothing_is_left_behind(
    agent: AgentTargetClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    agent.predict_batch("instant", questions(200), concurrency=8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = "x" * 20_000  # 60 MB in all, if they were kept
    results = agent.predict_batch("instant", (f"{text} {number}" for number in range(3000)), concurrency=8)
    assert sum(1 for _ in results) == 3000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 40
    failed = results.failed
    del results
    assert len(failed) == 0
    del failed
    assert list(tmp_path.iterdir()) == []


def test_requests_per_minute_hold_for_the_run(agent: AgentTargetClient, counting: CountingServer) -> None:
    agent.predict_batch("instant", questions(31), requests_per_minute=1200, concurrency=16)
    times = counting.counts()["times"]
    assert times[-1] - times[0] >= 30 * 0.05 - 0.3  # the first may be late, where the machine is busy


USER = contextvars.ContextVar("user", default="nobody")


def test_rows_are_sent_in_the_callers_context(scripted: Make) -> None:
    """A login on behalf of a user lies there, as web frameworks keep it."""
    server = scripted(GOOD)

    @credentials_strategy("of the user", [])
    def of_the_user(_: Config) -> Callable[[], dict[str, str]]:
        return lambda: {"Authorization": f"Bearer {USER.get()}"}

    workspace = WorkspaceClient(config=Config(host=server.url, credentials_strategy=of_the_user))
    client = AgentTargetClient(workspace_client=workspace)
    USER.set("alice")
    client.predict_batch("a", questions(20))
    client.predict(endpoint="a", inputs=pandas.DataFrame({"input": questions(5)}))
    assert {request.headers["authorization"] for request in server.posts} == {"Bearer alice"}
    assert len(server.posts) == 25
