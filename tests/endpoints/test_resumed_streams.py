"""Streams of runs that outlive their connections: the whole text once, each event once, whatever is cut."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from mlflow_agent_target import AgentTargetClient, RequestTimeoutError, StreamInterruptedError
from tests.cutting_proxy import CuttingProxy, Fault, gateway
from tests.durable_server import DurableServer
from tests.postgres import Postgres
from tests.scripted import ScriptedServer

Make = Callable[..., ScriptedServer]
ROOT = "/api/invocations"


def delta(text: str) -> dict[str, Any]:
    return {"type": "delta", "content": text, "id": "m"}


def whole(text: str) -> dict[str, Any]:
    return {"output": [{"role": "assistant", "content": text}], "status": "completed"}


def talk(words: list[str], seconds: float = 0.0) -> dict[str, Any]:
    """An input that has the agent say words, and wait after each."""
    steps: list[Any] = []
    for word in words:
        steps += [["emit", delta(word)], *([["sleep", seconds]] if seconds else [])]
    return {"do": [*steps, ["return", whole("".join(words))]], "question": "talk"}


def through(proxy: CuttingProxy, **seconds: Any) -> AgentTargetClient:
    return AgentTargetClient(proxy.target_uri).with_options(interface="DurableAgentServer", **seconds)


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_that_is_cut_ten_times_comes_once_and_whole(seed: int, durable: DurableServer) -> None:
    chance = random.Random(seed)
    words = [f"{number} {'é' * chance.randrange(30)} " for number in range(80)]
    # From within the answer's head, where nothing has come, to many events later.
    cuts = [(chance.randrange(1500), chance.random() < 0.5) for _ in range(10)]
    faults = [Fault("POST|GET .*/events", cut_after=after, resets=resets) for after, resets in cuts]
    with CuttingProxy(durable.url) as proxy:
        client = through(proxy, total_timeout=60)
        inputs = talk(words, seconds=0.005)
        proxy.faults = list(faults)
        with client.predict_stream(inputs=inputs) as stream:
            assert list(stream) == [{"type": "run.started"}, *map(delta, words), {"type": "run.completed"}]
        assert proxy.faults == []
        proxy.faults = list(faults)
        with client.predict_stream(inputs=inputs) as stream:
            assert "".join(stream.text_stream) == "".join(words)
        assert proxy.faults == []
    assert stream.get_final_response().output_text == "".join(words)
    assert durable.runs() == {"talk": 2}


@pytest.mark.parametrize(
    "fault",
    [Fault(silent=True), Fault(undelivered=True), *(Fault(instead=gateway(status)) for status in (429, 502, 503, 504))],
    ids=str,
)
def test_a_stream_is_taken_up_again_when_the_server_is_back(fault: Fault, durable: DurableServer) -> None:
    again = [replace(fault, of=of) for of in ("GET ", "GET ")]
    with CuttingProxy(durable.url, Fault(of="POST", cut_after=300), *again) as proxy:
        client = through(proxy, timeout=1, idle_timeout=1, total_timeout=30)
        with client.predict_stream(inputs=talk(["a", "b", "c", "d"], 0.1)) as stream:
            assert "".join(stream.text_stream) == "abcd"
        assert stream.get_final_response().output_text == "abcd"
        assert proxy.faults == []
    assert durable.runs() == {"talk": 1}


def test_silence_is_looked_into_and_is_no_end(durable: DurableServer) -> None:
    with CuttingProxy(durable.url) as proxy:
        client = through(proxy, idle_timeout=0.4, total_timeout=30)
        with client.predict_stream(inputs=talk(["a", "b"], 1.5)) as stream:
            assert "".join(stream.text_stream) == "ab"
        assert any(asked.startswith("GET ") for asked in proxy.asked)
    assert durable.runs() == {"talk": 1}


def test_the_time_for_the_call_ends_a_stream_and_not_the_run(durable: DurableServer) -> None:
    with CuttingProxy(durable.url) as proxy:
        client = through(proxy, idle_timeout=0.3, total_timeout=1)
        said: list[str] = []
        texts = client.predict_stream(inputs=talk(["a", "b"], 1.5)).text_stream
        with pytest.raises((RequestTimeoutError, StreamInterruptedError)) as caught:
            said.extend(map(str, texts))
        error = caught.value
        assert (error.may_have_run, error.retryable) == (True, True)
        assert error.invocation_id is not None
        assert said == ["a"]
        run = through(proxy).get_run(endpoint=None, id=error.invocation_id)
        assert run.result(timeout=10).output_text == "ab"
    assert durable.runs() == {"talk": 1}


def test_who_leaves_a_stream_leaves_the_run_going(durable: DurableServer) -> None:
    client = AgentTargetClient(durable.target_uri)
    given: dict[str, Any] = {"id": str(uuid.uuid4()), "input": talk(["a", "b"], 0.5)}
    with client.predict_stream(inputs=given) as stream:
        assert next(stream.text_stream) == "a"
    assert client.get_run(endpoint=None, id=given["id"]).result(timeout=10).output_text == "ab"
    assert durable.runs() == {"talk": 1}


def test_what_an_agent_calls_its_events_ends_no_stream(durable: DurableServer) -> None:
    own = [
        {"type": "run.completed"},
        {"type": "error", "error": {"message": "its own"}},
        {"type": "response.completed", "response": {"output": []}},
        {"type": "run.failed"},
        {"type": ""},
        {"no type": 1},
        {"type": "two\nlines"},
        {"type": 7},
        {"type": None},
        {"error": "x"},
        delta("text"),
    ]
    inputs = {"do": [*(["emit", event] for event in own), ["return", "text"]]}
    client = AgentTargetClient(durable.target_uri)
    assert list(client.predict_stream(inputs=inputs)) == [
        {"type": "run.started"},
        *own,
        {"type": "run.completed"},
    ]
    stream = client.predict_stream(inputs=inputs)
    assert "".join(stream.text_stream) == "text"
    assert stream.get_final_response()["output"] == "text"


def test_an_answer_is_the_servers_not_what_was_streamed(durable: DurableServer) -> None:
    client = AgentTargetClient(durable.target_uri)
    inputs = {"do": [["emit", delta("thinking")], ["return", {"any": ["shape", None]}]]}
    answer = client.predict_stream(inputs=inputs).get_final_response()
    assert answer["output"] == client.predict(inputs=inputs)["output"] == {"any": ["shape", None]}


# The worker dies


@pytest.fixture(scope="module")
def surviving(postgres: Postgres) -> Iterator[DurableServer]:
    """A server whose runs outlive it."""
    with DurableServer(postgres=postgres.url) as server:
        yield server


class Reading:
    """A stream that is read in a thread, its server killed once it has given some text, and started again."""

    def __init__(self, server: DurableServer, inputs: Any, texts: bool = True) -> None:
        self.given: list[Any] = []
        self.error: BaseException | None = None
        client = AgentTargetClient(server.target_uri).with_options(
            interface="DurableAgentServer", timeout=5, idle_timeout=5, total_timeout=60
        )
        server.reset()
        self.stream = client.predict_stream(inputs=inputs)
        thread = threading.Thread(target=self._read, args=(self.stream.text_stream if texts else self.stream,))
        thread.start()
        while len(self.given) < (1 if texts else 2) and thread.is_alive():
            time.sleep(0.01)
        server.kill()
        server.start()
        thread.join(60)
        assert not thread.is_alive()

    def _read(self, source: Any) -> None:
        try:
            for piece in source:
                self.given.append(piece)
        except Exception as error:
            self.error = error


def test_text_never_comes_twice_where_the_agent_says_the_same_again(surviving: DurableServer) -> None:
    reading = Reading(surviving, talk(["one ", "two ", "three"], 0.7))
    assert reading.error is None
    assert "".join(reading.given) == "one two three"
    assert reading.stream.get_final_response().output_text == "one two three"
    assert surviving.runs() == {"talk": 2}  # the second is the server's own


def test_text_comes_whole_where_the_agent_goes_on_from_a_checkpoint(surviving: DurableServer) -> None:
    steps: list[Any] = [
        ["attempt", 1, ["emit", delta("one ")]],
        ["attempt", 1, ["sleep", 30]],
        ["emit", delta("two")],
        ["return", whole("one two")],
    ]
    reading = Reading(surviving, {"do": steps})
    assert reading.error is None
    assert "".join(reading.given) == "one two"


def test_text_that_the_second_attempt_takes_back_is_an_error_and_not_text(surviving: DurableServer) -> None:
    steps: list[Any] = [
        ["attempt", 1, ["emit", delta("yes, ")]],
        ["attempt", 1, ["sleep", 30]],
        ["emit", delta("no")],
        ["return", whole("no")],
    ]
    reading = Reading(surviving, {"do": steps})
    assert "".join(reading.given) == "yes, "
    assert isinstance(reading.error, StreamInterruptedError)
    assert "again" in str(reading.error)
    assert reading.error.may_have_run is True
    assert reading.error.invocation_id is not None
    run = AgentTargetClient(surviving.target_uri).get_run(endpoint=None, id=reading.error.invocation_id)
    assert run.result(timeout=20).output_text == "no"


def test_events_come_as_they_were_sent_in_both_attempts(surviving: DurableServer) -> None:
    reading = Reading(surviving, talk(["one ", "two"], 0.7), texts=False)
    assert reading.error is None
    first = [event for event in reading.given if event["type"] == "run.started"]
    assert len(first) == 2
    assert reading.given[-3:] == [delta("one "), delta("two"), {"type": "run.completed"}]
    assert reading.stream.get_final_response().output_text == "one two"


def test_a_stream_of_a_server_that_forgot_its_run_says_so() -> None:
    pytest.importorskip("databricks_agentkit")
    with DurableServer() as server:
        reading = Reading(server, talk(["one ", "two"], 5))
        assert "".join(reading.given) == "one "
        assert "forgotten" in str(reading.error)
        assert reading.error.may_have_run is True  # type: ignore[union-attr]
        assert reading.error.retryable is False  # type: ignore[union-attr]
        assert server.runs() == {"talk": 1}
