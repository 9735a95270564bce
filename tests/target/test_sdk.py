"""Whose login it is: a profile's, or the environment's, and never a mixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_agent_target import (
    AgentTargetClient,
    AuthenticationError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InvalidInputError,
)
from mlflow_agent_target.target.uri import Target
from tests.scripted import ScriptedServer, whole

Make = Callable[..., ScriptedServer]
Profiles = Callable[[str], None]


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profiles:
    """Writes the profiles' file."""
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "databrickscfg"))

    def write(text: str) -> None:
        (tmp_path / "databrickscfg").write_text(text)

    return write


def ask(uri: str) -> Any:
    return AgentTargetClient(uri).with_options(interface="ResponsesAgent").predict(endpoint="a", inputs="hi")


OTHERS = [
    {"DATABRICKS_HOST": "http://127.0.0.1:1"},
    {"DATABRICKS_TOKEN": "another"},
    {"DATABRICKS_HOST": "http://127.0.0.1:1", "DATABRICKS_TOKEN": "another"},
    {"DATABRICKS_CLIENT_ID": "me", "DATABRICKS_CLIENT_SECRET": "hunter2"},
    {"DATABRICKS_AUTH_TYPE": "azure-cli", "ARM_CLIENT_ID": "x"},
    {"DATABRICKS_CONFIG_PROFILE": "other"},
    {"DATABRICKS_WORKSPACE_ID": "5", "DATABRICKS_ACCOUNT_ID": "acc"},
]


