"""Agents as MLflow's evaluations call them: a function of a dataset's fields, or a chat model."""

from __future__ import annotations

import inspect
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.batch.cells import request_of_fields
from mlflow_agent_target.batch.memory import Memory, open_memory
from mlflow_agent_target.endpoints.platform import ServingEndpoint
from mlflow_agent_target.formats.answers import AgentResponse
from mlflow_agent_target.tracing import spans as tracing
from mlflow_agent_target.tracing.context import is_evaluated

if TYPE_CHECKING:
    from mlflow_agent_target.tracing.call_span import TraceRequest

# The argument in which MLflow's ConversationSimulator passes the id of a conversation.
_SESSION = "mlflow_session_id"
_CHAT_TASK = "llm/v1/chat"


def predict_fn(
    endpoint: tracing.Queryable, uri: str, *, sends_context: bool, journal: Path | None = None, target: str = ""
) -> Callable[..., AgentResponse]:
    """Return an endpoint as a function of a dataset's fields. See `AgentTargetClient.to_predict_fn`.

    Args:
        endpoint: The endpoint.
        uri: The name that the evaluation's run records for it.
        sends_context: Whether its server is told of the trace.
        journal: The file of answers that are not asked for again; None for none.
        target: Where the endpoint is, for the journal.
    """
    if journal is not None:
        endpoint = _Remembering(endpoint, open_memory(journal, {"endpoint": endpoint.name, "target": target}))

    def predict(**fields: Any) -> AgentResponse:
        session = fields.pop(_SESSION, None)
        if session is not None:
            session = str(session)
        response = tracing.query(
            endpoint, fields, sends_context=sends_context, prepare=request_of_fields, session=session
        )
        return response.without("databricks_output")

    # MLflow's simulator looks for a parameter `input`, and passes the conversation to it.
    predict.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("input", inspect.Parameter.KEYWORD_ONLY, default=None),
            inspect.Parameter("fields", inspect.Parameter.VAR_KEYWORD),
        ]
    )
    predict.__doc__ = f"Ask {uri}, with the fields of a dataset's row."
    # Private: MLflow marks the functions that it makes for endpoints with it. Tried on MLflow 3.2 to 3.17.
    try:
        from mlflow.genai.evaluation.lineage import AGENT_URI_ATTR
    except ImportError:  # an older MLflow's run does not record what it evaluated; mlflow-skinny has no evaluation
        return predict
    setattr(predict, AGENT_URI_ATTR, uri)
    return predict


def waits_out_rate_limits() -> bool:
    """Return whether the caller is MLflow's evaluation, and tries again what was refused with 429."""
    # Private, for there is no public way to know. Tried on MLflow 3.2 to 3.18; the first had no such retries.
    if not is_evaluated() or "mlflow.genai.evaluation.rate_limiter" not in sys.modules:
        return False
    from mlflow.environment_variables import MLFLOW_GENAI_EVAL_MAX_RETRIES

    return int(MLFLOW_GENAI_EVAL_MAX_RETRIES.get()) > 0


class _Remembering:
    """An endpoint that is not asked again what it has answered."""

    def __init__(self, endpoint: tracing.Queryable, memory: Memory) -> None:
        self.name = endpoint.name
        self.stream = endpoint.stream
        self._endpoint = endpoint
        self._memory = memory

    def query(
        self,
        inputs: Any,
        trace: TraceRequest | None = None,
        run_id: uuid.UUID | None = None,  # noqa: ARG002 (the journal has its own)
    ) -> AgentResponse:
        return self._memory.answer(inputs, lambda run_id: self._endpoint.query(inputs, trace, run_id))


def is_answer(outputs: Any) -> bool:
    """Return whether an agent answered: with text, with a call of a tool, or with a request for approval.

    Args:
        outputs: What it gave; None where the call failed.
    """
    if not isinstance(outputs, dict):
        return bool(outputs)
    answer = outputs if isinstance(outputs, AgentResponse) else AgentResponse(outputs)
    return bool(answer.output_text.strip() or answer.tool_calls or answer.pending_approvals)


def __getattr__(name: str) -> Any:
    # A scorer of MLflow's, which mlflow-skinny knows nothing of.
    if name != "answered":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlflow.genai.scorers import scorer

    @scorer(name="answered")
    def answered(outputs: Any) -> bool:
        return is_answer(outputs)

    globals()[name] = answered
    return answered


def as_chat_completion(answer: AgentResponse, endpoint: str | None) -> AgentResponse:
    """Return an answer as a chat completion: its text, usage and extras. A completion stays as it is."""
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
