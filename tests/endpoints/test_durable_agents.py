"""Agents on the real DurableAgentServer: found without running anything, asked once, whatever breaks on the way."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.types.agent import ChatAgentMessage, ChatAgentRequest
from mlflow.types.llm import ChatCompletionRequest, ChatMessage
from mlflow.types.responses import ResponsesAgentRequest

from mlflow_agent_target import (
    AgentError,
    AgentTargetClient,
    AgentTargetError,
    AuthenticationError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InterfaceMismatchError,
    InvalidInputError,
    RequestTimeoutError,
)
from mlflow_agent_target.endpoints.access import Access
from mlflow_agent_target.endpoints.endpoint import Endpoint
from mlflow_agent_target.endpoints.following import poll_pause
from mlflow_agent_target.endpoints.routes import Routes
from mlflow_agent_target.http.options import RequestOptions
from mlflow_agent_target.server import LocalServer
from mlflow_agent_target.target.login import Login
from tests.background_server import LONG_RUNNING, NO_DATABASE, BackgroundServer
from tests.conftest import user
from tests.cutting_proxy import CuttingProxy, Fault, gateway
from tests.durable_server import DurableServer
from tests.postgres import Postgres
from tests.scripted import ScriptedServer, whole

Make = Callable[..., ScriptedServer]
TEXT = "one two three"
SAID = f"You said: {TEXT}"
UNKNOWN = {"detail": "invocation not found"}
NOT_FOUND = {"detail": "Not Found"}
NO_USER = {"error": {"code": "MCP_USER_AUTH_REQUIRED", "message": "Missing request-user access token"}}


@pytest.fixture
def client(durable: DurableServer) -> AgentTargetClient:
    return AgentTargetClient(durable.target_uri).with_options(timeout=20, total_timeout=60)


def kinds(proxy: CuttingProxy) -> list[str]:
    """The kinds of requests that came, ids written as ID; several of a kind in a row count as one."""
    found = [re.sub(r"/[0-9a-f-]{36}", "/ID", asked.partition("?")[0]) for asked in proxy.asked]
    return [kind for kind, _ in itertools.groupby(found)]


# Which server it is


def test_a_bare_server_is_found_by_what_runs_nothing_and_once(durable: DurableServer) -> None:
    with CuttingProxy(durable.url) as proxy:
        for client in (AgentTargetClient(proxy.target_uri), AgentTargetClient(proxy.target_uri)):
            assert client.predict(inputs=TEXT).output_text == SAID
            assert "".join(client.predict_stream(inputs=TEXT).text_stream) == SAID
        assert kinds(proxy)[:4] == [
            "POST /invocations",
            "GET /api/invocations/ID",
            "POST /api/invocations",
            "GET /api/invocations/ID",
        ]
        assert proxy.asked.count("POST /invocations") == 1
    assert durable.runs() == {TEXT: 4}


def test_a_server_that_is_said_to_be_one_is_not_looked_at(durable: DurableServer) -> None:
    with CuttingProxy(durable.url) as proxy:
        client = AgentTargetClient(proxy.target_uri).with_options(interface="DurableAgentServer")
        assert client.predict(inputs=TEXT).output_text == SAID
        assert kinds(proxy) == ["POST /api/invocations", "GET /api/invocations/ID"]


@pytest.mark.parametrize(
    ("probed", "is_one"),
    [
        (whole(UNKNOWN, 404), True),
        (
            whole({"error": {"code": "MCP_USER_AUTH_REQUIRED", "message": "Missing request-user access token"}}, 401),
            True,
        ),
        (whole(NOT_FOUND, 404), False),
        (whole(b"<html>no such page</html>", 404, "text/html"), False),
        (whole(b"<html>a chat page</html>", 200, "text/html"), False),
        (whole({"error_code": "ENDPOINT_NOT_FOUND", "message": "no"}, 404), False),
        (whole({"id": "x", "status": "completed"}), False),
        (whole(b"Internal Server Error", 500, "text/plain"), False),
    ],
)
@pytest.mark.parametrize("refusal", [whole(NOT_FOUND, 404), whole({"detail": "Method Not Allowed"}, 405)])
def test_only_what_says_that_it_knows_no_such_run_is_asked_for_one(
    refusal: Any, probed: Any, is_one: bool, scripted: Make
) -> None:
    server = scripted(refusal, whole({"detail": []}, 422), describe=probed)
    with pytest.raises(AgentTargetError) as caught:
        AgentTargetClient(server.target_uri).with_options(total_timeout=2).predict(inputs="hi")
    assert [post.path for post in server.posts] == ["/invocations", *["/api/invocations"] * is_one]
    assert caught.value.may_have_run is False
    if not is_one:
        assert caught.value.status_code in (404, 405, 500)


@pytest.mark.parametrize("named", ["agent-bricks-support", "support"])
def test_an_app_is_looked_at_first_where_its_name_says_so(named: str, durable: DurableServer, scripted: Make) -> None:
    class OAuth(Login):
        def is_oauth(self, seconds: float = 0.0) -> bool:
            return True

    with CuttingProxy(durable.url) as proxy:
        workspace = scripted(describe=whole({"name": named, "url": proxy.url}))
        routes = Routes(lambda: OAuth(workspace.url, dict), verify_tls=True, is_workspace=True)
        endpoint = Endpoint(routes, f"apps:/{named}", RequestOptions())
        assert [endpoint.query(TEXT).output_text for _ in range(2)] == [SAID, SAID]
        first = ["GET /api/invocations/ID"]
        assert kinds(proxy)[:2] == (first if "agent-bricks" in named else ["POST /invocations", *first]) + (
            ["POST /api/invocations"] if "agent-bricks" in named else []
        )
        assert proxy.asked.count("POST /invocations") == ("agent-bricks" not in named)
    assert durable.runs() == {TEXT: 2}


def test_an_app_of_that_name_may_be_another_server(scripted: Make) -> None:
    # `agentbricks init --server custom` makes apps with the same name that are plain FastAPI.
    class OAuth(Login):
        def is_oauth(self, seconds: float = 0.0) -> bool:
            return True

    app = scripted(whole({"output": []}), describe=whole(NOT_FOUND, 404))
    workspace = scripted(describe=whole({"name": "agent-bricks-x", "url": app.url}))
    routes = Routes(lambda: OAuth(workspace.url, dict), verify_tls=True, is_workspace=True)
    endpoint = Endpoint(routes, "apps:/agent-bricks-x", RequestOptions())
    for _ in range(2):
        assert endpoint.query("hi") == {"output": []}
    assert [post.path for post in app.posts] == ["/invocations"] * 2
    assert sum(request.method == "GET" for request in app.received) == 1


def test_whether_an_endpoint_is_asked_once_is_found_by_gets_alone(
    durable: DurableServer, server: LocalServer, scripted: Make
) -> None:
    with CuttingProxy(durable.url) as proxy:
        assert Access(proxy.target_uri).endpoint(None, None).asks_once() is True
        assert {asked.split()[0] for asked in proxy.asked} == {"GET"}
    assert durable.runs() == {}
    assert Access(server.target_uri).endpoint("responses_agent", None).asks_once() is False
    for kind in (LONG_RUNNING, NO_DATABASE):
        with BackgroundServer(kind) as other:
            assert Access(other.target_uri).endpoint(None, None).asks_once() is False
            assert [asked.split()[0] for asked in other.asked if asked.startswith("POST")] == []
    assert Access(scripted(describe=whole({}, 500)).target_uri).endpoint(None, None).asks_once() is False
    assert Access("agent-target:http://127.0.0.1:1").endpoint(None, None).asks_once() is False


# What the agent is told

MESSAGES = {"messages": [user(TEXT)]}
PARTS = {"input": [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}]}
ODD = {"do": [["return", {"a": [1, None, "é"]}]], "x": 1}
RESUME = {"resume": {"decisions": [{"type": "approve"}]}}
TOLD: dict[str, tuple[Any, Any]] = {
    "a string": (TEXT, MESSAGES),
    "a list": ([user(TEXT)], MESSAGES),
    "messages": (MESSAGES, MESSAGES),
    "input items": ({"input": [user(TEXT)]}, MESSAGES),
    "OpenAI's bare string": ({"input": TEXT}, MESSAGES),
    "parts of text": (PARTS, MESSAGES),
    "ResponsesAgentRequest": (ResponsesAgentRequest(input=[user(TEXT)]), MESSAGES),
    "ChatAgentRequest": (ChatAgentRequest(messages=[ChatAgentMessage(**user(TEXT))]), MESSAGES),
    "ChatCompletionRequest": (ChatCompletionRequest(messages=[ChatMessage(**user(TEXT))]), MESSAGES),
    "custom inputs": ({**MESSAGES, "custom_inputs": {"model": "m", "k": [1]}}, {**MESSAGES, "model": "m", "k": [1]}),
    "a user": ({**MESSAGES, "context": {"user_id": "ann"}}, {**MESSAGES, "actor": "ann"}),
    "a decision": (RESUME, RESUME),
    "neither": (
        {"do": [["return", {"a": [1, None, "é"]}]], "x": 1},
        {"do": [["return", {"a": [1, None, "é"]}]], "x": 1},
    ),
}


@pytest.mark.parametrize(("inputs", "told"), TOLD.values(), ids=TOLD)
def test_every_form_of_input_reaches_the_agent(
    inputs: Any, told: Any, client: AgentTargetClient, durable: DurableServer
) -> None:
    answers = [client.predict(inputs=inputs), client.predict_stream(inputs=inputs).get_final_response()]
    runs = durable.started()
    assert [run["input"] for run in runs] == [told, told]
    assert (
        {answer["id"] for answer in answers}
        == {answer.invocation_id for answer in answers}
        == {run["id"] for run in runs}
    )
    assert [answer["status"] for answer in answers] == ["completed"] * 2
    assert [answer.session_id for answer in answers] == [run["session_id"] for run in runs]
    assert answers[0]["output"] == answers[1]["output"]
    if told == MESSAGES:
        assert [answer.output_text for answer in answers] == [SAID, SAID]


@pytest.mark.parametrize(
    "session", [{"session_id": "s-1"}, {"context": {"conversation_id": "s-1"}}], ids=["session_id", "context"]
)
def test_a_session_is_the_callers_or_one_of_the_calls_own(
    session: dict[str, Any], client: AgentTargetClient, durable: DurableServer
) -> None:
    for inputs in (MESSAGES, RESUME):
        assert client.predict(inputs={**inputs, **session}).session_id == "s-1"
    first, second = (client.predict(inputs=MESSAGES).session_id for _ in range(2))
    runs = durable.started()
    assert [run["session_id"] for run in runs] == ["s-1", "s-1", first, second]
    assert [set(run["input"]) for run in runs] == [{"messages"}, {"resume"}, {"messages"}, {"messages"}]
    assert uuid.UUID(first) != uuid.UUID(second)
    asked = [request for request in durable.received() if request["path"] == "/api/invocations"]
    assert [request["headers"].get("x-routing-key") for request in asked] == ["s-1", "s-1", first, second]
    assert not any("cookie" in request["headers"] for request in durable.received())


def test_a_whole_request_is_sent_as_it_is(client: AgentTargetClient, durable: DurableServer) -> None:
    given = {"id": str(uuid.uuid4()), "input": {"do": [["context"]], "question": "q"}, "session_id": "mine"}
    for _ in range(2):
        answer = client.predict(inputs=given)
        assert (answer.invocation_id, answer.session_id) == (given["id"], "mine")
        assert answer["output"]["input"] == given["input"]
    assert client.predict_stream(inputs=given).get_final_response() == answer
    assert durable.runs() == {"q": 1}


@pytest.mark.parametrize("key", ["temperature", "model", "tools", "max_output_tokens"])
@pytest.mark.parametrize("payload", [MESSAGES, {"input": [user(TEXT)]}], ids=["messages", "input"])
def test_what_has_no_counterpart_is_named(
    payload: dict[str, Any], key: str, client: AgentTargetClient, durable: DurableServer
) -> None:
    for call in (client.predict, client.predict_stream):
        with pytest.raises(InterfaceMismatchError, match=f"'{key}'") as caught:
            call(inputs={**payload, key: {"temperature": 0.5, "tools": []}.get(key, "x")})
        assert (caught.value.may_have_run, caught.value.retryable) == (False, False)
    assert durable.requests()["POST /api/invocations"] == 0


@pytest.mark.parametrize("text", ["a\0b", "a\ud800", "\udc00b"], ids=["U+0000", "half a pair", "the other half"])
@pytest.mark.parametrize(
    "inputs",
    [
        lambda bad: bad,
        lambda bad: {"messages": [user("hi")], "custom_inputs": {"x": [bad]}},
        lambda bad: {"messages": [user("hi")], "custom_inputs": {bad: 1}},
        lambda bad: {"messages": [user("hi")], "session_id": bad},
        lambda bad: {"do": [["return", bad]]},
    ],
    ids=["a question", "a value", "a key", "a session", "an input"],
)
def test_text_that_the_server_cannot_store_is_not_sent(
    inputs: Callable[[str], Any], text: str, client: AgentTargetClient, durable: DurableServer
) -> None:
    for call in (client.predict, client.predict_stream):
        with pytest.raises(InvalidInputError) as caught:
            call(inputs=inputs(text))
        assert caught.value.may_have_run is False
    assert durable.requests()["POST /api/invocations"] == 0


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_not_is_not_sent(
    number: float, client: AgentTargetClient, durable: DurableServer
) -> None:
    for inputs in ({"do": [["return", number]]}, {**MESSAGES, "custom_inputs": {"x": number}}):
        with pytest.raises(InvalidInputError) as caught:
            client.predict(inputs=inputs)
        assert caught.value.may_have_run is False
    assert durable.requests()["POST /api/invocations"] == 0


# Runs that fail


def ask(client: AgentTargetClient, inputs: Any, streams: bool) -> Any:
    return client.predict_stream(inputs=inputs).get_final_response() if streams else client.predict(inputs=inputs)


@pytest.mark.parametrize("streams", [False, True])
def test_a_run_that_fails_says_where_its_reason_is(
    streams: bool, client: AgentTargetClient, durable: DurableServer
) -> None:
    delta = {"type": "delta", "content": "half", "id": "m"}
    with pytest.raises(AgentError, match="log") as caught:
        ask(client, {"do": [["emit", delta], ["raise", "secret"]], "question": "q"}, streams)
    error = caught.value
    assert (error.retryable, error.may_have_run) == (False, True)
    assert error.invocation_id == durable.started()[0]["id"]
    assert "secret" not in str(error)
    if streams:
        assert "half" in str(error.partial)
    assert durable.runs() == {"q": 1}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "MCP_PERMISSION_DENIED"),
        (401, "MCP_AUTHORIZATION_REQUIRED"),
        (400, "INVALID_APPROVAL"),
        (500, "MCP_USER_AUTH_RECOVERY_UNSUPPORTED"),
    ],
)
def test_a_tool_that_was_refused_is_the_runs_failure_not_the_logins(
    status: int, code: str, streams: bool, client: AgentTargetClient, durable: DurableServer
) -> None:
    with pytest.raises(AgentError, match=code) as caught:
        ask(client, {"do": [["raise_auth", status, code]], "question": "q"}, streams)
    error = caught.value
    assert not isinstance(error, AuthenticationError)
    assert (error.retryable, error.may_have_run) == (False, True)
    assert error.invocation_id == durable.started()[0]["id"]
    assert durable.runs() == {"q": 1}


def test_an_agent_that_acts_for_its_user_says_that_it_was_asked_without_one() -> None:
    pytest.importorskip("databricks_agentkit")
    with DurableServer(user_auth=True) as server:
        for streams in (False, True):
            with pytest.raises(AgentError, match="MCP_USER_AUTH_REQUIRED") as caught:
                ask(AgentTargetClient(server.target_uri), MESSAGES, streams)
            assert caught.value.retryable is False
        assert server.runs() == {}


# What breaks on the way

LOST = [
    Fault(cut_after=0),
    Fault(cut_after=0, resets=False),
    Fault(cut_after=30),
    Fault(undelivered=True),
    Fault(silent=True),
    *(Fault(instead=gateway(status)) for status in (429, 502, 503, 504)),
]


@pytest.mark.parametrize("fault", LOST, ids=str)
@pytest.mark.parametrize("of", ["POST /api/invocations", "GET /api/invocations/"])
def test_a_run_is_asked_for_again_under_its_id(of: str, fault: Fault, durable: DurableServer) -> None:
    with CuttingProxy(durable.url) as proxy:
        client = AgentTargetClient(proxy.target_uri).with_options(
            interface="DurableAgentServer", timeout=0.5, total_timeout=20
        )
        proxy.faults = [replace(fault, of=of)] * 2
        answer = client.predict(inputs=f"wait:0.2 {TEXT}")
        assert (answer.output_text, proxy.faults) == (SAID, [])
        assert durable.runs() == {f"wait:0.2 {TEXT}": 1}


@pytest.mark.parametrize("fault", LOST, ids=str)
def test_a_stream_whose_beginning_is_lost_is_asked_for_again_under_its_id(fault: Fault, durable: DurableServer) -> None:
    with CuttingProxy(durable.url) as proxy:
        client = AgentTargetClient(proxy.target_uri).with_options(
            interface="DurableAgentServer", timeout=0.5, total_timeout=20
        )
        proxy.faults = [fault] * 2
        with client.predict_stream(inputs=TEXT) as stream:
            assert "".join(stream.text_stream) == SAID
        assert stream.get_final_response().output_text == SAID
        assert durable.runs() == {TEXT: 1}


def test_a_run_whose_server_is_not_reached_again_can_be_picked_up(durable: DurableServer) -> None:
    with CuttingProxy(durable.url, *[Fault(of="POST /api", cut_after=0)] * 1000) as proxy:
        client = AgentTargetClient(proxy.target_uri).with_options(interface="DurableAgentServer", total_timeout=1)
        with pytest.raises((EndpointUnavailableError, RequestTimeoutError)) as caught:
            client.predict(inputs=TEXT)
        error = caught.value
        assert (error.may_have_run, error.retryable) == (True, True)
        assert error.invocation_id is not None
    run = AgentTargetClient(durable.target_uri).get_run(endpoint=None, id=error.invocation_id)
    assert run.result(timeout=10).output_text == SAID
    assert durable.runs() == {TEXT: 1}


def test_no_connection_at_all_is_no_run() -> None:
    client = AgentTargetClient("agent-target:http://127.0.0.1:1").with_options(
        interface="DurableAgentServer", total_timeout=1
    )
    with pytest.raises(EndpointUnavailableError) as caught:
        client.predict(inputs=TEXT)
    assert (caught.value.may_have_run, caught.value.retryable) == (False, True)


def test_the_time_for_a_call_ends_it_and_not_the_run(client: AgentTargetClient, durable: DurableServer) -> None:
    with pytest.raises(RequestTimeoutError) as caught:
        client.with_options(total_timeout=0.5).predict(inputs=f"wait:1.5 {TEXT}")
    error = caught.value
    assert (error.may_have_run, error.retryable) == (True, True)
    assert error.invocation_id is not None
    assert error.invocation_id in str(error)
    assert client.get_run(endpoint=None, id=error.invocation_id).result(timeout=10).output_text == SAID


def test_a_run_longer_than_a_request_may_take_is_no_timeout(client: AgentTargetClient, durable: DurableServer) -> None:
    patient = client.with_options(timeout=0.7, total_timeout=20)
    assert patient.predict(inputs=f"wait:1.5 {TEXT}").output_text == SAID
    assert durable.runs() == {f"wait:1.5 {TEXT}": 1}


def test_a_run_of_seconds_is_polled_ever_more_rarely(client: AgentTargetClient, durable: DurableServer) -> None:
    client.predict(inputs="wait:3 x")
    assert durable.requests()["GET /api/invocations/ID"] <= 17


@pytest.mark.parametrize(("seconds", "most"), [(0.05, 5), (1, 12), (10, 22), (60, 60), (600, 320)])
def test_a_run_is_polled_often_enough_and_no_more(seconds: float, most: int) -> None:
    elapsed, polls = 0.0, 0
    while elapsed < seconds:
        elapsed += poll_pause(elapsed)
        polls += 1
    assert polls <= most
    assert elapsed <= 1.5 * seconds


def test_turns_of_one_session_run_one_after_the_other(client: AgentTargetClient, durable: DurableServer) -> None:
    answers: dict[str, str] = {}

    def turn(text: str) -> None:
        answers[text] = client.predict(inputs={"messages": [user(text)], "session_id": session}).output_text

    session = str(uuid.uuid4())
    threads = [threading.Thread(target=turn, args=(f"wait:0.3 {number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {f"wait:0.3 {number}": f"You said: {number}" for number in range(3)}
    times = sorted(run["at"] for run in durable.started())
    assert all(later - earlier > 0.25 for earlier, later in itertools.pairwise(times))


def test_a_run_that_was_accepted_with_409_is_asked_for(postgres: Postgres) -> None:
    # The database gives 1e23 back as another number, so the server takes the request for another one's.
    with DurableServer(postgres=postgres.url) as server:
        client = AgentTargetClient(server.target_uri)
        for streams in (False, True):
            answer = ask(client, {"do": [["return", "I ran"]], "x": 1e23, "question": str(streams)}, streams)
            assert answer["output"] == "I ran"
        assert server.runs() == {"False": 1, "True": 1}


def test_an_older_server_is_told_the_session_in_the_input(scripted: Make) -> None:
    # databricks-agentbricks 0.2 and 0.3, as recorded.
    refused = {"type": "extra_forbidden", "loc": ["body", "session_id"], "msg": "Extra inputs are not permitted"}
    accepted = {"id": str(uuid.uuid4()), "status": "queued"}
    server = scripted(
        whole({"detail": [{**refused, "input": "s"}]}, 422),
        whole(accepted, 202),
        describe=whole({**accepted, "status": "completed", "output": "ok"}),
    )
    client = AgentTargetClient(server.target_uri).with_options(interface="DurableAgentServer")
    assert client.predict(inputs={**MESSAGES, "session_id": "s"}).output_text == "ok"
    first, second = (post.json for post in server.posts)
    assert (first["session_id"], "session_id" in second) == ("s", False)
    assert second["input"] == {**MESSAGES, "session_id": "s"}
    assert "cookie" not in server.posts[1].headers


def test_a_run_that_an_accepting_server_does_not_know_was_forgotten(scripted: Make) -> None:
    accepted = {"id": str(uuid.uuid4()), "status": "queued"}
    server = scripted(whole(accepted, 202), describe=whole(UNKNOWN, 404))
    client = AgentTargetClient(server.target_uri).with_options(interface="DurableAgentServer", total_timeout=5)
    with pytest.raises(AgentTargetError, match="forgotten") as caught:
        client.predict(inputs=TEXT)
    error = caught.value
    assert (error.may_have_run, error.retryable) == (True, False)
    assert error.invocation_id == server.posts[0].json["id"]
    assert len(server.posts) == 1
    assert not isinstance(error, EndpointNotFoundError) or error.status_code == 404


def test_a_server_that_is_none_any_more_is_looked_at_anew(scripted: Make) -> None:
    """An app may be deployed again as another one."""
    answer = {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "now"}]}]}
    server = scripted(whole(NOT_FOUND, 404), whole(NOT_FOUND, 404), whole(answer), describe=whole(UNKNOWN, 404))
    client = AgentTargetClient(server.target_uri)
    with pytest.raises(EndpointNotFoundError) as caught:
        client.predict(inputs="hi")
    assert caught.value.may_have_run is False
    assert client.predict(inputs="hi").output_text == "now"
    assert [post.path for post in server.posts] == ["/invocations", "/api/invocations", "/invocations"]


@pytest.mark.parametrize("status", [404, 410, 200])
@pytest.mark.parametrize("of", ["GET /api/invocations/", "POST /api/invocations"])
def test_a_foreign_answer_makes_no_agent_run_twice(
    of: str, status: int, durable: DurableServer, tmp_path: Path
) -> None:
    """A proxy's page in the place of an answer says nothing of the run."""
    question = "wait:0.3 hi"
    with CuttingProxy(durable.url) as proxy:
        proxy.faults = [Fault(of, instead=gateway(status))]
        client = AgentTargetClient(proxy.target_uri).with_options(interface="DurableAgentServer")
        texts: list[str | None] = []
        for _ in range(3):
            with contextlib.suppress(AgentTargetError):
                results = client.predict_batch(inputs=[question], journal=tmp_path / "j.db", progress=False)
                texts += [row.output_text for row in results]
            if texts and texts[-1]:
                break
    assert texts[-1] == "You said: hi"
    assert durable.runs() == {question: 1}
