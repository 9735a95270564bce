"""What is no agent of MLflow's, served as one."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from mlflow.pyfunc import ChatModel
from mlflow.types.llm import (
    ChatChoiceDelta,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatMessage,
    FunctionToolCallArguments,
    ToolCall,
)

from mlflow_agent_target import AgentError, AgentTargetClient, InvalidInputError, serve

CONVERSATION = {
    "input": [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"type": "input_text", "text": "two"}]},
    ]
}


def whole(question: str) -> str:
    return f"said {question}"


def pieces(question: str) -> Iterator[str]:
    yield "said "
    yield question


async def later(question: str) -> str:
    await asyncio.sleep(0)
    return f"said {question}"


async def pieces_later(question: str) -> AsyncIterator[str]:
    yield "said "
    await asyncio.sleep(0)
    yield question


def of_messages(messages: list[dict[str, Any]]) -> str:
    return f"said {messages[-1]['content'][0]['text']}" if len(messages) == 3 else "nothing"


class Bot:
    def say(self, question: str) -> str:
        return f"said {question}"


@pytest.mark.parametrize(
    ("function", "deltas"),
    [
        (whole, ["said two"]),
        (pieces, ["said ", "two"]),
        (later, ["said two"]),
        (pieces_later, ["said ", "two"]),
        (of_messages, ["said two"]),
        (Bot().say, ["said two"]),
        (functools.partial(lambda start, question: f"{start} {question}", "said"), ["said two"]),
    ],
)
def test_a_function_is_an_agent(function: Any, deltas: list[str]) -> None:
    with serve({"a": function}) as server:
        client = AgentTargetClient(server.target_uri)
        assert client.predict(endpoint="a", inputs=CONVERSATION).output_text == "said two"
        stream = client.predict_stream(endpoint="a", inputs=CONVERSATION)
        assert list(stream.text_stream) == deltas
        assert stream.get_final_response().output_text == "said two"


@pytest.mark.parametrize("answer", [None, 5, {"output": []}])
def test_a_function_that_gives_no_text_fails(answer: Any) -> None:
    def function(question: str) -> Any:
        return answer

    with serve({"a": function}) as server:
        client = AgentTargetClient(server.target_uri)
        with pytest.raises(AgentError, match=f"gave a {type(answer).__name__}, not a text"):
            client.predict(endpoint="a", inputs="hi")
        with pytest.raises(AgentError, match="not a text"):
            client.predict_stream(endpoint="a", inputs="hi").get_final_response()


def test_a_class_is_no_agent() -> None:
    with pytest.raises(InvalidInputError, match="no agent but a type"):
        serve({"a": Bot})


class Caller(ChatModel):
    """A model that first calls a tool, and then says what that gave."""

    def predict(self, context: Any, messages: list[ChatMessage], params: Any) -> Any:
        raise NotImplementedError

    def predict_stream(self, context: Any, messages: list[ChatMessage], params: Any) -> Iterator[ChatCompletionChunk]:
        if messages[-1].role == "tool":
            said, why = ChatChoiceDelta(content=f"it is {messages[-1].content}"), "stop"
        else:
            function = FunctionToolCallArguments(name="count_letters", arguments=json.dumps({"word": "abc"}))
            said, why = ChatChoiceDelta(tool_calls=[ToolCall(function=function, id="c1")]), "tool_calls"
        yield ChatCompletionChunk(choices=[ChatChunkChoice(delta=said, finish_reason=why)], model="caller")


def test_a_graph_of_langgraph_is_an_agent() -> None:
    pytest.importorskip("langgraph", reason="optional; .ci/run installs it")
    from langchain_core.language_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langgraph.graph import START, MessagesState, StateGraph

    def call(state: MessagesState) -> Any:
        calls = [{"id": "c1", "name": "count_letters", "args": {"word": "abc"}}]
        return {"messages": [AIMessage("", tool_calls=calls, id="m1"), ToolMessage("3", tool_call_id="c1")]}

    def say(state: MessagesState) -> Any:
        model = GenericFakeChatModel(messages=iter([AIMessage("it is 3")]))
        return {"messages": model.invoke(state["messages"])}

    graph = StateGraph(MessagesState)
    graph.add_node("call", call)
    graph.add_node("say", say)
    graph.add_edge(START, "call")
    graph.add_edge("call", "say")
    with serve({"a": graph.compile()}) as server:
        client = AgentTargetClient(server.target_uri)
        for answer in (
            client.predict(endpoint="a", inputs=CONVERSATION),
            (stream := client.predict_stream(endpoint="a", inputs="hi")).get_final_response(),
        ):
            assert answer.output_text == "it is 3"
            kinds = [item["type"] for item in answer["output"]]
            assert kinds == ["function_call", "function_call_output", "message"]
            assert answer.tool_calls[0]["name"] == "count_letters"
        assert stream.time_to_first_event is not None
        with client.predict_stream(endpoint="a", inputs="hi") as again:
            assert "".join(again.text_stream) == "it is 3"


def test_an_agent_of_openais_sdk_is_an_agent() -> None:
    sdk = pytest.importorskip("agents", reason="openai-agents is optional; .ci/run installs it")
    import openai

    sdk.set_tracing_disabled(True)

    @sdk.function_tool  # type: ignore[untyped-decorator,unused-ignore]
    def count_letters(word: str) -> int:
        return len(word)

    with serve({"model": Caller()}) as models:
        model = sdk.OpenAIChatCompletionsModel(
            "model", openai.AsyncOpenAI(base_url=f"{models.url}/serving-endpoints", api_key="none")
        )
        agent = sdk.Agent(name="counter", instructions="Count.", model=model, tools=[count_letters])
        with serve({"a": agent}) as server:
            client = AgentTargetClient(server.target_uri)
            for answer in (
                client.predict(endpoint="a", inputs=CONVERSATION),
                client.predict_stream(endpoint="a", inputs="hi").get_final_response(),
            ):
                assert answer.output_text == "it is 3"
                kinds = [item["type"] for item in answer["output"]]
                assert kinds == ["function_call", "function_call_output", "message"]
                assert answer["output"][1]["output"] == "3"
