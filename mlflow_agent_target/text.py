"""What every room needs to speak: a server's words, made printable; JSON out, or why it is none. Pure."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

from mlflow_agent_target.errors import InvalidInputError


def parse_body(raw: bytes, charset: str | None = None) -> Any:
    """Return an error answer's body as JSON values, or else as text; None when it is empty."""
    text = decoded(raw, charset)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip() or None


def decoded(raw: bytes, charset: str | None = None) -> str:
    """Return bytes as text, without a byte order mark; what is none in its charset, UTF-8 unless told, is U+FFFD."""
    return raw.decode(charset or "utf-8", errors="replace").removeprefix("\ufeff")


def other_charset(parameters: str) -> str | None:
    """Return the charset of a content type's parameters, where Python knows it and it is another one than UTF-8."""
    found = re.search(r"charset\s*=\s*\"?([\w.:-]+)", parameters, re.IGNORECASE)
    try:
        name = codecs.lookup(found[1]).name if found else "utf-8"
        b"x".decode(name, errors="replace")  # Python has codecs that are none of text
    except LookupError:
        return None
    return None if name in ("utf-8", "ascii") else name


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


def seconds(value: float) -> str:
    """Return a time limit as a person would write it."""
    return f"{round(value, 2 if value >= 0.02 else 4):g}"


def encode_json(payload: Any) -> bytes:
    """Return `payload` as JSON bytes.

    Raises:
        InvalidInputError: It holds a value that JSON can't say; the error names its path.
    """
    try:
        return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise not_json(payload) from error


def not_json(payload: Any) -> InvalidInputError:
    """Return the error of a payload that JSON can't say, with the path of what it can't."""
    try:
        problem = _json_problem(payload)
    except RecursionError:
        problem = "it is nested too deeply"
    return InvalidInputError(f"The payload can't be sent as JSON: {problem}.")


# What has the first as an attribute is best sent as the second.
_ADVICE = {
    "isoformat": "text, such as its .isoformat()",
    "model_dump": "its .model_dump()",
    "__dataclass_fields__": "its dataclasses.asdict()",
    "_value_": "its .value",
    "as_integer_ratio": "a float, or text",
    "__fspath__": "text, such as its str()",
    "urn": "text, such as its str()",
    "total_seconds": "its .total_seconds()",
}


def plain(value: Any) -> Any:
    """Return a mapping as a dict, and numpy's and pandas' numbers and arrays as Python's, without importing either."""
    if isinstance(value, Mapping):
        return dict(value)
    if callable(getattr(value, "tolist", None)) and not isinstance(value, memoryview):
        return value.tolist()
    raise TypeError


def _json_problem(value: Any, path: str = "", parents: tuple[int, ...] = ()) -> str:
    """Return where and why `value` is no JSON, or "" where it is."""
    where = path or "the payload"
    if id(value) in parents:
        return f"{where} contains itself"
    parents = (*parents, id(value))
    if not isinstance(value, (dict, list, tuple, str, int, float)):
        with contextlib.suppress(TypeError):
            value = plain(value)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"a key in {where} is {type(key).__name__} {key!r:.50}, not a string"
            if problem := _json_problem(key, f"the key {key!a:.50} in {where}") or _json_problem(
                item, f"{path}.{key}" if path else key, parents
            ):
                return problem
        return ""
    if isinstance(value, (list, tuple)):
        return next(filter(None, (_json_problem(item, f"{path}[{i}]", parents) for i, item in enumerate(value))), "")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{where} holds half of a surrogate pair, which is no character"
        return ""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f"{where} is {value}, which JSON has no word for"
    if isinstance(value, int) and value.bit_length() > 14_280:  # Python writes no more than 4300 digits
        return f"{where} is an integer of too many digits"
    if value is None or isinstance(value, (bool, int, float)):
        return ""
    given = f"{where} is a {type(value).__name__}, which JSON has no word for"
    return next((f"{given}: send {advice}" for name, advice in _ADVICE.items() if hasattr(value, name)), given)
