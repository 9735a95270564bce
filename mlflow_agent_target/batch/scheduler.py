"""Drives a batch: threads, queues and transactions. What an end means, the policy and the limiter decide.

One thread owns all state: it asks them what to do, and writes. Workers only call the endpoint. The threads speak
through queues, so that nothing is locked. What happens while one transaction is written is written together in the
next: the faster a batch goes, the more rows share a transaction.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable

from mlflow_agent_target.batch.ahead import ReadAhead
from mlflow_agent_target.batch.journal import Journal, JournalFullError
from mlflow_agent_target.batch.limiter import Limiter
from mlflow_agent_target.batch.policy import ANSWERED, NEVER_LEFT, BatchOptions, End, FailurePolicy, end_of
from mlflow_agent_target.batch.progress import Progress, Tally
from mlflow_agent_target.batch.records import Outcome, error_outcome
from mlflow_agent_target.batch.retries import Retries
from mlflow_agent_target.batch.workers import Query, Task, Workers, start
from mlflow_agent_target.errors import AgentTargetError

_logger = logging.getLogger(__name__)

# A pause of so many seconds is told to whoever looks on.
_LONG_PAUSE = 30.0
# What is in flight at SIGTERM may end within so many seconds: Kubernetes kills after 30, systemd after 90.
_GRACE_SECONDS = 25.0
# What a worker says: which task ended, in what, when.
_Ended = tuple[Task, "Outcome | BaseException", float]


class Scheduler:
    """Sends tasks as the limiter allows, and records how they end.

    The caller's thread starts it, feeds it, closes it when all rows were read, and waits for the end. The other calls
    may come from any thread.

    Args:
        query: Asks the endpoint once, for one row.
        journal: Where rows are recorded.
        options: How the batch is run.
        on_stop: Called when no more rows are wanted, in the scheduler's thread.

    Attributes:
        error: What is to be raised at the end; None where nothing is.
        stopped: Why it ended before all rows were sent; None where it did not.
    """

    def __init__(
        self, query: Query, journal: Journal, options: BatchOptions, *, on_stop: Callable[[], None] = lambda: None
    ) -> None:
        self.error: BaseException | None = None
        self.stopped: str | None = None
        self.tally = Tally(options.price_per_million)
        self._journal = journal
        self._options = options
        self._policy = FailurePolicy(options)
        self._limiter = Limiter(
            options.ceiling,
            time.monotonic(),
            start=options.concurrency,
            requests_per_minute=options.requests_per_minute,
            timeout=options.timeout,
            longest_pause=options.total_timeout,
        )
        self._thread = threading.Thread(target=self._run, name="agent-target-batch", daemon=True)
        # What the scheduler's thread waits for: a task that has ended, or None to look around.
        self._events: queue.SimpleQueue[_Ended | None] = queue.SimpleQueue()
        self._workers = Workers(query, journal.uuid, self._events.put)
        self._ready: ReadAhead[Task] = ReadAhead(2 * options.ceiling + 64, lambda: self._events.put(None))
        self._on_stop = on_stop
        self._deadline = math.inf  # when it ends, whatever is in flight
        self._to_tell: str | None = None  # what is logged next: a signal's handler must not
        self._all_read = self._stopping = self._abandoned = False
        self._retries = Retries()
        # What the next transaction writes, and what could not be written by one that failed.
        self._settled: list[Outcome] = []
        self._released: list[int] = []
        self._unwritten: list[Outcome] = []
        self._unreleased: list[int] = []

    # The caller's thread.

    def start(self) -> None:
        """Begin.

        Raises:
            AgentTargetError: The system lets no thread be started.
        """
        start(self._thread, is_needed=True)

    def feed(self, task: Task) -> bool:
        """Hand over a row, and wait while there are enough. Return whether more are wanted."""
        self._ready.put(task, task.size, lambda: self._stopping)
        return not self._stopping

    def close(self) -> None:
        """Say that all rows were read."""
        self._all_read = True
        self._events.put(None)

    def stop(self) -> None:
        """Send nothing more."""
        self._stopping = True
        self._events.put(None)

    def interrupt(self, why: str) -> None:
        """Stop, as a signal wishes, whose handler may call it. SIGTERM leaves a time for what is in flight."""
        self.stopped, how = self.stopped or why, "Ctrl-C again stops now"
        if why == "SIGTERM":
            self._deadline, how = time.monotonic() + _GRACE_SECONDS, f"in {_GRACE_SECONDS:.0f} seconds all ends"
        self._to_tell = f"{why}: nothing more is sent. {{}} requests are in flight, and may end; {how}."
        self.stop()

    def abandon(self) -> None:
        """Stop now, and leave in doubt what is in flight."""
        self._abandoned = True
        self.stop()
        self._thread.join(10.0)

    def wait(self) -> None:
        """Wait until all has ended."""
        while self._thread.is_alive():
            self._thread.join(1.0)

    def progress(self, total: int | None, share_read: float | None) -> Progress:
        """Return how it goes, of so many rows, or of a file of which that part is read."""
        limiter = self._limiter
        waiting = limiter.waiting(time.monotonic())
        return self.tally.progress(total, limiter.in_flight, limiter.concurrency, waiting, share_read)

    # The scheduler's thread.

    def _run(self) -> None:
        try:
            while not self._has_ended():
                self._tell()
                self._take_ends(self._patience())
                self._send()
            self._tell()
            self._take_ends(0.0)  # those that came while the last were written
            self._settle_the_rest()
        except Exception as error:
            self._fail(error)
        finally:
            self._stop_reading()
            self._workers.end()

    def _tell(self) -> None:
        if self._to_tell:
            told, self._to_tell = self._to_tell, None
            _logger.warning(told.format(self._limiter.in_flight))

    def _has_ended(self) -> bool:
        if self._abandoned or time.monotonic() >= self._deadline:
            return True
        if self._limiter.in_flight or self._settled or self._released:
            return False
        return self._stopping or (self._all_read and not self._ready and not self._retries)

    def _take_ends(self, patience: float | None) -> None:
        """Wait for so many seconds until something happens, for ever if None; see to all that has ended."""
        events: list[_Ended | None] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=patience))
            while True:
                events.append(self._events.get_nowait())
        for task, ended, now in filter(None, events):
            if isinstance(ended, Outcome):
                self._answered(task, ended, now)
            else:
                self._failed(task, ended, now)

    def _patience(self) -> float | None:
        """Return the seconds until something can be sent or written; None where that takes an event."""
        if self._settled or self._released:
            return 0.0
        now = time.monotonic()
        if self._stopping:
            return None if self._deadline == math.inf else max(self._deadline - now, 0.0)
        delay = self._limiter.delay(now)
        if not self._ready:
            delay = max(delay, self._retries.due - now)
        return None if delay == math.inf else max(delay, 0.0)

    def _answered(self, task: Task, outcome: Outcome, now: float) -> None:
        self._limiter.ended(ANSWERED, now, task.sent_at, task.level)
        self._policy.answered()
        self._settle(outcome._replace(seconds=now - task.sent_at))

    def _failed(self, task: Task, error: BaseException, now: float) -> None:
        end, held_until = end_of(error), self._limiter.held_until
        self._limiter.ended(end, now, task.sent_at, task.level)
        if self._limiter.held_until > max(held_until, now + _LONG_PAUSE):
            seconds = self._limiter.held_until - now
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
            _logger.warning("Nothing is sent until %s, for %.0f seconds: %s", until, seconds, error)
        decision = self._policy.failed(
            error,
            end.kind,
            now,
            attempts=task.attempts,
            seconds=now - task.first_sent,
            tries=self._limiter.tries,
        )
        if decision.is_released:
            self._released.append(task.claim.position)
        if decision.fails_the_row:
            sent = task.attempts - (end.kind is End.NEVER_LEFT)
            self._settle(error_outcome(task.claim, error, sent, now - task.sent_at))
        if decision.wait is not None:
            _logger.debug("Row %d: attempt %d failed: %s", task.claim.position, task.attempts, error)
            self._retries.put(now + decision.wait, task, error)
        if decision.ends_the_run:
            self._fail(error)

    def _settle(self, outcome: Outcome) -> None:
        self.tally.ended(outcome)
        self._settled.append(outcome)
        is_last = self._all_read and not self._ready and not self._retries and not self._limiter.in_flight
        if not self._stopping and not is_last and (why := self._options.enough(*self.tally.spent())) is not None:
            self.stopped = why
            _logger.warning("Nothing more is sent. %s.", why)
            self._stop_reading()

    def _fail(self, error: BaseException) -> None:
        """Stop, and raise this in the end."""
        self.error = self.error or error
        self._stop_reading()

    def _stop_reading(self) -> None:
        self._stopping = True
        self._ready.release()
        self._on_stop()

    def _send(self) -> None:
        """Write in one transaction what has ended and what goes now; then let it go."""
        tasks = []
        now = time.monotonic()
        while (
            not self._stopping
            and self._limiter.delay(now) <= 0.0
            and self._has_a_worker()
            and (task := self._next_task(now))
        ):
            task.level = self._limiter.sent(now)
            tasks.append(task)
        if not (tasks or self._settled or self._released):
            return
        settled, released = self._settled, self._released
        self._settled, self._released = [], []
        try:
            self._journal.write(settled, released, [task.claim for task in tasks])
        except AgentTargetError as error:
            for task in tasks:
                self._limiter.ended(NEVER_LEFT, now, now, task.level)
            if not (isinstance(error, JournalFullError) and error.is_settled):
                self._unwritten += settled
            self._unreleased += released
            self._fail(error)
            return
        now = time.monotonic()
        for task in tasks:
            task.attempts += 1
            task.sent_at = now
            task.first_sent = task.first_sent or now
            self._workers.put(task)

    def _has_a_worker(self) -> bool:
        """Return whether one more can be asked at once. What is claimed never waits: it would be in doubt unasked."""
        if self._workers.grow(self._limiter.in_flight + 1):
            return True
        self._limiter.lower_ceiling(len(self._workers))
        return False

    def _next_task(self, now: float) -> Task | None:
        return self._retries.take(now) or self._ready.take()

    def _settle_the_rest(self) -> None:
        """Record what is known of rows that waited to be sent again, and what could not be written."""
        for outcome in self._retries.give_up():
            self._settle(outcome)
        # There may be room on the disk again.
        self._settled += self._unwritten
        self._released += self._unreleased
        self._send()
