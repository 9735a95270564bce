"""What a failure of databricks-sdk means: whether it may pass, and what is told of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_agent_target import AgentTargetError, AuthenticationError, EndpointUnavailableError
from mlflow_agent_target.target.failed_logins import login_error


def error_of(raised: BaseException, *secrets: str) -> AgentTargetError:
    try:
        raise raised
    except BaseException as error:
        return login_error(error, "No login", secrets)


def refused(status: int, content: bytes, **headers: str) -> AgentTargetError:
    """The error of what databricks-sdk raises, which has the answer in hand when it does."""
    resp = SimpleNamespace(status_code=status, content=content, headers=headers)
    try:
        try:
            assert resp.status_code
            raise ValueError("unknown: unknown")
        except ValueError as error:
            raise ValueError("default auth: oauth-m2m: unknown: unknown. Config: host=h") from error
    except ValueError as error:
        return login_error(error, "No login", ["hunter2", "me:hunter2"])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, EndpointUnavailableError) for status in (408, 429, 500, 502, 503, 504)),
        *((status, AuthenticationError) for status in (400, 401, 403, 404)),
    ],
)
def test_a_token_endpoints_status_decides(status: int, kind: type) -> None:
    error = refused(status, b'{"error_code": "X", "message": "why"}', **{"retry-after": "7"})
    assert type(error) is kind
    assert (error.retryable, error.may_have_run) == (kind is EndpointUnavailableError, False)
    assert f"No login: {status}: X: why. " in str(error)
    assert getattr(error, "retry_after", 7.0) == 7.0


@pytest.mark.parametrize(
    ("raised", "passing", "unreachable"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), True, False),
        (TimeoutError("Timed out after 0:00:01"), True, False),
        (OSError("cannot get access token: dial tcp: lookup h: no such host"), True, True),
        (OSError("cannot get access token: oauth2: 503 Service Unavailable"), True, False),
        (OSError("cannot get access token: refresh token is invalid. Run databricks auth login"), False, False),
        (ValueError("cannot configure default credentials. Config: http_timeout_seconds=10.0"), False, False),
        (ValueError("Invalid URL 'None': No scheme supplied"), True, True),
        (ValueError("more than one authorization method configured: oauth and pat"), False, False),
        (OSError("SSL: CERTIFICATE_VERIFY_FAILED after a timeout"), False, False),
    ],
)
def test_where_nobody_refused_its_own_words_decide(raised: Exception, passing: bool, unreachable: bool) -> None:
    error = error_of(raised)
    assert isinstance(error, EndpointUnavailableError if passing else AuthenticationError)
    assert getattr(error, "unreachable", False) is unreachable
    assert error.__cause__ is raised


@pytest.mark.parametrize("quoted", ["hunter2", "me:hunter2", "hunter%2F2", "bWU6aHVudGVyMg=="])
def test_a_secret_that_is_quoted_is_not_told(quoted: str) -> None:
    secrets = ["hunter2", "hunter/2", "me:hunter2"]
    error: Any = error_of(ValueError(f"invalid_client: {quoted} is not known"), *secrets)
    assert quoted not in str(error)
    assert "is not known" in str(error)
    assert error.__cause__ is None or quoted not in str(error.__cause__)
