"""Managing endpoints as MLflow's `databricks` client does, deployments, and the OpenAI client for a target."""

from __future__ import annotations

import copy
import json
import shlex
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import mlflow.deployments.cli
import openai
import pytest
from click.testing import CliRunner
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_agent_target import (
    AgentTargetClient,
    AgentTargetError,
    AuthenticationError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InvalidInputError,
    InvalidResponseError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
)
from mlflow_agent_target.server import LocalServer
from tests.conftest import user
from tests.scripted import CLOSE, RESET, ScriptedServer, whole

Make = Callable[..., ScriptedServer]

ROOT = "/api/2.0/serving-endpoints"
ENTITIES = {"served_entities": [{"entity_name": "c.s.m", "entity_version": "1"}]}
LIMITS = {"rate_limits": [{"calls": 10, "key": "user", "renewal_period": "minute"}]}
TAGS = [{"key": "k", "value": "v"}]
CREATED = {"name": "a", "state": {"ready": "NOT_READY"}, "config": ENTITIES}


@pytest.fixture
def workspace(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedServer]:
    """Makes a scripted workspace, which the environment's login is for."""

    def make(*answers: Any, describe: Any = None) -> ScriptedServer:
        server = scripted(*(answers or [whole(CREATED)]), describe=describe or whole(CREATED))
        monkeypatch.setenv("DATABRICKS_HOST", server.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "secret-token")
        return server

    return make


def asked(server: ScriptedServer) -> list[Any]:
    """The requests a workspace got, but for databricks-sdk's own."""
    return [
        (request.method, request.path.rstrip("/"), json.loads(request.body or b"null"))
        for request in server.received
        if request.path.startswith(ROOT)
    ]


def outcome(client: Any, server: ScriptedServer, call: str, arguments: dict[str, Any]) -> Any:
    """What a call sends, gives and warns of, or what it raises."""
    server.received.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = dict(getattr(client, call)(**arguments))
        except MlflowException as error:
            result = str(error)
    said = [(w.category, str(w.message)) for w in caught if w.category in (UserWarning, FutureWarning)]
    sent = asked(server)
    # Each names itself in what @deprecated says.
    return sent, result, [(kind, text.split("is deprecated", 1)[-1]) for kind, text in said]


NEW = {"name": "a", "config": ENTITIES}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("create_endpoint", {"config": NEW}),
    ("create_endpoint", {"config": {**NEW, "tags": TAGS, "route_optimized": False}}),
    ("create_endpoint", {"config": {**NEW, "route_optimized": True}}),
    ("create_endpoint", {"config": {**NEW, "route_optimized": True}, "route_optimized": True}),
    ("create_endpoint", {"config": {**NEW, "route_optimized": True}, "route_optimized": None}),
    ("create_endpoint", {"config": NEW, "route_optimized": True}),
    ("create_endpoint", {"name": "a", "config": NEW}),
    ("create_endpoint", {"name": "b", "config": NEW}),
    ("create_endpoint", {"name": "a", "config": {"config": ENTITIES}}),
    ("create_endpoint", {"name": "a", "config": {"config": ENTITIES}, "route_optimized": True}),
    ("create_endpoint", {"config": {"config": ENTITIES}}),
    ("create_endpoint", {"name": "a", "config": ENTITIES}),
    ("create_endpoint", {"name": "a", "config": {**ENTITIES, "tags": TAGS, **LIMITS}, "route_optimized": True}),
    ("create_endpoint", {"name": "a", "config": {**ENTITIES, "tags": []}}),
    ("create_endpoint", {"name": "a"}),
    ("create_endpoint", {"name": "a", "config": {}, "route_optimized": None}),
    ("update_endpoint", {"endpoint": "a", "config": ENTITIES}),
    ("update_endpoint", {"endpoint": "a", "config": LIMITS}),
    ("update_endpoint", {"endpoint": "a", "config": {**LIMITS, **ENTITIES}}),
    ("update_endpoint_config", {"endpoint": "a", "config": ENTITIES}),
    ("update_endpoint_tags", {"endpoint": "a", "config": {"add_tags": TAGS, "delete_tags": ["x"]}}),
    ("update_endpoint_rate_limits", {"endpoint": "a", "config": LIMITS}),
    ("update_endpoint_ai_gateway", {"endpoint": "a", "config": {"usage_tracking_config": {"enabled": True}}}),
    ("delete_endpoint", {"endpoint": "a"}),
    ("get_endpoint", {"endpoint": "a"}),
]


