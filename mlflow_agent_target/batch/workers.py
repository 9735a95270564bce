"""Threads that ask: each takes a task, calls the endpoint, and says what came of it."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from mlflow_agent_target.batch.records import Claim, Outcome, answer_outcome
from mlflow_agent_target.errors import AgentTargetError
from mlflow_agent_target.formats.answers import AgentResponse

# Asks the endpoint once, for one row, under the id of the agent's run for it.
Query = Callable[[Any, uuid.UUID], AgentResponse]


class Task:
    """A row on its way.

    Args:
        claim: The row.
        inputs: What to ask; an error where that can't be read.
        size: Its bytes, about.
    """

    __slots__ = ("attempts", "claim", "first_sent", "inputs", "level", "sent_at", "size")

    def __init__(self, claim: Claim, inputs: Any, size: int) -> None:
        self.claim = claim
        self.inputs = inputs
        self.size = size
        self.attempts = 0
        self.first_sent = 0.0
        self.sent_at = 0.0
        self.level = 0  # requests in flight with it when it was sent


class Workers:
    """Threads that call the endpoint, as many as are needed.

    Args:
        query: Asks the endpoint once, for one row.
        journal: The UUID of the journal, of which ids are made.
        ended: Told of each task how it ended, and when; any thread calls it.
    """

    def __init__(
        self, query: Query, journal: uuid.UUID, ended: Callable[[tuple[Task, Outcome | BaseException, float]], None]
    ) -> None:
        self._query = query
        self._journal = journal
        self._ended = ended
        self._context = contextvars.copy_context()  # the caller's: logins on behalf of a user lie there
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()  # tasks, or None for the end
        self._threads: list[threading.Thread] = []

    def __len__(self) -> int:
        return len(self._threads)

    def grow(self, count: int) -> bool:
        """Start threads, until there are so many. Return whether that was possible.

        Raises:
            AgentTargetError: There is none, and none can be started.
        """
        while len(self._threads) < count:
            thread = threading.Thread(target=self._context.copy().run, args=(self._work,), daemon=True)
            if not start(thread, is_needed=not self._threads):
                return False
            self._threads.append(thread)
        return True

    def put(self, task: Task) -> None:
        """Let a thread ask this."""
        self._inbox.put(task)

    def end(self) -> None:
        """Let the threads end, when nothing is left to ask."""
        for _ in self._threads:
            self._inbox.put(None)

    def _work(self) -> None:
        while (task := self._inbox.get()) is not None:
            try:
                if isinstance(task.inputs, Exception):
                    raise task.inputs
                run_id = task.claim.run_id(self._journal)
                ended: Outcome | BaseException = answer_outcome(
                    task.claim, self._query(task.inputs, run_id), task.attempts
                )
            except BaseException as error:  # whatever it is: a task that never ends would be waited for for ever
                ended = error
            self._ended((task, ended, time.monotonic()))
            del task, ended  # not kept while the next one is waited for


def start(thread: threading.Thread, *, is_needed: bool) -> bool:
    """Start a thread. Return whether the system lets one be started.

    Raises:
        AgentTargetError: It does not, and the thread is needed.
    """
    try:
        thread.start()
    except RuntimeError as error:
        if is_needed:
            raise AgentTargetError(
                "The system lets no thread be started. Raise the limit of processes and threads (ulimit -u, or the "
                "container's pids limit), or end some of those that run."
            ) from error
        return False
    return True
