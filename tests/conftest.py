"""Every test gets an environment of its own: no workspace, no profile, a tracking store that is thrown away."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

import mlflow_agent_target
from mlflow_agent_target import AgentTargetClient
from mlflow_agent_target.server import LocalServer, serve
from tests.counting_server import CountingServer
from tests.durable_server import DurableServer
from tests.postgres import Postgres
from tests.scripted import Answer, ScriptedServer

AGENTS = Path(__file__).parent / "agents"
DEMO = Path(mlflow_agent_target.__file__).parent / "server" / "demo"


@pytest.fixture(scope="session", autouse=True)
def tracking_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("mlflow")
    # Where it exports traces in the background, MLflow looks for a notebook: it imports IPython, and so may wait for a
    # lock of its own import hooks while a legacy evaluation, which has that lock, waits for the import.
    mlflow.tracing.disable_notebook_display()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment(
        experiment_id=mlflow.create_experiment("tests", artifact_location=f"file://{folder}/artifacts")
    )


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("DATABRICKS_", "AGENT_TARGET_", "MLFLOW_DEPLOYMENT")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "no-databrickscfg"))
    # Retries at once: what is waited for is tested with a clock of its own.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")


@pytest.fixture(scope="session")
def server(tracking_store: None) -> Iterator[LocalServer]:
    """The demo agents and the tests' own, behind one local server."""
    agents: dict[str, Any] = {path.stem: path for path in (*DEMO.glob("*_*.py"), *AGENTS.glob("*_agent.py"))}
    agents.pop("__init__", None)
    with serve(agents) as running:
        yield running


@pytest.fixture
def client(server: LocalServer) -> AgentTargetClient:
    return AgentTargetClient(server.target_uri)


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    """Makes scripted servers, and stops them."""
    servers: list[ScriptedServer] = []

    def make(*answers: Answer, describe: Answer | None = None) -> ScriptedServer:
        servers.append(ScriptedServer(*answers, describe=describe))
        return servers[-1]

    yield make
    for made in servers:
        made.__exit__()


@pytest.fixture(scope="session")
def counting_server() -> Iterator[CountingServer]:
    server = CountingServer()
    yield server
    server.stop()


@pytest.fixture
def counting(counting_server: CountingServer) -> CountingServer:
    counting_server.reset()
    return counting_server


@pytest.fixture(scope="session")
def durable_server() -> Iterator[DurableServer]:
    pytest.importorskip("databricks_agentkit", reason="needs databricks-agentbricks")
    with DurableServer() as running:
        yield running


@pytest.fixture
def durable(durable_server: DurableServer) -> DurableServer:
    """A real DurableAgentServer that keeps its runs in its memory. Not to be killed: tests share it."""
    durable_server.reset()
    return durable_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("databricks_agentkit", reason="needs databricks-agentbricks")
    running = Postgres()
    yield running
    running.stop()


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}