@pytest.mark.parametrize(("call", "arguments"), CALLS, ids=[f"{call}-{list(a)}" for call, a in CALLS])
def test_endpoints_are_managed_as_by_mlflows_own_client(
    call: str, arguments: dict[str, Any], workspace: Callable[..., ScriptedServer]
) -> None:
    server = workspace()
    before = copy.deepcopy(arguments)
    ours = outcome(AgentTargetClient(), server, call, arguments)
    assert arguments == before
    assert ours == outcome(get_deploy_client("databricks"), server, call, arguments)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_warning_points_to_the_caller(workspace: Callable[..., ScriptedServer]) -> None:
    workspace()
    client = AgentTargetClient()
    with pytest.warns(UserWarning, match="deprecated") as caught:
        client.create_endpoint("a", ENTITIES)
    with pytest.warns(FutureWarning, match="deprecated") as caught_of_update:
        client.update_endpoint("a", ENTITIES)
    assert [w.filename for w in (*caught, *caught_of_update)] == [__file__] * 3


@pytest.mark.parametrize(
    ("call", "answer", "expected"),
    [
        ("delete_endpoint", b"", {}),
        ("update_endpoint_config", b"", {}),
        ("update_endpoint_config", None, {}),
        ("update_endpoint_tags", {"tags": TAGS}, {"tags": TAGS}),
        ("update_endpoint_tags", TAGS, {"tags": TAGS}),
        ("update_endpoint_tags", b"", {}),
        ("update_endpoint_rate_limits", LIMITS, LIMITS),
    ],
)
def test_what_comes_back_is_a_dict(call: str, answer: Any, expected: Any, scripted: Make) -> None:
    server = scripted(whole(answer))
    client = AgentTargetClient(server.target_uri)
    result = getattr(client, call)(*(["a"] if call == "delete_endpoint" else ["a", {}]))
    assert result == expected
    assert type(result).__name__ == "ServingEndpoint"


@pytest.mark.parametrize("answer", ["x", 5, True, [{"name": "a"}]])
@pytest.mark.parametrize(
    "call", ["delete_endpoint", "update_endpoint_config", "update_endpoint_rate_limits", "update_endpoint_ai_gateway"]
)
def test_an_answer_that_is_no_object_is_an_error(call: str, answer: Any, scripted: Make) -> None:
    client = AgentTargetClient(scripted(whole(answer)).target_uri)
    with pytest.raises(InvalidResponseError, match="describes no endpoints"):
        getattr(client, call)(*(["a"] if call == "delete_endpoint" else ["a", {}]))


@pytest.mark.parametrize("answer", ["x", 5, None, [{"name": "a"}]])
@pytest.mark.parametrize("call", ["get_endpoint", "get_deployment"])
def test_a_description_that_is_no_object_is_an_error(call: str, answer: Any, scripted: Make) -> None:
    client = AgentTargetClient(scripted(whole({}), describe=whole(answer)).target_uri)
    with pytest.raises(InvalidResponseError, match="describes no endpoints"):
        getattr(client, call)("a")


@pytest.mark.parametrize("answer", [{}, {"endpoints": None}, {"endpoints": []}, []])
def test_endpoints_are_always_a_list(answer: Any, scripted: Make) -> None:
    client = AgentTargetClient(scripted(whole({}), describe=whole(answer)).target_uri)
    assert client.list_endpoints() == []
    assert client.list_deployments() == []


@pytest.mark.parametrize("answer", [{"endpoints": 5}, {"endpoints": [5]}, {"endpoints": [None]}, "x", None])
def test_a_list_that_is_none_is_told(answer: Any, scripted: Make) -> None:
    client = AgentTargetClient(scripted(whole({}), describe=whole(answer)).target_uri)
    with pytest.raises(InvalidResponseError, match="describes no endpoints"):
        client.list_endpoints()


def test_keys_of_a_description_are_attributes_at_every_depth(scripted: Make) -> None:
    client = AgentTargetClient(scripted(whole({}), describe=whole(CREATED)).target_uri)
    endpoint = client.get_endpoint("a")
    assert (endpoint.name, endpoint.state.ready) == ("a", "NOT_READY")
    assert endpoint.config == endpoint["config"] == ENTITIES
    with pytest.raises(AttributeError, match="task"):
        _ = endpoint.task


