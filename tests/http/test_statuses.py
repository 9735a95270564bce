"""What an answer's status and body mean: which error, what it says, and whether the agent may have run."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target.errors import AgentTargetError, SignInPageError
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.http.statuses import error_for_answer


def error_of(status: int, body: Any = None, sent_bytes: int = 100, **headers: str) -> AgentTargetError:
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    facts = Facts("e", attempts=2, status=status, request_id=said.get("x-request-id"))
    return error_for_answer(facts, body=body, headers=said, retry_after=3.0, sent_bytes=sent_bytes)


# Status, class, MLflow's code, may_have_run.
STATUSES = [
    (400, "AgentError", "INTERNAL_ERROR", True),
    (401, "AuthenticationError", "UNAUTHENTICATED", False),
    (403, "PermissionDeniedError", "PERMISSION_DENIED", False),
    (404, "EndpointNotFoundError", "RESOURCE_DOES_NOT_EXIST", False),
    (405, "EndpointNotFoundError", "RESOURCE_DOES_NOT_EXIST", False),
    (408, "RequestTimeoutError", "DEADLINE_EXCEEDED", True),
    (409, "AgentError", "INTERNAL_ERROR", True),
    (411, "InvalidInputError", "INVALID_PARAMETER_VALUE", False),
    (413, "InvalidInputError", "INVALID_PARAMETER_VALUE", False),
    (415, "InvalidInputError", "INVALID_PARAMETER_VALUE", False),
    (422, "AgentError", "INTERNAL_ERROR", True),
    (429, "RateLimitError", "REQUEST_LIMIT_EXCEEDED", False),
    (431, "InvalidInputError", "INVALID_PARAMETER_VALUE", False),
    (499, "AgentError", "INTERNAL_ERROR", True),
    (500, "AgentError", "INTERNAL_ERROR", True),
    (501, "AgentError", "INTERNAL_ERROR", True),
    (502, "EndpointUnavailableError", "TEMPORARILY_UNAVAILABLE", True),
    (503, "EndpointUnavailableError", "TEMPORARILY_UNAVAILABLE", False),
    (504, "EndpointUnavailableError", "TEMPORARILY_UNAVAILABLE", True),
]


@pytest.mark.parametrize(("status", "kind", "code", "may_have_run"), STATUSES)
def test_a_status_means_an_error(status: int, kind: str, code: str, may_have_run: bool) -> None:
    body = {"error_code": "X", "message": "why"}
    error = error_of(status, body, x_request_id="r-7")
    assert (type(error).__name__, error.error_code, error.may_have_run) == (kind, code, may_have_run)
    assert (error.status_code, error.endpoint, error.request_id, error.attempts) == (status, "e", "r-7", 2)
    assert error.body == body
    assert f"Endpoint 'e' answered {status}: X: why (request r-7)." in str(error)
    assert error.retryable is (status in (408, 429) or status >= 500)
    if status in (429, 503):
        assert getattr(error, "retry_after", None) == 3.0


@pytest.mark.parametrize(
    ("body", "may_have_run"),
    [
        ({"detail": "Invalid parameters for ResponsesAgent: 1 validation error"}, False),
        ({"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid parameters for ChatAgent: no"}, False),
        ({"message": "Encountered an unexpected error: Invalid parameters for ChatAgent: no"}, True),
        ({"message": ["Invalid parameters for ChatAgent: no"]}, True),
        ({"error_code": "BAD_REQUEST", "message": "Failed to enforce schema of data [{}]"}, True),
        ("Invalid parameters for ChatAgent: no", True),
    ],
)
def test_a_400_that_refuses_the_payload_has_run_nothing(body: Any, may_have_run: bool) -> None:
    assert error_of(400, body).may_have_run is may_have_run


FAULT = {"loc": ["body", "input"], "msg": "Field required", "type": "missing"}


@pytest.mark.parametrize(
    ("body", "kind", "may_have_run"),
    [
        ({"detail": [FAULT]}, "InvalidInputError", False),
        ({"detail": [FAULT, {**FAULT, "loc": ["body"]}]}, "InvalidInputError", False),
        ({"detail": [FAULT, {"msg": "no place"}]}, "AgentError", True),
        ({"detail": "Field required"}, "AgentError", True),
        ({"error_code": "X", "message": "no"}, "AgentError", True),
        ("no", "AgentError", True),
    ],
)
def test_a_422_of_fastapis_has_run_nothing(body: Any, kind: str, may_have_run: bool) -> None:
    error = error_of(422, body)
    assert (type(error).__name__, error.may_have_run, error.retryable) == (kind, may_have_run, False)


# What Envoy writes (source/common/http/utility.cc), and what other gateways and servers do.
BEFORE = "upstream connect error or disconnect/reset before headers. "


@pytest.mark.parametrize(
    ("said", "may_have_run"),
    [
        (BEFORE + "reset reason: connection termination", True),
        (BEFORE + "reset reason: remote reset", True),
        (BEFORE + "reset reason: protocol error", True),
        (BEFORE + "reset reason: local reset", True),
        (BEFORE + "retried and the latest reset reason: connection termination", True),
        (BEFORE + "reset reason: something new", True),
        (BEFORE, True),
        ("upstream connect error or disconnect/reset after headers. reset reason: connection failure", True),
        (BEFORE + "reset reason: connection failure", False),
        (BEFORE + "reset reason: remote connection failure, transport failure reason: connect error: 111", False),
        (BEFORE + "reset reason: connection timeout", False),
        (BEFORE + "reset reason: overflow", False),
        (BEFORE + "reset reason: remote refused stream reset", False),
        ("no healthy upstream", False),
        ("Service Unavailable", False),
        ({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "The endpoint is scaling up"}, False),
        (None, False),
    ],
)  # fmt: skip
def test_a_503_of_a_gateway_that_lost_the_agent_may_have_run_it(said: Any, may_have_run: bool) -> None:
    error = error_of(503, said)
    assert (type(error).__name__, error.may_have_run, error.retryable) == (
        "EndpointUnavailableError",
        may_have_run,
        True,
    )
    assert ("may have run" in str(error)) is may_have_run


def test_a_proxy_that_wants_a_login_is_told_and_not_asked_again() -> None:
    error = error_of(407, "<title>407 Proxy Authentication Required</title>")
    assert (type(error).__name__, error.may_have_run, error.retryable) == ("EndpointUnavailableError", False, False)
    assert "HTTP_PROXY=http://USER:PASSWORD@HOST:PORT" in str(error)


@pytest.mark.parametrize(("endpoint", "right"), [("apps:/a", "CAN USE"), ("a", "CAN QUERY"), (None, "CAN QUERY")])
def test_a_403_names_the_right_to_ask_for(endpoint: str | None, right: str) -> None:
    facts = Facts(endpoint, status=403)
    assert right in str(error_for_answer(facts, body=None, headers={}, retry_after=None, sent_bytes=1))


@pytest.mark.parametrize(
    ("status", "message", "sent_bytes", "says", "may_have_run"),
    [
        (413, "no", 5_242_905, "5,242,905 bytes (5.2 MB)", False),
        (413, "no", 100, "100 bytes (0.0 MB)", False),
        (400, "Request size exceeds the limit", 4_000_001, "4,000,001 bytes (4.0 MB)", False),
        (400, "Request size exceeds the limit", 4_000_000, "It refused the payload, or its agent failed", True),
        (400, "Request size exceeds the limit", 5_000_001, "5,000,001 bytes (5.0 MB)", False),
        (400, "The payload is too large", 20_000_000, "20,000,000 bytes (20.0 MB)", False),
        (400, "Request size exceeds the limit", 100, "It refused the payload, or its agent failed", True),
        (400, "kaput", 20_000_000, "It refused the payload, or its agent failed", True),
    ],
)
def test_a_payload_that_is_too_big_is_told_its_size_and_the_limit(
    status: int, message: str, sent_bytes: int, says: str, may_have_run: bool
) -> None:
    error = error_of(status, {"error_code": "BAD_REQUEST", "message": message}, sent_bytes)
    assert says in str(error)
    assert ("4 MB for agents" in str(error)) is (status == 413 or not may_have_run)
    assert error.may_have_run is may_have_run


@pytest.mark.parametrize(
    ("location", "is_sign_in"),
    [
        ("https://adb-1.azuredatabricks.net/oidc/oauth2/v2.0/authorize?client_id=x", True),
        ("/login.html?next=%2Fserving-endpoints", True),
        ("https://login.microsoftonline.com/x", True),
        ("https://elsewhere.example/serving-endpoints/a/invocations", False),
        ("https://[broken", False),
        ("", False),
    ],
)
def test_a_redirect_is_no_answer(location: str, is_sign_in: bool) -> None:
    error = error_of(302, location=location)
    assert isinstance(error, SignInPageError) is is_sign_in
    assert type(error).__name__ in ("SignInPageError", "InvalidResponseError")
    assert error.may_have_run is False
    assert ("databricks auth login" in str(error)) is is_sign_in


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ({"message": "Invalid access token. [ReqId: 1]"}, "AuthenticationError", "Check that the token is valid"),
        ({"message": "Token is expiring within 30 seconds."}, "AuthenticationError", "Check that the token is valid"),
        ({"message": "Credential was revoked"}, "AuthenticationError", "Check that the token is valid"),
        ({"message": "User has no permission to use tokens"}, "PermissionDeniedError", "CAN QUERY"),
        ({"message": "You do not have permission: token budget is exceeded"}, "PermissionDeniedError", "CAN QUERY"),
        (
            {"message": "Source IP address: 1.2.3.4 is blocked by Databricks IP ACL for workspace: 5"},
            "PermissionDeniedError",
            "IP access list",
        ),
        ("<html><title>Access Denied</title>Zscaler</html>", "PermissionDeniedError", "a proxy or firewall"),
        ("<html><title>Error 403 No permission</title></html>", "PermissionDeniedError", "CAN QUERY"),
        (None, "PermissionDeniedError", "CAN QUERY"),
    ],
)
def test_a_403_means_what_its_words_say(body: Any, kind: str, says: str) -> None:
    error = error_of(403, body)
    assert (type(error).__name__, error.may_have_run) == (kind, False)
    assert says in str(error)


@pytest.mark.parametrize(
    ("location", "kind", "says"),
    [
        (
            "https://adb-1.azuredatabricks.net/login.html?error=private-link-validation-error:123",
            "PermissionDeniedError",
            "Private Link only",
        ),
        ("/login.html?error=access_denied&error_description=no+such+user", "SignInPageError", "no such user"),
        ("https://elsewhere.example/sorry?reason=moved", "InvalidResponseError", "moved"),
        (
            "https://elsewhere.example/sorry?message=Source+IP+1.2.3.4+is+blocked",
            "PermissionDeniedError",
            "access list",
        ),
    ],
)
def test_a_redirects_reason_is_told(location: str, kind: str, says: str) -> None:
    error = error_of(303, location=location)
    assert (type(error).__name__, error.may_have_run) == (kind, False)
    assert says in str(error)
