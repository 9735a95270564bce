"""A failure that an answer or event reports, why an answer is none, and the key that a refusal asks for. Pure."""

from __future__ import annotations

import re
from typing import Any

from mlflow_agent_target.text import server_reason

# What endpoints say, before their agent runs, to a payload with the other schema's key: Model Serving, MLflow's schema
# enforcement, MLflow's AgentServer. Only at the start of a message: an agent that fails may quote another endpoint's.
_MISSING = r"(?:Failed to enforce schema of data .*)?Model is missing inputs \['{}'\]"
_WANTS_INPUT = re.compile(
    r"'messages' field is not supported\. Please use 'input' field instead|"
    r"Invalid parameters for ResponsesAgent: (?:Invalid data for ResponsesAgentRequest: )?"
    r"1 validation error for ResponsesAgentRequest\s+input\s+Field required|" + _MISSING.format("input"),
    re.DOTALL,
)
_WANTS_MESSAGES = re.compile(r"Missing required Chat parameter: 'messages'|" + _MISSING.format("messages"), re.DOTALL)


def key_wanted(refusal: Any) -> str | None:
    """Return the key, `input` or `messages`, that an endpoint wants which refuses a payload with the other, or None.

    Args:
        refusal: The body of its answer, with status 400.
    """
    for message in [refusal.get(key) for key in ("message", "detail")] if isinstance(refusal, dict) else []:
        if isinstance(message, str) and _WANTS_INPUT.match(message):
            return "input"
        if isinstance(message, str) and _WANTS_MESSAGES.match(message):
            return "messages"
    return None


_FAILS = ("response.failed", "response.cancelled")
# Only what has one of these keys, or the type or the name of an error, can report one: most events don't.
ERROR_KEYS = frozenset({"databricks_output", "error", "error_code", "output"})


def failure(message: dict[str, Any], event_name: str = "") -> Any:
    """Return the error that an answer or a stream event reports, or None when it reports none.

    Args:
        message: A whole answer, or an event's data. Its HTTP status was 200.
        event_name: The event's own name, where the server frames with `event:` lines.
    """
    kind = message.get("type")
    if event_name != "error" and kind not in ("error", *_FAILS) and ERROR_KEYS.isdisjoint(message):
        return None
    output = message.get("databricks_output")
    if isinstance(output, dict) and output.get("error"):
        return output["error"]
    if kind == "error" or event_name == "error":
        return message.get("error") or message
    if kind in _FAILS:
        response = message.get("response")
        return (response.get("error") if isinstance(response, dict) else None) or message
    if message.get("error"):
        return message["error"] if not isinstance(message["error"], str) else {"message": message["error"]}
    # A bare item of a stream has a type; a tool that failed is no failure of the agent.
    if message.get("status") == "failed" and isinstance(message.get("output"), list) and not isinstance(kind, str):
        return message
    if message.get("error_code") and "message" in message:
        return message
    return None


# What runs that are not over, or came to nothing, say of themselves, and what is to be done about it.
_IS_RUNNING = (
    "the agent goes on in the background. Leave 'background' out of the payload, or ask the server for the run"
)
_NO_ANSWER = {
    "queued": _IS_RUNNING,
    "pending": _IS_RUNNING,
    "running": _IS_RUNNING,
    "in_progress": _IS_RUNNING,
    "cancelling": "the run is being cancelled. Ask again",
    "cancelled": "the run was cancelled. Ask again",
    "canceled": "the run was cancelled. Ask again",
    "expired": "the run has expired. Ask again",
    "failed": "the agent failed",
    "error": "the agent failed",
}
# What an answer may say beside what the agent says.
_BESIDE = frozenset(
    {
        *("id", "object", "created", "created_at", "model", "status", "error", "incomplete_details", "metadata"),
        *("usage", "trace_id", "databricks_output", "service_tier", "system_fingerprint"),
    }
)
# What a server's refusal consists of, in the forms of FastAPI and RFC 9457.
_REFUSAL = frozenset({"detail", "title", "status", "type", "instance"})


def no_answer(answer: dict[str, Any]) -> str:
    """Return why a whole answer is none, by what it says itself; "" where it is one."""
    if (reason := why_not(answer.get("status"))) and _tells_of_a_run(answer):
        return reason
    said = {key for key, value in answer.items() if value is not None}
    if said <= _BESIDE:
        return "it holds nothing that an agent says"
    if "detail" in said and said <= _REFUSAL:
        return server_reason(answer)
    return ""


def why_not(status: Any) -> str:
    """Return why there is no answer, by a run's status; "" where that does not say so."""
    reason = _NO_ANSWER.get(status) if isinstance(status, str) else None
    return f"its status is '{status}': {reason}" if reason else ""


def _tells_of_a_run(answer: dict[str, Any]) -> bool:
    """Return whether the status of an answer is its own, and not a word of a custom model about something else."""
    if answer.keys() & {"predictions", "choices", "messages", "content", "final_response"}:
        return False
    return answer.keys() <= _BESIDE | _REFUSAL | {"message"} or "output" in answer or isinstance(answer.get("id"), str)
