"""Calls of agents: a payload in, a whole answer or events out, with the trace of the run."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.pyfunc import ChatAgent, ChatModel, ResponsesAgent
from mlflow.types.agent import ChatAgentChunk, ChatAgentRequest, ChatAgentResponse
from mlflow.types.llm import ChatCompletionChunk, ChatCompletionResponse, ChatMessage, ChatParams
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.formats import chat_agent, chat_completions, responses
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.server.frames import Frames
from mlflow_agent_target.server.loading import ACCEPTED, load_agent
from mlflow_agent_target.server.refusals import RefusedError
from mlflow_agent_target.server.runs import Run, traced
from mlflow_agent_target.text import printable

_logger = logging.getLogger(__name__)

# Makes JSON values of what agents put into dicts: datetimes, pydantic models and so on.
_VALUES: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="constants"))
# Keys that the platform takes out of a request before the agent gets it.
_PLATFORM_KEYS = ("model", "stream", "databricks_options", "client_request_id", "usage_context", "extra_body")


@dataclass(frozen=True)
class CallSettings:
    """What a request says beside the agent's payload.

    Attributes:
        request_id: The platform's id of the request.
        return_trace: Whether the answer brings the run's trace.
        traceparent: The header that names the caller's span; None where there is none.
        used: Is told the tokens that the answer took, where it says so.
    """

    request_id: str
    return_trace: bool
    traceparent: str | None
    used: Callable[[Mapping[str, Any] | None], None]


@dataclass(frozen=True)
class _Kind:
    """How agents of one interface are called: with which arguments, and what they must answer."""

    interface: type[Interface]
    arguments: Callable[[dict[str, Any], ServedAgent, Callable[..., Any]], tuple[Any, ...]]
    answer: type[Any]
    event: type[Any]


def _responses_arguments(payload: dict[str, Any], *_: Any) -> tuple[Any, ...]:
    return (ResponsesAgentRequest(**payload),)


def _chat_agent_arguments(payload: dict[str, Any], *_: Any) -> tuple[Any, ...]:
    request = ChatAgentRequest(**payload)
    return request.messages, request.context, request.custom_inputs


def _chat_model_arguments(payload: dict[str, Any], agent: ServedAgent, method: Callable[..., Any]) -> tuple[Any, ...]:
    messages = [ChatMessage.from_dict(message) for message in payload["messages"]]
    params = ChatParams.from_dict({key: value for key, value in payload.items() if key != "messages"})
    # A ChatModel's methods may be written with or without the context; MLflow finds out in this way, too.
    parameters = inspect.signature(method).parameters
    return (agent.context, messages, params) if "context" in parameters or len(parameters) == 3 else (messages, params)


_KINDS: dict[type[Any], _Kind] = {
    ResponsesAgent: _Kind(
        responses.ResponsesAgent, _responses_arguments, ResponsesAgentResponse, ResponsesAgentStreamEvent
    ),
    ChatAgent: _Kind(chat_agent.ChatAgent, _chat_agent_arguments, ChatAgentResponse, ChatAgentChunk),
    ChatModel: _Kind(
        chat_completions.ChatCompletions, _chat_model_arguments, ChatCompletionResponse, ChatCompletionChunk
    ),
}


class ServedAgent:
    """An agent behind an endpoint.

    Args:
        name: The endpoint's name.
        source: A model URI, a model's folder, a Python file, or an agent object.

    Raises:
        InvalidInputError: The source is no agent, or can't be loaded.
    """

    def __init__(self, name: str, source: Any) -> None:
        self.name = name
        self.model, self.context = load_agent(source)
        self.entity = str(source) if isinstance(source, (str, Path)) else type(source).__name__
        kind = next((kind for base, kind in _KINDS.items() if isinstance(self.model, base)), None)
        if kind is None:
            raise InvalidInputError(f"{self.entity!r:.200} is no agent but a {type(self.model).__name__}. {ACCEPTED}.")
        self._kind = kind
        self.interface = kind.interface
        self.served_entity = f"{name}-1"
        self.task = kind.interface.tasks[0]

    def arguments(self, body: dict[str, Any]) -> tuple[Any, ...]:
        """Return a request's body as the arguments of the agent's `predict` or, to stream, its `predict_stream`.

        Raises:
            RefusedError: The body does not fit the agent's schema. The agent has not run.
        """
        key = self.interface.request_key
        if key not in body:
            raise _wrong_key(key, body)
        if key == "input" and isinstance(body[key], str):
            raise RefusedError(
                400,
                "INVALID_PARAMETER_VALUE",
                "Invalid parameters for ResponsesAgent: 'input' must be a list of messages, not a string. Send "
                '[{"role": "user", "content": "..."}].',
            )
        if not isinstance(body.get("stream"), (bool, type(None))):
            raise RefusedError(
                400,
                "INVALID_PARAMETER_VALUE",
                f"'stream' must be true or false, not {json.dumps(body['stream'])[:100]}.",
            )
        payload = {name: value for name, value in body.items() if name not in _PLATFORM_KEYS and value is not None}
        method = self.model.predict_stream if body.get("stream") else self.model.predict
        try:
            return self._kind.arguments(payload, self, method)
        except (ValidationError, MlflowException, TypeError, ValueError, KeyError, AttributeError) as error:
            reason = printable(str(error), 2000)
            raise RefusedError(
                400, "INVALID_PARAMETER_VALUE", f"Invalid parameters for {self.interface.name}: {reason}"
            ) from error

    def answer(self, arguments: tuple[Any, ...], call: CallSettings) -> bytes:
        """Run the agent and return its whole answer as JSON, with what the platform adds to it.

        Raises:
            RefusedError: The agent failed.
        """
        try:
            with traced(self.name, _described(arguments), call.traceparent) as run:
                answer = _as_dict(self.model.predict(*arguments), self._kind.answer)
                run.span.set_outputs(answer)
            call.used(AgentResponse(answer).usage)
            if answer.get("id") is None:
                answer["id"] = call.request_id
            answer["databricks_output"] = {"databricks_request_id": call.request_id}
            if call.return_trace:
                answer["databricks_output"]["trace"] = run.trace()
            return _json(answer)
        except BaseException as error:  # whatever an agent raises, SystemExit included, is its failure
            raise self._failure(error) from error

    def events(self, arguments: tuple[Any, ...], call: CallSettings) -> Iterator[bytes]:
        """Run the agent and yield its events as JSON, with what the platform adds; the last one tells a failure."""
        frames = Frames(self.interface, call.request_id, holds=call.return_trace)
        output: dict[str, Any] = {"databricks_request_id": call.request_id}
        run: Run | None = None
        try:
            with traced(self.name, _described(arguments), call.traceparent) as run:
                said = self.interface()
                try:
                    for raw in self.model.predict_stream(*arguments):
                        event = _as_dict(raw, self._kind.event)
                        if event.get("id") is None:
                            event["id"] = call.request_id
                        encoded = _json(event)  # an event that can't be sent is the agent's failure, also if it is held
                        said.add(event)
                        for ready in frames.add(event):
                            yield encoded if ready is event else _json(ready)
                finally:
                    answer = said.answer()
                    run.span.set_outputs(answer)
                    call.used(AgentResponse(answer).usage)
        except GeneratorExit:
            raise  # the caller has left
        except BaseException as error:
            output["error"] = self._failure(error).body()
        if call.return_trace:
            output["trace"] = run.trace() if run is not None else None
        yield from map(_json, frames.end(output))

    def _failure(self, error: BaseException) -> RefusedError:
        """Return what Model Serving answers when an agent raises: 400, unless it raised MLflow's own error.

        Never 429 or 503, whatever the agent met with: these say that it has not run.
        """
        _logger.error("Agent '%s' failed", self.name, exc_info=error)
        if isinstance(error, MlflowException):
            status = 400 if error.get_http_status_code() < 500 else 500
            return RefusedError(status, str(error.error_code), error.message)
        message = f"Encountered an unexpected error while evaluating the model. Error: {type(error).__name__}: {error}"
        return RefusedError(400, "BAD_REQUEST", message)


def _wrong_key(key: str, body: dict[str, Any]) -> RefusedError:
    other = "messages" if key == "input" else "input"
    if key == "input":
        message = (
            f"'{other}' field is not supported. Please use '{key}' field instead."
            if other in body
            else f"Missing required parameter: '{key}'"
        )
    else:
        message = (
            f"Model is missing inputs ['{key}']. Note that there were extra inputs: ['{other}']."
            if other in body
            else f"Missing required Chat parameter: '{key}'"
        )
    return RefusedError(400, "INVALID_PARAMETER_VALUE", message)


def _as_dict(result: Any, kind: type[Any]) -> dict[str, Any]:
    """Return what an agent gave as a dict without nulls, as MLflow makes it.

    Raises:
        TypeError: It is nothing that MLflow would accept.
        ValidationError: It is a dict that MLflow would not accept.
    """
    if isinstance(result, BaseModel):
        return result.model_dump(exclude_none=True)
    if isinstance(result, dict) and issubclass(kind, BaseModel):
        kind.model_validate(result)
        return dict(result)  # with the keys that the schema does not know
    if isinstance(result, kind):
        dumped: dict[str, Any] = result.to_dict()
        return dumped
    raise TypeError(f"the agent gave a {type(result).__name__}, not a {kind.__name__}")


def _json(value: Any) -> bytes:
    # Plain ASCII: MLflow's own client takes U+2028 in a stream for the end of a line.
    return json.dumps(_VALUES.dump_python(value, mode="json"), allow_nan=False).encode()


def _described(arguments: tuple[Any, ...]) -> Any:
    """Return an agent's arguments as a trace shows them."""
    shown = [argument for argument in arguments if argument is not None]
    return shown[0] if len(shown) == 1 else shown
