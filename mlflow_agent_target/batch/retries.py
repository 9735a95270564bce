"""Rows that wait to be sent again. Pure: the clock is passed in."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator

from mlflow_agent_target.batch.policy import End, end_of, may_be_going_on
from mlflow_agent_target.batch.records import Outcome, error_outcome
from mlflow_agent_target.batch.workers import Task


class Retries:
    """Rows that wait to be sent again, the one that is due first before the others."""

    def __init__(self) -> None:
        # When, a number that tells equal times apart, which, and why.
        self._waiting: list[tuple[float, int, Task, BaseException]] = []
        self._number = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, due: float, task: Task, error: BaseException) -> None:
        """Let a row wait until then, after this error."""
        heapq.heappush(self._waiting, (due, next(self._number), task, error))

    @property
    def due(self) -> float:
        """When the first is due; infinite where none waits."""
        return self._waiting[0][0] if self._waiting else math.inf

    def take(self, now: float) -> Task | None:
        """Return a row that is due, with the claim of what is sent now; None where none is."""
        if self.due > now:
            return None
        *_, task, error = heapq.heappop(self._waiting)
        task.claim = task.claim.after(error)
        return task

    def give_up(self) -> Iterator[Outcome]:
        """Yield how the rows have ended that won't be sent again, if the agent may have run for them.

        Those that were refused have not ended, nor have those whose run may be going on: who asks for that later, under
        the same id, gets its answer.
        """
        while self._waiting:
            *_, task, error = self._waiting.pop()
            if end_of(error).kind is not End.REFUSED and not may_be_going_on(error):
                yield error_outcome(task.claim, error, task.attempts, None)
