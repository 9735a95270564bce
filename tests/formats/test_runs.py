"""What servers say of runs that outlive a request."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target.errors import AgentError, InvalidInputError, InvalidResponseError
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.formats.runs import (
    InvocationApi,
    ResponsesApi,
    RunProtocol,
    is_going,
    is_start,
    keeps_responses,
    knows_no_run,
    run_url,
    status_of,
)

ID = "0b6ee2c0-6f0e-4f1c-9d8a-0f4d5f6a7b8c"
FACTS = Facts("apps:/a", status=200, invocation_id=ID)


@pytest.mark.parametrize(
    ("record", "status", "going"),
    [
        ({"status": "queued"}, "queued", True),
        ({"status": "pending"}, "queued", True),
        ({"status": "active"}, "in_progress", True),
        ({"status": "in_progress"}, "in_progress", True),
        ({"status": "completed"}, "completed", False),
        ({"status": "interrupted"}, "completed", False),
        ({"status": "failed"}, "failed", False),
        ({"status": "cancelled"}, "cancelled", False),
        ({"status": 7}, "", False),
        ({}, "", False),
        (["queued"], "", False),
        (None, "", False),
    ],
)
def test_how_a_run_stands(record: Any, status: str, going: bool) -> None:
    assert status_of(record) == status
    assert is_going(record) is going


@pytest.mark.parametrize(
    ("answer", "is_one"),
    [
        ({"id": "resp_1", "object": "response", "status": "in_progress", "output": []}, True),
        ({"id": "resp_1", "status": "queued"}, True),
        ({"id": "resp_1", "status": "completed", "output": []}, False),
        ({"status": "in_progress", "output": []}, False),
        ({"id": "", "status": "in_progress"}, False),
        ({"id": 7, "status": "in_progress"}, False),
        ({"id": "x", "status": "running", "messages": []}, False),
        ({"id": "x", "status": "running", "predictions": []}, False),
        ([], False),
    ],
)
def test_an_answer_that_is_only_a_start(answer: Any, is_one: bool) -> None:
    assert is_start(answer) is is_one


@pytest.mark.parametrize(
    ("protocol", "record", "whole"),
    [
        (InvocationApi, {"status": "completed", "output": None}, True),
        (InvocationApi, {"status": "failed", "error": "x"}, True),
        (InvocationApi, {"status": "completed", "status_url": "/x"}, False),
        (InvocationApi, {"status": "active", "output": None}, False),
        (InvocationApi, "odd", False),
        (ResponsesApi, {"status": "completed"}, True),
        (ResponsesApi, {"status": "queued"}, False),
    ],
)
def test_a_record_that_tells_how_its_run_ended(protocol: type[RunProtocol], record: Any, whole: bool) -> None:
    assert protocol.is_whole(record) is whole


def test_the_answer_of_an_invocation_is_its_record() -> None:
    record = {"id": ID, "status": "completed", "output": {"any": 1}}
    answer = InvocationApi.answer(record, FACTS, "s")
    assert (answer, answer.session_id, answer.invocation_id) == (record, "s", ID)


@pytest.mark.parametrize(
    ("protocol", "record", "kind", "said"),
    [
        (InvocationApi, {"status": "failed", "error": "agent invocation failed"}, AgentError, "the app's log has it"),
        (InvocationApi, {"status": "failed"}, AgentError, "the app's log has it"),
        (
            InvocationApi,
            {"status": "failed", "error": {"code": "MCP_PERMISSION_DENIED", "message": "MCP permission denied."}},
            AgentError,
            "MCP_PERMISSION_DENIED: MCP permission denied.",
        ),
        (InvocationApi, {"status": "failed", "error": "out of memory"}, AgentError, f"run {ID}: out of memory"),
        (InvocationApi, {"status": "completed"}, InvalidResponseError, 'only {"status": "completed"}'),
        (InvocationApi, {"status": "odd", "output": 1}, InvalidResponseError, "only"),
        (ResponsesApi, {"id": "r", "status": "failed", "error": {"message": "boom"}}, AgentError, "boom"),
        (ResponsesApi, {"id": "r", "status": "cancelled"}, InvalidResponseError, "was cancelled"),
    ],
)
def test_a_run_that_came_to_nothing(protocol: type[RunProtocol], record: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as caught:
        protocol.answer(record, FACTS, None)
    assert said in str(caught.value)
    assert str(caught.value).startswith("Endpoint 'apps:/a'")
    assert caught.value.body == record  # type: ignore[attr-defined]
    assert caught.value.may_have_run is True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("protocol", "after", "url"),
    [
        (InvocationApi, None, f"http://h/api/invocations/{ID}/events"),
        (InvocationApi, 0, f"http://h/api/invocations/{ID}/events?after=0"),
        (ResponsesApi, None, f"http://h/responses/{ID}?stream=true"),
        (ResponsesApi, 7, f"http://h/responses/{ID}?stream=true&starting_after=7"),
    ],
)
def test_where_runs_are(protocol: type[RunProtocol], after: int | None, url: str) -> None:
    assert run_url("http://h", protocol, ID) + protocol.events_path(after) == url


def test_an_id_can_not_change_the_url() -> None:
    assert run_url("http://h", ResponsesApi, "../a?b#c/d") == "http://h/responses/..%2Fa%3Fb%23c%2Fd"


@pytest.mark.parametrize(
    ("protocol", "given", "known"),
    [
        (InvocationApi, ID.upper(), ID),
        (InvocationApi, "resp_1", None),
        (InvocationApi, None, None),
        (ResponsesApi, "resp_1", "resp_1"),
        (ResponsesApi, "", None),
        (ResponsesApi, None, None),
    ],
)
def test_ids_are_checked(protocol: type[RunProtocol], given: Any, known: str | None) -> None:
    if known is None:
        with pytest.raises(InvalidInputError, match="id of a run"):
            protocol.check_id(given)
    else:
        assert protocol.check_id(given) == known


@pytest.mark.parametrize(
    ("protocol", "name", "data", "number"),
    [
        (InvocationApi, "12", b"{}", 12),
        (InvocationApi, "", b"{}", None),
        (InvocationApi, "x", b"{}", None),
        (ResponsesApi, "", b'{"sequence_number": 3}', 3),
        (ResponsesApi, "", b'{"sequence_number": true}', None),
        (ResponsesApi, "", b'{"response": {"sequence_number": 3}}', None),
        (ResponsesApi, "", b"[1]", None),
        (ResponsesApi, "", b"[DONE]", None),
    ],
)
def test_the_number_of_an_event(protocol: type[RunProtocol], name: str, data: bytes, number: int | None) -> None:
    assert protocol.number_of(name, data) == number


@pytest.mark.parametrize(
    ("status", "body", "is_durable"),
    [
        (404, {"detail": "invocation not found"}, True),
        (401, {"error": {"code": "MCP_USER_AUTH_REQUIRED", "message": "m"}}, True),
        (404, {"detail": "Not Found"}, False),
        (404, {"detail": "Response not found"}, False),
        (500, {"detail": "invocation not found"}, False),
        (401, {"error": {"code": "EXPIRED"}}, False),
        (403, {"error": {"code": "MCP_USER_AUTH_REQUIRED"}}, False),
        (401, {"error": "MCP_USER_"}, False),
        (404, "invocation not found", False),
        (None, None, False),
    ],
)
def test_a_durable_agent_server_is_told_by_a_run_that_it_has_not(
    status: int | None, body: Any, is_durable: bool
) -> None:
    assert knows_no_run(status, body) is is_durable


@pytest.mark.parametrize(
    ("status", "body", "keeps"),
    [
        (404, {"detail": "Response not found"}, True),
        (404, {"error": {"message": "Response with id 'resp_x' not found.", "type": "invalid_request_error"}}, True),
        (400, {"error": {"message": "Invalid id", "code": "invalid_value"}}, True),
        (404, {"detail": "Not Found"}, False),
        (404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "..."}, False),
        (405, {"detail": "Method Not Allowed"}, False),
        (501, {"detail": "Response retrieval requires a database configuration."}, False),
        (404, "<html>", False),
        (404, None, False),
    ],
)
def test_whether_a_server_keeps_responses(status: int | None, body: Any, keeps: bool) -> None:
    assert keeps_responses(status, body) is keeps
