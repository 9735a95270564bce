"""`agent-target serve`, as a command."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from mlflow_agent_target import AgentTargetClient, EndpointNotFoundError, Faults, InvalidInputError
from mlflow_agent_target.cli.serve import FAULTS, _named, serve
from tests.conftest import DEMO

ECHO = """
import mlflow
from mlflow.pyfunc import ResponsesAgent
class Agent(ResponsesAgent):
    def predict(self, request):
        return {"output": [self.create_text_output_item("VERSION " + request.input[-1].content, "m")]}
mlflow.models.set_model(Agent())
"""


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The target of a running `agent-target serve`, and its process."""
    command = [str(Path(sys.executable).with_name("agent-target")), "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=(folder / "errors.txt").open("w"),
        text=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        said = ""
        while not said.endswith("Stop with Ctrl-C.\n"):
            said += (line := process.stdout.readline())
            assert line, (folder / "errors.txt").read_text()
        yield re.findall(r"Target:\s+(\S+)", said)[0], process
    finally:
        process.send_signal(signal.SIGTERM)
        assert "Stopped." in process.communicate(timeout=30)[0]


def answer(target: str, endpoint: str) -> str:
    return AgentTargetClient(target).predict(endpoint=endpoint, inputs="hi").output_text


def test_several_agents_and_a_line_for_each_request(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    with serving(tmp_path, "echo.py", f"counter={DEMO / 'responses_agent.py'}") as (target, _):
        assert answer(target, "echo") == "VERSION hi"
        client = AgentTargetClient(target)
        assert "1 word" in client.predict_stream(endpoint="counter", inputs="hi").get_final_response().output_text
        with pytest.raises(EndpointNotFoundError):
            client.predict(endpoint="other", inputs="hi")
        assert "<title>" in requests.get(target.partition(":")[2] + "/", timeout=30).text
    lines = re.findall(r"^\d\d:\d\d:\d\d  (.*)$", (tmp_path / "errors.txt").read_text(), re.MULTILINE)
    assert len(lines) == 3
    assert re.fullmatch(r"echo, 200, \d+ ms", lines[0])
    assert re.fullmatch(
        r"counter, 200, \d+ ms, 1 input tokens, \d+ output tokens, \d+ total tokens, streamed", lines[1]
    )
    assert lines[2].startswith("other, 404, ")


def test_quiet_and_the_faults_of_a_rehearsal(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    with serving(tmp_path, "echo.py", "--quiet", "--error-rate", "1", "--seed", "7") as (target, _):
        url = f"{target.partition(':')[2]}/serving-endpoints/echo/invocations"
        assert requests.post(url, json={"input": []}, timeout=30).status_code in (500, 502, 504)
    assert "echo, " not in (tmp_path / "errors.txt").read_text()


def test_a_changed_file_is_loaded_anew_and_a_broken_one_waits(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO.replace("VERSION", "first"))
    with serving(tmp_path, "echo.py", "--reload") as (target, process):
        assert answer(target, "echo") == "first hi"

        def change(text: str) -> None:
            (tmp_path / "echo.py").write_text(text)
            later = time.time() + 5  # whatever the file system's clock is worth
            os.utime(tmp_path / "echo.py", (later, later))

        change("1 / 0")
        while "Waiting for a change." not in (tmp_path / "errors.txt").read_text():
            time.sleep(0.05)
            assert process.poll() is None
        assert "ZeroDivisionError" in (tmp_path / "errors.txt").read_text()
        (tmp_path / "echo.py").unlink()
        change(ECHO.replace("VERSION", "second"))
        assert answer(target, "echo") == "second hi"


@pytest.mark.parametrize(
    ("given", "name", "source"),
    [
        ("agent.py", "agent", "agent.py"),
        ("my agents/bot.py", "bot", "my agents/bot.py"),
        ("a=agent.py", "a", "agent.py"),
        ("a=models:/b/1", "a", "models:/b/1"),
        ("models:/bot/1", "bot", "models:/bot/1"),
        ("models:/bot@champion", "bot", "models:/bot@champion"),
        ("models:/main.agents.bot/3", "bot", "models:/main.agents.bot/3"),
        ("folder/model", "model", "folder/model"),
        ("folder/x=y/agent.py", "agent", "folder/x=y/agent.py"),
    ],
)
def test_an_agent_is_called_as_it_is_or_as_one_says(given: str, name: str, source: str) -> None:
    assert _named(given) == (name, source)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Name at least one agent"),
        (["a.py", "b/a.py"], "Two agents are called 'a'"),
        (["nowhere.py"], "no file 'nowhere.py'"),
        (["nowhere.py", "--reload", "--host", "0.0.0.0"], "set a token that callers must send"),  # noqa: S104
        (["models:/a/1", "--reload"], "Only agents in Python files"),
        (["nowhere.py", "--error-rate", "2"], "error_rate of Faults must be a share"),
        (["nowhere.py", "--allowed-origin", "localhost"], "allowed_origins"),
        (["nowhere.py", "--token", ""], "token is empty"),
        (["--recording", "nowhere.jsonl"], "'nowhere.jsonl' can't be read"),
    ],
)
def test_what_can_not_be_served(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(serve, ["--port", "0", *arguments])
    assert isinstance(result.exception, InvalidInputError)
    assert says in str(result.exception)


def test_every_fault_is_an_option() -> None:
    assert tuple(FAULTS) == Faults.option_names()
    shown: Any = CliRunner().invoke(serve, ["--help"]).output
    assert "--cut-streams" in shown
