"""Every block of Python and every command in README.md, run."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlflow_agent_target import AgentTargetClient, serve
from mlflow_agent_target.server import LocalServer
from tests.conftest import DEMO
from tests.durable_server import DurableServer

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


# The DurableAgentServer stands at a base URL here, and not in an app.
APP = 'endpoint="apps:/agent-bricks-support", '


@pytest.fixture(scope="module")
def my_app() -> Any:
    with DurableServer() as server:
        yield server.target_uri


@pytest.fixture(scope="module")
def my_agent(tracking_store: None) -> Any:
    with serve({"my-agent": DEMO / "responses_agent.py"}) as server:
        yield server


@pytest.mark.parametrize("code", PYTHON, ids=[code.strip().splitlines()[-1][:60] for code in PYTHON])
def test_python_blocks_run(
    code: str,
    my_agent: LocalServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if "genai.evaluate(" in code and importlib.util.find_spec("mlflow.genai.evaluation.harness") is None:
        pytest.skip("this MLflow's mlflow.genai.evaluate needs the package databricks-agents")
    monkeypatch.setenv("DATABRICKS_HOST", my_agent.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "any")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.py").write_text((DEMO / "responses_agent.py").read_text(encoding="utf-8"), encoding="utf-8")
    session: dict[str, Any] = {"client": AgentTargetClient(my_agent.target_uri)}
    if APP in code:
        pytest.importorskip("databricks_agentkit", reason="needs databricks-agentbricks")
        code, session["client"] = code.replace(APP, ""), AgentTargetClient(request.getfixturevalue("my_app"))
    exec(compile(code.replace("http://127.0.0.1:8080", my_agent.url), "README.md", "exec"), session)  # noqa: S102
    if "print(" in code:
        assert capsys.readouterr().out.strip()


def test_the_first_screen_holds_the_two_commands() -> None:
    first_screen = "\n".join(README.splitlines()[:30])
    assert 'pip install ".[local]" && .venv/bin/agent-target demo' in first_screen
    assert 'pip install -e ".[test]" && .venv/bin/pytest' in first_screen


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_curl_command_is_answered(my_agent: LocalServer) -> None:
    command = next(block for block in SHELL if block.startswith("curl"))
    command = command.replace("http://127.0.0.1:8080", my_agent.url)
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    frames = [line.removeprefix("data: ") for line in result.stdout.split("\n\n") if line]
    assert frames[-1] == "[DONE]"
    assert all(json.loads(frame)["type"] for frame in frames[:-1])


def test_run_local_is_written_as_mlflow_takes_it() -> None:
    command = next(shlex.split(block) for block in SHELL if block.startswith("mlflow deployments"))
    help_text = subprocess.run(
        [sys.executable, "-m", *command[:3], "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in command:
        if word.startswith("-"):
            assert word in help_text
