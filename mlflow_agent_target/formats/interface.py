"""The agent interfaces: one class each, with its tasks, its keys, how its answers read and how its streams add up.

Pure. The formats are MLflow's (`mlflow.types.responses`, `mlflow.types.agent`, `mlflow.types.llm`), as Model Serving
sends them: https://docs.databricks.com/aws/en/generative-ai/agent-framework/query-agent. Servers leave out, repeat and
add more than the formats say, so everything here takes what is there and asks for nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

Answer = dict[str, Any]
Event = dict[str, Any]
RequestKey = Literal["input", "messages"]


class Interface(ABC):
    """An agent interface. An instance adds up the events of one streamed answer."""

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    request_key: ClassVar[RequestKey]
    response_key: ClassVar[str]

    def __init__(self, extras: Answer | None = None) -> None:
        # What belongs to the answer as a whole: usage, the trace, custom outputs.
        self._extras: Answer = {} if extras is None else extras

    @staticmethod
    @abstractmethod
    def text(answer: Answer) -> str:
        """Return all text that the assistant says in a whole answer."""

    @staticmethod
    @abstractmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        """Return the tool calls of a whole answer, as `function_call` items whatever the interface."""

    @staticmethod
    @abstractmethod
    def speaks(event: Event) -> bool:
        """Return whether a stream event is of this interface."""

    @staticmethod
    @abstractmethod
    def ends(event: Event) -> bool | None:
        """Return whether the answer is complete with this event; None where the event says nothing of the answer."""

    def add_text(self, event: Event) -> str | None:  # noqa: ARG002
        """Take in an event that brings a piece of text and can bring nothing else, no error either; return the text.

        None for all other events, which are for `add`. Most events of a stream are such: this is the short way.
        """
        return None

    @abstractmethod
    def add(self, event: Event) -> str:
        """Take in one event and return the text that it adds to what was said before."""

    def cut_short(self) -> str:
        """Return why the answer is not whole though it has ended, where an event said so."""
        return ""

    @abstractmethod
    def answer(self) -> Answer:
        """Return what has arrived so far, in the shape of a whole answer."""
