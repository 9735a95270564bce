"""Agents of other frameworks as MLflow's: plain functions, graphs of LangGraph, agents of OpenAI's Agents SDK."""

from __future__ import annotations

import asyncio
import functools
import inspect
import queue
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent

Event = dict[str, Any]

# Names of a function's parameter that is given the whole conversation; any other gets the text of the last question.
_CONVERSATION = ("messages", "input")


def wrapped(source: Any) -> Any:
    """Return an object of another framework as an agent that MLflow knows; any other object as it is."""
    if inspect.isroutine(source) or isinstance(source, partial):
        return _Wrapped(_of_function(source))
    names = [f"{kind.__module__}.{kind.__name__}" for kind in type(source).__mro__]
    if any(name.startswith("langgraph.") and name.endswith(".Pregel") for name in names):
        return _Wrapped(partial(_of_graph, source))
    if "agents.agent.Agent" in names:
        return _Wrapped(partial(_of_openai_agent, source))
    return source


class _Wrapped(ResponsesAgent):
    """An agent whose answer is what a function of the request streams."""

    def __init__(self, events: Callable[[ResponsesAgentRequest], Iterator[Event]]) -> None:
        super().__init__()
        self._events = events

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        items = [event["item"] for event in self._events(request) if event["type"] == "response.output_item.done"]
        return ResponsesAgentResponse(output=items)

    def predict_stream(self, request: ResponsesAgentRequest) -> Iterator[ResponsesAgentStreamEvent]:
        for event in self._events(request):
            yield ResponsesAgentStreamEvent(**event)


def _of_function(function: Callable[..., Any]) -> Callable[[ResponsesAgentRequest], Iterator[Event]]:
    """Return the events of a function, which returns a text, or yields the pieces of one. It may be asynchronous."""
    parameters = list(inspect.signature(function).parameters)
    wants = parameters[0] if parameters else ""

    def events(request: ResponsesAgentRequest) -> Iterator[Event]:
        messages = _messages(request)
        asked: dict[str, Any] = next((message for message in reversed(messages) if message.get("role") == "user"), {})
        answer = function(messages if wants in _CONVERSATION else _text(asked))
        if inspect.isawaitable(answer):
            answer = _run(answer)
        if hasattr(answer, "__aiter__"):
            answer = _iterate(answer)
        item_id = f"msg_{uuid.uuid4().hex}"
        said = ""
        for piece in [answer] if isinstance(answer, str) or not isinstance(answer, Iterator) else answer:
            if not isinstance(piece, str):
                raise TypeError(f"the function gave a {type(piece).__name__}, not a text")
            said += piece
            yield {"type": "response.output_text.delta", "item_id": item_id, "delta": piece}
        yield _message(item_id, said)

    return events


def _of_graph(graph: Any, request: ResponsesAgentRequest) -> Iterator[Event]:
    """Yield the events of a LangGraph graph whose state has `messages`."""
    from langchain_core.messages import convert_to_messages
    from mlflow.types.responses import output_to_responses_items_stream, to_chat_completions_input

    state = {"messages": to_chat_completions_input(_messages(request))}
    for mode, part in graph.stream(state, stream_mode=["updates", "messages"]):
        if mode == "messages":
            message = part[0]
            if message.type == "AIMessageChunk" and (piece := _text({"content": message.content})):
                yield {"type": "response.output_text.delta", "item_id": message.id, "delta": piece}
            continue
        for update in part.values():
            made = (update.get("messages") if isinstance(update, dict) else None) or []
            made = convert_to_messages(made if isinstance(made, list) else [made])
            for event in output_to_responses_items_stream(iter(made)):
                yield event.model_dump(exclude_none=True)


def _of_openai_agent(agent: Any, request: ResponsesAgentRequest) -> Iterator[Event]:
    """Yield the events of an agent of OpenAI's Agents SDK."""
    from agents import Runner

    asked: Any = _messages(request)

    async def events() -> AsyncIterator[Event]:
        async for event in Runner.run_streamed(agent, input=asked).stream_events():
            if event.type == "raw_response_event":
                if event.data.type in ("response.output_text.delta", "response.output_item.done"):
                    yield event.data.model_dump(exclude_none=True)
            elif event.type == "run_item_stream_event" and event.name == "tool_output":
                item: Any = event.item.raw_item
                item = {**item, "output": str(getattr(event.item, "output", ""))}
                yield {"type": "response.output_item.done", "item": item}

    return _iterate(events())


def _messages(request: ResponsesAgentRequest) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in request.input]


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _message(item_id: str, text: str) -> Event:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"type": "message", "id": item_id, "role": "assistant", "status": "completed", "content": content}
    return {"type": "response.output_item.done", "item": item}


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all that is asynchronous: clients keep connections, which belong to one loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="agent-target-asyncio", daemon=True).start()
    return loop


def _run(awaitable: Any) -> Any:
    async def result() -> Any:
        return await awaitable

    return asyncio.run_coroutine_threadsafe(result(), _loop()).result()


def _iterate(values: AsyncIterator[Any]) -> Iterator[Any]:
    """Yield what an asynchronous iterator does. It is stopped when the reader leaves."""
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    async def make() -> None:
        try:
            async for value in values:
                made.put((value, None))
            made.put((None, StopAsyncIteration()))
        except BaseException as error:
            made.put((None, error))
            raise

    making = asyncio.run_coroutine_threadsafe(make(), _loop())
    try:
        while True:
            value, error = made.get()
            if isinstance(error, StopAsyncIteration):
                return
            if error is not None:
                raise error
            yield value
    finally:
        making.cancel()
