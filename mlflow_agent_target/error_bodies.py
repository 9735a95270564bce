"""What a server says went wrong, read from any body. Pure."""

from __future__ import annotations

import json
import re
from typing import Any


def parse_body(raw: bytes) -> Any:
    """Return an error answer's body as JSON values, or else as text; None when it is empty."""
    text = raw.decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip() or None


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
