"""How a batch is getting on: counted as rows end, and told from time to time to whoever wants to know."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow_agent_target.batch.records import FAILED, Outcome, cost

_logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 0.25
_SECONDS_BETWEEN_LINES = 60.0
# The latest rows whose seconds are kept.
_LATEST = 1000


@dataclass(frozen=True)
class Progress:
    """How a batch is getting on.

    Attributes:
        done: Rows that have ended, well or not, those of earlier runs included.
        failed: How many of them failed in this run.
        errors: How many failed with each class of errors.
        earlier: Rows that had ended in earlier runs, by the journal, and are not sent again.
        total: How many rows there are; None while that is not known.
        in_flight: Requests that are being answered.
        concurrency: The most requests in flight at present.
        seconds: Since the run began.
        waiting: Why requests are held back at present; None where they are not.
        input_tokens, output_tokens: Tokens of this run's answers; None where the agent has counted none.
        cost: What they cost; None where no price is known.
        latencies: Seconds that each of the latest rows took.
        expected: `total`, or what the part of a file that has been read lets expect; None where nothing tells.
    """

    done: int
    failed: int
    earlier: int
    total: int | None
    in_flight: int
    concurrency: int
    seconds: float
    waiting: str | None
    input_tokens: int | None
    output_tokens: int | None
    latencies: Sequence[float] = field(repr=False)
    errors: Mapping[str, int] = field(default_factory=dict)
    cost: float | None = None
    expected: int | None = None

    @property
    def rows_per_second(self) -> float:
        """Rows that ended in each second of this run."""
        return (self.done - self.earlier) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds until the end at this run's rate; None where that can't be told."""
        if self.expected is None or not self.rows_per_second:
            return None
        return max(self.expected - self.done, 0) / self.rows_per_second

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        rate = self.rows_per_second
        said = [f"{self.done}{of} rows", f"{rate:.1f} a second" if rate >= 1 else f"{rate * 60:.1f} a minute"]
        if self.earlier:
            said.insert(1, f"{self.earlier} of earlier runs")
        if self.eta is not None and self.eta >= 1:
            said.append(f"{clock(self.eta)} to go")
        if self.failed:
            kinds = ", ".join(
                f"{count} {kind}" for kind, count in sorted(self.errors.items(), key=lambda kind: -kind[1])
            )
            said.append(f"{self.failed} failed" + (f" ({kinds})" if kinds else ""))
        said.append(f"{self.in_flight} of {self.concurrency} in flight")
        if self.input_tokens is not None or self.output_tokens is not None:
            said.append(f"{(self.input_tokens or 0) + (self.output_tokens or 0)} tokens")
        if self.cost is not None:
            said.append(f"cost {self.cost:.4g}")
        if self.waiting is not None:
            said.append(f"waiting: {self.waiting}")
        return ", ".join(said)


def clock(seconds: float) -> str:
    """Return a time as 0:42, 12:05 or 3:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Tally:
    """Counts how rows end, in the scheduler's thread. What other threads read of it may be a moment old.

    Attributes:
        earlier: Rows that had ended in earlier runs. The thread that reads the rows counts these.
        read: Rows that have been read, those of earlier runs included; in that thread, too.
        is_all_read: Whether there are no more.
    """

    def __init__(self, price_per_million: Sequence[float] | None = None) -> None:
        self.earlier = self.read = 0
        self.is_all_read = False
        self._price_per_million = price_per_million
        self._done = self._failed = self._total_tokens = 0
        self._tokens: dict[str, int | None] = {"input": None, "output": None}
        self._errors: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=_LATEST)
        self._started = time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        """A row ended in this run."""
        self._done += 1
        self._failed += outcome.state == FAILED
        self._total_tokens += outcome.total_tokens or 0
        for kind, count in (("input", outcome.input_tokens), ("output", outcome.output_tokens)):
            if count is not None:
                self._tokens[kind] = (self._tokens[kind] or 0) + count
        if outcome.error is not None:
            self._errors[outcome.error] += 1
        if outcome.seconds is not None:
            self._latencies.append(outcome.seconds)

    def spent(self) -> tuple[int, int, int]:
        """Return how many rows ended in this run, how many of them failed, and the tokens of its answers."""
        return self._done, self._failed, self._total_tokens

    def progress(
        self, size: int | None, in_flight: int, concurrency: int, waiting: str | None, share_read: float | None = None
    ) -> Progress:
        """Return how it goes, of so many rows, or of a file of which that part is read."""
        total = expected = self.read if self.is_all_read else size
        done = self.earlier + self._done
        # What is compressed may be read to the end of its bytes long before its last row.
        if total is None and share_read is not None and 0.0 < share_read < 1.0:
            expected = round(self.read / share_read)
        return Progress(
            done=done,
            failed=self._failed,
            earlier=self.earlier,
            total=total,
            in_flight=in_flight,
            concurrency=concurrency,
            seconds=time.monotonic() - self._started,
            waiting=None if done == total else waiting,
            input_tokens=self._tokens["input"],
            output_tokens=self._tokens["output"],
            latencies=list(self._latencies),
            errors=dict(self._errors),
            cost=cost(self._tokens["input"], self._tokens["output"], self._price_per_million),
            expected=expected,
        )


Observer = Callable[[Progress], None]


class LogLines:
    """An observer that logs how it goes: a line a minute, and one at the end, at INFO."""

    def __init__(self) -> None:
        self._next = _SECONDS_BETWEEN_LINES
        self._last: Progress | None = None

    def close(self) -> None:
        """Log how it ended."""
        if self._last is not None:
            _logger.info("%s", self._last)

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        if progress.seconds >= self._next:
            self._next = progress.seconds + _SECONDS_BETWEEN_LINES
            _logger.info("%s", progress)


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
