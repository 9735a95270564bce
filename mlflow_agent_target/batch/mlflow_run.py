"""What an MLflow run shows of a batch: parameters, metrics as it goes, and at its end the results and figures."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlflow_agent_target.batch.progress import Progress
from mlflow_agent_target.batch.results import BatchResult

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
    if active is not None:
        yield RunLog(active.info.run_id, parameters)
    elif wanted:
        with mlflow.start_run() as run:
            yield RunLog(run.info.run_id, parameters)
    else:
        yield None


class RunLog:
    """Logs one batch to one run. As an observer of the batch it is called with the progress.

    A thread of its own speaks to the tracking server, so that a slow one, or one that is gone, holds up nothing. A run
    that shows an earlier batch keeps its parameters; metrics go on after its steps, and the table is the latest one's.

    Args:
        run_id: The run.
        parameters: What to log as its parameters.
    """

    def __init__(self, run_id: str, parameters: dict[str, Any]) -> None:
        self._run_id = run_id
        self._next = 0.0  # when metrics are logged again, in seconds since the batch began
        # Seconds, rows done, concurrency and requests in flight, over time.
        self._points: list[tuple[float, int, int, int]] = []
        self._every = 1  # every so many looks make a point
        self._looks = 0
        self._first_step = 0
        self._jobs: queue.SimpleQueue[tuple[str, Callable[[], None]]] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._work, name="agent-target-mlflow", daemon=True)
        self._do("parameters", lambda: self._begin(parameters))
        with _tolerated("numbers"):
            self._thread.start()

    def __call__(self, progress: Progress) -> None:
        """Keep the progress as a point of the figures, and log it as metrics every few seconds."""
        if self._looks % self._every == 0:
            self._points.append((progress.seconds, progress.done, progress.concurrency, progress.in_flight))
            if len(self._points) > _MOST_POINTS:
                del self._points[1::2]
                self._every *= 2
        self._looks += 1
        if progress.seconds >= self._next and self._jobs.empty():
            self._next = progress.seconds + _SECONDS_BETWEEN_METRICS
            self._do("metrics", lambda: self._metrics(_metrics_of(progress), int(progress.seconds)))

    def finish(self, result: BatchResult) -> None:
        """Log what came of the batch. What can't be logged, or takes too long, is a warning, and no result is lost."""
        summary = result.summary()
        numbers = {key: summary[key] for key in ("ok", "failed", "in_doubt", "attempts", "rows_per_second")}
        latency = {f"latency_{name}": seconds for name, seconds in summary["latency"].items()}
        errors = {f"errors/{kind}": count for kind, count in summary["errors"].items()}
        ended = {"rows_done": summary["rows"], "rows_failed": summary["failed"], "in_flight": 0}
        final = {**ended, **numbers, **latency, **errors, **summary["tokens"], "cost": summary.get("cost")}
        last = math.ceil(max([summary["seconds"], *(point[0] for point in self._points[-1:])])) + 1
        self._do("metrics", lambda: self._metrics(final, last))
        self._do("table of results", lambda: self._table(result))
        self._do("figures", lambda: self._figures(result, summary))
        self._do("end", self._idle.set)
        if self._thread.is_alive() and not self._idle.wait(_SECONDS_AT_THE_END):
            _logger.warning(
                "The tracking server is slow: what it shows of the batch may not be whole. No result is affected."
            )

    def _do(self, what: str, job: Callable[[], None]) -> None:
        self._jobs.put((what, job))

    def _work(self) -> None:
        while not self._idle.is_set():
            what, job = self._jobs.get()
            with _tolerated(what):
                job()

    def _begin(self, parameters: dict[str, Any]) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        shown = self._client.get_run(self._run_id).data.params
        history = self._client.get_metric_history(self._run_id, f"{_FOLDER}/rows_done")
        self._first_step = max((metric.step for metric in history), default=-1) + 1
        prefix = next(
            prefix
            for prefix in itertools.chain([_FOLDER], (f"{_FOLDER}_{number}" for number in itertools.count(2)))
            if all(shown.get(f"{prefix}.{key}", str(value)) == str(value) for key, value in parameters.items())
        )
        for key, value in parameters.items():
            self._client.log_param(self._run_id, f"{prefix}.{key}", value)

    def _metrics(self, values: dict[str, float | None], step: int) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now, step = get_current_time_millis(), self._first_step + step
        known = {key: value for key, value in values.items() if value is not None}
        metrics = [Metric(f"{_FOLDER}/{key}", float(value), now, step) for key, value in known.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _table(self, result: BatchResult) -> None:
        rows = list(itertools.islice(result, _MOST_TABLE_ROWS))
        if len(result) > len(rows):
            _logger.warning("The run's table shows the first %d of %d rows.", len(rows), len(result))
        if any(file.path == _TABLE for file in self._client.list_artifacts(self._run_id, _FOLDER)):
            # MLflow would append to the table of the batch before. This is how it writes one.
            data = [[getattr(row, name) for name in _TABLE_COLUMNS] for row in rows]
            self._client.log_dict(self._run_id, {"columns": list(_TABLE_COLUMNS), "data": data}, _TABLE)
            return
        columns = {name: [getattr(row, name) for row in rows] for name in _TABLE_COLUMNS}
        self._client.log_table(self._run_id, columns, _TABLE)

    def _figures(self, result: BatchResult, summary: dict[str, Any]) -> None:
        for name, figure in _figures(result, self._points, summary).items():
            self._client.log_figure(self._run_id, figure, f"{_FOLDER}/{name}.png")


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
    }
    if latencies := sorted(progress.latencies):
        for percent in (50, 95):
            metrics[f"latency_p{percent}"] = latencies[(len(latencies) - 1) * percent // 100]
    return metrics


def _figures(
    result: BatchResult, points: Sequence[tuple[float, int, int, int]], summary: dict[str, Any]
) -> dict[str, Any]:
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
    if summary["errors"]:
        figures["errors"], plot = axes("Errors by kind", "rows", "")
        plot.barh(list(summary["errors"]), list(summary["errors"].values()))
    return figures


@contextlib.contextmanager
def _tolerated(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _logger.warning("The batch's %s could not be logged to MLflow: %s", what, error)
