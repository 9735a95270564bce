"""How servers keep runs that outlive a request: where they are asked for, and what is said of them. Pure."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from mlflow_agent_target.errors import AgentError, InvalidInputError, InvalidResponseError
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.formats.answers import AgentResponse, whole_answer
from mlflow_agent_target.formats.durable_agent import DurableAgentServer
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.invocations import as_uuid
from mlflow_agent_target.text import server_reason

# What runs that are not over say of themselves, in OpenAI's words.
_GOING = {
    "queued": "queued",
    "pending": "queued",
    "active": "in_progress",
    "in_progress": "in_progress",
    "running": "in_progress",
    "cancelling": "in_progress",
}
# What has one of these says something of its own by its status.
_ANSWERS = ("predictions", "choices", "messages", "content", "final_response")
_NO_REASON = "agent invocation failed"


def status_of(record: Any) -> str:
    """Return how a run stands, in OpenAI's words: `queued`, `in_progress`, `completed`, `failed`; "" if not said."""
    said = record.get("status") if isinstance(record, Mapping) else None
    if said == "interrupted":  # by a question to a person: the turn is over
        return "completed"
    return _GOING.get(said, said) if isinstance(said, str) else ""


def is_going(record: Any) -> bool:
    """Return whether a record says that its run is not over."""
    return status_of(record) in ("queued", "in_progress")


def is_start(answer: Any) -> bool:
    """Return whether an answer is only the start of a run, which goes on in the background."""
    given = answer.get("id") if isinstance(answer, dict) else None
    return is_going(answer) and isinstance(given, str) and given != "" and answer.keys().isdisjoint(_ANSWERS)


class RunProtocol(ABC):
    """How one kind of server keeps runs.

    Attributes:
        path: Where runs are kept, below the server's base URL.
        is_callers_id: Whether the caller makes a run's id, so that the same id never starts a second run.
    """

    path: ClassVar[str]
    is_callers_id: ClassVar[bool]

    @staticmethod
    @abstractmethod
    def check_id(id_: Any) -> str:
        """Return a run's id in the form in which it is asked for.

        Raises:
            InvalidInputError: It is no such id.
        """

    @staticmethod
    @abstractmethod
    def events_path(after: int | None) -> str:
        """Return where a run's events are that come after one of this number, below the run's own URL."""

    @staticmethod
    @abstractmethod
    def number_of(name: str, data: bytes) -> int | None:
        """Return the number of a decoded event, which grows within a run; None where it has none."""

    @staticmethod
    @abstractmethod
    def knows_none(status: int | None, body: Any) -> bool:
        """Return whether an answer is the server's own word that it has no such run."""

    @staticmethod
    @abstractmethod
    def is_whole(record: Any) -> bool:
        """Return whether a record tells how its run ended. What starts a run again says only that it has."""

    @staticmethod
    @abstractmethod
    def answer(record: Any, facts: Facts, session_id: str | None) -> AgentResponse:
        """Return the answer of a run that is over, by its record.

        Raises:
            AgentError: The agent failed.
            InvalidResponseError: It says something else.
        """

    @classmethod
    def reader(cls, id_: str, is_rest: bool) -> Interface | None:  # noqa: ARG003
        """Return what adds up a run's events; None where they show themselves in what interface they are.

        Args:
            id_: The run's id.
            is_rest: Whether they are only the last ones, after the run's beginning.
        """
        return None


