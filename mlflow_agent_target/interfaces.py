"""The agent interfaces: one class each, with its tasks, its keys, how its answers read and how its streams add up.

Pure. The formats are MLflow's (`mlflow.types.responses`, `mlflow.types.agent`, `mlflow.types.llm`), as Model Serving
sends them: https://docs.databricks.com/aws/en/generative-ai/agent-framework/query-agent. Servers leave out, repeat and
add more than the formats say, so everything here takes what is there and asks for nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from mlflow_agent_target.deltas import as_list, content_text, dicts, finished, merge_delta, sum_usage

Answer = dict[str, Any]
Event = dict[str, Any]
RequestKey = Literal["input", "messages"]


class Interface(ABC):
    """An agent interface. An instance adds up the events of one streamed answer."""

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    request_key: ClassVar[RequestKey]
    response_key: ClassVar[str]

    def __init__(self) -> None:
        self._extras: Answer = {}

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
    def ends(event: Event) -> bool:
        """Return whether an event says by itself that the answer is complete."""

    @abstractmethod
    def add(self, event: Event) -> str:
        """Take in one event and return the text that it adds to what was said before."""

    @abstractmethod
    def answer(self) -> Answer:
        """Return what has arrived so far, in the shape of a whole answer."""

    def _keep(self, event: Event, *keys: str) -> None:
        """Keep an event's values for `keys`, which may come on any event: the last one that is not null counts."""
        for key in keys:
            if event.get(key) is not None:
                self._extras[key] = event[key]
        if isinstance(output := event.get("databricks_output"), dict):
            known = self._extras.setdefault("databricks_output", {})
            known.update({key: value for key, value in output.items() if value is not None})


class ResponsesAgent(Interface):
    """`input` items in, `output` items out, typed events in between."""

    name = "ResponsesAgent"
    tasks = ("agent/v1/responses", "agent/v2/responses")
    request_key = "input"
    response_key = "output"

    def __init__(self) -> None:
        super().__init__()
        self._items: list[Any] = []
        # Text seen only in deltas so far, for each item and content part. A done item brings its text again, whole.
        self._said: dict[str, dict[int, str]] = {}
        # Done items since the last `response.created`: agents pass several inner responses through.
        self._done_in_response = 0

    @staticmethod
    def text(answer: Answer) -> str:
        return "".join(_item_text(item) for item in as_list(answer.get("output")))

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        return [item for item in dicts(answer.get("output")) if item.get("type") == "function_call"]

    @staticmethod
    def speaks(event: Event) -> bool:
        kind = event.get("type")
        return isinstance(kind, str) and (kind.startswith("response") or not {"choices", "delta"} & event.keys())

    @staticmethod
    def ends(event: Event) -> bool:
        return event.get("type") in ("response.completed", "responses.completed")

    def add(self, event: Event) -> str:
        kind = event.get("type")
        self._keep(event, "custom_outputs")
        if event.get("trace_id") is not None:
            # AgentServer gives it as an event of its own, and in a whole answer as metadata.
            self._extras["metadata"] = {**(self._extras.get("metadata") or {}), "trace_id": event["trace_id"]}
        if not isinstance(kind, str):
            return ""
        if not kind.startswith("response"):
            # Some agents send an item bare, without the event around it.
            return self._add_item(event)
        self._keep(event, "id")
        if kind == "response.created":
            self._done_in_response = 0
        elif kind == "response.output_text.delta" and isinstance(delta := event.get("delta"), str):
            parts, index = self._parts(event)
            parts[index] = parts.get(index, "") + delta
            return delta
        elif kind == "response.output_text.done" and isinstance(text := event.get("text"), str):
            parts, index = self._parts(event)
            said, parts[index] = parts.get(index, ""), text
            return _rest(text, said)
        elif kind == "response.output_item.done" and isinstance(item := event.get("item"), dict):
            self._done_in_response += 1
            return self._add_item(item)
        elif self.ends(event) and isinstance(response := event.get("response"), dict):
            return self._complete(response)
        return ""

    def _parts(self, event: Event) -> tuple[dict[int, str], int]:
        index = event.get("content_index")
        return self._said.setdefault(_id(event.get("item_id")), {}), index if isinstance(index, int) else 0

    def _add_item(self, item: dict[str, Any]) -> str:
        self._items.append(item)
        if item.get("type", "message") != "message":
            return ""
        full = _item_text(item)
        # Deltas and their done item may carry different ids, and different items the same placeholder.
        said = {key: "".join(parts.values()) for key, parts in self._said.items()}
        key = _id(item.get("id"))
        if key not in said:
            key = next((key for key, text in said.items() if text and full.startswith(text)), "")
        self._said.pop(key, None)
        return _rest(full, said.get(key, ""))

    def _complete(self, response: dict[str, Any]) -> str:
        self._extras.update({k: v for k, v in response.items() if k not in ("output", "usage") and v is not None})
        if isinstance(usage := response.get("usage"), dict):
            self._extras["usage"] = sum_usage(self._extras.get("usage"), usage)
        if self._done_in_response:
            return ""
        return "".join(self._add_item(item) for item in dicts(response.get("output")))

    def answer(self) -> Answer:
        unfinished = [
            {
                "type": "message",
                **({"id": key} if key else {}),
                "role": "assistant",
                "content": [{"type": "output_text", "text": text, "annotations": []} for text in parts.values()],
            }
            for key, parts in self._said.items()
        ]
        return {"object": "response", "output": [*self._items, *unfinished], **self._extras}


