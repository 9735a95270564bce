"""A ChatAgent that calls a tool before it answers, and gives back its context and custom inputs."""

import mlflow
from mlflow.pyfunc import ChatAgent
from mlflow.types.agent import ChatAgentChunk, ChatAgentMessage, ChatAgentResponse

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 40, "b": 2}'}}
MESSAGES = [
    ChatAgentMessage(role="assistant", content="", id="m1", tool_calls=[CALL]),
    ChatAgentMessage(role="tool", content="42", id="m2", name="add", tool_call_id="c1"),
    ChatAgentMessage(role="assistant", content="It is 42.", id="m3"),
]


class ToolChat(ChatAgent):
    def predict(self, messages, context=None, custom_inputs=None):
        seen = {"context": context.model_dump() if context else None, "custom_inputs": custom_inputs}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        return ChatAgentResponse(messages=MESSAGES, finish_reason="stop", usage=usage, custom_outputs=seen)

    def predict_stream(self, messages, context=None, custom_inputs=None):
        whole = self.predict(messages, context, custom_inputs)
        for message in whole.messages[:2]:
            yield ChatAgentChunk(delta=message)
        for piece in ("It ", "is "):
            yield ChatAgentChunk(delta=ChatAgentMessage(role="assistant", content=piece, id="m3"))
        yield ChatAgentChunk(
            delta=ChatAgentMessage(role="assistant", content="42.", id="m3"),
            finish_reason="stop",
            usage=whole.usage,
            custom_outputs=whole.custom_outputs,
        )


mlflow.models.set_model(ToolChat())