class InvocationApi(RunProtocol):
    """DurableAgentServer's. https://docs.databricks.com/aws/en/agents/deploy/agent-server."""

    path = "/api/invocations"
    is_callers_id = True

    @staticmethod
    def check_id(id_: Any) -> str:
        if (known := as_uuid(id_)) is None:
            raise InvalidInputError(f"The id of a run of a DurableAgentServer is a UUID, not {id_!r:.60}.")
        return known

    @staticmethod
    def events_path(after: int | None) -> str:
        return "/events" if after is None else f"/events?after={after}"

    @staticmethod
    def number_of(name: str, data: bytes) -> int | None:  # noqa: ARG004
        return int(name) if name.isdecimal() else None

    @staticmethod
    def knows_none(status: int | None, body: Any) -> bool:
        return status == 404 and knows_no_run(status, body)

    @staticmethod
    def is_whole(record: Any) -> bool:
        return not is_going(record) and isinstance(record, dict) and not record.keys().isdisjoint(("output", "error"))

    @staticmethod
    def answer(record: Any, facts: Facts, session_id: str | None) -> AgentResponse:
        status = status_of(record)
        if status == "completed" and "output" in record:
            return AgentResponse(record, request_id=facts.request_id, session_id=session_id)
        if status == "failed":
            error = record.get("error")
            reason = server_reason(facts.redacted({"error": error})) if error not in (None, _NO_REASON) else ""
            raise facts.error(
                AgentError,
                f"{facts.server}: the agent failed in the run {facts.invocation_id}"
                + (f": {reason}" if reason else ". The server gives no reason: the app's log has it."),
                body=record,
            )
        said = facts.redacted(json.dumps(record))
        raise facts.error(
            InvalidResponseError, f"{facts.server} says of the run {facts.invocation_id} only {said:.200}.", body=record
        )

    @classmethod
    def reader(cls, id_: str, is_rest: bool) -> Interface:
        return DurableAgentServer({"id": id_, "status": "active"}, is_rest)


class ResponsesApi(RunProtocol):
    """OpenAI's `background` responses, which LongRunningAgentServer has, too.

    https://platform.openai.com/docs/guides/background
    """

    path = "/responses"
    is_callers_id = False

    @staticmethod
    def check_id(id_: Any) -> str:
        if not isinstance(id_, str) or not id_:
            raise InvalidInputError(f"The id of a run is a string, as the server gave it, not {id_!r:.60}.")
        return id_

    @staticmethod
    def events_path(after: int | None) -> str:
        # What comes after event 0 is all events to LongRunningAgentServer: what was had already is dropped here.
        return "?stream=true" if after is None else f"?stream=true&starting_after={after}"

    @staticmethod
    def number_of(name: str, data: bytes) -> int | None:  # noqa: ARG004
        try:
            event = json.loads(data)
        except ValueError:
            return None
        number = event.get("sequence_number") if isinstance(event, dict) else None
        return number if type(number) is int else None

    @staticmethod
    def knows_none(status: int | None, body: Any) -> bool:
        return status == 404 and keeps_responses(status, body)

    @staticmethod
    def is_whole(record: Any) -> bool:
        return not is_going(record)

    @staticmethod
    def answer(record: Any, facts: Facts, session_id: str | None) -> AgentResponse:  # noqa: ARG004
        return whole_answer(record, facts)


def run_url(base: str, protocol: type[RunProtocol], id_: str) -> str:
    """Return where a run is asked for, on a server with this base URL."""
    return f"{base}{protocol.path}/{quote(id_, safe='')}"


def knows_no_run(status: int | None, body: Any) -> bool:
    """Return whether an answer is what a DurableAgentServer says of a run that it doesn't have.

    Args:
        status: The HTTP status.
        body: The body, JSON values.
    """
    if not isinstance(body, dict):
        return False
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    acts_for_users = status == 401 and isinstance(code, str) and code.startswith("MCP_USER_")
    return acts_for_users or (status == 404 and body.get("detail") == "invocation not found")


def keeps_responses(status: int | None, body: Any) -> bool:
    """Return whether a server that was asked for a response which it doesn't have keeps any, by what it answered."""
    if status in (405, 501) or not isinstance(body, dict):
        return False
    # A server without the route says what it says of all of them: FastAPI's words, or the platform's.
    return body.get("detail") != "Not Found" and "error_code" not in body


def keeps_no_responses(status: int | None, body: Any) -> bool:
    """Return whether an answer says that there is no way to ask for responses there."""
    return status in (404, 405, 501) and not keeps_responses(status, body)