class ChatAgent(Interface):
    """`messages` in, `messages` out, a `delta` in each event."""

    name = "ChatAgent"
    tasks = ("agent/v2/chat",)
    request_key = "messages"
    response_key = "messages"

    def __init__(self) -> None:
        super().__init__()
        self._messages: dict[str, dict[str, Any]] = {}
        self._last_id = ""

    @staticmethod
    def text(answer: Answer) -> str:
        messages = dicts(answer.get("messages"))
        return "".join(content_text(m.get("content")) for m in messages if m.get("role", "assistant") == "assistant")

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        return [_function_call(c) for m in dicts(answer.get("messages")) for c in dicts(m.get("tool_calls"))]

    @staticmethod
    def speaks(event: Event) -> bool:
        return isinstance(event.get("delta"), dict) and "choices" not in event

    @staticmethod
    def ends(event: Event) -> bool:
        return isinstance(event.get("finish_reason"), str)

    def add(self, event: Event) -> str:
        self._keep(event, "finish_reason", "usage", "custom_outputs", "id")
        if not isinstance(delta := event.get("delta"), dict):
            return ""
        # A chunk without an id goes on with the message before it.
        self._last_id = str(delta.get("id") or self._last_id)
        message = self._messages.setdefault(self._last_id, {})
        merge_delta(message, delta)
        return content_text(delta.get("content")) if message.get("role", "assistant") == "assistant" else ""

    def answer(self) -> Answer:
        return {"messages": [finished(message) for message in self._messages.values()], **self._extras}


class ChatCompletions(Interface):
    """MLflow's ChatModel, and chat models as such: `messages` in, `choices` out."""

    name = "ChatModel"
    tasks = ("agent/v1/chat", "llm/v1/chat")
    request_key = "messages"
    response_key = "choices"

    def __init__(self) -> None:
        super().__init__()
        self._choices: dict[int, dict[str, Any]] = {}

    @staticmethod
    def text(answer: Answer) -> str:
        messages = [choice.get("message") for choice in dicts(answer.get("choices"))[:1]]
        return "".join(content_text(message.get("content")) for message in dicts(messages))

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        messages = dicts([choice.get("message") for choice in dicts(answer.get("choices"))[:1]])
        return [_function_call(call) for message in messages for call in dicts(message.get("tool_calls"))]

    @staticmethod
    def speaks(event: Event) -> bool:
        return isinstance(event.get("choices"), list)

    @staticmethod
    def ends(event: Event) -> bool:
        choices = dicts(event.get("choices"))
        return bool(choices) and all(isinstance(choice.get("finish_reason"), str) for choice in choices)

    def add(self, event: Event) -> str:
        self._keep(event, "id", "model", "created", "usage", "custom_outputs", "system_fingerprint")
        text = ""
        for choice in dicts(event.get("choices")):
            index = choice["index"] if isinstance(choice.get("index"), int) else 0
            known = self._choices.setdefault(
                index, {"index": index, "message": {"role": "assistant"}, "finish_reason": None}
            )
            if isinstance(delta := choice.get("delta"), dict):
                merge_delta(known["message"], delta)
                if index == min(self._choices):
                    text += content_text(delta.get("content"))
            known.update({k: v for k, v in choice.items() if k not in ("index", "delta") and v is not None})
        return text

    def answer(self) -> Answer:
        choices = [{**choice, "message": finished(choice["message"])} for _, choice in sorted(self._choices.items())]
        return {"object": "chat.completion", "choices": choices, **self._extras}


INTERFACES: tuple[type[Interface], ...] = (ResponsesAgent, ChatAgent, ChatCompletions)


def interface_for_task(task: Any) -> type[Interface] | None:
    """Return the interface that an endpoint's `task` names, or None when it names none."""
    return next((interface for interface in INTERFACES if task in interface.tasks), None)


def interface_of_answer(answer: Answer) -> type[Interface] | None:
    """Return the interface that a whole answer is written in, or None when it is in none."""
    return next((interface for interface in INTERFACES if isinstance(answer.get(interface.response_key), list)), None)


def interface_of_event(event: Event) -> type[Interface] | None:
    """Return the interface that a stream event is written in, or None when it could be any."""
    return next((interface for interface in INTERFACES if interface.speaks(event)), None)


def interfaces_for_key(key: str) -> tuple[type[Interface], ...]:
    """Return the interfaces whose requests have `key`, the one that can say the least first."""
    return tuple(interface for interface in INTERFACES if interface.request_key == key)


def _id(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _rest(text: str, said: str) -> str:
    """Return what `text` adds to what was said of it before; nothing, where it puts that otherwise."""
    return text[len(said) :] if text.startswith(said) else ""


def _item_text(item: Any) -> str:
    if not isinstance(item, dict) or item.get("type", "message") != "message" or item.get("role") != "assistant":
        return ""
    return content_text(item.get("content"))


def _function_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    return {
        "type": "function_call",
        "call_id": call.get("id"),
        "name": function.get("name"),
        "arguments": function.get("arguments"),
    }
