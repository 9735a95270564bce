"""`agent-target record`, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_agent_target import AgentTargetClient, serve
from mlflow_agent_target.server import LocalServer

COMMAND = Path(sys.executable).parent / "agent-target"


def start(target: str, path: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    """Start a recorder, and return it with what it says before it takes requests."""
    process = subprocess.Popen(
        [str(COMMAND), "record", "--target", target, "-e", "chat_agent", str(path), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{path.parent}/mlflow.db"},
    )
    assert process.stdout is not None
    said = "".join(iter(process.stdout.readline, "Stop with Ctrl-C.\n"))
    return process, said


def target_of(said: str) -> str:
    return next(line.split()[1] for line in said.splitlines() if "Target:" in line)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_says_what_to_call_and_how_much_it_recorded(
    server: LocalServer, tmp_path: Path, stop: signal.Signals
) -> None:
    path = tmp_path / "recording.jsonl"
    process, said = start(server.target_uri, path)
    try:
        client = AgentTargetClient(target_of(said))
        answer = client.predict("chat_agent", "b a")
        process.send_signal(stop)
        rest, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert f"Recording 'chat_agent' of {server.target_uri} to {path} on http://127.0.0.1:" in said
    assert f"serve(recording='{path}')" in said
    assert (process.returncode, rest) == (0, "Stopped. 1 exchange was recorded.\n")
    assert "Traceback" not in errors
    with serve(recording=path) as playing:
        assert AgentTargetClient(playing.target_uri).predict("chat_agent", "b a") == answer


def test_a_killed_recorder_leaves_whole_lines(server: LocalServer, tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl"
    process, said = start(server.target_uri, path, "--token", "hunter2hunter2")
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AGENT_TARGET_TOKEN", "hunter2hunter2")
            client = AgentTargetClient(target_of(said))
            for number in range(5):
                client.predict("chat_agent", f"b {number}")
            process.kill()
            process.wait(30)
    finally:
        process.kill()
    assert "hunter2" not in said
    text = path.read_text()
    assert "hunter2" not in text
    assert text.endswith("\n")
    assert len([json.loads(line) for line in text.splitlines()]) == 6


def test_what_can_not_be_recorded_is_a_message(tmp_path: Path) -> None:
    for arguments, says in (
        (["-t", "agent-target:nowhere", "-e", "a", "r.jsonl"], "Error: "),
        (["-t", "agent-target:http://127.0.0.1:1", "r.jsonl"], "Missing option '--endpoint'"),
        (["-t", "agent-target:http://127.0.0.1:1", "-e", "a", "nowhere/r.jsonl"], "can't be written"),
    ):
        result = subprocess.run(
            [str(COMMAND), "record", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60
        )
        assert result.returncode != 0
        assert says in result.stderr
        assert "Traceback" not in result.stderr
