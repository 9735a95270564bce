"""Endpoints that are served though their agents are elsewhere: of a recording, which is played to who asks the same."""

from __future__ import annotations

import asyncio
import difflib
import json
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.responses import Response

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.server.recordings import Exchange, lines
from mlflow_agent_target.server.refusals import RefusedError
from mlflow_agent_target.server.rehearsal import BreakableResponse, BrokenOffError
from mlflow_agent_target.text import printable

# What tells one call from another, or names what is asked, and changes nothing of the answer.
_NO_PART_OF_THE_QUESTION = ("model", "stream", "client_request_id", "databricks_options", "usage_context")
_EVENT_STREAM = "text/event-stream"
# A request is compared with so many recorded ones, so much of each, to find the nearest.
_COMPARED, _COMPARED_CHARACTERS = 200, 2000


class StandIn(ABC):
    """An endpoint that is served though its agent is not in this process.

    Attributes:
        name: Its name.
        entity: What its description names as what is served.
        task: Its task; None where that is not known.
    """

    name: str
    entity: str
    task: str | None

    @property
    def served_entity(self) -> str:
        """The name that its description gives what is served."""
        return f"{self.name}-1"

    @abstractmethod
    async def answer(self, body: dict[str, Any], runs: Callable[[], None]) -> Response:
        """Return the answer to a request.

        Args:
            body: The request.
            runs: Called when the agent runs for it.

        Raises:
            RefusedError: There is none.
        """


@dataclass(frozen=True)
class Recording:
    """A recording to play: `serve(recording=Recording("recording.jsonl", timing=True))`.

    Attributes:
        path: The file.
        timing: Whether answers take as long as they took, instead of coming at once.
    """

    path: str | Path
    timing: bool = False

    def endpoints(self) -> dict[str, RecordedEndpoint]:
        """Return the endpoints of the recording, by name.

        Raises:
            InvalidInputError: It can't be read, is no recording, or is empty.
        """
        path = Path(self.path)
        found: dict[str, RecordedEndpoint] = {}
        for name, line in lines(path):
            endpoint = found.setdefault(name, RecordedEndpoint(name, self))
            if isinstance(line, Exchange):
                endpoint.add(line)
            else:
                endpoint.task = line
        if not found:
            raise InvalidInputError(f"The recording '{path}' is empty. Make one with `agent-target record`.")
        return found


class RecordedEndpoint(StandIn):
    """An endpoint that answers what was recorded.

    Args:
        name: Its name.
        recording: The recording.
    """

    def __init__(self, name: str, recording: Recording) -> None:
        self.name = name
        self.entity = str(recording.path)
        self.task: str | None = None
        self._recording = recording
        self._answers: dict[str, list[Exchange]] = defaultdict(list)
        self._asked: dict[str, int] = defaultdict(int)

    def add(self, exchange: Exchange) -> None:
        """Add what is to be played."""
        self._answers[_question(exchange.request)].append(exchange)

    async def answer(self, body: dict[str, Any], runs: Callable[[], None]) -> Response:
        question = _question(body)
        if question not in self._answers:
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", self._unknown(body))
        answers = self._answers[question]
        exchange = answers[min(self._asked[question], len(answers) - 1)]
        self._asked[question] += 1
        if exchange.status < 300:
            runs()
        chunks = self._played(exchange)
        if exchange.is_broken or is_stream(exchange.headers):
            return BreakableResponse(chunks, exchange.status, exchange.headers)
        return Response(b"".join([chunk async for chunk in chunks]), exchange.status, exchange.headers)

    async def _played(self, exchange: Exchange) -> AsyncIterator[bytes]:
        began = time.monotonic()
        for seconds, chunk in exchange.chunks:
            if self._recording.timing:
                await asyncio.sleep(began + seconds - time.monotonic())
            yield chunk
        if exchange.is_broken:
            raise BrokenOffError

    def _unknown(self, body: dict[str, Any]) -> str:
        """Return what is said of a request that was not recorded."""
        said = f"This request to '{self.name}' is not in the recording '{self._recording.path}'"
        asked, known = _question(body), list(self._answers)
        if not known:
            return f"{said}, which has none to that endpoint. Record it with `agent-target record`."
        compared = asked[:_COMPARED_CHARACTERS]
        nearest = max(
            known, key=lambda one: difflib.SequenceMatcher(None, compared, one[:_COMPARED_CHARACTERS]).ratio()
        )
        ours, theirs = json.loads(asked), json.loads(nearest)
        differs = sorted(key for key in {*ours, *theirs} if ours.get(key, ...) != theirs.get(key, ...))
        recorded = printable(json.dumps({key: theirs[key] for key in differs if key in theirs}), 300)
        return (
            f"{said}, which has {len(known)} to that endpoint. The nearest differs in {', '.join(differs)}: it has "
            f"{recorded}. Record this one with `agent-target record`."
        )


def _question(body: Mapping[str, Any]) -> str:
    """Return what is the same for requests that ask the same."""
    asked = {key: value for key, value in body.items() if key not in _NO_PART_OF_THE_QUESTION and value is not None}
    return json.dumps({**asked, "stream": bool(body.get("stream"))}, sort_keys=True)


def is_stream(headers: Mapping[str, str]) -> bool:
    """Return whether an answer is a stream of events, by its headers."""
    return headers.get("content-type", "").lower().startswith(_EVENT_STREAM)
