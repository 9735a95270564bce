"""How a batch is getting on: counted as rows end, and told from time to time to whoever wants to know."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mlflow_agent_target.batch.records import FAILED, Outcome

_logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 0.25
# The latest rows whose seconds are kept.
_LATEST = 1000


@dataclass(frozen=True)
class Progress:
    """How a batch is getting on.

    Attributes:
        done: Rows that have ended, well or not, those of earlier runs included.
        failed: How many of them failed in this run.
        earlier: Rows that had ended in earlier runs, by the journal, and are not sent again.
        total: How many rows there are; None while that is not known.
        in_flight: Requests that are being answered.
        concurrency: The most requests in flight at present.
        seconds: Since the run began.
        waiting: Why requests are held back at present; None where they are not.
        input_tokens, output_tokens: Tokens of this run's answers, as far as the agent counts them.
        latencies: Seconds that each of the latest rows took.
    """

    done: int
    failed: int
    earlier: int
    total: int | None
    in_flight: int
    concurrency: int
    seconds: float
    waiting: str | None
    input_tokens: int
    output_tokens: int
    latencies: Sequence[float]

    @property
    def rows_per_second(self) -> float:
        """Rows that ended in each second of this run."""
        return (self.done - self.earlier) / self.seconds if self.seconds > 0 else 0.0


class Tally:
    """Counts how rows end, in the scheduler's thread. What other threads read of it may be a moment old."""

    def __init__(self) -> None:
        self.earlier = 0
        self._done = self._failed = 0
        self._input_tokens = self._output_tokens = self._total_tokens = 0
        self._latencies: deque[float] = deque(maxlen=_LATEST)
        self._started = time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        """A row ended in this run."""
        self._done += 1
        self._failed += outcome.state == FAILED
        self._total_tokens += outcome.total_tokens or 0
        self._input_tokens += outcome.input_tokens or 0
        self._output_tokens += outcome.output_tokens or 0
        if outcome.seconds is not None:
            self._latencies.append(outcome.seconds)

    def spent(self) -> tuple[int, int, int]:
        """Return how many rows ended in this run, how many of them failed, and the tokens of its answers."""
        return self._done, self._failed, self._total_tokens

    def progress(self, total: int | None, in_flight: int, concurrency: int, waiting: str | None) -> Progress:
        """Return how it goes."""
        return Progress(
            done=self.earlier + self._done,
            failed=self._failed,
            earlier=self.earlier,
            total=total,
            in_flight=in_flight,
            concurrency=concurrency,
            seconds=time.monotonic() - self._started,
            waiting=waiting,
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            latencies=list(self._latencies),
        )


Observer = Callable[[Progress], None]


@contextlib.contextmanager
def watching(look: Callable[[], Progress], observers: Sequence[Observer]) -> Iterator[None]:
    """Tell observers how it goes, from time to time in a thread of its own, and once more at the end.

    Args:
        look: Returns how it goes at present.
        observers: Are each called with that. One that raises is not called again.
    """
    remaining = list(observers)

    def tell() -> None:
        progress = look()
        for observer in list(remaining):
            try:
                observer(progress)
            except Exception:  # what looks on must not end a run
                _logger.warning("An observer of the batch failed, and is told no more.", exc_info=True)
                remaining.remove(observer)

    def watch() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            tell()

    if not remaining:
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=watch, name="agent-target-progress", daemon=True)
    try:
        watcher.start()
    except RuntimeError:
        _logger.warning("The system lets no thread be started that tells of the batch's progress.")
    try:
        yield
    finally:
        ended.set()
        if watcher.ident is not None:
            watcher.join()
        tell()
