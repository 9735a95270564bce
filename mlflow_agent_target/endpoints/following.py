"""One run that outlives a request, followed until it is over: asked for patiently, whatever happens to connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    AuthenticationError,
    InvalidResponseError,
    RequestTimeoutError,
    StreamIdleError,
    retold,
    reword,
    server_name,
)
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.formats.runs import RunProtocol, is_going, run_url
from mlflow_agent_target.http.body import Body
from mlflow_agent_target.http.exchange import Transport
from mlflow_agent_target.http.options import NO_RETRIES, RequestOptions
from mlflow_agent_target.http.replies import Reply
from mlflow_agent_target.http.steps import Sleep, Steps
from mlflow_agent_target.target.settings import Backoff
from mlflow_agent_target.text import seconds

_T = TypeVar("_T")
_Error = TypeVar("_Error", bound=AgentTargetError)

# A run is asked for again after a part of the time that it has taken: quick ones cost little more than they take, and
# long ones few requests.
_SHORTEST_POLL_SECONDS, _LONGEST_POLL_SECONDS, _PART_OF_THE_TIME = 0.02, 2.0, 0.4
# A server that is being restarted gets as many chances as there are retries, and this much time between them at least.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0


def poll_pause(elapsed: float) -> float:
    """Return the seconds until a run is asked for again that has been going for `elapsed` seconds."""
    return min(max(_PART_OF_THE_TIME * elapsed, _SHORTEST_POLL_SECONDS), _LONGEST_POLL_SECONDS)


def pause_after(failures: int) -> float:
    """Return the seconds until something is tried again that has failed so often."""
    return float(min(_FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 16), _LONGEST_PAUSE_SECONDS))


@dataclass(frozen=True)
class Run:
    """A run, and how it is asked for.

    Attributes:
        protocol: How its server keeps runs.
        transport: The way to the server.
        base: The server's base URL.
        id: The run's id.
        session_id: The session that it belongs to, where that is known.
        options: How it is asked for.
    """

    protocol: type[RunProtocol]
    transport: Transport
    base: str
    id: str
    session_id: str | None
    options: RequestOptions

    @property
    def server(self) -> str:
        """What an error calls the server, at the start of a sentence."""
        return server_name(self.options.endpoint)

    @property
    def how_to_get(self) -> str:
        """What an error says of how to pick it up."""
        name = f"endpoint={self.options.endpoint!r}, " if self.options.endpoint else ""
        return f"client.get_run({name}id='{self.id}')"

    @property
    def url(self) -> str:
        """Where it is asked for."""
        return run_url(self.base, self.protocol, self.id)

    def answer(self, reply: Reply) -> AgentResponse:
        """Return the answer of the run, which is over.

        Raises:
            AgentTargetError: The agent failed, or the record holds no answer.
        """
        reply.facts.invocation_id = self.id
        with self.named(is_final=True):
            return self.protocol.answer(reply.value, reply.facts, self.session_id)

    def record(self, left: float) -> Steps[Reply]:
        """Ask once how it stands, in so many seconds at most."""
        return self.transport.get(self.url, self._within(left))

    def events(self, after: int | None, left: float) -> Steps[Body]:
        """Ask for the events after one of this number, as they come. The first must come in so many seconds."""
        return self.transport.open_events(f"{self.url}{self.protocol.events_path(after)}", self._within(left))

    def ended(self, began: float, most: float, reply: Reply | None = None) -> Steps[Reply]:
        """Wait until the run is over, and return its record.

        Args:
            began: When the waiting began, by `time.monotonic`.
            most: Seconds to wait at most.
            reply: What the server has said of it; None for nothing.

        Raises:
            RequestTimeoutError: It is not over by then, and goes on.
            AgentTargetError: It can't be asked for.
        """
        asked = time.monotonic()
        while reply is None or not self.protocol.is_whole(reply.value):
            if reply is not None and is_going(reply.value):
                left = most - (time.monotonic() - began)
                if left <= 0:
                    raise self.out_of_time(RequestTimeoutError, most)
                yield Sleep(min(poll_pause(time.monotonic() - asked), left), time.sleep)
            reply = yield from self.patiently(self.record, began, most)
            if not is_going(reply.value):
                break
        return reply

    def patiently(
        self,
        ask: Callable[[float], Steps[_T]],
        began: float,
        most: float,
        kind: type[AgentTargetError] | None = RequestTimeoutError,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> Steps[_T]:
        """Ask the run's server, and again after what passes: the run itself goes on meanwhile.

        Args:
            ask: Asks once, in so many seconds at most.
            began: When the time began, by `time.monotonic`.
            most: The seconds that there are.
            kind: The error of a time that is over; None for the one that was met last.
            sleep: Waits.
        """
        retries = Backoff.read()
        failures = 0
        last: AgentTargetError | None = None
        while True:
            left = most - (time.monotonic() - began)
            if left <= 0 and kind is None and last is not None:
                with self.named():
                    raise last
            if left <= 0:
                raise self.out_of_time(kind or RequestTimeoutError, most, last) from last
            try:
                return (yield from ask(left))
            except AgentTargetError as error:
                failures, last = failures + 1, error
                if self.protocol.knows_none(error.status_code, error.body):
                    raise self._forgotten(error) from error.__cause__
                if failures > retries.max_retries or not (error.retryable or _is_foreign(error)):
                    with self.named():
                        raise
                asked: float | None = getattr(error, "retry_after", None)
            usual = min(retries.factor * 2 ** min(failures - 1, 16), 60.0)
            pause = max(pause_after(failures), usual if asked is None else asked)
            if (yield Sleep(min(pause, max(most - (time.monotonic() - began), 0.0)), sleep)):
                raise last  # nobody waits any longer

    def out_of_time(self, kind: type[_Error], most: float, last: AgentTargetError | None = None) -> _Error:
        """Return the error of a run that was waited for in vain, and asked for in vain if `last` tells so."""
        is_stream = issubclass(kind, StreamIdleError)
        what = f"said nothing for {seconds(most)} s" if is_stream else f"was not over within {seconds(most)} s"
        return kind(
            f"{self.server}: the run {self.id} {what}, and goes on. Wait for its answer "
            f"with {self.how_to_get}.result(), or allow more with "
            f"client.with_options(total_timeout=...).{'' if last is None else f' Last it could not be asked: {last}'}",
            endpoint=self.options.endpoint,
            invocation_id=self.id,
            may_have_run=True,
            retryable=self.protocol.is_callers_id,
        )

    @contextmanager
    def named(self, is_final: bool = False) -> Generator[None]:
        """Have errors name the run, which may be going on, or is over."""
        try:
            yield
        except AgentTargetError as error:
            error.may_have_run = True
            self.name_in(error)
            if is_final or not self.protocol.is_callers_id:
                # Where the server makes the ids, the same request would begin another run.
                error.retryable = False
            elif isinstance(error, AgentError) or _is_foreign(error):
                error.retryable = True  # what was refused is the question how the run stands
            raise

    def name_in(self, error: AgentTargetError) -> None:
        """Have an error name the run, so that it can be picked up."""
        error.invocation_id = self.id
        if self.id not in error.message:
            reword(error, f"{error.message} {self.how_to_get} tells how its run stands.")

    def _forgotten(self, error: AgentTargetError) -> AgentError:
        """Return the error of a run that was begun and is not known any more."""
        return retold(
            error,
            AgentError,
            f"{self.server}: the server knows no run {self.id} any more: it has forgotten it, as one that keeps its "
            "runs in memory does when it is started anew. The agent may have run. To run it again takes a new id.",
            may_have_run=True,
            invocation_id=self.id,
        )

    def _within(self, left: float) -> RequestOptions:
        timeout = min(self.options.limits().timeout, left)
        return replace(self.options, timeout=timeout, total_timeout=timeout, backoff=NO_RETRIES, wait_until_ready=None)


def _is_foreign(error: AgentTargetError) -> bool:
    """Return whether an error tells of an answer that is none of the server's, such as a page of a proxy's."""
    return isinstance(error, InvalidResponseError) and not isinstance(error, AuthenticationError)
