"""What an agent interface is: how its requests and answers look, and how the events of its streams add up. Pure.

A new interface is a module of its own with a subclass of `Interface`, and an entry in `registry.INTERFACES`.

The formats are MLflow's (`mlflow.types.responses`, `mlflow.types.agent`, `mlflow.types.llm`), as Model Serving sends
them: https://docs.databricks.com/aws/en/generative-ai/agent-framework/query-agent. Servers leave keys out, repeat them
and add others, so interfaces use what is there and require nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from mlflow_agent_target.errors import InterfaceMismatchError

Answer = dict[str, Any]
Event = dict[str, Any]
RequestKey = Literal["input", "messages"]


class Interface(ABC):
    """An agent interface. An instance adds up the events of one streamed answer.

    Attributes:
        name: What users call it.
        tasks: The `task` values of endpoints that serve it.
        request_key: The key of a request that holds the messages; it says which of the two request schemas is used.
        response_key: The key of a whole answer that holds what the agent says.
        only_text: Whether the content of a message must be text, not null and not a list of parts.
        names_tool_results: Whether the result of a tool call must name the tool.
        is_of_agents_only: Whether nothing but agents speaks it: then what does may be asked for the agent's trace.
        tells_failures: Whether an event may report that the agent failed: not where all events are the agent's own.

    Args:
        extras: What events said of the answer as a whole before one showed the interface; this is added to.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    request_key: ClassVar[RequestKey]
    response_key: ClassVar[str]
    only_text: ClassVar[bool] = False
    names_tool_results: ClassVar[bool] = False
    is_of_agents_only: ClassVar[bool] = True
    tells_failures: ClassVar[bool] = True

    def __init__(self, extras: Answer | None = None) -> None:
        # What belongs to the answer as a whole: usage, the trace, custom outputs.
        self._extras: Answer = {} if extras is None else extras

    @classmethod
    def mismatch(cls, what: str) -> InterfaceMismatchError:
        """Return the error of a request that says something which this interface has no place for."""
        key = cls.request_key
        return InterfaceMismatchError(
            f"{what} has no counterpart in '{key}', which the endpoint takes: it serves a {cls.name}. "
            f"Leave it out, or say it as a payload with '{key}' can."
        )

    @classmethod
    def holds(cls, answer: Answer) -> bool:
        """Return whether a whole answer is written in this interface."""
        return isinstance(answer.get(cls.response_key), list)

    @staticmethod
    @abstractmethod
    def text(answer: Answer) -> str:
        """Return all text that the assistant says in a whole answer."""

    @staticmethod
    @abstractmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        """Return the tool calls of a whole answer, as `function_call` items whatever the interface."""

    @staticmethod
    def usage(answer: Answer) -> Any:
        """Return what a whole answer says of the tokens that were used."""
        return answer.get("usage")

    @staticmethod
    def approvals(answer: Answer) -> list[dict[str, Any]]:  # noqa: ARG004
        """Return what a whole answer asks a person to approve, and nobody has answered yet."""
        return []

    @staticmethod
    @abstractmethod
    def speaks(event: Event) -> bool:
        """Return whether a stream event is of this interface."""

    @staticmethod
    @abstractmethod
    def ends(event: Event) -> bool | None:
        """Return whether the answer is complete with this event; None where the event says nothing of the answer."""

    def add_text(self, event: Event) -> str | None:  # noqa: ARG002
        """Add an event that holds a piece of text and nothing else, and return the text; None for any other event.

        Most events of a stream are such, so this is tried first and must be fast. All others go to `add`, as do
        those that could report an error.
        """
        return None

    def anew(self) -> Interface:
        """Return what adds up the events of the same answer from their beginning."""
        return type(self)(self._extras)

    def starts_again(self, event: Event) -> bool:  # noqa: ARG002
        """Return whether with an event the server runs the agent anew, so that its answer comes again."""
        return False

    @abstractmethod
    def add(self, event: Event) -> str:
        """Add an event, and return the text that is new with it."""

    def late_text(self) -> str:
        """Return text of an answer that has ended which no event has brought as new."""
        return ""

    def is_unfinished(self) -> bool:
        """Return whether something of the answer is still to come though an event has ended it."""
        return False

    def no_answer(self) -> str:
        """Return why an answer that has ended is none, if an event said so; else ""."""
        return ""

    @abstractmethod
    def answer(self) -> Answer:
        """Return what has arrived so far, in the shape of a whole answer."""