@pytest.mark.parametrize("name", ["", "a/b", "a?b", "..", "a%2fb", None, 5])
def test_a_name_that_could_change_the_url_is_refused(name: Any, scripted: Make) -> None:
    server = scripted(whole({}))
    client = AgentTargetClient(server.target_uri)
    calls = [
        lambda: client.create_endpoint(config={"name": name, "config": {}}),
        lambda: client.update_endpoint_config(name, {}),
        lambda: client.update_endpoint_tags(name, {}),
        lambda: client.delete_endpoint(name),
        lambda: client.get_endpoint(name),
        lambda: client.create_deployment(name, "models:/c.s.m/1"),
        lambda: client.delete_deployment(name),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError, match="name"):
            call()
    assert server.received == []


def test_a_name_is_quoted_and_may_have_its_prefix(scripted: Make) -> None:
    server = scripted(whole({}))
    AgentTargetClient(server.target_uri).update_endpoint_tags("endpoints:/my agent", {})
    assert [request.path for request in server.received] == [f"{ROOT}/my%20agent/tags"]


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("config", [None, "x", [1], {"a": float("nan")}, {"a": b"x"}])
def test_a_configuration_that_cannot_be_sent_is_refused(config: Any, scripted: Make) -> None:
    server = scripted(whole({}))
    client = AgentTargetClient(server.target_uri)
    for call in (client.update_endpoint_config, client.update_endpoint_tags, client.update_endpoint):
        with pytest.raises(InvalidInputError):
            call("a", config)
    assert server.received == []


def test_an_endpoint_that_was_changed_is_asked_anew_what_it_serves(scripted: Make) -> None:
    server = scripted(whole({"messages": []}), describe=whole({"task": "agent/v2/chat"}))
    client = AgentTargetClient(server.target_uri)
    client.predict(endpoint="a", inputs="hi")
    client.update_endpoint_config("a", ENTITIES)
    server.describe = whole({"task": "agent/v1/responses"})
    server.answers = [whole({"output": []})]
    client.predict(endpoint="a", inputs="hi")
    assert [list(request.json) for request in server.posts] == [["messages"], ["input"]]


def failing(status: int, code: str = "CODE", message: str = "The server's words.") -> Any:
    return whole({"error_code": code, "message": message}, status)


# status or break -> error, part of its message, whether the change may have been made, how often it is sent
FAILURES: dict[str, tuple[Any, type[AgentTargetError], str, bool, int]] = {
    "400": (failing(400), InvalidInputError, "CODE: The server's words. Nothing was changed", False, 1),
    "401": (failing(401), AuthenticationError, "The server's words", False, 1),
    "403": (failing(403), PermissionDeniedError, "The server's words. Ask for the right", False, 1),
    "404": (failing(404), EndpointNotFoundError, "The server's words. Check the names", False, 1),
    "405": (failing(405), InvalidInputError, "The server's words. Nothing was changed", False, 1),
    "409": (failing(409), InvalidInputError, "The server's words. Nothing was changed", False, 1),
    "429": (failing(429), RateLimitError, "The server's words", False, 3),
    "500": (failing(500), EndpointUnavailableError, "The server's words. The change may have been made", True, 1),
    "502": (failing(502), EndpointUnavailableError, "The server's words. The change may have been made", True, 1),
    "503": (failing(503), EndpointUnavailableError, "The server's words", False, 3),
    "504": (failing(504), EndpointUnavailableError, "The server's words. The change may have been made", True, 1),
    "302": (whole(b"", 302, headers="Location: /x\r\n"), InvalidResponseError, "redirect", False, 1),
    "HTML": (whole(b"<html>", 200, "text/html"), InvalidResponseError, "not JSON", True, 1),
    "a number": (whole(5), InvalidResponseError, "describes no endpoints", True, 1),
    "a reset": ([RESET], EndpointUnavailableError, "the connection broke. The change may", True, 1),
    "a close": ([CLOSE], EndpointUnavailableError, "The change may have been made", True, 1),
    "silence": ([30.0], RequestTimeoutError, "no answer in time. The change may have been made", True, 1),
}


