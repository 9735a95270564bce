"""Errors as users meet them: classes, messages, attributes, pickles."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from mlflow_agent_target import errors
from mlflow_agent_target.errors import AgentTargetError
from mlflow_agent_target.text import parse_body, printable, server_reason

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, AgentTargetError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_are_mlflows_and_pickle(kind: type[AgentTargetError]) -> None:
    error = kind("what", endpoint="e", status_code=418, request_id="r", body={"a": 1}, attempts=2, may_have_run=True)
    for name in ("retry_after", "partial"):
        if hasattr(error, name):
            setattr(error, name, 5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == "what"
    assert isinstance(copy, MlflowException)
    assert json.loads(copy.serialize_as_json())["message"] == "what"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error_code": "BAD_REQUEST", "message": "no"}', "BAD_REQUEST: no"),
        (b'{"error_code": "BAD_REQUEST", "message": "no", "stack_trace": "long"}', "BAD_REQUEST: no"),
        (b'{"error": {"message": "no", "type": "t", "code": "c"}}', "c: no"),
        (b'{"error": {"message": "no", "type": "t", "code": null}}', "t: no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"detail": [{"loc": ["body"], "msg": "no"}]}', '[{"loc": ["body"], "msg": "no"}]'),
        (b'{"message": "no"}', "no"),
        (b'{"error_code": "X"}', "X"),
        (b"NOT_FOUND: no", "NOT_FOUND: no"),
        (b"<html><title>no</title><body>..</body></html>", "no"),
        (b"<pre>no</pre>", "no"),
        (b'["no"]', '["no"]'),
        (b'{"other": 1}', '{"other": 1}'),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_the_servers_own_words_are_found_in_any_body(body: bytes, reason: str) -> None:
    assert server_reason(parse_body(body)) == reason


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nERROR forged\r\n\x1b[31mred\x07", "a ERROR forged [31mred"),
        ("a\u2028b\u200bc", "a b c"),
        ("x" * 2000, "x" * 1000 + "..."),
    ],
)
def test_a_body_cannot_forge_log_lines(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_the_deepest_json_is_still_only_a_body() -> None:
    deep: Any = b"[" * 100_000
    assert isinstance(server_reason(parse_body(deep)), str)
