"""A ChatAgent that says back what it was told, backwards."""

import uuid
from collections.abc import Generator
from typing import Any

import mlflow
from mlflow.pyfunc import ChatAgent
from mlflow.types.agent import ChatAgentChunk, ChatAgentMessage, ChatAgentResponse, ChatContext


class Reverser(ChatAgent):
    """Answers with all the user's words in reverse order."""

    def predict(
        self,
        messages: list[ChatAgentMessage],
        context: ChatContext | None = None,
        custom_inputs: dict[str, Any] | None = None,
    ) -> ChatAgentResponse:
        reply = ChatAgentMessage(role="assistant", content=" ".join(_reversed_words(messages)), id=str(uuid.uuid4()))
        return ChatAgentResponse(messages=[reply], finish_reason="stop", custom_outputs=custom_inputs)

    def predict_stream(
        self,
        messages: list[ChatAgentMessage],
        context: ChatContext | None = None,
        custom_inputs: dict[str, Any] | None = None,
    ) -> Generator[ChatAgentChunk, None, None]:
        message_id = str(uuid.uuid4())  # the same for all chunks of one message
        *words, last = _reversed_words(messages)
        for word in words:
            yield ChatAgentChunk(delta=ChatAgentMessage(role="assistant", content=f"{word} ", id=message_id))
        yield ChatAgentChunk(
            delta=ChatAgentMessage(role="assistant", content=last, id=message_id),
            finish_reason="stop",
            custom_outputs=custom_inputs,
        )


def _reversed_words(messages: list[ChatAgentMessage]) -> list[str]:
    said = " ".join(message.content or "" for message in messages if message.role == "user").split()
    return list(reversed(said)) or ["Nobody", "said", "anything."]


mlflow.models.set_model(Reverser())
