"""All agent interfaces, and which one a task, an answer, an event or a request's key belongs to. Pure."""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.formats.chat_agent import ChatAgent
from mlflow_agent_target.formats.chat_completions import ChatCompletions
from mlflow_agent_target.formats.durable_agent import DurableAgentServer
from mlflow_agent_target.formats.interface import Answer, Event, Interface
from mlflow_agent_target.formats.responses import ResponsesAgent

# Of two interfaces that something could belong to, the first is taken. ChatAgent comes before ChatCompletions because
# its messages can say less: what fits a ChatAgent fits both.
INTERFACES: tuple[type[Interface], ...] = (ResponsesAgent, ChatAgent, ChatCompletions, DurableAgentServer)


def interface_for_task(task: Any) -> type[Interface] | None:
    """Return the interface that an endpoint's `task` names, or None when it names none."""
    return next((interface for interface in INTERFACES if task in interface.tasks), None)


def interface_of_answer(answer: Answer) -> type[Interface] | None:
    """Return the interface that a whole answer is written in, or None when it is in none."""
    if DurableAgentServer.holds(answer):  # what its record holds may look like an answer of any
        return DurableAgentServer
    return next((interface for interface in INTERFACES if interface.holds(answer)), None)


def interface_of_event(event: Event) -> type[Interface] | None:
    """Return the interface that a stream event is written in, or None when it could be any."""
    return next((interface for interface in INTERFACES if interface.speaks(event)), None)


def interfaces_for_key(key: str) -> tuple[type[Interface], ...]:
    """Return the interfaces whose requests are `key` and more, the one whose messages can say the least first."""
    return tuple(i for i in INTERFACES if i.request_key == key and i is not DurableAgentServer)
