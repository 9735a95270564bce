"""What an MLflow run shows of a batch: parameters, metrics as it goes, and at its end the results and figures."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.batch.progress import Progress
from mlflow_agent_target.batch.results import BatchResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

_logger = logging.getLogger(__name__)

_FOLDER = "batch"
_TABLE = f"{_FOLDER}/results.json"
# A batch waits no longer for the tracking server, when all rows have ended.
_SECONDS_AT_THE_END = 20.0
_SECONDS_BETWEEN_METRICS = 5.0
# A figure shows no more points than this: when there are more, every other one is dropped.
_MOST_POINTS = 2000
# No more, since MLflow holds a table in memory, and shows it in a browser.
_MOST_TABLE_ROWS = 10_000
_TABLE_COLUMNS = ("index", "id", "status", "output_text", "error", "error_message", "attempts", "seconds")


@contextlib.contextmanager
def logged(wanted: bool | None, parameters: dict[str, Any]) -> Iterator[RunLog | None]:
    """Log a batch to the active run, or to a new one.

    Args:
        wanted: True to start a run where none is active, None to log only where one is, False to log nothing.
        parameters: What to log as the run's parameters.

    Yields:
        An observer of the batch, whose `finish` is called with the result; None when nothing is to be logged.
    """
    if wanted is False:
        yield None
        return
    import mlflow

    active = mlflow.active_run()
    if active is None and not wanted:
        yield None
        return
    with contextlib.nullcontext(active) if active else mlflow.start_run() as run:
        log = RunLog(run.info.run_id, mlflow.get_tracking_uri(), parameters)
        try:
            yield log
        except Exception:
            log.finish(None)
            raise
        finally:
            log.end()


class RunLog:
    """Logs one batch to one run. As an observer of the batch it is called with the progress.

    A thread of its own speaks to the tracking server, so that a slow one, or one that is gone, holds up nothing. A run
    that shows an earlier batch keeps its parameters; metrics go on after its steps, and the table is the latest one's.

    Args:
        run_id: The run.
        tracking_uri: Where it is.
        parameters: What to log as its parameters.
    """

    def __init__(self, run_id: str, tracking_uri: str, parameters: dict[str, Any]) -> None:
        self._run_id = run_id
        self._tracking_uri = tracking_uri
        self._parameters = parameters
        self._client: MlflowClient | None = None  # None as long as the server has not answered
        self._first_step = 0
        self._earlier: set[str] = set()  # the metrics of an earlier batch
        self._warned: set[str] = set()
        self._last: Progress | None = None
        self._next = 0.0  # when metrics are logged again, in seconds since the batch began
        # Seconds, rows done, concurrency and requests in flight, over time.
        self._points: list[tuple[float, int, int, int]] = []
        self._every = 1  # every so many looks make a point
        self._looks = 0
        # What is to be logged, by its name, and None at the end.
        self._jobs: queue.SimpleQueue[tuple[str, Callable[[], object]] | None] = queue.SimpleQueue()
        self._missing: list[str] = []  # what is to be logged at the end, and is not yet
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._work, name="agent-target-mlflow", daemon=True)
        with self._tolerated("numbers"):
            self._thread.start()

    def __call__(self, progress: Progress) -> None:
        """Keep the progress as a point of the figures, and log it as metrics every few seconds."""
        self._last = progress
        if self._looks % self._every == 0:
            self._points.append((progress.seconds, progress.done, progress.concurrency, progress.in_flight))
            if len(self._points) > _MOST_POINTS:
                del self._points[1::2]
                self._every *= 2
        self._looks += 1
        if progress.seconds >= self._next and self._jobs.empty():
            self._next = progress.seconds + _SECONDS_BETWEEN_METRICS
            self._jobs.put(("metrics", lambda: self._log_metrics(_metrics_of(progress), int(progress.seconds))))

    def finish(self, result: BatchResult | None) -> None:
        """Log what came of the batch; of one that failed, how far it got.

        What can't be logged, or takes too long, is a warning, and no result is lost.
        """
        self._forget()  # what is older than the end
        jobs: dict[str, Callable[[], object]] = {} if self._client else {"parameters": self._reached}
        jobs |= {"last metrics": lambda: self._last_metrics(result)}
        if result is not None:
            jobs |= {"table of results": lambda: self._table(result), "figures": lambda: self._figures(result)}
        self._missing = list(jobs)
        for job in jobs.items():
            self._jobs.put(job)
        self.end()
        if self._thread.is_alive() and not self._idle.wait(_SECONDS_AT_THE_END):
            self._forget()
            self.end()
            _logger.warning(
                "The tracking server is slow, or gone: the MLflow run does not show the batch's %s. No result is "
                "affected.",
                ", ".join(self._missing),
            )

    def end(self) -> None:
        """Let the thread end."""
        self._jobs.put(None)

    def _forget(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()

    # The thread that speaks to the tracking server.

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            what, log = job
            with self._tolerated(what):
                log()
            if what in self._missing:
                self._missing.remove(what)
        self._idle.set()

    @contextlib.contextmanager
    def _tolerated(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if what not in self._warned:  # once, and not every few seconds of a night
                self._warned.add(what)
                _logger.warning("The batch's %s could not be logged to MLflow: %s", what, error)

    def _reached(self) -> MlflowClient:
        """Return a client of the server. When that answers for the first time, see what the run shows already."""
        if self._client is None:
            from mlflow import MlflowClient

            client = MlflowClient(self._tracking_uri)
            shown = client.get_run(self._run_id).data
            history = client.get_metric_history(self._run_id, f"{_FOLDER}/rows_done")
            self._first_step = max((metric.step for metric in history), default=-1) + 1
            self._earlier = {key for key in shown.metrics if key.startswith(f"{_FOLDER}/")}
            self._client = client
            with self._tolerated("parameters"):
                self._log_parameters(client, shown.params)
        return self._client

    def _log_parameters(self, client: MlflowClient, shown: dict[str, str]) -> None:
        from mlflow.entities import Param

        prefix = next(
            prefix
            for prefix in itertools.chain([_FOLDER], (f"{_FOLDER}_{number}" for number in itertools.count(2)))
            if all(shown.get(f"{prefix}.{key}", str(value)) == str(value) for key, value in self._parameters.items())
        )
        parameters = [Param(f"{prefix}.{key}", str(value)) for key, value in self._parameters.items()]
        client.log_batch(self._run_id, params=parameters)

    def _log_metrics(self, values: Mapping[str, float | None], step: int) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        client = self._reached()
        now, step = get_current_time_millis(), self._first_step + step
        known = {f"{_FOLDER}/{key}": float(value) for key, value in values.items() if value is not None}
        client.log_batch(self._run_id, metrics=[Metric(key, value, now, step) for key, value in known.items()])

    def _last_metrics(self, result: BatchResult | None) -> None:
        values = {} if self._last is None else _metrics_of(self._last)
        seconds = 0.0 if self._last is None else self._last.seconds
        if result is not None:
            summary = result.summary()
            seconds = max(seconds, summary["seconds"])
            values |= {"rows_done": summary["rows"], "rows_failed": summary["failed"], "in_flight": 0}
            values |= {key: summary[key] for key in ("ok", "failed", "in_doubt", "attempts", "rows_per_second")}
            values |= {f"latency_{name}": value for name, value in summary["latency"].items()}
            values |= {f"errors/{kind}": count for kind, count in summary["errors"].items()}
            values |= {**summary["tokens"], "cost": summary.get("cost")}
        self._reached()
        # What an earlier batch of the run showed, and this one has not, must not look like this one's.
        for key in (name.partition("/")[2] for name in self._earlier):
            if values.get(key) is None:
                values[key] = 0 if key.startswith("errors/") else math.nan
        self._log_metrics(values, math.ceil(seconds) + 1)

    def _table(self, result: BatchResult) -> None:
        client = self._reached()
        rows = list(itertools.islice(result, _MOST_TABLE_ROWS))
        if len(result) > len(rows):
            _logger.warning("The run's table shows the first %d of %d rows.", len(rows), len(result))
        if any(file.path == _TABLE for file in client.list_artifacts(self._run_id, _FOLDER)):
            # MLflow would append to the table of the batch before. This is how it writes one.
            data = [[getattr(row, name) for name in _TABLE_COLUMNS] for row in rows]
            client.log_dict(self._run_id, {"columns": list(_TABLE_COLUMNS), "data": data}, _TABLE)
            return
        columns = {name: [getattr(row, name) for row in rows] for name in _TABLE_COLUMNS}
        client.log_table(self._run_id, columns, _TABLE)

    def _figures(self, result: BatchResult) -> None:
        client = self._reached()
        for name, figure in _figures(result, self._points).items():
            client.log_figure(self._run_id, figure, f"{_FOLDER}/{name}.png")


def _metrics_of(progress: Progress) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {
        "rows_done": progress.done,
        "rows_failed": progress.failed,
        "rows_per_second": progress.rows_per_second,
        "concurrency": progress.concurrency,
        "in_flight": progress.in_flight,
        "input_tokens": progress.input_tokens,
        "output_tokens": progress.output_tokens,
        "cost": progress.cost,
        **{f"errors/{kind}": count for kind, count in progress.errors.items()},
    }
    if latencies := sorted(progress.latencies):
        for percent in (50, 95):
            metrics[f"latency_p{percent}"] = latencies[(len(latencies) - 1) * percent // 100]
    return metrics


def _figures(result: BatchResult, points: Sequence[tuple[float, int, int, int]]) -> dict[str, Any]:
    """Return the figures by name. They are drawn without pyplot, which keeps figures and may open windows."""
    from matplotlib.figure import Figure

    def axes(title: str, x: str, y: str) -> tuple[Any, Any]:
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        plot = figure.add_subplot(title=title, xlabel=x, ylabel=y)
        return figure, plot

    figures = {}
    figures["latency"], plot = axes("How long rows took", "seconds", "rows")
    plot.hist(result.latencies(), bins=50)
    figures["throughput"], plot = axes("Throughput", "seconds since the start", "rows a second")
    pairs = [(a, b) for a, b in itertools.pairwise(points) if b[0] > a[0]]
    plot.plot([b[0] for _, b in pairs], [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs])
    figures["concurrency"], plot = axes("Concurrency", "seconds since the start", "requests")
    plot.step([p[0] for p in points], [p[2] for p in points], where="post", label="allowed")
    plot.step([p[0] for p in points], [p[3] for p in points], where="post", label="in flight")
    plot.legend()
    if errors := result.summary()["errors"]:
        figures["errors"], plot = axes("Errors by kind", "rows", "")
        plot.barh(list(errors), list(errors.values()))
    return figures
