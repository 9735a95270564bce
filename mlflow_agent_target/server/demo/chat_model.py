"""A ChatModel, MLflow's oldest kind of agent, that answers in the shape of OpenAI's chat completions."""

from collections.abc import Generator
from typing import Any

import mlflow
from mlflow.pyfunc import ChatModel
from mlflow.types.llm import (
    ChatChoice,
    ChatChoiceDelta,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatCompletionResponse,
    ChatMessage,
    ChatParams,
    TokenUsageStats,
)


class Shouter(ChatModel):
    """Answers the last message in capitals."""

    def predict(self, context: Any, messages: list[ChatMessage], params: ChatParams) -> ChatCompletionResponse:
        answer = _shouted(messages)
        asked, answered = sum(len(_text(message).split()) for message in messages), len(answer.split())
        return ChatCompletionResponse(
            model="shouter",
            choices=[ChatChoice(message=ChatMessage(role="assistant", content=answer), finish_reason="stop")],
            usage=TokenUsageStats(prompt_tokens=asked, completion_tokens=answered, total_tokens=asked + answered),
            custom_outputs=params.custom_inputs,
        )

    def predict_stream(
        self, context: Any, messages: list[ChatMessage], params: ChatParams
    ) -> Generator[ChatCompletionChunk, None, None]:
        for index, word in enumerate(_shouted(messages).split(" ")):
            delta = ChatChoiceDelta(role="assistant", content=f" {word}" if index else word)
            yield ChatCompletionChunk(model="shouter", choices=[ChatChunkChoice(delta=delta)])
        end = ChatChunkChoice(delta=ChatChoiceDelta(role="assistant", content=""), finish_reason="stop")
        yield ChatCompletionChunk(model="shouter", choices=[end], custom_outputs=params.custom_inputs)


def _shouted(messages: list[ChatMessage]) -> str:
    return _text(messages[-1]).upper() if messages else ""


def _text(message: ChatMessage) -> str:
    content = message.content or ""
    # Parts: text, images, ...
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


mlflow.models.set_model(Shouter())