@pytest.mark.parametrize(("answer", "kind", "said", "may_have_run", "sent"), FAILURES.values(), ids=FAILURES)
def test_a_change_that_fails(
    answer: Any,
    kind: type[AgentTargetError],
    said: str,
    may_have_run: bool,
    sent: int,
    scripted: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    server = scripted(answer)
    # Whether the agent may run twice says nothing of changes.
    client = AgentTargetClient(server.target_uri).with_options(idempotent=True, timeout=1 if answer == [30.0] else 60)
    with pytest.raises(kind, match=said) as caught:
        client.update_endpoint_config("a", ENTITIES)
    assert type(caught.value) is kind
    assert caught.value.may_have_run is may_have_run
    assert "agent may" not in str(caught.value)
    assert len(server.received) == sent


@pytest.mark.parametrize(
    ("answer", "kind", "sent"),
    [
        (failing(400), InvalidInputError, 1),
        (failing(404), EndpointNotFoundError, 1),
        (failing(500), EndpointUnavailableError, 3),
        (failing(502), EndpointUnavailableError, 3),
        (failing(503), EndpointUnavailableError, 3),
        ([RESET], EndpointUnavailableError, 3),
    ],
)
def test_a_question_is_asked_again_after_every_passing_failure(
    answer: Any, kind: type[AgentTargetError], sent: int, scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    server = scripted(whole({}), describe=answer)
    with pytest.raises(kind) as caught:
        AgentTargetClient(server.target_uri).get_endpoint("a")
    assert (len(server.received), caught.value.attempts, caught.value.may_have_run) == (sent, sent, False)


def test_a_change_that_reaches_nobody_says_so() -> None:
    with pytest.raises(EndpointUnavailableError, match="no connection") as caught:
        AgentTargetClient("agent-target:http://127.0.0.1:1").delete_endpoint("a")
    assert caught.value.attempts == 3
    assert not caught.value.may_have_run


# Deployments


def mlflow_deployments(target: str, *arguments: str) -> str:
    command = [arguments[0], "-t", target, *arguments[1:]]
    result = CliRunner().invoke(mlflow.deployments.cli.commands, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return str(result.output)


MODEL = {"entity_name": "c.s.m", "entity_version": "3"}
SMALL = {"workload_size": "Small", "scale_to_zero_enabled": True}
KEPT = {"workload_size": "Large", "scale_to_zero_enabled": False, "environment_vars": {"E": "1"}}
BEFORE = {**MODEL, "entity_version": "2", **KEPT}
SERVED = {**BEFORE, "name": "m-2", "creator": "x", "state": {"deployment": "DEPLOYMENT_READY"}}
DESCRIBED = {"name": "a", "config": {"served_entities": [SERVED]}}

COMMANDS: list[tuple[list[str], Any, str]] = [
    (
        ["create", "--name", "a", "-m", "models:/c.s.m/3"],
        ("POST", ROOT, {"name": "a", "config": {"served_entities": [{**SMALL, **MODEL}]}}),
        "python_function deployment a is created",
    ),
    (
        shlex.split(
            "create --name a --endpoint a -f python_function -m models:/c.s.m/3 -C workload_size=Large "
            """-C scale_to_zero_enabled=False -C 'environment_vars={"E": "1"}'"""
        ),
        ("POST", ROOT, {"name": "a", "config": {"served_entities": [{**MODEL, **KEPT}]}}),
        "python_function deployment a is created",
    ),
    (
        ["update", "--name", "a", "-m", "models:/c.s.m/3"],
        ("PUT", f"{ROOT}/a/config", {"served_entities": [{**MODEL, **KEPT}]}),
        "Deployment a is updated (with flavor python_function)",
    ),
    (
        ["update", "--name", "a", "-C", "workload_size=Medium"],
        ("PUT", f"{ROOT}/a/config", {"served_entities": [{**BEFORE, "workload_size": "Medium"}]}),
        "Deployment a is updated",
    ),
    (["delete", "--name", "a"], ("DELETE", f"{ROOT}/a", None), "Deployment a is deleted"),
    (["list"], ("GET", ROOT, None), "[{'name': 'a'"),
    (["list", "--endpoint", "a"], ("GET", f"{ROOT}/a", None), "[{'name': 'a'"),
    (["get", "--name", "a"], ("GET", f"{ROOT}/a", None), "name: a\n"),
    (["list-endpoints"], ("GET", ROOT, None), "[{'name': 'a'"),
    (["get-endpoint", "--endpoint", "a"], ("GET", f"{ROOT}/a", None), "name: a\n"),
    (["delete-endpoint", "--endpoint", "a"], ("DELETE", f"{ROOT}/a", None), "Endpoint a is deleted"),
    (
        ["update-endpoint", "--endpoint", "a", "-C", f"rate_limits={json.dumps(LIMITS['rate_limits'])}"],
        ("PUT", f"{ROOT}/a/rate-limits", LIMITS),
        "Endpoint a is updated",
    ),
]


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(
    ("command", "request_made", "printed"), COMMANDS, ids=[" ".join(c[:4]) for c, _, _ in COMMANDS]
)
def test_mlflows_command_line_manages_endpoints(
    command: list[str], request_made: Any, printed: str, scripted: Make
) -> None:
    described = {"endpoints": [DESCRIBED]} if command in (["list"], ["list-endpoints"]) else DESCRIBED
    server = scripted(whole(CREATED), describe=whole(described))
    assert printed in mlflow_deployments(server.target_uri, *command)
    assert asked(server)[-1] == request_made


@pytest.mark.parametrize(
    "model_uri",
    ["models:/m/1", "models:/c.s.m@champion", "models:/c.s.m/latest", "models:/c.s.m", "runs:/1/agent", "agent.py", ""],
)
def test_what_no_endpoint_can_serve_is_refused_with_advice(model_uri: str, scripted: Make) -> None:
    server = scripted(whole(CREATED), describe=whole(DESCRIBED))
    client = AgentTargetClient(server.target_uri)
    for call in (client.create_deployment, client.update_deployment):
        with pytest.raises(InvalidInputError, match=r"models:/catalog\.schema\.model/1.*agents\.deploy.*run-local"):
            call("a", model_uri)
    assert server.received == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"flavor": "sklearn"}, "python_function"),
        ({"endpoint": "b"}, "Two endpoints"),
        ({"config": {"entity_version": "1"}}, "entity_version"),
    ],
)
def test_arguments_that_contradict_are_refused(arguments: dict[str, Any], said: str, scripted: Make) -> None:
    server = scripted(whole(CREATED))
    client = AgentTargetClient(server.target_uri)
    for call in (client.create_deployment, client.update_deployment):
        with pytest.raises(InvalidInputError, match=said):
            call("a", "models:/c.s.m/1", **arguments)
    assert server.received == []


