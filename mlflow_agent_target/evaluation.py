"""Agents as MLflow's evaluations call them: a function of a dataset's fields, or a chat model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mlflow_agent_target.endpoints.platform import ServingEndpoint
from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.tracing import spans as tracing

# MLflow's ConversationSimulator passes it beside the conversation.
_SESSION = "mlflow_session_id"
_CHAT_TASK = "llm/v1/chat"
# What a request may hold as text beside the question itself.
_SETTINGS = ("client_request_id", "model", "previous_response_id", "tool_choice", "truncation", "user")


def predict_fn(endpoint: tracing.Queryable, uri: str, *, sends_context: bool) -> Callable[..., AgentResponse]:
    """Return an endpoint as a function of a dataset's fields. See `AgentTargetClient.to_predict_fn`.

    Args:
        endpoint: The endpoint.
        uri: How the evaluation's run names it.
        sends_context: Whether its server may be told of the trace.
    """

    def predict(**fields: Any) -> AgentResponse:
        session = fields.pop(_SESSION, None)
        if session is not None:
            session = str(session)
        response = tracing.query(endpoint, fields, sends_context=sends_context, prepare=request, session=session)
        return response.without("databricks_output")

    # MLflow's simulator asks for a parameter of this name, and passes a conversation to it.
    predict.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("input", inspect.Parameter.KEYWORD_ONLY, default=None),
            inspect.Parameter("fields", inspect.Parameter.VAR_KEYWORD),
        ]
    )
    predict.__doc__ = f"Ask {uri}, with the fields of a dataset's row."
    try:
        from mlflow.genai.evaluation.lineage import AGENT_URI_ATTR
    except ImportError:  # before MLflow named what a run evaluated, and where only mlflow-skinny is installed
        return predict
    setattr(predict, AGENT_URI_ATTR, uri)
    return predict


def request(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a row's fields as a request: those of a request as they are, a text under any other name as the question.

    Raises:
        InvalidInputError: No field, or more than one, can be the question.
    """
    if "input" in fields or isinstance(fields.get("messages"), list):
        return fields
    questions = [name for name, value in fields.items() if isinstance(value, str) and name not in _SETTINGS]
    if len(questions) != 1:
        raise InvalidInputError(
            f"The row can't be sent: it has {len(questions)} fields that could be the question, of {sorted(fields)}. "
            "Give it 'input', 'messages' or one field of text, or evaluate a function of yours that calls the client."
        )
    (name,) = questions
    rest = {key: value for key, value in fields.items() if key != name}
    return {"input": [{"role": "user", "content": fields[name]}], **rest}


def as_chat_completion(answer: AgentResponse, endpoint: str | None) -> AgentResponse:
    """Return an answer as a chat completion: its text, usage and extras. One that is a completion stays as it is."""
    if "choices" in answer:
        return answer
    message = {"role": "assistant", "content": answer.output_text}
    completion: dict[str, Any] = {
        "object": "chat.completion",
        "model": endpoint,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    if (usage := answer.usage) is not None:
        names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens", "total_tokens": "total_tokens"}
        completion["usage"] = {name: usage[ours] for name, ours in names.items()}
    kept = {key: answer[key] for key in ("id", "custom_outputs", "databricks_output") if key in answer}
    return AgentResponse({**completion, **kept}, request_id=answer.request_id)


def as_chat_endpoint(described: ServingEndpoint) -> ServingEndpoint:
    """Return an endpoint's description as that of a chat model."""
    return ServingEndpoint({**described, "task": _CHAT_TASK, "endpoint_type": _CHAT_TASK})
