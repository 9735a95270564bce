"""Runs a batch: rows, journal, scheduler and result put together.

The caller's thread reads the rows, a little ahead of what is sent; the scheduler's thread does the rest.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlflow_agent_target.batch.cells import Row
from mlflow_agent_target.batch.journal import Journal, JournalFullError, delete
from mlflow_agent_target.batch.policy import BatchOptions
from mlflow_agent_target.batch.progress import Observer, Tally, watching
from mlflow_agent_target.batch.records import is_same_id, row_claim
from mlflow_agent_target.batch.results import BatchResult
from mlflow_agent_target.batch.scheduler import Scheduler
from mlflow_agent_target.batch.signals import Signals
from mlflow_agent_target.batch.tables import Rows
from mlflow_agent_target.batch.workers import Query, Task
from mlflow_agent_target.errors import InvalidInputError


def run(
    query: Query,
    rows: Rows,
    *,
    journal: Path | None,
    about: dict[str, Any],
    options: BatchOptions,
    observers: Sequence[Observer] = (),
) -> BatchResult:
    """Ask once for each row and record what comes of it.

    Args:
        query: Asks the endpoint for one row, without retries of its own.
        rows: What to ask.
        journal: The file to record in, and to go on from; None for a temporary one.
        about: What the journal belongs to, such as the endpoint.
        options: How the batch is run.
        observers: Told from time to time how it goes.

    Returns:
        What came of each row; after Ctrl-C, SIGTERM, or where a ceiling was reached, of those that were sent.

    Raises:
        InvalidInputError: The journal belongs to other rows, or can't be used.
        AgentTargetError: A failure that every row would share, or, with `on_error="raise"`, the one of a row. Rows that
            had ended are in the journal, and the same call goes on from there.
    """
    started = time.monotonic()
    path = journal if journal is not None else _temporary()
    is_kept = journal is not None
    try:
        record = Journal(path, about, durable=journal is not None)
        try:
            signals = Signals()
            scheduler = Scheduler(query, record, options, on_stop=signals.break_off)
            tasks = signals.each(_to_send(rows, record, scheduler.tally, options))
            with (
                signals.handled(scheduler.interrupt),
                watching(lambda: scheduler.progress(rows.size, rows.share_read), observers),
            ):
                _drive(scheduler, tasks)
        finally:
            record.close()
        if scheduler.error is not None:
            is_kept |= isinstance(scheduler.error, JournalFullError)  # which says to go on with it
            raise scheduler.error
        result = BatchResult(
            path,
            is_temporary=journal is None,
            seconds=time.monotonic() - started,
            sent=scheduler.tally.spent()[0],
            stopped=scheduler.stopped,
            price_per_million=options.price_per_million,
            index=rows.index,
        )
        is_kept = True
        return result
    finally:
        if not is_kept:
            delete(path)


def _temporary() -> Path:
    with tempfile.NamedTemporaryFile(prefix="agent-target-", suffix=".db", delete=False) as file:
        return Path(file.name)


def _drive(scheduler: Scheduler, tasks: Iterator[Task]) -> None:
    """Feed the scheduler, in the caller's own thread, and wait for its end."""
    scheduler.start()
    try:
        for task in tasks:
            if not scheduler.feed(task):
                break
        scheduler.close()
        scheduler.wait()
    except Exception:
        # The rows could not be read. What is in flight is still waited for.
        scheduler.stop()
        scheduler.wait()
        raise
    except BaseException:
        scheduler.abandon()
        raise


def _to_send(rows: Iterable[Row], record: Journal, tally: Tally, options: BatchOptions) -> Iterator[Task]:
    """Yield the rows that are to be sent. Those that the journal knows are compared with what it has.

    Raises:
        InvalidInputError: The journal belongs to other rows.
    """
    known = record.known()
    ahead = next(known, None)
    for position, row in enumerate(rows):
        tally.read = position + 1
        claim, size = row_claim(position, row.id, row.inputs, row.columns)
        if ahead is not None and ahead.position == position:
            if ahead.digest != claim.digest:
                raise InvalidInputError(
                    f"Row {position} is not the one that the journal {str(record.path)!r} has there: that belongs to "
                    "other inputs. Name another file as the journal, or give the inputs in the same order."
                )
            if not is_same_id(ahead.id, claim.id):
                raise InvalidInputError(
                    f"Row {position} has the id {claim.id}, but {ahead.id} in the journal {str(record.path)!r}. Take "
                    "the ids from the same column as then (id_column). Another journal would ask all rows again."
                )
            is_sent = options.sends_again(ahead.state)
            claim = claim._replace(run=ahead.run)
            ahead = next(known, None)
            if not is_sent:
                tally.earlier += 1
                continue
        yield Task(claim, row.inputs, size)
    tally.is_all_read = True
    if ahead is not None:
        raise InvalidInputError(
            f"The inputs end after {tally.read} rows, but the journal {str(record.path)!r} has more: that belongs to "
            "other inputs. Name another file as the journal."
        )
