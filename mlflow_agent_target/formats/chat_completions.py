"""Chat completions, MLflow's ChatModel among them: `messages` in, `choices` out. Pure."""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.formats.interface import Answer, Event, Interface
from mlflow_agent_target.formats.pieces import (
    content_text,
    dicts,
    finished,
    function_calls,
    is_reason,
    keep,
    merge_delta,
    rest,
)


class ChatCompletions(Interface):
    """MLflow's ChatModel, and chat models as such: `messages` in, `choices` out."""

    name = "ChatModel"
    tasks = ("agent/v1/chat", "llm/v1/chat")
    request_key = "messages"
    response_key = "choices"
    is_of_agents_only = False

    def __init__(self, extras: Answer | None = None) -> None:
        super().__init__(extras)
        self._choices: dict[int, dict[str, Any]] = {}

    @staticmethod
    def text(answer: Answer) -> str:
        messages = [choice.get("message") for choice in dicts(answer.get("choices"))[:1]]
        return "".join(content_text(message.get("content")) for message in dicts(messages))

    @staticmethod
    def tool_calls(answer: Answer) -> list[dict[str, Any]]:
        messages = dicts([choice.get("message") for choice in dicts(answer.get("choices"))[:1]])
        return [call for message in messages for call in function_calls(message)]

    @staticmethod
    def speaks(event: Event) -> bool:
        return isinstance(event.get("choices"), list)

    @staticmethod
    def ends(event: Event) -> bool | None:
        # A chunk without choices tells the usage. It may come after the end.
        choices = dicts(event.get("choices"))
        return all(is_reason(choice.get("finish_reason")) for choice in choices) if choices else None

    def add(self, event: Event) -> str:
        keep(self._extras, event, [key for key in event if key not in ("choices", "object")])
        text = ""
        for choice in dicts(event.get("choices")):
            index = choice["index"] if isinstance(choice.get("index"), int) else 0
            known = self._choices.setdefault(
                index, {"index": index, "message": {"role": "assistant"}, "finish_reason": None}
            )
            added = ""
            if isinstance(delta := choice.get("delta"), dict):
                merge_delta(known["message"], delta)
                added = content_text(delta.get("content"))
            if isinstance(message := choice.get("message"), dict):
                # A whole message, from a server that does not stream. If pieces of it have come, it repeats them.
                said = content_text(finished(known["message"]).get("content"))
                known["message"] = {"role": "assistant"}
                merge_delta(known["message"], message)
                added += rest(content_text(message.get("content")), said)
            if index == 0:
                text += added
            for key, value in choice.items():
                if key == "logprobs" and isinstance(value, dict) and isinstance(known.setdefault(key, {}), dict):
                    merge_delta(known[key], value)
                elif key == "finish_reason":
                    known[key] = value if is_reason(value) else known[key]
                elif key not in ("index", "delta", "message") and value is not None:
                    known[key] = value
        return text

    def late_text(self) -> str:
        # The text is the first choice's. That the others are no later ones shows at the end.
        return "" if 0 in self._choices else self.text(self.answer())

    def is_unfinished(self) -> bool:
        return any(choice["finish_reason"] is None for choice in self._choices.values())

    def answer(self) -> Answer:
        choices = [choice for _, choice in sorted(self._choices.items())]
        return {"object": "chat.completion", "choices": finished(choices), **self._extras}
