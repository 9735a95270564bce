"""Shows how a batch is getting on: a bar on stderr or in a notebook, or the caller's own function."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from mlflow_agent_target.batch.progress import LogLines, Observer, Progress


@contextlib.contextmanager
def observer_for(progress: bool | Observer | None) -> Iterator[list[Observer]]:
    """Yield who is to be told of the progress: nobody, a bar, or the caller's own function.

    Args:
        progress: What the caller asked for. None is a bar where somebody may be looking, in a terminal or a notebook,
            and a log line a minute elsewhere.
    """
    if callable(progress):
        yield [progress]
        return
    if progress is False:
        yield []
        return
    if progress is None and not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        with contextlib.closing(LogLines()) as lines:
            yield [lines]
        return
    from tqdm.auto import tqdm

    with tqdm(unit="row", dynamic_ncols=True, file=None if "ipykernel" in sys.modules else sys.stderr) as bar:

        def show(progress: Progress) -> None:
            _show(bar, progress)

        yield [show]


def _show(bar: Any, progress: Progress) -> None:
    if bar.initial == 0 == bar.n and progress.earlier:
        bar.initial = bar.n = progress.earlier  # so that the rate is this run's
    bar.total = progress.expected
    shown = {"failed": progress.failed, "in_flight": f"{progress.in_flight}/{progress.concurrency}"}
    if progress.waiting is not None:
        shown["waiting"] = progress.waiting
    bar.set_postfix(shown, refresh=False)
    bar.update(progress.done - bar.n)
    bar.refresh()
