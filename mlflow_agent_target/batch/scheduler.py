"""Drives a batch: which row goes when, what becomes of it when it ends, what is written.

One thread owns all state and does nothing but decide and write; workers do nothing but call. They speak through
queues, so that nothing is locked. What has happened while one transaction was written is written together in the next:
the faster it goes, the larger the groups.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from mlflow_agent_target.batch.journal import Journal
from mlflow_agent_target.batch.limiter import Limiter
from mlflow_agent_target.batch.policy import BatchOptions, FailurePolicy, is_refusal
from mlflow_agent_target.batch.progress import Progress, Tally
from mlflow_agent_target.batch.records import Claim, Outcome, answer_outcome, error_outcome
from mlflow_agent_target.errors import AgentTargetError, RateLimitError
from mlflow_agent_target.formats.answers import AgentResponse

_logger = logging.getLogger(__name__)

# The lowest of the platform's limits on a workspace's requests in flight, which differ by region.
_CEILING = 192

Query = Callable[[Any], AgentResponse]
# What a worker says: which task ended, in what, when.
_Ended = tuple["Task", "Outcome | BaseException", float]


class Task:
    """A row on its way."""

    __slots__ = ("attempts", "claim", "error", "first_sent", "inputs", "sent_at")

    def __init__(self, claim: Claim, inputs: Any) -> None:
        self.claim = claim
        self.inputs = inputs
        self.attempts = 0
        self.first_sent = 0.0
        self.sent_at = 0.0
        self.error: BaseException | None = None


class Scheduler:
    """Sends tasks as the limiter allows, and settles what comes back. `feed` and `close` are the caller's thread's."""

    def __init__(self, query: Query, journal: Journal, options: BatchOptions) -> None:
        self.error: BaseException | None = None
        self.interrupted = False
        self.sent = 0
        self.tally = Tally()
        self._query = query
        self._journal = journal
        self._options = options
        ceiling = options.concurrency or _CEILING
        self._policy = FailurePolicy(options)
        self._limiter = Limiter(
            ceiling,
            time.monotonic(),
            start=options.concurrency,
            requests_per_minute=options.requests_per_minute,
        )
        self._thread = threading.Thread(target=self._run, name="agent-target-batch", daemon=True)
        self._workers: list[threading.Thread] = []
        self._events: queue.SimpleQueue[_Ended | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        # Rows read and not yet sent. Deques are safe between two threads as they are.
        self._ready: deque[Task] = deque()
        self._most_ready, self._fewest_ready = 2 * ceiling + 64, ceiling + 32
        self._room = threading.Event()
        self._hungry = True  # whether the next row is waited for
        self._all_read = self._stopping = self._abandoned = False
        self._retries: list[tuple[float, int, Task]] = []
        self._number = itertools.count()
        self._settled: list[Outcome] = []
        self._released: list[int] = []
        self._unwritten: list[Outcome] = []

    # The caller's thread.

    def start(self) -> None:
        self._thread.start()

    def feed(self, task: Task) -> bool:
        """Hand over a row, and wait while there are enough. Return whether more are wanted."""
        self._ready.append(task)
        if self._hungry:
            self._hungry = False
            self._events.put(None)
        if len(self._ready) >= self._most_ready:
            self._room.clear()
            while len(self._ready) > self._fewest_ready and not self._stopping:
                self._room.wait(0.2)
        return not self._stopping

    def close(self) -> None:
        """Say that all rows were read."""
        self._all_read = True
        self._events.put(None)

    def stop(self) -> None:
        """Send nothing more. From any thread, and from a signal's handler."""
        self._stopping = True
        self._events.put(None)

    def interrupt(self) -> None:
        """Stop, as the user wishes."""
        self.interrupted = True
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

    def progress(self, total: int | None) -> Progress:
        """Return how it goes. From any thread."""
        return self.tally.progress(total, self._limiter.in_flight, self._limiter.concurrency)

    # The workers' threads.

    def _work(self) -> None:
        while (task := self._inbox.get()) is not None:
            try:
                if isinstance(task.inputs, Exception):
                    raise task.inputs
                ended: Outcome | BaseException = answer_outcome(task.claim, self._query(task.inputs), task.attempts)
            except BaseException as error:  # a worker that is gone would be waited for for ever
                ended = error
            self._events.put((task, ended, time.monotonic()))
            del task, ended

    # The scheduler's thread.

    def _run(self) -> None:
        try:
            while not self._has_ended():
                for task, ended, now in self._next_events():
                    if isinstance(ended, Outcome):
                        self._answered(task, ended, now)
                    else:
                        self._failed_with(task, ended, now)
                self._send()
            self._settle_the_rest()
        except Exception as error:
            self._fail(error)
        finally:
            self._stopping = True
            self._room.set()
            for _ in self._workers:
                self._inbox.put(None)

    def _has_ended(self) -> bool:
        if self._abandoned:
            return True
        if self._limiter.in_flight or self._settled or self._released:
            return False
        return self._stopping or (self._all_read and not self._ready and not self._retries)

    def _next_events(self) -> list[_Ended]:
        """Wait until something has happened, or is due; return what has ended."""
        events: list[_Ended | None] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=self._patience()))
            while True:
                events.append(self._events.get_nowait())
        return [event for event in events if event is not None]

    def _patience(self) -> float | None:
        """Return the seconds until something can be sent, None when that takes an event."""
        if self._settled or self._released:
            return 0.0
        if self._stopping:
            return None
        now = time.monotonic()
        delay = self._limiter.delay(now)
        if not self._ready:
            delay = max(delay, self._retries[0][0] - now if self._retries else math.inf)
        return None if delay == math.inf else max(delay, 0.0)

    def _answered(self, task: Task, outcome: Outcome, now: float) -> None:
        self._limiter.answered(now, task.sent_at)
        self._policy.answered()
        self._settle(outcome._replace(seconds=now - task.sent_at))

    def _failed_with(self, task: Task, error: BaseException, now: float) -> None:
        is_held_back = is_refusal(error)
        if is_held_back:
            self._hold_back(task, error, now)
        else:
            self._limiter.answered(now, task.sent_at)
        if self._policy.ends_the_run(error, now, self._limiter.unavailable_in_a_row):
            self._released.append(task.claim.position)
            self._fail(error)
            return
        if not is_held_back:
            self._policy.answered()
        wait = self._policy.wait(error, attempts=task.attempts, seconds=now - task.first_sent)
        if wait is None:
            self._settle(error_outcome(task.claim, error, task.attempts, now - task.sent_at))
            if self._options.on_error == "raise":
                self._fail(error)
            return
        _logger.info("Row %d: attempt %d failed: %s", task.claim.position, task.attempts, error)
        if is_held_back:
            self._released.append(task.claim.position)
        task.error = error
        heapq.heappush(self._retries, (now + wait, next(self._number), task))

    def _hold_back(self, task: Task, error: BaseException, now: float) -> None:
        retry_after = getattr(error, "retry_after", None)
        if isinstance(error, RateLimitError):
            self._limiter.rate_limited(now, task.sent_at, retry_after)
        else:
            self._limiter.unavailable(now, task.sent_at, retry_after)

    def _settle(self, outcome: Outcome) -> None:
        self.tally.ended(outcome)
        self._settled.append(outcome)

    def _fail(self, error: BaseException) -> None:
        """Stop, and raise this in the end."""
        self.error = self.error or error
        self._stopping = True
        self._room.set()

    def _send(self) -> None:
        """Write what has ended and what goes now, in one transaction; then let it go."""
        tasks = []
        now = time.monotonic()
        while not self._stopping and self._limiter.delay(now) <= 0.0 and (task := self._next_task(now)):
            self._limiter.sent(now)
            tasks.append(task)
        if not (tasks or self._settled or self._released):
            return
        settled, released = self._settled, self._released
        self._settled, self._released = [], []
        try:
            self._journal.write(settled, released, [task.claim for task in tasks])
        except AgentTargetError as error:
            for _ in tasks:
                self._limiter.dropped()
            self._unwritten += settled
            self._fail(error)
            return
        for _ in range(min(self._limiter.in_flight - len(self._workers), len(tasks))):
            worker = threading.Thread(target=self._work, name="agent-target-batch-worker", daemon=True)
            self._workers.append(worker)
            worker.start()
        now = time.monotonic()
        for task in tasks:
            task.attempts += 1
            task.sent_at = now
            task.first_sent = task.first_sent or now
            self._inbox.put(task)
        self.sent += len(tasks)

    def _next_task(self, now: float) -> Task | None:
        if self._retries and self._retries[0][0] <= now:
            return heapq.heappop(self._retries)[2]
        if not self._ready:
            self._hungry = True
        if not self._ready:  # looked at again: one may have come before it was said
            return None
        task = self._ready.popleft()
        if len(self._ready) == self._fewest_ready:
            self._room.set()
        return task

    def _settle_the_rest(self) -> None:
        """When stopped, rows that wait to be sent again have failed, if the agent may have run for them."""
        for _, _, task in self._retries:
            if task.error is not None and not is_refusal(task.error):
                self._settle(error_outcome(task.claim, task.error, task.attempts, None))
        self._retries = []
        self._settled += self._unwritten  # there may be room again
        self._send()