def test_a_deletion_takes_no_configuration_and_one_name(scripted: Make) -> None:
    server = scripted(whole({}))
    client = AgentTargetClient(server.target_uri)
    with pytest.raises(InvalidInputError, match="force"):
        client.delete_deployment("a", config={"force": "true"})
    with pytest.raises(InvalidInputError, match="Two endpoints"):
        client.delete_deployment("a", endpoint="b")
    with pytest.raises(InvalidInputError, match="Nothing to update"):
        client.update_deployment("a")
    assert server.received == []


def test_an_endpoint_of_several_models_is_not_reduced_to_one(scripted: Make) -> None:
    server = scripted(whole({}), describe=whole({"name": "a", "config": {"served_entities": [SERVED, SERVED]}}))
    with pytest.raises(InvalidInputError, match=r"serves 2 models.*update_endpoint_config"):
        AgentTargetClient(server.target_uri).update_deployment("a", "models:/c.s.m/3")
    assert [request.method for request in server.received] == ["GET"]


# The OpenAI client


@pytest.fixture
def without_databricks_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "databricks_openai", None)


@pytest.mark.usefixtures("without_databricks_openai")
@pytest.mark.parametrize("is_workspace", [False, True])
def test_the_openai_client_answers_for_the_same_target(
    is_workspace: bool, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "x")
    client = AgentTargetClient("agent-target" if is_workspace else server.target_uri).get_open_ai_client()
    assert type(client) is openai.OpenAI
    asking: dict[str, Any] = {"model": "responses_agent", "input": [user("b a")]}
    assert "'b a'" in client.responses.create(**asking).output_text
    deltas = [event.delta for event in client.responses.create(**asking, stream=True) if hasattr(event, "delta")]
    assert "'b a'" in "".join(deltas)
    chatting: dict[str, Any] = {"model": "chat_model", "messages": [user("b a")]}
    assert client.chat.completions.create(**chatting).choices[0].message.content == "B A"
    chunks = client.chat.completions.create(**chatting, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "B A"


RESPONSE = {"id": "r", "object": "response", "output": [], "status": "completed"}


@pytest.mark.usefixtures("without_databricks_openai")
def test_the_token_is_asked_for_each_request(scripted: Make) -> None:
    from databricks.sdk import WorkspaceClient

    server = scripted(whole(RESPONSE), describe=whole({}))
    login = WorkspaceClient(host=server.url, token="unused")
    tokens = iter(["first", "second", "third"])
    login.config.authenticate = lambda: {"Authorization": f"Bearer {next(tokens)}"}
    client = AgentTargetClient(workspace_client=login).get_open_ai_client()
    client.responses.create(model="a", input="hi")
    list(client.responses.create(model="a", input="hi", stream=True))
    client.with_options(timeout=30).responses.create(model="a", input="hi")
    sent = [request.headers["authorization"] for request in server.posts]
    assert sent == ["Bearer first", "Bearer second", "Bearer third"]
    assert all(token not in repr(client) for token in ("first", "second", "third", "unused"))


@pytest.mark.usefixtures("without_databricks_openai")
def test_a_login_that_fails_is_told_as_ever(scripted: Make) -> None:
    from databricks.sdk import WorkspaceClient

    server = scripted(whole(RESPONSE), describe=whole({}))
    login = WorkspaceClient(host=server.url, token="unused")
    client = AgentTargetClient(workspace_client=login).get_open_ai_client()

    def fail() -> dict[str, str]:
        raise ValueError("expired for good")

    login.config.authenticate = fail
    with pytest.raises(AuthenticationError, match="expired for good"):
        client.responses.create(model="a", input="hi")
    login.config.authenticate = lambda: {"Authorization": "Basic eDp5"}
    with pytest.raises(AuthenticationError, match="bearer"):
        client.responses.create(model="a", input="hi")
    assert server.posts == []


@pytest.mark.parametrize(("token", "sent"), [("mine", "Bearer mine"), (None, "Bearer none")])
def test_a_base_url_gets_its_own_token_only(
    token: str | None, sent: str, scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openais")
    monkeypatch.setenv("DATABRICKS_TOKEN", "the-workspaces")
    if token:
        monkeypatch.setenv("AGENT_TARGET_TOKEN", token)
    server = scripted(whole(RESPONSE))
    AgentTargetClient(server.target_uri).get_open_ai_client().responses.create(model="a", input="hi")
    assert [(request.path, request.headers["authorization"]) for request in server.received] == [
        ("/serving-endpoints/responses", sent)
    ]


def test_redirects_are_not_followed(scripted: Make) -> None:
    elsewhere = scripted(whole(RESPONSE))
    location = f"Location: {elsewhere.url}/serving-endpoints/responses\r\n"
    client = AgentTargetClient(scripted(whole(b"", 307, headers=location)).target_uri).get_open_ai_client()
    with pytest.raises(openai.APIStatusError):
        client.responses.create(model="a", input="hi")
    assert elsewhere.received == []


def test_databricks_own_client_is_used_where_it_is_installed(
    workspace: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It needs an older openai than the newest, so it is not installed beside it: a stand-in with its arguments.
    made: list[Any] = []

    class DatabricksOpenAI:
        def __init__(self, workspace_client: Any, follow_redirects: bool) -> None:
            made.append((workspace_client.config.host, workspace_client.config.token, follow_redirects))

    stand_in = ModuleType("databricks_openai")
    stand_in.DatabricksOpenAI = DatabricksOpenAI  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "databricks_openai", stand_in)
    server = workspace()
    assert type(AgentTargetClient().get_open_ai_client()) is DatabricksOpenAI
    assert made == [(server.url, "secret-token", False)]
    assert type(AgentTargetClient(server.target_uri).get_open_ai_client()) is openai.OpenAI
    del stand_in.DatabricksOpenAI  # as in its first versions
    assert type(AgentTargetClient().get_open_ai_client()) is openai.OpenAI


def test_a_missing_or_old_openai_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    client = AgentTargetClient("agent-target:http://127.0.0.1:1")
    monkeypatch.setattr(openai, "__version__", "1.105.9")
    with pytest.raises(InvalidInputError, match=r"1\.105\.9.*mlflow-agent-target\[openai\]"):
        client.get_open_ai_client()
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InvalidInputError, match=r"not installed.*mlflow-agent-target\[openai\]"):
        client.get_open_ai_client()
