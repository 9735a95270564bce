"""Answers that outlive a process: an evaluation that was stopped goes on without asking again what was answered."""

from __future__ import annotations

import threading
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_agent_target.batch.journal import Journal
from mlflow_agent_target.batch.policy import may_be_going_on
from mlflow_agent_target.batch.records import (
    OK,
    Claim,
    Outcome,
    answer_outcome,
    digest,
    error_outcome,
)
from mlflow_agent_target.batch.shown import parsed
from mlflow_agent_target.formats.answers import AgentResponse

# Functions that share a journal share the object that has it open: a journal is one process's alone.
_open: weakref.WeakValueDictionary[tuple[str, str], Memory] = weakref.WeakValueDictionary()
_opening = threading.Lock()


class Memory:
    """Answers by what was asked, in a journal. Any thread may use it. See `open_memory`."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._journal = Journal(path, {**about, "kind": "evaluation"})
        weakref.finalize(self, self._journal.close)
        self._lock = threading.Lock()
        self._asking: dict[bytes, threading.Lock] = {}
        known = list(self._journal.known())
        self._answered = {row.digest: row.position for row in known if row.state == OK}
        self._claims = {row.digest: Claim(row.position, row.digest, "null", run=row.run) for row in known}
        self._next = self._journal.known_until

    def answer(self, asked: Any, ask: Callable[[uuid.UUID], AgentResponse]) -> AgentResponse:
        """Return the answer that is known, or ask. Who asks the same at the same time waits for that answer.

        Args:
            asked: What is asked.
            ask: Asks it, under the id of the agent's run.

        Raises:
            AgentTargetError: As `ask`. The journal records it, and the next time it is asked again.
        """
        key = digest(asked)
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            if (position := self._answered.get(key)) is not None:
                return AgentResponse(parsed(position, self._journal.response(position)))
            with self._lock:
                claim = self._claims.setdefault(key, Claim(self._next, key, "null"))
                self._next = max(self._next, claim.position + 1)
            self._journal.write([], [], [claim])
            try:
                answer = ask(claim.run_id(self._journal.uuid))
                outcome: Outcome = answer_outcome(claim, answer, 1)
            except Exception as error:
                if not may_be_going_on(error):  # else it stays in doubt, and is asked under the same id
                    self._journal.write([error_outcome(claim, error, 1, None)], [], [])
                    self._claims[key] = claim.after(error)
                raise
            self._journal.write([outcome], [], [])
            self._answered[key] = claim.position
            return answer


def open_memory(path: Path, about: dict[str, Any]) -> Memory:
    """Return the answers of a journal, which stays open as long as one uses them.

    Args:
        path: The file; made where there is none.
        about: What it belongs to, such as the endpoint. That of something else is refused.

    Raises:
        InvalidInputError: The file can't be used, or belongs to something else.
    """
    key = str(path.resolve()), repr(sorted(about.items()))
    with _opening:
        memory = _open.get(key)
        if memory is None:
            memory = _open[key] = Memory(path, about)
        return memory