@pytest.mark.parametrize("environment", OTHERS, ids="+".join)
def test_a_named_profile_is_that_profile(
    environment: dict[str, str], scripted: Make, profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(whole({"output": []}))
    profiles(f"[prod]\nhost = {server.url}\ntoken = of-prod%1\n[other]\nhost = http://127.0.0.1:1\ntoken = b\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ask("agent-target://prod") == {"output": []}
    assert server.posts[0].headers["authorization"] == "Bearer of-prod%1"
    assert "x-databricks-org-id" not in server.posts[0].headers


def test_a_profile_without_a_login_takes_none_of_the_environments(
    scripted: Make, profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(whole({"output": []}))
    profiles(f"[prod]\nhost = {server.url}\n[DEFAULT]\ntoken = hunter2\n")
    monkeypatch.setenv("DATABRICKS_TOKEN", "hunter2")
    with pytest.raises(AuthenticationError, match="profile 'prod'"):
        ask("agent-target://prod")
    assert server.posts == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[other]\ntoken = hunter2\n", "There is no profile 'prod'"),
        ("token = hunter2\n[prod]\n", "can't be read as profiles"),
        ("[prod]\nhost = https://u:hunter2@h\n", "The host of profile 'prod'"),
        ("[prod]\nhost = http://127.0.0.1:1\ntoken = hunter2\u0416\n", "'token' of profile 'prod'"),
        ("[prod]\nhost = http://127.0.0.1:1\nclient_id = a\nclient_secret = hunter2\x7f\n", "'client_secret' of"),
    ],
)
def test_a_profile_that_cannot_be_used_is_named_and_not_shown(text: str, says: str, profiles: Profiles) -> None:
    profiles(text)
    with pytest.raises((AuthenticationError, InvalidInputError)) as caught:
        ask("agent-target://prod")
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("token", ["hunter2\n", "hunter2\r\nX: y", "hunter2\u0416"])
def test_a_token_that_no_header_can_carry_is_named_and_not_shown(
    token: str, scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(whole({"output": []}))
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", token)
    with pytest.raises(InvalidInputError, match="DATABRICKS_TOKEN") as caught:
        ask("agent-target")
    assert "hunter2" not in str(caught.value)
    assert server.received == []


@pytest.mark.parametrize("uri", ["agent-target", "agent-target://prod"])
def test_an_edited_profile_is_another_target(uri: str, profiles: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "prod")
    text = "[prod]\nhost = https://h\ntoken = hunter1\n"
    profiles(text)
    before = Target.parse(uri)
    profiles(text + "[dev]\nhost = https://d\n")
    assert Target.parse(uri) == before
    profiles(text.replace("hunter1", "hunter2"))
    assert Target.parse(uri) != before
    assert "hunter" not in repr(before)


def test_an_edited_profile_is_seen_by_the_next_client_and_by_a_refused_login(
    scripted: Make, profiles: Profiles
) -> None:
    refused = whole({"error_code": 403, "message": "Invalid access token."}, 403)
    server = scripted(whole({"output": []}), refused, whole({"output": []}))
    text = f"[prod]\nhost = {server.url}\ntoken = one\n"
    profiles(text)
    client = AgentTargetClient("agent-target://prod").with_options(interface="ResponsesAgent")
    client.predict(endpoint="a", inputs="hi")
    profiles(text.replace("one", "two"))
    client.predict(endpoint="a", inputs="hi")
    profiles(text.replace("one", "three"))
    ask("agent-target://prod")
    sent = [request.headers["authorization"].removeprefix("Bearer ") for request in server.posts]
    assert sent == ["one", "one", "two", "three"]


ROUTED = {"x-databricks-workspace-id": "123", "x-databricks-org-id": "123"}


@pytest.mark.parametrize(
    ("environment", "section", "uri"),
    [
        ({"DATABRICKS_WORKSPACE_ID": "123"}, "", "agent-target"),
        ({"DATABRICKS_WORKSPACE_ID": "123", "DATABRICKS_AUTH_TYPE": "pat"}, "", "agent-target"),
        ({"tail": "/?o=123"}, "", "agent-target"),
        ({"tail": "/browse?o=123", "DATABRICKS_AUTH_TYPE": "pat"}, "", "agent-target"),
        ({"tail": "/?o=7", "DATABRICKS_WORKSPACE_ID": "123"}, "", "agent-target"),
        ({}, "workspace_id = 123", "agent-target://prod"),
        ({"tail": "/?o=123"}, " ", "agent-target://prod"),
        ({"tail": "/?o=123"}, " ", "agent-target"),
    ],
)
def test_a_workspaces_id_is_sent_with_every_request(
    environment: dict[str, str],
    section: str,
    uri: str,
    scripted: Make,
    profiles: Profiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = scripted(whole({"output": []}), describe=whole({"endpoints": []}))
    host = server.url + environment.pop("tail", "")
    if section:
        name = uri.partition("://")[2] or "DEFAULT"
        profiles(f"[{name}]\nhost = {host}\ntoken = t\n{section}\n")
    else:
        environment |= {"DATABRICKS_HOST": host, "DATABRICKS_TOKEN": "t"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = AgentTargetClient(uri)
    client.predict(endpoint="a", inputs="hi")
    client.list_endpoints()
    client.get_open_ai_client().responses.create(model="a", input="hi")
    asked = [request for request in server.received if not request.path.startswith("/.well-known")]
    assert [request.method for request in asked] == ["GET", "POST", "GET", "POST"]
    for request in asked:
        assert {name: request.headers.get(name) for name in ROUTED} == ROUTED


def test_custom_headers_of_a_workspace_client_go_to_its_host(scripted: Make) -> None:
    from databricks.sdk import WorkspaceClient

    server = scripted(whole({"message": "not hunter2"}, 404), whole({"output": []}))
    custom = {"X-Gateway-Key": "hunter2", "Accept": "text/plain"}
    client = AgentTargetClient(workspace_client=WorkspaceClient(host=server.url, token="t", custom_headers=custom))
    with pytest.raises(EndpointNotFoundError) as caught:
        client.predict(endpoint="a", inputs="hi")
    assert "hunter2" not in str(caught.value)
    client.predict(endpoint="a", inputs="hi")
    assert {request.headers["x-gateway-key"] for request in server.posts} == {"hunter2"}
    assert {request.headers["accept"] for request in server.posts} == {"application/json"}


@pytest.mark.parametrize("login", ["token = t", "client_id = a\nclient_secret = b"])
def test_a_host_that_cannot_be_reached_is_told_at_once(login: str, profiles: Profiles) -> None:
    profiles(f"[prod]\nhost = http://127.0.0.1:1\n{login}\n")
    client = AgentTargetClient("agent-target://prod").with_options(total_timeout=3.0)
    with pytest.raises(EndpointUnavailableError, match=r"no connection to http://127\.0\.0\.1:1.*refused") as caught:
        client.predict(endpoint="a", inputs="hi")
    assert (caught.value.attempts, caught.value.unreachable, caught.value.endpoint) == (3, True, "a")


def test_a_login_to_this_machine_goes_through_no_proxy_elsewhere(
    scripted: Make, profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(whole({"output": []}))
    profiles(f"[prod]\nhost = {server.url}\nclient_id = a\nclient_secret = b\n")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(InvalidInputError, match=r"proxy proxy\.invalid\. Set NO_PROXY=127\.0\.0\.1"):
        ask("agent-target://prod")
