"""A ResponsesAgent that calls a tool: it counts the words of what it is told, and remembers the conversation."""

import json
from collections.abc import Generator, Iterator
from typing import Any

import mlflow
from mlflow.entities import SpanType
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent


@mlflow.trace(span_type=SpanType.TOOL)
def count_words(text: str) -> int:
    return len(text.split())


class WordCounter(ResponsesAgent):
    """Answers with a function call, its output, and a sentence about both."""

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        events = list(self.predict_stream(request))
        items = [event.item for event in events if event.type == "response.output_item.done"]
        return ResponsesAgentResponse(
            output=items, usage=events[-1].response["usage"], custom_outputs=events[-1].custom_outputs
        )

    def predict_stream(self, request: ResponsesAgentRequest) -> Generator[ResponsesAgentStreamEvent, None, None]:
        said = [text for item in request.input if (text := _user_text(item.model_dump()))]
        question = said[-1] if said else ""

        # A real agent would ask its model which tool to call; this one always counts.
        call = self.create_function_call_item(
            id="fc_1", call_id="call_1", name="count_words", arguments=json.dumps({"text": question})
        )
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=call)
        words = count_words(question)
        result = self.create_function_call_output_item(call_id="call_1", output=str(words))
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=result)

        answer = f"You said {question!r}: {words} {'word' if words == 1 else 'words'}, by my count_words tool."
        if len(said) > 1:
            answer += f" Before that you said {said[-2]!r}."
        for piece in _pieces(answer):
            yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=piece, item_id="msg_1"))
        message = self.create_text_output_item(text=answer, id="msg_1")
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=message)

        tokens = {"input_tokens": sum(map(count, said)), "output_tokens": count(answer)}
        usage = {
            **tokens,
            "total_tokens": sum(tokens.values()),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        yield ResponsesAgentStreamEvent(
            type="response.completed",
            response={"object": "response", "status": "completed", "output": [call, result, message], "usage": usage},
            custom_outputs=request.custom_inputs,
        )


def count(text: str) -> int:
    return len(text.split())


def _pieces(text: str) -> Iterator[str]:
    first, *rest = text.split(" ")
    yield first
    yield from (f" {word}" for word in rest)


def _user_text(item: dict[str, Any]) -> str:
    content = item.get("content")
    if item.get("role") != "user" or not content:
        return ""
    return content if isinstance(content, str) else " ".join(part.get("text") or "" for part in content)


mlflow.models.set_model(WordCounter())
