"""Many rows, asked through a client: `predict_batch`, and DataFrames."""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow_agent_target.endpoints.access import Access
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.http.options import NO_RETRIES
from mlflow_agent_target.target.settings import Backoff
from mlflow_agent_target.tracing import spans as tracing

if TYPE_CHECKING:
    from mlflow_agent_target.batch.progress import Progress
    from mlflow_agent_target.batch.results import BatchResult


class BatchScoring:
    """Asks an agent once for each of many rows. A part of `AgentTargetClient`."""

    _access: Access

    def predict_batch(
        self,
        endpoint: str | None = None,
        inputs: Any = None,
        *,
        concurrency: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        requests_per_minute: float | None = None,
        on_error: Literal["record", "raise"] = "record",
        retry_on: type[Exception] | tuple[type[Exception], ...] = (),
        rerun_in_doubt: bool = True,
        max_failures: float | None = None,
        max_tokens: int | None = None,
        price_per_million: tuple[float, float] | None = None,
        progress: bool | Callable[[Progress], None] | None = None,
        mlflow_run: bool | None = None,
        column: str | None = None,
        id_column: str | None = None,
        keep_columns: bool | None = None,
    ) -> BatchResult:
        """Ask an agent once for each of many rows, as many at a time as the endpoint bears.

        A row that fails is a result. A failure that every row would share (401, 403, 404, no login) stops the run at
        once. Ctrl-C lets what is in flight end and returns what is there; a second one stops at once. SIGTERM does the
        same, and leaves 25 seconds for that: what takes longer is in doubt.

        Args:
            endpoint: As for `predict`.
            inputs: Any iterable of what `predict` takes, or of records with it (a generator is read as rows are sent),
                a DataFrame of pandas, polars or Spark, an Arrow table, a Series, an evaluation dataset, or the name of
                a file: .csv, .tsv, .jsonl, .ndjson (each also .gz), .parquet, or a folder of Parquet. The same record
                is the same request and id in all of them. Its settings (`custom_inputs`, `context`, ...) go along; no
                other column is sent.
            concurrency: The most requests in flight. None to find out what the endpoint bears, 192 at most.
            journal: A file that every row is recorded in before it is sent and when it has ended, so that the same call
                goes on where an earlier one stopped, however that ended: rows that are ok are not sent again, failed
                ones are. None to record for the result only.
            requests_per_minute: The most requests in any minute, attempts that fail included. None for no limit but
                what the endpoint's own answers say.
            on_error: "record" a row that fails, or "raise" its error, when what is in flight has ended.
            retry_on: Errors after which a row is sent again although the agent may have run for it: for agents that may
                safely run twice. `with_options(idempotent=True)` names every passing failure.
            rerun_in_doubt: Whether rows that were in flight when an earlier process was killed are sent again, although
                the agent may have run for them. False leaves them "in_doubt" in the result. A DurableAgentServer is
                asked for them in any case, under the same id, which never runs twice.
            max_failures: Nothing more is sent when so many rows have failed in this run: a number, or a share (0.05) of
                those that have ended, which counts from 20 on. What is there is returned, and `stopped` of the result
                says why. None for no limit.
            max_tokens: Nothing more is sent when this run's answers have so many tokens. What is in flight then still
                ends. None for no limit.
            price_per_million: What a million tokens of the input and of the output cost, in whatever currency, for
                `cost` in the summary, the progress and the MLflow run. None where that is not known.
            progress: True or False for a bar on stderr, None for one where somebody may be looking; or a function that
                is called from time to time with how it goes.
            mlflow_run: True to log to the active MLflow run, or to one of its own. None for only to one that is active,
                False for none.
            column: The column of the records that holds a row's inputs. None for `input`, `messages` or `inputs`.
            id_column: The column whose value is kept as the row's `id`. None for `id`, where there is one.
            keep_columns: Whether results carry the columns of their rows' records, the question among them. None for
                where the inputs are a frame or Parquet.

        Returns:
            What came of each row, in the order of the inputs.

        Raises:
            InvalidInputError: The inputs, an option or the journal can't be used, or the journal is of other inputs.
            AgentTargetError: What every row would share, or what one failed with if `on_error` is "raise".
        """
        from mlflow_agent_target.batch.bar import observer_for
        from mlflow_agent_target.batch.mlflow_run import logged
        from mlflow_agent_target.batch.policy import BatchOptions
        from mlflow_agent_target.batch.run import run
        from mlflow_agent_target.batch.tables import Rows

        once = replace(self._access.options, backoff=NO_RETRIES)  # the batch has a retry layer of its own
        agent = self._access.with_request_options(once).endpoint(None, endpoint)

        def query(inputs: Any, run_id: uuid.UUID) -> AgentResponse:
            return agent.query(inputs, run_id=run_id)

        if tracing.is_autologging():
            query = functools.partial(tracing.query_row, agent, sends_context=self._access.sends_context)
        options = BatchOptions(
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            on_error=on_error,
            retry_on=retry_on if isinstance(retry_on, tuple) else (retry_on,),
            idempotent=once.idempotent,
            rerun_in_doubt=rerun_in_doubt or agent.asks_once(),
            max_failures=max_failures,
            max_tokens=max_tokens,
            price_per_million=price_per_million,
            retries=Backoff.read(),
            timeout=once.limits().timeout,
            total_timeout=once.limits().total_timeout,
        )
        rows = inputs if isinstance(inputs, Rows) else Rows(inputs, column, id_column, keep_columns=keep_columns)
        about = {"endpoint": agent.name, "target": self._access.routes.transport.base_url}
        settings = {"concurrency": concurrency or "adaptive", "requests_per_minute": requests_per_minute}
        with observer_for(progress) as observers, logged(mlflow_run, {**about, **settings}) as log:
            result = run(
                query,
                rows,
                journal=None if journal is None else Path(journal),
                about=about,
                options=options,
                observers=[*observers, *([log] if log else [])],
            )
            if log:
                log.finish(result)
        return result

    def _score_frame(self, endpoint: str | None, frame: Any) -> Any:
        from mlflow_agent_target.batch.cells import Row
        from mlflow_agent_target.batch.exports import to_scored_frame
        from mlflow_agent_target.batch.frames import requests_of

        rows = [Row(None, request) for request in requests_of(frame)]
        result = self.predict_batch(endpoint, rows, progress=False, mlflow_run=False)
        if result.interrupted:
            raise KeyboardInterrupt
        return to_scored_frame(result, frame)
