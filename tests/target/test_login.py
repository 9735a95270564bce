"""Logins: found by databricks-sdk, renewed as tokens expire, and sent only where they belong."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlflow_agent_target import (
    AgentTargetClient,
    AuthenticationError,
    EndpointUnavailableError,
    InvalidInputError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from mlflow_agent_target.target.sdk import workspace_login
from tests.conftest import user
from tests.scripted import ScriptedServer, whole

Make = Callable[..., ScriptedServer]


class Workspace:
    """A workspace with OAuth for service principals: it gives out numbered tokens, and takes those that are `valid`."""

    def __init__(self) -> None:
        self.tokens_given = 0
        self.expires_in = 3600
        self.valid: set[str] | None = None
        # What an invocation with an invalid token is answered, and what the token endpoint answers first.
        self.refusal: tuple[int, Any] = (401, {"error_code": "UNAUTHENTICATED", "message": "the token is not valid"})
        self.token_answers: list[tuple[int, Any] | float] = []
        self.endpoint: dict[str, Any] = {"name": "a", "task": "agent/v1/responses"}
        self.app_url: str | None = None
        self.exchanged: list[dict[str, str]] = []
        self.asked: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def paths(self, prefix: str) -> list[str]:
        return [path for path, _ in self.asked if path.startswith(prefix)]

    def _answer(self, path: str, login: str, form: str) -> tuple[int, Any]:
        oidc = f"{self.url}/oidc"
        if path == "/.well-known/databricks-config":
            return 200, {"oidc_endpoint": oidc}
        if path == "/oidc/.well-known/oauth-authorization-server":
            return 200, {"authorization_endpoint": f"{oidc}/v1/authorize", "token_endpoint": f"{oidc}/v1/token"}
        if path == "/oidc/v1/token":
            if self.token_answers:
                planned = self.token_answers.pop(0)
                if isinstance(planned, float):
                    time.sleep(planned)
                else:
                    return planned
            self.tokens_given += 1
            if "authorization_details" in form:
                self.exchanged.append(dict(pair.split("=", 1) for pair in form.split("&")))
                return 200, {
                    "access_token": f"for-endpoint-{self.tokens_given}",
                    "token_type": "Bearer",
                    "expires_in": 3600,
                }
            token = f"token-{self.tokens_given}"
            return 200, {"access_token": token, "token_type": "Bearer", "expires_in": self.expires_in}
        if path.endswith("/invocations"):
            if self.valid is not None and login.removeprefix("Bearer ") not in self.valid:
                return self.refusal
            return 200, {"output": []}
        if path == "/api/2.0/serving-endpoints/a":
            return 200, self.endpoint
        if path == "/api/2.0/apps/my-app":
            return 200, {"name": "my-app", "url": self.app_url}
        return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}

    def _handler(workspace) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                form = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                login = self.headers.get("authorization", "")
                workspace.asked.append((self.path, login))
                status, body = workspace._answer(self.path, login, form)
                raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "text/html" if isinstance(body, str) else "application/json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Workspace()
    monkeypatch.setenv("DATABRICKS_HOST", made.url)
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "me")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "hunter2")
    yield made
    made.stop()


def logins(workspace: Workspace) -> list[str]:
    return [login for path, login in workspace.asked if path.endswith("/invocations")]


def test_a_service_principal_logs_in_once_for_many_calls(workspace: Workspace) -> None:
    for _ in range(5):
        AgentTargetClient("agent-target").predict(endpoint="a", inputs="hi")
    assert logins(workspace) == ["Bearer token-1"] * 5
    assert len(workspace.paths("/.well-known")) <= 1


def test_a_token_that_expires_is_renewed(workspace: Workspace) -> None:
    """databricks-sdk takes a token for expired 40 s early, so that one of 30 s is renewed for each call."""
    workspace.expires_in = 30
    client = AgentTargetClient("agent-target")
    for _ in range(3):
        client.predict(endpoint="a", inputs="hi")
    assert len(set(logins(workspace))) == 3


def test_a_token_that_is_refused_is_renewed_once(workspace: Workspace) -> None:
    client = AgentTargetClient("agent-target")
    client.predict(endpoint="a", inputs="hi")
    for round_ in range(2):
        workspace.valid = {f"token-{workspace.tokens_given + 1}"}
        assert client.predict(endpoint="a", inputs="hi") == {"output": []}
        assert logins(workspace)[-1] == f"Bearer token-{round_ + 2}"
    assert len(logins(workspace)) == 5


def test_a_login_that_is_refused_for_good_is_not_renewed_at_each_call(workspace: Workspace) -> None:
    workspace.valid = set()
    client = AgentTargetClient("agent-target")
    for _ in range(5):
        with pytest.raises(AuthenticationError, match="the token is not valid") as caught:
            client.predict(endpoint="a", inputs="hi")
        assert caught.value.may_have_run is False
    assert workspace.tokens_given == 2
    assert len(logins(workspace)) == 6


def test_threads_renew_a_login_together(workspace: Workspace) -> None:
    client = AgentTargetClient("agent-target")
    client.predict(endpoint="a", inputs="hi")
    workspace.valid = {"token-2"}
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.predict(endpoint="a", inputs="hi"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{"output": []}] * 8
    assert workspace.tokens_given == 2


def test_secrets_are_in_no_log_and_no_repr(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    workspace.valid = set()
    client = AgentTargetClient("agent-target")
    with caplog.at_level(logging.DEBUG), pytest.raises(AuthenticationError) as caught:
        client.predict(endpoint="a", inputs="hi")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("mlflow_agent_target"))
    shown = f"{ours} {caught.value} {caught.value.body} {client!r} {client._access.routes.transport.login!r}"
    assert "hunter2" not in shown
    assert "token-" not in shown


def test_a_token_of_the_environments_own_needs_no_sdk(scripted: Make) -> None:
    """Importing it takes longer than all the rest, and it asks the host for its metadata first."""
    server = scripted(whole({"output": []}))
    code = (
        "import os, sys\n"
        "from mlflow.deployments import get_deploy_client\n"
        "print(get_deploy_client('agent-target').predict(endpoint='a', inputs='hi'))\n"
        "assert 'databricks.sdk' not in sys.modules\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "DATABRICKS_HOST": server.url, "DATABRICKS_TOKEN": "dapi-1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "{'output': []}\n"
    assert [request.path for request in server.received] == [
        "/api/2.0/serving-endpoints/a",
        "/serving-endpoints/a/invocations",
    ]
    assert server.posts[0].headers["authorization"] == "Bearer dapi-1"


@pytest.mark.parametrize(
    "more",
    [
        {"DATABRICKS_AUTH_TYPE": "pat"},
        {"DATABRICKS_CONFIG_PROFILE": "nobody"},
        {"DATABRICKS_CLIENT_ID": "me"},
        {"DATABRICKS_HOST": "adb-1.azuredatabricks.net/path"},
    ],
)
def test_whatever_else_there_is_to_find_is_left_to_the_sdk(
    more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("mlflow_agent_target.target.sdk._found_login", lambda profile, *_: asked.append(profile))
    workspace_login(None, {"DATABRICKS_HOST": "https://h", "DATABRICKS_TOKEN": "t", **more})
    workspace_login("dev", {"DATABRICKS_HOST": "https://h", "DATABRICKS_TOKEN": "t"})
    assert asked == [None, "dev"]


@pytest.mark.parametrize("host", ["http://10.1.2.3", "http://agents.example:8080"])
def test_a_token_does_not_travel_unencrypted(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_TARGET_TOKEN", "hunter2")
    with pytest.raises(InvalidInputError, match=r"unencrypted.*AGENT_TARGET_ALLOW_HTTP=true") as caught:
        AgentTargetClient(f"agent-target:{host}")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("AGENT_TARGET_ALLOW_HTTP", "true")
    AgentTargetClient(f"agent-target:{host}")
    monkeypatch.delenv("AGENT_TARGET_ALLOW_HTTP")
    monkeypatch.delenv("AGENT_TARGET_TOKEN")
    AgentTargetClient(f"agent-target:{host}")
    monkeypatch.setenv("DATABRICKS_HOST", host)
    monkeypatch.setenv("DATABRICKS_TOKEN", "hunter2")
    with pytest.raises(InvalidInputError, match="unencrypted"):
        AgentTargetClient("agent-target").predict(endpoint="a", inputs="hi")


# Databricks Apps


def test_an_app_is_looked_up_once_and_asked_at_its_own_url(workspace: Workspace, scripted: Make) -> None:
    app = scripted(whole({"output": []}))
    workspace.app_url = app.url
    for name in ("apps:/my-app", "apps/my-app"):
        for _ in range(2):
            AgentTargetClient("agent-target").predict(endpoint=name, inputs="hi")
    assert [(request.method, request.path) for request in app.received] == [("POST", "/invocations")] * 4
    assert {request.headers["authorization"] for request in app.posts} == {"Bearer token-1"}
    assert workspace.paths("/api/2.0/apps/") == ["/api/2.0/apps/my-app"]
    assert workspace.paths("/api/2.0/serving-endpoints") == []


def test_an_app_takes_no_personal_access_token(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = scripted(whole({}))
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "x")
    with pytest.raises(AuthenticationError, match=r"OAuth only.*databricks auth login"):
        AgentTargetClient("agent-target").predict(endpoint="apps:/my-app", inputs="hi")
    assert server.received == []


def test_an_app_is_looked_up_in_a_workspace_only(scripted: Make) -> None:
    server = scripted(whole({}))
    with pytest.raises(InvalidInputError, match="the app's own URL"):
        AgentTargetClient(server.target_uri).predict(endpoint="apps:/my-app", inputs="hi")
    assert server.received == []


@pytest.mark.parametrize("name", ["apps:/", "apps/", "apps:/../x", "apps:/a/b", "apps/a?b"])
def test_an_apps_name_cannot_change_the_url(name: str, workspace: Workspace) -> None:
    with pytest.raises(InvalidInputError, match="name"):
        AgentTargetClient("agent-target").predict(endpoint=name, inputs="hi")
    assert workspace.asked == []


def test_an_app_that_is_not_deployed_says_so(workspace: Workspace) -> None:
    with pytest.raises(EndpointUnavailableError, match="not deployed"):
        AgentTargetClient("agent-target").predict(endpoint="apps:/my-app", inputs="hi")


SIGN_IN = b"<!doctype html><html><head><title>Sign in</title></head><body>Log in to Databricks</body></html>"


@pytest.mark.parametrize(
    "answer",
    [
        whole(SIGN_IN, content_type="text/html; charset=utf-8"),
        whole(
            b"", 302, headers="Location: https://adb-1.azuredatabricks.net/oidc/oauth2/v2.0/authorize?client_id=x\r\n"
        ),
        whole(SIGN_IN, 401, content_type="text/html"),
    ],
    ids=["a page", "a redirect to one", "a page with its status"],
)
def test_a_sign_in_page_is_a_login_that_was_not_accepted(answer: Any, workspace: Workspace, scripted: Make) -> None:
    app = scripted(answer)
    workspace.app_url = app.url
    client = AgentTargetClient("agent-target")
    for call in (client.predict, lambda **given: list(client.predict_stream(**given))):
        with pytest.raises(AuthenticationError) as caught:
            call(endpoint="apps:/my-app", inputs="hi")
        assert (caught.value.may_have_run, caught.value.endpoint) == (False, "apps:/my-app")
        assert "databricks auth login" in str(caught.value) or caught.value.status_code == 401


# Route-optimized endpoints


@pytest.mark.parametrize("where", ["data_plane_info", "endpoint_url"])
def test_a_route_optimized_endpoint_has_a_url_and_tokens_of_its_own(
    where: str, workspace: Workspace, scripted: Make
) -> None:
    host = scripted(whole({"output": []}))
    url = f"{host.url}/123/serving-endpoints/a/invocations"
    query: dict[str, Any] = {"authorization_details": "[details]", "endpoint_url": url}
    workspace.endpoint |= {"route_optimized": True, "data_plane_info": {"query_info": query}}
    if where == "endpoint_url":
        del query["endpoint_url"]
        workspace.endpoint["endpoint_url"] = url
    client = AgentTargetClient("agent-target")
    for _ in range(3):
        client.predict(endpoint="a", inputs=[user("hi")])
    assert [request.path for request in host.received] == ["/123/serving-endpoints/a/invocations"] * 3
    assert {request.headers["authorization"] for request in host.posts} == {"Bearer for-endpoint-2"}
    assert [(form["assertion"], form["authorization_details"]) for form in workspace.exchanged] == [
        ("token-1", "%5Bdetails%5D")
    ]


def test_a_token_for_an_endpoint_that_is_refused_is_exchanged_anew(workspace: Workspace, scripted: Make) -> None:
    host = scripted(whole({"message": "expired"}, 401), whole({"output": []}))
    query = {"authorization_details": "[details]", "endpoint_url": f"{host.url}/a/invocations"}
    workspace.endpoint |= {"route_optimized": True, "data_plane_info": {"query_info": query}}
    AgentTargetClient("agent-target").predict(endpoint="a", inputs="hi")
    assert [r.headers["authorization"] for r in host.posts] == ["Bearer for-endpoint-2", "Bearer for-endpoint-3"]


def test_any_other_login_asks_a_route_optimized_endpoint_through_the_workspace(
    scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = {"authorization_details": "[details]", "endpoint_url": "https://elsewhere.invalid/a"}
    described = {"name": "a", "route_optimized": True, "data_plane_info": {"query_info": query}}
    server = scripted(whole({"output": []}), describe=whole(described))
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "x")
    AgentTargetClient("agent-target").predict(endpoint="a", inputs="hi")
    assert [request.path for request in server.posts] == ["/serving-endpoints/a/invocations"]


# On behalf of a user


def test_within_model_serving_each_call_has_the_login_of_its_user(
    scripted: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.credentials_provider import ModelServingUserCredentials

    server = scripted(whole({"output": []}))
    (tmp_path / "model-dependencies-oauth-token").write_text(
        json.dumps({"OAUTH_TOKEN": [{"oauthTokenValue": "the-agents-own"}]})
    )
    file = str(tmp_path / "model-dependencies-oauth-token")
    provider = "databricks.sdk.credentials_provider.ModelServingAuthProvider._MODEL_DEPENDENCY_OAUTH_TOKEN_FILE_PATH"
    monkeypatch.setattr(provider, file)
    monkeypatch.setenv("IS_IN_DB_MODEL_SERVING_ENV", "true")
    monkeypatch.setenv("DATABRICKS_MODEL_SERVING_HOST_URL", server.url)
    monkeypatch.setenv("DB_MODEL_SERVING_HOST_URL", server.url)
    for name in ("ann", "bob"):
        monkeypatch.setitem(threading.main_thread().__dict__, "invokers_token", f"token-of-{name}")
        own = WorkspaceClient(credentials_strategy=ModelServingUserCredentials())
        AgentTargetClient(workspace_client=own).predict(endpoint="a", inputs="hi")
    assert [request.headers["authorization"] for request in server.posts] == [
        "Bearer token-of-ann",
        "Bearer token-of-bob",
    ]
    # What one user may see of an endpoint is not told to another.
    assert [request.method for request in server.received].count("GET") >= 2


def test_a_login_that_cannot_be_renewed_is_an_error_of_ours(workspace: Workspace) -> None:
    workspace.expires_in = 30
    client = AgentTargetClient("agent-target")
    client.predict(endpoint="a", inputs="hi")
    workspace.stop()
    with pytest.raises(EndpointUnavailableError, match="could not be renewed") as caught:
        client.predict(endpoint="a", inputs="hi")
    assert (caught.value.endpoint, caught.value.attempts, caught.value.may_have_run) == ("a", 3, False)


@pytest.mark.parametrize(
    "said",
    [
        {"error_code": 403, "message": "Invalid access token. [ReqId: 1]"},
        {"error_code": "403", "message": "Token is expiring within 30 seconds. (token expired)"},
        {"error_code": 403, "message": "JWT has expired"},
        {"error_code": 403, "message": "The credential was revoked"},
        "<html><head><title>Error 403 Invalid access token.</title></head></html>",
    ],
)
def test_a_403_that_speaks_of_the_token_is_a_refused_login(said: Any, workspace: Workspace) -> None:
    workspace.refusal = 403, said
    client = AgentTargetClient("agent-target")
    client.predict(endpoint="a", inputs="hi")
    workspace.valid = {"token-2"}
    assert client.predict(endpoint="a", inputs="hi") == {"output": []}
    workspace.valid = set()
    with pytest.raises(AuthenticationError, match="403"):
        client.predict(endpoint="a", inputs="hi")


def test_a_lack_of_permission_renews_nothing(workspace: Workspace) -> None:
    workspace.refusal = 403, {"error_code": "PERMISSION_DENIED", "message": "User does not have CAN QUERY on a"}
    workspace.valid = set()
    with pytest.raises(PermissionDeniedError, match="CAN QUERY"):
        AgentTargetClient("agent-target").predict(endpoint="a", inputs="hi")
    assert (workspace.tokens_given, len(logins(workspace))) == (1, 1)


BUSY = {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "busy"}


@pytest.mark.parametrize(
    "answer", [(503, BUSY), (429, BUSY), (500, BUSY), (502, "<html><title>Bad gateway</title></html>")]
)
@pytest.mark.parametrize("first", [True, False], ids=["at the first login", "at its renewal"])
def test_a_token_endpoint_that_fails_for_now_is_asked_again(first: bool, answer: Any, workspace: Workspace) -> None:
    workspace.expires_in = 30
    client = AgentTargetClient("agent-target")
    if not first:
        client.predict(endpoint="a", inputs="hi")
    workspace.token_answers = [answer]
    assert client.predict(endpoint="a", inputs="hi") == {"output": []}
    workspace.token_answers = [answer] * 50
    with pytest.raises(EndpointUnavailableError, match=str(answer[0])) as caught:
        client.predict(endpoint="a", inputs="hi")
    assert (caught.value.retryable, caught.value.may_have_run, caught.value.attempts) == (True, False, 8)


def test_no_batch_stops_for_a_token_endpoint_that_fails_for_now(workspace: Workspace) -> None:
    workspace.expires_in = 30
    workspace.token_answers = [(503, BUSY), 0.0, (503, BUSY), 0.0, 0.0, (429, BUSY)]
    questions = [f"q{number}" for number in range(12)]
    results = AgentTargetClient("agent-target").predict_batch("a", questions, concurrency=2, progress=False)
    assert results.summary()["ok"] == 12


def test_a_client_that_is_not_known_is_told_once_and_its_secret_is_not(workspace: Workspace) -> None:
    workspace.token_answers = [
        (401, {"error": "invalid_client", "error_description": "not me:hunter2 nor hunter2"})
    ] * 9
    with pytest.raises(AuthenticationError, match="401: invalid_client: not ") as caught:
        AgentTargetClient("agent-target").predict(endpoint="a", inputs="hi")
    assert caught.value.retryable is False
    assert len(workspace.token_answers) == 8
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("first", [True, False], ids=["at the first login", "at its renewal"])
def test_a_login_takes_no_longer_than_each_who_waits_has_time(first: bool, workspace: Workspace) -> None:
    workspace.expires_in = 30
    client = AgentTargetClient("agent-target").with_options(interface="ResponsesAgent")
    if not first:
        client.predict(endpoint="a", inputs="hi")
    workspace.token_answers = [3.0]
    hurried = client.with_options(timeout=0.3, total_timeout=0.3)
    took: list[float] = []

    def call() -> None:
        started = time.monotonic()
        with pytest.raises(RequestTimeoutError, match=r"login to .* was not done within 0\.") as caught:
            hurried.predict(endpoint="a", inputs="hi")
        assert (caught.value.may_have_run, caught.value.endpoint) == (False, "a")
        took.append(time.monotonic() - started)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == 4
    assert max(took) < 2
    # The one that hangs is left behind: the next call logs in anew.
    assert client.predict(endpoint="a", inputs="hi") == {"output": []}


def test_a_refused_token_is_looked_for_as_it_is_now(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = whole({"error_code": 401, "message": "token expired"}, 401)
    server = scripted(whole({"output": []}), refused, whole({"output": []}), refused, refused, refused)
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "one")
    client = AgentTargetClient("agent-target").with_options(interface="ResponsesAgent")
    client.predict(endpoint="a", inputs="hi")
    monkeypatch.setenv("DATABRICKS_TOKEN", "two")
    client.predict(endpoint="a", inputs="hi")
    # A token of another workspace is not sent to this one.
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("DATABRICKS_TOKEN", "three")
    with pytest.raises(AuthenticationError):
        client.predict(endpoint="a", inputs="hi")
    assert [request.headers["authorization"] for request in server.posts] == [
        "Bearer one",
        "Bearer one",
        "Bearer two",
        "Bearer two",
    ]
