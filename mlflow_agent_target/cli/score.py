"""`agent-target score`: an agent asked once for each row of a file."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlflow_agent_target.batch.results import BatchResult
    from mlflow_agent_target.batch.shown import BatchRow
    from mlflow_agent_target.errors import AgentTargetError

_ERRORS_SHOWN = 3
_LONGEST_MESSAGE = 500


class _CouldNotRunError(click.ClickException):
    exit_code = 2


class _CountOrShare(click.ParamType):  # type: ignore[type-arg,unused-ignore] # generic in newer versions only
    """20, 0.05 or 5%."""

    name = "number or share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            if isinstance(value, str) and value.endswith("%"):
                return float(value[:-1]) / 100
            return value if not isinstance(value, str) else float(value) if "." in value else int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of rows nor a share such as 5%.", param, ctx)


def _default_target() -> str:
    """Return the target that the environment names for MLflow's clients, if it is one of this package's."""
    named = os.environ.get("MLFLOW_DEPLOYMENTS_TARGET", "")
    return named if named.partition(":")[0] == "agent-target" else "agent-target"


@click.command()
@click.option(
    "--target",
    "-t",
    default=_default_target,
    help="The target URI.  [default: MLFLOW_DEPLOYMENTS_TARGET, or agent-target]",
)
@click.option("--endpoint", "-e", help="The endpoint's name; left out for a bare agent server.")
@click.option(
    "--input",
    "-i",
    "input_path",
    required=True,
    help="A .csv, .tsv, .jsonl, .ndjson (each also .gz) or .parquet file, a folder of Parquet, or - for JSON lines.",
)
@click.option(
    "--output",
    "-o",
    "output_path",
    help="The results, in a file of the same formats but folders, or - for JSON lines on standard output.",
)
@click.option("--column", help="The column that holds a row's inputs.  [default: input, messages or inputs]")
@click.option("--id-column", help="The column that names a row.  [default: id]")
@click.option(
    "--keep-columns/--no-keep-columns",
    default=None,
    help="Write the input's columns beside the results.  [default: those of Parquet]",
)
@click.option(
    "--journal",
    "journal_path",
    help="Where rows are recorded as they end, to go on from.  [default: OUTPUT.journal, or none for -]",
)
@click.option("--resume/--restart", default=True, help="Go on where the journal ends, or delete it.  [default: resume]")
@click.option("--concurrency", type=int, help="The most requests in flight.  [default: what the endpoint bears]")
@click.option("--requests-per-minute", type=float, help="The most requests in any minute.")
@click.option("--max-failures", type=_CountOrShare(), help="Stop when so many rows failed: a number, or a share (5%).")
@click.option("--max-tokens", type=int, help="Stop when the answers have so many tokens.")
@click.option(
    "--price-per-million", type=float, nargs=2, help="What a million tokens of the input and of the output cost."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many rows, for a trial.")
@click.option("--dry-run", is_flag=True, help="Show the first three payloads as they would be sent; send nothing.")
def score(
    target: str,
    endpoint: str | None,
    input_path: str,
    output_path: str | None,
    column: str | None,
    id_column: str | None,
    keep_columns: bool | None,
    journal_path: str | None,
    resume: bool,
    concurrency: int | None,
    requests_per_minute: float | None,
    max_failures: float | None,
    max_tokens: int | None,
    price_per_million: tuple[float, float] | None,
    limit: int | None,
    dry_run: bool,
) -> None:
    """Ask an agent once for each row of a file.

    The same command goes on where it stopped, however that was: rows that are ok are not sent again, failed ones are.
    Exits with 0 when all rows are ok, 1 when some failed or were not sent, 2 when it could not run.
    """
    from mlflow_agent_target import AgentTargetClient
    from mlflow_agent_target.batch.exports import check_writable
    from mlflow_agent_target.batch.journal import discard
    from mlflow_agent_target.batch.tables import Rows
    from mlflow_agent_target.errors import AgentTargetError

    _show_log_lines()
    journal = result = None
    try:
        client = AgentTargetClient(target)
        rows = Rows(Path(input_path), column, id_column, limit, keep_columns)
        if dry_run:
            for row in itertools.islice(rows, 3):
                if isinstance(row.inputs, Exception):
                    raise row.inputs
                payload = client._access.endpoint(None, endpoint).encode(row.inputs)
                print(json.dumps(payload, ensure_ascii=False, indent=2))
            return
        if output_path is None:
            raise click.UsageError("--output must name the file of the results, or - for standard output.")
        check_writable(Path(output_path))
        journal = _journal(input_path, output_path, journal_path)
        if not resume and journal is not None:
            discard(journal)
        result = client.predict_batch(
            endpoint,
            rows,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            max_failures=max_failures,
            max_tokens=max_tokens,
            price_per_million=price_per_million,
            journal=journal,
        )
        result.write(output_path)
    except AgentTargetError as error:
        raise _CouldNotRunError(f"{error}{_kept(error, journal, result)}") from error
    summary = result.summary()
    _show_errors(result, summary["errors"])
    click.echo(f"{output_path}: {json.dumps(summary)}", err=True)
    if result.stopped:
        click.echo(
            f"Stopped before all rows were sent ({result.stopped}). The same command goes on from here.", err=True
        )
    raise SystemExit(0 if summary["ok"] == summary["rows"] and not result.interrupted else 1)


def _journal(input_path: str, output_path: str, journal_path: str | None) -> Path | None:
    """Return where rows are recorded; None where nothing is named that would outlive the command."""
    if output_path == "-":
        return None if journal_path is None else Path(journal_path)
    journal = Path(journal_path or f"{output_path}.journal")
    if Path(output_path).resolve() in (Path(input_path).resolve(), journal.resolve()):
        raise click.UsageError("--output must be another file than --input and --journal.")
    return journal


def _kept(error: AgentTargetError, journal: Path | None, result: BatchResult | None) -> str:
    """Return what is to be said of the answers that are there, although the command could not run to its end."""
    from mlflow_agent_target import BatchResult, InvalidInputError

    if journal is None:
        return ""
    if result is not None:
        return (
            " No answer is lost: the same command, or one with another --output and --journal "
            f"{shlex.quote(str(journal))}, asks none of them again."
        )
    with contextlib.suppress(InvalidInputError):
        answered = 0 if isinstance(error, InvalidInputError) else BatchResult(journal).summary()["ok"]
        if answered:
            return f"\nWhat was answered is in {str(journal)!r} ({answered} rows). The same command goes on from there."
    return ""


def _show_log_lines() -> None:
    """Where nobody looks on, show the log line a minute that a bar takes the place of."""
    if sys.stderr.isatty():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("mlflow_agent_target")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    context = click.get_current_context()
    context.call_on_close(lambda: logger.removeHandler(handler))
    context.call_on_close(lambda: logger.setLevel(level))


def _show_errors(result: BatchResult, errors: dict[str, int]) -> None:
    """Show the commonest errors, each with a row that it came of."""
    from mlflow_agent_target.text import printable

    examples: dict[str | None, BatchRow] = {}
    for row in result.failed:
        examples.setdefault(row.error, row)
        if len(examples) == len(errors):
            break
    for kind, count in itertools.islice(errors.items(), _ERRORS_SHOWN):
        row = examples[kind]
        name = f"row {row.index}" if row.id is None else f"row {row.index}, id {row.id!r}"
        rows = "1 row" if count == 1 else f"{count} rows"
        click.echo(
            f"{rows} failed with {kind}, such as {name}: {printable(row.error_message or '', _LONGEST_MESSAGE)}",
            err=True,
        )
    if (more := len(errors) - _ERRORS_SHOWN) > 0:
        click.echo(f"{more} more kind{'s' * (more > 1)} of errors are in the results.", err=True)
