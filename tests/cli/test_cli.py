"""The command line, as a user types it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mlflow_agent_target import cli

COMMAND = Path(sys.executable).parent / "agent-target"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(COMMAND), *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def test_the_demo_shows_every_call_and_leaves_nothing_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    result = run("demo", cwd=here)
    assert result.returncode == 0, result.stderr
    assert not [line for line in result.stderr.splitlines() if line and not line.startswith("Evaluating: ")]
    shown = result.stdout
    for agent, answer in (
        ("word-counter", "4 words, by my count_words tool."),
        ("reverser", "do? Databricks does What"),
    ):
        for inputs in ("'What does", '{"input": [{"role": "user"', '{"messages": [{"role": "user"'):
            assert f'>>> client.predict(endpoint="{agent}", inputs={inputs}' in shown
            assert f'>>> for text in client.predict_stream(endpoint="{agent}", inputs={inputs}' in shown
        assert shown.count(answer) == 3
    assert shown.count("do? |Databricks |does |What|") == 3
    assert 'get_deploy_client("agent-target:http://127.0.0.1:' in shown
    assert "mlflow deployments run-local -t agent-target" in shown
    assert "DATABRICKS_HOST" in shown
    if importlib.util.find_spec("mlflow.genai.evaluation.harness") is None:
        assert "This MLflow can't evaluate by itself" in shown
    else:
        assert len(re.findall(r"^\d .* (True|False) +(True|False)$", shown, re.MULTILINE)) == 10
        assert "'counts_right/mean': " in shown
    (store,) = temporary.glob("agent-target-demo-*/mlflow.db")
    assert f"mlflow ui --backend-store-uri sqlite:///{store}" in shown
    assert list(here.iterdir()) == []


def test_every_module_is_a_command_with_help() -> None:
    context = click.Context(cli.commands)
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "group"}
    assert {"demo", "score"} <= modules
    assert cli.commands.list_commands(context) == sorted(modules)
    for name in modules:
        command = cli.commands.get_command(context, name)
        assert command is not None
        assert command.help, name
    result = CliRunner().invoke(cli.commands, ["--help"])
    assert result.exit_code == 0
    for name in modules:
        assert f"\n  {name} " in result.output


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom mlflow_agent_target.cli import main\nsys.argv = ['agent-target', '--help']\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "mlflow_agent_target.cli.demo" in result.stdout.split()
    assert not {"mlflow", "requests", "pydantic", "urllib3"} & set(result.stdout.split())


def test_a_wrong_command_is_a_usage_error(tmp_path: Path) -> None:
    result = run("nope", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "No such command 'nope'" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_is_a_message_and_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "many")
    result = run("demo", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "Error: MLFLOW_HTTP_REQUEST_MAX_RETRIES must be a whole number, 0 or more, not 'many'.\n"
