"""Through the installed entry point, and through MLflow's own command line."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import mlflow.deployments
import mlflow.deployments.cli
import pytest
import responses
from click.testing import CliRunner
from mlflow.deployments import BaseDeploymentClient, get_deploy_client

import mlflow_agent_target
from mlflow_agent_target import AgentTargetClient, InvalidInputError
from mlflow_agent_target.server import LocalServer

PROJECT = Path(__file__).parent.parent


def test_mlflow_finds_the_target(server: LocalServer) -> None:
    for uri in ("agent-target", "agent-target://PROFILE", server.target_uri):
        client = get_deploy_client(uri)
        assert type(client) is AgentTargetClient
        assert isinstance(client, BaseDeploymentClient)
    assert get_deploy_client(server.target_uri).predict(endpoint="chat_agent", inputs="b a").output_text == "a b"


def test_mlflows_default_target_may_be_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "agent-target")
    assert type(get_deploy_client()) is AgentTargetClient


def mlflow_deployments(*arguments: str) -> str:
    result = CliRunner().invoke(mlflow.deployments.cli.commands, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return str(result.output)


def test_mlflows_command_line_shows_the_help() -> None:
    printed = mlflow_deployments("help", "-t", "agent-target")
    for said in ("agent-target://PROFILE", "AGENT_TARGET_TOKEN", "run-local", "-C port"):
        assert said in printed


def test_mlflows_command_line_shows_endpoints(server: LocalServer) -> None:
    assert "chat_agent" in mlflow_deployments("list-endpoints", "-t", server.target_uri)
    assert "agent/v2/chat" in mlflow_deployments("get-endpoint", "-t", server.target_uri, "--endpoint", "chat_agent")


def test_mlflows_command_line_serves_only_what_is_an_agent() -> None:
    with pytest.raises(InvalidInputError, match="nowhere"):
        mlflow_deployments("run-local", "-t", "agent-target", "--name", "a", "-m", "nowhere", "-C", "port=0")


def test_the_package_says_what_it_is() -> None:
    metadata = importlib.metadata.metadata("mlflow-agent-target")
    assert metadata["Version"] == mlflow_agent_target.__version__
    assert set(metadata.get_all("Provides-Extra") or []) == {"local", "openai", "spark", "test", "browser", "all"}
    core = {re.split(r"[^\w-]", line)[0] for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line}
    assert core == {"mlflow-skinny", "pydantic", "requests", "tqdm", "urllib3"}


@responses.activate
def test_a_workspaces_errors_are_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    host = "https://adb-1.2.azuredatabricks.net"
    monkeypatch.setenv("DATABRICKS_HOST", host)
    monkeypatch.setenv("DATABRICKS_TOKEN", "hunter2")
    responses.get(f"{host}/.well-known/databricks-config", status=404)
    forbidden = {"error_code": "PERMISSION_DENIED", "message": "You do not have CAN QUERY on this endpoint."}
    responses.get(f"{host}/api/2.0/serving-endpoints/a", status=403, json=forbidden)
    responses.post(f"{host}/serving-endpoints/a/invocations", status=403, json=forbidden)
    client = get_deploy_client("agent-target")
    for call in (client.predict, client.predict_stream):
        with pytest.raises(mlflow_agent_target.PermissionDeniedError, match="You do not have CAN QUERY") as caught:
            call(endpoint="a", inputs="hi")
        assert caught.value.error_code == "PERMISSION_DENIED"
        assert "hunter2" not in str(caught.value)


@responses.activate
def test_a_workspace_behind_a_mock_of_requests_streams_too(monkeypatch: pytest.MonkeyPatch) -> None:
    host = "https://adb-1.2.azuredatabricks.net"
    monkeypatch.setenv("DATABRICKS_HOST", host)
    monkeypatch.setenv("DATABRICKS_TOKEN", "x")
    responses.get(f"{host}/.well-known/databricks-config", status=404)
    responses.get(f"{host}/api/2.0/serving-endpoints/a", json={"task": "agent/v2/chat"})
    body = 'data: {"delta": {"role": "assistant", "content": "ho", "id": "1"}}\n\ndata: [DONE]\n\n'
    responses.post(f"{host}/serving-endpoints/a/invocations", body=body, content_type="text/event-stream")
    stream = get_deploy_client("agent-target").predict_stream(endpoint="a", inputs="hi")
    assert stream.get_final_response().output_text == "ho"


@pytest.fixture(scope="module")
def core_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the package and what it requires, and nothing else; its Python."""
    folder = tmp_path_factory.mktemp("core")
    # Built from a copy: setuptools leaves a build folder beside what it builds.
    source = folder / "source"
    shutil.copytree(PROJECT / "mlflow_agent_target", source / "mlflow_agent_target")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(source)], check=True)
    return python


_CORE_ALONE = """
import importlib.util, sys
from mlflow.deployments import get_deploy_client
for absent in ("numpy", "pandas"):
    assert importlib.util.find_spec(absent) is None, absent
client = get_deploy_client(sys.argv[1])
for endpoint in ("responses_agent", "chat_agent", "chat_model"):
    said = [{"role": "user", "content": "b a"}]
    for inputs in ("b a", {"input": said}, {"messages": said}):
        answer = client.predict(endpoint=endpoint, inputs=inputs).output_text
        assert "".join(client.predict_stream(endpoint=endpoint, inputs=inputs).text_stream) == answer, endpoint
        print(answer)
import mlflow_agent_target
try:
    mlflow_agent_target.serve({"a": "agent.py"})
except mlflow_agent_target.InvalidInputError as error:
    print(error)
"""


def test_the_core_alone_answers_predict_and_predict_stream(
    core_alone: Path, server: LocalServer, tmp_path: Path
) -> None:
    command = [str(core_alone), "-c", _CORE_ALONE, server.target_uri]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[3:9] == ["a b"] * 3 + ["B A"] * 3
    assert "mlflow-agent-target[local]" in lines[9]


def test_the_command_is_installed() -> None:
    command = Path(sysconfig.get_path("scripts")) / "agent-target"
    result = subprocess.run([str(command), "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"agent-target, version {mlflow_agent_target.__version__}\n"
