"""What a server says went wrong: in an error's body, in an answer, in an event of a stream. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

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


def parse_body(raw: bytes) -> Any:
    """Return an error answer's body as JSON values, or else as text; None when it is empty."""
    text = raw.decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip() or None


def redacted(value: Any, secrets: Iterable[str]) -> Any:
    """Return what a server said, JSON values, without the login that it quotes: some repeat the request."""
    try:
        text = said = json.dumps(value)
    except RecursionError:
        return "[nested too deeply to be shown]"
    for secret in filter(None, secrets):
        text = text.replace(json.dumps(secret)[1:-1], "[redacted]")
    return value if text == said else json.loads(text)


def server_reason(body: Any) -> str:
    """Return what a server said went wrong, as one printable line: its code and its message.

    Reads the shapes of Databricks and MLflow (`error_code`, `message`), of the OpenAI-compatible APIs (`error`), of
    FastAPI (`detail`), and text.
    """
    code, message = _code_and_message(body)
    return printable(f"{code}: {message}" if code and message else str(code or message))


def _code_and_message(body: Any) -> tuple[str, str]:
    if isinstance(body, str):
        found = re.search(r"<title>(.*?)</title>|<pre>(.*?)</pre>", body, re.IGNORECASE | re.DOTALL)
        return "", (found.group(1) or found.group(2) or "").strip() if found else body
    if not isinstance(body, dict):
        return "", "" if body is None else json.dumps(body)
    error = body.get("error")
    if isinstance(error, dict):
        return _code_and_message({"error_code": error.get("code") or error.get("type"), **error, "error": None})
    code = str(body.get("error_code") or body.get("code") or "")
    for message in (body.get("message"), error, body.get("detail")):
        if isinstance(message, str) and message:
            return code, message
        if message:
            return code, json.dumps(message)
    return code, "" if code else json.dumps(body)


def printable(text: str, limit: int = 1000) -> str:
    """Return `text` as one line of printable characters, shortened to `limit`: a body must not forge log lines."""
    line = "".join(char if char.isprintable() else " " for char in text[: limit + 1])
    line = " ".join(line.split())
    return line if len(text) <= limit else line[:limit] + "..."


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


# Only what has one of these keys, or the type or the name of an error, can report one: most events don't.
ERROR_KEYS = frozenset({"databricks_output", "error", "error_code", "output"})


def failure(message: dict[str, Any], event_name: str = "") -> Any:
    """Return the error that an answer or a stream event reports, or None when it reports none.

    Args:
        message: A whole answer, or an event's data. Its HTTP status was 200.
        event_name: The event's own name, where the server frames with `event:` lines.
    """
    kind = message.get("type")
    if event_name != "error" and kind not in ("error", "response.failed") and ERROR_KEYS.isdisjoint(message):
        return None
    output = message.get("databricks_output")
    if isinstance(output, dict) and output.get("error"):
        return output["error"]
    if kind == "error" or event_name == "error":
        return message.get("error") or message
    if kind == "response.failed":
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
