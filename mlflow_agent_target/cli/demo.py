"""`agent-target demo`: two small agents, served, queried and evaluated on this machine."""

from __future__ import annotations

import logging
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

import click

_QUESTION = "What does Databricks do?"
_PAYLOADS = (
    ("a plain string", repr(_QUESTION)),
    ("a ResponsesAgent's payload", f'{{"input": [{{"role": "user", "content": "{_QUESTION}"}}]}}'),
    ("a ChatAgent's payload", f'{{"messages": [{{"role": "user", "content": "{_QUESTION}"}}]}}'),
)
_NEXT_STEPS = """
Next
  Serve your own agent, a logged model or a file that calls mlflow.models.set_model:
    mlflow deployments run-local -t agent-target --name my-agent -m models:/my-agent/1
    mlflow deployments run-local -t agent-target --name my-agent -m agent.py
    client = get_deploy_client("agent-target:http://127.0.0.1:8080")
  Query one that is deployed to a Databricks workspace:
    export DATABRICKS_HOST=https://...  DATABRICKS_TOKEN=...     (or: databricks auth login)
    client = get_deploy_client("agent-target")                   (or a profile: "agent-target://PROFILE")
  The demo's agents are small files to copy from, in
    {folder}"""


@click.command()
def demo() -> None:
    """Serve two small agents on this machine, query and evaluate them. Needs no network, no account and no model."""
    import mlflow_agent_target.server.demo
    from mlflow_agent_target import serve

    folder = Path(mlflow_agent_target.server.demo.__file__).parent
    store = _temporary_store()
    agents = {"word-counter": folder / "responses_agent.py", "reverser": folder / "chat_agent.py"}
    with serve(agents) as server:
        print(
            f"Two agents are served on {server.url}: 'word-counter', a ResponsesAgent, and 'reverser', a ChatAgent.\n"
        )
        session: dict[str, Any] = {}
        _type("from mlflow.deployments import get_deploy_client", session)
        _type(f'client = get_deploy_client("{server.target_uri}")', session)
        for name in agents:
            for what, payload in _PAYLOADS:
                print(f"\n# {name}, asked with {what}")
                _type(f'client.predict(endpoint="{name}", inputs={payload}).output_text', session)
                _type(
                    f'for text in client.predict_stream(endpoint="{name}", inputs={payload}).text_stream:\n'
                    '    print(text, end="|", flush=True)',
                    session,
                )
                print()
        _evaluate(session)
    print(f"\nLook at the traces and the evaluation, which are kept in a temporary folder:\n  {_ui(store)}")
    print(_NEXT_STEPS.format(folder=folder))


def _temporary_store() -> str:
    """Let MLflow keep traces and runs in a temporary folder, and return the address of its database there.

    MLflow itself would make a database in the current folder.
    """
    import mlflow

    logging.disable(logging.INFO)  # MLflow logs each step of making a database
    folder = Path(tempfile.mkdtemp(prefix="agent-target-demo-"))
    os.chdir(folder)  # MLflow 3.2 makes a folder for artifacts in the current one, even if it needs none
    store = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(store)
    experiment = mlflow.create_experiment("agent-target demo", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment_id=experiment)
    return store


def _evaluate(session: dict[str, Any]) -> None:
    print("\n# word-counter, evaluated: 10 questions, and two scorers that need no model")
    _type("import mlflow", session)
    _type("from mlflow_agent_target.server.demo.evaluation import data, scorers", session)
    try:
        _type(
            "results = mlflow.genai.evaluate(\n"
            '    data=data, predict_fn=client.to_predict_fn("word-counter"), scorers=scorers)',
            session,
        )
    except ImportError as error:
        print(f"This MLflow can't evaluate by itself ({error}); newer ones can.")
        return
    _type('table = results.tables["eval_results"]', session)
    _type('table["question"] = [request["question"] for request in table["request"]]', session)
    _type('print(table[["question", "counts_right/value", "quotes_the_question/value"]].to_string())', session)
    _type("results.metrics", session)


def _ui(store: str) -> str:
    return f"mlflow ui --backend-store-uri {shlex.quote(store)}"


def _type(source: str, session: dict[str, Any]) -> None:
    """Show lines of Python as if they were typed at a prompt, and run them."""
    first, *more = source.splitlines()
    print("\n".join([f">>> {first}", *(f"... {line}" for line in more)]), flush=True)
    exec(compile(source + "\n", "<demo>", "single"), session)  # noqa: S102 (the lines above, and nothing else)
