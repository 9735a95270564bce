"""The command line, `agent-target`: parses, calls, prints. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

import click

from mlflow_agent_target import __version__

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


@click.group()
@click.version_option(__version__, prog_name="agent-target")
def commands() -> None:
    """Query AI agents that were authored with MLflow: get_deploy_client("agent-target")."""


@commands.command()
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
    """Let MLflow keep traces and runs in a folder of the system's for temporary files, and return its address.

    Its own choice would be a database in the current folder.
    """
    import mlflow

    logging.disable(logging.INFO)  # what is said of making a database
    folder = Path(tempfile.mkdtemp(prefix="agent-target-demo-"))
    os.chdir(folder)  # where MLflow 3.2 makes a folder for artifacts, needed or not
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


@commands.command()
@click.option("--target", "-t", default="agent-target", show_default=True, help="The target URI.")
@click.option("--endpoint", "-e", help="The endpoint's name; left out for a bare agent server.")
@click.option("--input", "-i", "input_path", required=True, help="A CSV, JSONL or Parquet file.")
@click.option("--output", "-o", "output_path", help="The results: a .jsonl or .parquet file.")
@click.option("--column", help="The column that holds a row's inputs.  [default: input, messages or inputs]")
@click.option("--id-column", help="The column that names a row.  [default: id]")
@click.option("--journal", "journal_path", help="Where rows are recorded as they end.  [default: OUTPUT.journal]")
@click.option("--resume/--restart", default=True, help="Go on where the journal ends, or delete it.  [default: resume]")
@click.option("--concurrency", type=int, help="The most requests in flight.  [default: what the endpoint bears]")
@click.option("--requests-per-minute", type=float, help="The most requests in any minute.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many rows, for a trial.")
@click.option("--dry-run", is_flag=True, help="Show the first three payloads as they would be sent; send nothing.")
def score(
    target: str,
    endpoint: str | None,
    input_path: str,
    output_path: str | None,
    column: str | None,
    id_column: str | None,
    journal_path: str | None,
    resume: bool,
    concurrency: int | None,
    requests_per_minute: float | None,
    limit: int | None,
    dry_run: bool,
) -> None:
    """Ask an agent once for each row of a file.

    The same command goes on where it stopped, however that was: rows that are ok are not sent again, failed ones are.
    Exits with 0 when all rows are ok, 1 when some failed or were not sent, 2 when it could not run.
    """
    from mlflow_agent_target import AgentTargetClient
    from mlflow_agent_target.batch.journal import discard
    from mlflow_agent_target.batch.tables import Rows
    from mlflow_agent_target.errors import AgentTargetError

    try:
        client = AgentTargetClient(target)
        rows = Rows(Path(input_path), column, id_column, limit)
        if dry_run:
            for row in itertools.islice(rows, 3):
                print(json.dumps(client._endpoint(None, endpoint).encode(row.inputs), ensure_ascii=False, indent=2))
            return
        if output_path is None or Path(output_path).suffix not in (".jsonl", ".parquet"):
            raise click.UsageError("--output must name a .jsonl or .parquet file.")
        if not Path(output_path).parent.is_dir():
            raise click.UsageError(f"There is no folder '{Path(output_path).parent}'.")
        journal = Path(journal_path or f"{output_path}.journal")
        if Path(output_path).resolve() in (Path(input_path).resolve(), journal.resolve()):
            raise click.UsageError("--output must be another file than --input and --journal.")
        if not resume:
            discard(journal)
        result = client.predict_batch(
            endpoint, rows, concurrency=concurrency, requests_per_minute=requests_per_minute, journal=journal
        )
        write = result.to_parquet if Path(output_path).suffix == ".parquet" else result.to_jsonl
        write(output_path)
    except AgentTargetError as error:
        raise _CouldNotRunError(str(error)) from error
    summary = result.summary()
    click.echo(f"{output_path}: {json.dumps(summary)}", err=True)
    if result.interrupted:
        click.echo("Stopped before all rows were sent. The same command goes on from here.", err=True)
    raise SystemExit(0 if summary["ok"] == summary["rows"] and not result.interrupted else 1)


class _CouldNotRunError(click.ClickException):
    exit_code = 2


def _type(source: str, session: dict[str, Any]) -> None:
    """Show lines of Python as they would be typed, and run just those."""
    first, *more = source.splitlines()
    print("\n".join([f">>> {first}", *(f"... {line}" for line in more)]), flush=True)
    exec(compile(source + "\n", "<demo>", "single"), session)  # noqa: S102 (the lines above, and nothing else)


def main() -> None:
    """Run the command line: an error of this package is a message and exit code 1, never a traceback."""
    try:
        commands(standalone_mode=False)
    except click.exceptions.Abort:
        raise SystemExit(130) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        from mlflow_agent_target.errors import AgentTargetError

        if not isinstance(error, AgentTargetError):
            raise
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None
