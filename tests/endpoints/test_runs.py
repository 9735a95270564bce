"""Runs that outlive a request: started now, fetched later, by whoever knows the id."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.types.responses import ResponsesAgentRequest

from mlflow_agent_target import (
    AgentError,
    AgentResponse,
    AgentTargetClient,
    AgentTargetError,
    EndpointUnavailableError,
    InterfaceMismatchError,
    InvalidInputError,
    RequestTimeoutError,
)
from mlflow_agent_target.server import LocalServer
from tests.background_server import LONG_RUNNING, NO_DATABASE, OPENAI, BackgroundServer
from tests.conftest import user
from tests.cutting_proxy import CuttingProxy, Fault, gateway
from tests.durable_server import DurableServer
from tests.postgres import Postgres
from tests.scripted import ScriptedServer, whole

Make = Callable[..., ScriptedServer]
ROOT = Path(__file__).parent.parent.parent
STATUSES = ("queued", "in_progress", "completed", "failed")
TEXT = "one two three"
SAID = f"You said: {TEXT}"


@pytest.fixture
def client(durable: DurableServer) -> AgentTargetClient:
    return AgentTargetClient(durable.target_uri).with_options(timeout=20, total_timeout=60)


def wait_until_done(run: Any, seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not run.done:
        assert time.monotonic() < ends, run
        time.sleep(0.05)
        run.refresh()


# On a DurableAgentServer


def test_a_run_is_started_at_once_and_fetched_later(client: AgentTargetClient, durable: DurableServer) -> None:
    began = time.monotonic()
    run = client.start(endpoint=None, inputs=f"wait:1 {TEXT}")
    assert time.monotonic() - began < 1
    assert (run.status in ("queued", "in_progress"), run.done) == (True, False)
    assert str(run.id) in repr(run)
    assert run.status in repr(run)
    answer = run.result(timeout=20)
    assert isinstance(answer, AgentResponse)
    assert (answer.output_text, answer.invocation_id) == (SAID, str(run.id))
    assert (run.status, run.done) == ("completed", True)
    assert "completed" in repr(run)
    again = AgentTargetClient(durable.target_uri).get_run(endpoint=None, id=run.id)
    assert again.result() == answer
    assert again.id == run.id
    assert durable.runs() == {f"wait:1 {TEXT}": 1}


def test_a_run_is_looked_at_until_it_is_done(client: AgentTargetClient) -> None:
    run = client.start(endpoint=None, inputs=f"wait:0.3 {TEXT}")
    wait_until_done(run)
    assert run.result(timeout=1).output_text == SAID


@pytest.mark.parametrize(
    "form", [str, uuid.UUID, str.upper, lambda text: uuid.UUID(text).urn, lambda text: text.replace("-", "")]
)
def test_an_id_of_ones_own_names_one_run(
    form: Callable[[str], Any], client: AgentTargetClient, durable: DurableServer
) -> None:
    name = str(uuid.uuid4())
    runs = [client.start(endpoint=None, inputs=TEXT, id=given, session_id="s") for given in (form(name), name)]
    assert [str(run.id) for run in runs] == [name, name]
    assert {run.result(timeout=10).output_text for run in runs} == {SAID}
    assert client.get_run(endpoint=None, id=form(name)).result(timeout=10).session_id in ("s", None)
    assert durable.runs() == {TEXT: 1}
    assert durable.started()[0]["session_id"] == "s"


def test_a_run_goes_on_beyond_a_result_that_was_asked_for_too_early(
    client: AgentTargetClient, durable: DurableServer
) -> None:
    run = client.start(endpoint=None, inputs=f"wait:1.5 {TEXT}")
    with pytest.raises(RequestTimeoutError, match=str(run.id)) as caught:
        run.result(timeout=0.2)
    assert (caught.value.may_have_run, caught.value.invocation_id) == (True, str(run.id))
    assert run.result(timeout=20).output_text == SAID
    assert durable.runs() == {f"wait:1.5 {TEXT}": 1}


@pytest.mark.parametrize("bad", ["row-1", "", "resp_1", 7, "00000000-0000-0000-0000-00000000000g"])
def test_an_id_that_is_no_uuid_is_refused_before_anything_is_asked(
    bad: Any, client: AgentTargetClient, durable: DurableServer
) -> None:
    for call in (
        lambda: client.start(endpoint=None, inputs=TEXT, id=bad),
        lambda: client.get_run(endpoint=None, id=bad).refresh(),
        lambda: client.predict(inputs={"id": bad, "input": [], "session_id": "s"}),
    ):
        with pytest.raises(InvalidInputError, match="UUID") as caught:
            call()
        assert caught.value.may_have_run is False
    assert durable.runs() == {}


@pytest.mark.parametrize("other", [{"inputs": "another"}, {"session_id": "another"}])
def test_an_id_that_was_used_for_another_request_is_refused(
    other: dict[str, Any], client: AgentTargetClient, durable: DurableServer
) -> None:
    given = {"inputs": TEXT, "session_id": "s", "id": str(uuid.uuid4())}
    run = client.start(endpoint=None, **given)
    with pytest.raises(AgentTargetError, match="another request") as caught:
        client.start(endpoint=None, **{**given, **other})
    assert (caught.value.may_have_run, caught.value.retryable) == (False, False)
    assert run.result(timeout=10).output_text == SAID
    assert durable.runs() == {TEXT: 1}


def test_a_run_that_is_not_there_is_named(client: AgentTargetClient) -> None:
    unknown = str(uuid.uuid4())
    for call in (
        lambda: client.get_run(endpoint=None, id=unknown).refresh(),
        lambda: client.get_run(endpoint=None, id=unknown).result(timeout=5),
        lambda: list(client.get_run(endpoint=None, id=unknown).stream()),
    ):
        with pytest.raises(AgentTargetError, match=unknown) as caught:
            call()
        assert caught.value.retryable is False


def test_a_run_that_failed_says_so_each_time(client: AgentTargetClient, durable: DurableServer) -> None:
    run = client.start(endpoint=None, inputs={"do": [["raise", "boom"]], "question": "q"})
    for _ in range(2):
        with pytest.raises(AgentError, match="log") as caught:
            run.result(timeout=10)
        assert (caught.value.retryable, caught.value.may_have_run) == (False, True)
        assert caught.value.invocation_id == str(run.id)
    assert (run.status, run.done) == ("failed", True)
    with pytest.raises(AgentError):
        list(run.stream())
    assert durable.runs() == {"q": 1}


def test_a_run_is_streamed_by_any_number_from_its_beginning(client: AgentTargetClient, durable: DurableServer) -> None:
    run = client.start(endpoint=None, inputs=f"wait:0.5 {TEXT}")
    for _ in range(2):
        with client.get_run(endpoint=None, id=run.id).stream() as stream:
            assert "".join(stream.text_stream) == SAID
        assert stream.get_final_response() == run.result(timeout=10)
    events = list(run.stream())
    assert (events[0], events[-1]) == ({"type": "run.started"}, {"type": "run.completed"})
    assert durable.runs() == {f"wait:0.5 {TEXT}": 1}


def test_a_run_whose_start_got_no_answer_is_the_same_run(durable: DurableServer) -> None:
    with CuttingProxy(durable.url, Fault(of="POST", cut_after=0), Fault(of="POST", silent=True)) as proxy:
        client = AgentTargetClient(proxy.target_uri).with_options(interface="DurableAgentServer", timeout=1)
        run = client.start(endpoint=None, inputs=TEXT)
        assert run.result(timeout=10).output_text == SAID
        assert sum(asked.startswith("POST") for asked in proxy.asked) == 3
    assert durable.runs() == {TEXT: 1}


def test_a_run_is_picked_up_in_another_process(client: AgentTargetClient, durable: DurableServer) -> None:
    run = client.start(endpoint=None, inputs=f"wait:0.5 {TEXT}")
    fetch = "import pickle, sys; print(pickle.load(sys.stdin.buffer).result(timeout=20).output_text)"
    done = subprocess.run(
        [sys.executable, "-c", fetch], input=pickle.dumps(run), capture_output=True, cwd=ROOT, check=False, timeout=120
    )
    assert done.stdout.decode().strip() == SAID, done.stderr.decode()
    copy = pickle.loads(pickle.dumps(run))
    assert (copy.id, copy.result(timeout=10)) == (run.id, run.result(timeout=10))
    assert durable.runs() == {f"wait:0.5 {TEXT}": 1}


def test_what_cannot_be_sent_starts_nothing(client: AgentTargetClient, durable: DurableServer) -> None:
    refused = {"a\0b": InvalidInputError, "a\ud800": InvalidInputError}
    for text, kind in refused.items():
        with pytest.raises(kind) as caught:
            client.start(endpoint=None, inputs=text)
        assert caught.value.may_have_run is False
    with pytest.raises(InterfaceMismatchError, match="'temperature'"):
        client.start(endpoint=None, inputs={"messages": [user("hi")], "temperature": 1})
    assert durable.runs() == {}


WAYS: list[Callable[[AgentTargetClient, str], str]] = [
    lambda client, text: client.predict(inputs=text).output_text,
    lambda client, text: "".join(client.predict_stream(inputs=text).text_stream),
    lambda client, text: client.predict_stream(inputs=text).get_final_response().output_text,
    lambda client, text: client.start(endpoint=None, inputs=text).result(timeout=60).output_text,
    lambda client, text: "".join(client.start(endpoint=None, inputs=text).stream().text_stream),
]


@pytest.mark.parametrize("seed", range(1))
def test_whatever_breaks_each_run_is_asked_for_once_and_answered(seed: int, durable: DurableServer) -> None:
    chance = random.Random(seed)
    spoilt = [
        lambda: Fault(cut_after=chance.randrange(600), resets=chance.random() < 0.5),
        lambda: Fault(undelivered=True),
        lambda: Fault(instead=gateway(chance.choice([429, 502, 503, 504]))),
        lambda: Fault(delay=0.3),
        lambda: Fault(silent=True),
    ]
    faults = [chance.choice(spoilt)() if chance.random() < 0.15 else Fault() for _ in range(500)]
    with CuttingProxy(durable.url, *faults) as proxy, ThreadPoolExecutor(16) as pool:
        client = AgentTargetClient(proxy.target_uri).with_options(
            interface="DurableAgentServer", timeout=1, idle_timeout=1, total_timeout=60
        )
        texts = [f"wait:0.1 {number}" for number in range(60)]
        answers = pool.map(lambda way, text: way(client, text), WAYS * 12, texts)
        assert list(answers) == [f"You said: {number}" for number in range(60)]
    assert durable.runs() == dict.fromkeys(texts, 1)


# The worker dies


@pytest.fixture(scope="module")
def surviving(postgres: Postgres) -> Iterator[DurableServer]:
    """A server whose runs outlive it."""
    with DurableServer(postgres=postgres.url) as server:
        yield server


def predict_meanwhile(client: AgentTargetClient, inputs: Any) -> tuple[threading.Thread, list[Any]]:
    """Predict in a thread, whose end is a list of what came."""
    came: list[Any] = []

    def predict() -> None:
        try:
            came.append(client.predict(inputs=inputs))
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=predict)
    thread.start()
    return thread, came


def test_a_run_that_its_server_recovers_is_waited_for(surviving: DurableServer) -> None:
    surviving.reset()
    client = AgentTargetClient(surviving.target_uri).with_options(total_timeout=60)
    run = client.start(endpoint=None, inputs=f"wait:1 {TEXT}")
    thread, came = predict_meanwhile(client, f"wait:1.2 {TEXT}")
    surviving.wait_for_runs(2)
    time.sleep(0.3)
    surviving.kill()
    surviving.start()
    assert run.result(timeout=30).output_text == SAID
    thread.join(60)
    assert [answer.output_text for answer in came] == [SAID]
    # Once for us, and once by the server's own recovery.
    assert surviving.runs() == {f"wait:1 {TEXT}": 2, f"wait:1.2 {TEXT}": 2}
    assert sorted(run["attempt"] for run in surviving.started()) == [1, 1, 2, 2]


def test_a_run_that_is_over_is_there_after_a_restart(surviving: DurableServer) -> None:
    surviving.reset()
    client = AgentTargetClient(surviving.target_uri)
    run = client.start(endpoint=None, inputs=TEXT)
    answer = run.result(timeout=20)
    surviving.kill()
    with pytest.raises(EndpointUnavailableError):
        client.with_options(total_timeout=1).get_run(endpoint=None, id=run.id).refresh()
    surviving.start()
    assert client.get_run(endpoint=None, id=run.id).result(timeout=20) == answer
    assert surviving.runs() == {TEXT: 1}


def test_a_run_that_no_worker_takes_up_ends_with_our_time(postgres: Postgres) -> None:
    with DurableServer(postgres=postgres.url, recover=False) as server:
        client = AgentTargetClient(server.target_uri)
        run = client.start(endpoint=None, inputs=f"wait:1 {TEXT}")
        server.wait_for_runs(1)
        server.kill()
        server.start()
        with pytest.raises(RequestTimeoutError) as caught:
            run.result(timeout=3)
        error = caught.value
        assert (error.may_have_run, error.invocation_id) == (True, str(run.id))
        assert server.runs() == {f"wait:1 {TEXT}": 1}


def test_a_run_that_died_with_its_servers_memory_was_forgotten() -> None:
    pytest.importorskip("databricks_agentkit")
    with DurableServer() as server:
        client = AgentTargetClient(server.target_uri).with_options(total_timeout=30)
        run = client.start(endpoint=None, inputs=f"wait:20 {TEXT}")
        thread, came = predict_meanwhile(client, f"wait:21 {TEXT}")
        server.wait_for_runs(2)
        time.sleep(0.3)
        server.kill()
        server.start()
        with pytest.raises(AgentTargetError, match="forgotten") as caught:
            run.result(timeout=20)
        thread.join(30)
        for error, name in ((caught.value, str(run.id)), (came[0], None)):
            assert isinstance(error, AgentTargetError)
            assert "forgotten" in str(error)
            assert (error.may_have_run, error.retryable) == (True, False)
            assert error.invocation_id == (name or error.invocation_id) is not None
        assert server.runs() == {f"wait:20 {TEXT}": 1, f"wait:21 {TEXT}": 1}


# Where the server makes the id


@pytest.fixture(params=[LONG_RUNNING, OPENAI])
def background(request: pytest.FixtureRequest) -> Iterator[BackgroundServer]:
    with BackgroundServer(request.param) as server:
        yield server


def items(text: str = "hi", **custom: Any) -> dict[str, Any]:
    return {"input": [user(text)], **({"custom_inputs": custom} if custom else {})}


def of(server: BackgroundServer) -> AgentTargetClient:
    return AgentTargetClient(server.target_uri).with_options(timeout=5, total_timeout=20)


def test_a_background_response_is_a_run(background: BackgroundServer) -> None:
    run = of(background).start(endpoint=None, inputs=items(sleep=0.2))
    assert run.id.startswith("resp_")
    assert (run.status in ("queued", "in_progress"), run.done) == (True, False)
    assert run.result(timeout=10).output_text == "hello"
    assert (run.status, run.done) == ("completed", True)
    assert run.id in repr(run)
    again = pickle.loads(pickle.dumps(of(background).get_run(endpoint=None, id=run.id)))
    assert (again.id, again.result(timeout=5).output_text) == (run.id, "hello")
    assert len(background.runs) == 1


def begun(server: BackgroundServer, payload: dict[str, Any]) -> str:
    """Start a run that can be streamed, as another client would, leave it, and return its id."""
    asked = {**payload, "background": True, "stream": True}
    with requests.post(f"{server.url}/responses", json=asked, stream=True, timeout=10):
        return next(iter(server.runs))


def test_a_background_response_is_streamed_once_and_whole(background: BackgroundServer) -> None:
    # Longer than the server's look, so that its first event comes several times.
    run = of(background).get_run(endpoint=None, id=begun(background, items(sleep=0.35)))
    with run.stream() as stream:
        assert "".join(stream.text_stream) == "hello"
    assert stream.get_final_response().output_text == "hello"
    numbers = [event["sequence_number"] for event in run.stream()]
    assert numbers == list(range(len(numbers)))
    assert [event["sequence_number"] for event in run.stream(after=numbers[1])] == numbers[2:]
    assert len(background.runs) == 1


@pytest.mark.parametrize("seed", range(2))
def test_a_background_response_whose_stream_is_cut_comes_once_and_whole(
    seed: int, background: BackgroundServer
) -> None:
    chance = random.Random(seed)
    text = "one two three four five"
    with CuttingProxy(background.url) as proxy:
        client = AgentTargetClient(proxy.target_uri).with_options(timeout=5, total_timeout=20)
        run = client.get_run(endpoint=None, id=begun(background, items(text, sleep=0.3)))
        proxy.faults = [Fault(r"GET .*stream=true", cut_after=chance.randrange(900)) for _ in range(4)]
        with run.stream() as stream:
            assert "".join(stream.text_stream) == f"You said: {text}"
        assert stream.get_final_response().output_text == f"You said: {text}"
    assert len(background.runs) == 1


def test_a_run_that_was_started_has_its_items_as_events() -> None:
    with BackgroundServer(LONG_RUNNING) as server:
        run = of(server).start(endpoint=None, inputs=items(sleep=0.2))
        with run.stream() as stream:
            assert "".join(stream.text_stream) == "hello"
        assert stream.get_final_response() == run.result()


def test_a_background_response_that_failed_says_why(background: BackgroundServer) -> None:
    run = of(background).start(endpoint=None, inputs=items(**{"raise": "boom"}))
    with pytest.raises(AgentError, match="boom") as caught:
        run.result(timeout=10)
    assert (caught.value.may_have_run, run.status, run.done) == (True, "failed", True)


def test_a_background_response_that_its_server_ran_again_is_not_said_twice() -> None:
    with BackgroundServer(LONG_RUNNING) as server:
        inputs = {**items(sleep=0.2, dies=True), "background": True}
        with of(server).predict_stream(inputs=inputs) as stream:
            assert "".join(stream.text_stream) == "hello"
        assert of(server).get_run(endpoint=None, id=next(iter(server.runs))).result(timeout=10).output_text == "hello"


def test_an_id_that_the_server_does_not_know_is_named(background: BackgroundServer) -> None:
    with pytest.raises(AgentTargetError, match="resp_nope") as caught:
        of(background).get_run(endpoint=None, id="resp_nope").refresh()
    assert caught.value.retryable is False


@pytest.mark.parametrize("as_object", [False, True])
def test_a_session_is_the_responses_conversation(as_object: bool, background: BackgroundServer) -> None:
    inputs: Any = {**items(), "context": {"user_id": "ann"}}
    if as_object:
        inputs = ResponsesAgentRequest(**inputs)
    of(background).start(endpoint=None, inputs=inputs, session_id="s").result(timeout=10)
    assert background.bodies[-1]["context"] == {"user_id": "ann", "conversation_id": "s"}
    other = {**items(), "context": {"conversation_id": "other"}}
    with pytest.raises(InvalidInputError, match="session"):
        of(background).start(endpoint=None, inputs=other, session_id="s")
    assert len(background.runs) == 1


def test_an_id_of_ones_own_is_refused_where_the_server_makes_it(background: BackgroundServer) -> None:
    with pytest.raises(InvalidInputError, match="id") as caught:
        of(background).start(endpoint=None, inputs=items(), id=str(uuid.uuid4()))
    assert caught.value.may_have_run is False
    assert background.runs == {}


def test_a_run_that_was_started_without_an_answer_is_not_started_again(background: BackgroundServer) -> None:
    with CuttingProxy(background.url, Fault(of="POST", cut_after=0)) as proxy:
        with pytest.raises(EndpointUnavailableError) as caught:
            AgentTargetClient(proxy.target_uri).start(endpoint=None, inputs=items())
        assert (caught.value.may_have_run, caught.value.invocation_id) == (True, None)
    assert len(background.runs) == 1


def test_an_answer_that_is_only_a_start_is_followed_to_its_end(background: BackgroundServer) -> None:
    answer = of(background).predict(inputs={**items(sleep=0.3), "background": True})
    assert (answer.output_text, answer["status"]) == ("hello", "completed")
    with pytest.raises(AgentError, match="boom") as caught:
        of(background).predict(inputs={**items(**{"raise": "boom"}), "background": True})
    assert caught.value.may_have_run is True
    assert len(background.runs) == 2


def test_an_answer_that_is_cut_while_it_is_followed_is_fetched_again(background: BackgroundServer) -> None:
    with CuttingProxy(background.url, *[Fault(of="GET /responses/", cut_after=10)] * 3) as proxy:
        client = AgentTargetClient(proxy.target_uri).with_options(total_timeout=20)
        assert client.predict(inputs={**items(sleep=0.3), "background": True}).output_text == "hello"
        assert proxy.faults == []
    assert len(background.runs) == 1


# Where there are none


@pytest.mark.parametrize("kind", ["our own server", "a server that knows no runs", "no database"])
def test_an_endpoint_that_cannot_is_named_and_its_agent_does_not_run(
    kind: str, server: LocalServer, scripted: Make
) -> None:
    plain = scripted(whole({"output": []}), describe=whole({"detail": "Not Found"}, 404))
    with BackgroundServer(NO_DATABASE) as no_database:
        uri, endpoint = {
            "our own server": (server.target_uri, "responses_agent"),
            "a server that knows no runs": (plain.target_uri, None),
            "no database": (no_database.target_uri, None),
        }[kind]
        with pytest.raises((InterfaceMismatchError, InvalidInputError)) as caught:
            AgentTargetClient(uri).start(endpoint=endpoint, inputs="hi")
        assert caught.value.may_have_run is False
        if endpoint:
            assert endpoint in str(caught.value)
        assert plain.posts == []
        assert [asked for asked in no_database.asked if asked.startswith("POST")] == []
