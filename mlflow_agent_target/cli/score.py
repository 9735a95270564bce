"""`agent-target score`: an agent asked once for each row of a file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import click


class _CouldNotRunError(click.ClickException):
    exit_code = 2


@click.command()
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
                payload = client._access.endpoint(None, endpoint).encode(row.inputs)
                print(json.dumps(payload, ensure_ascii=False, indent=2))
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
