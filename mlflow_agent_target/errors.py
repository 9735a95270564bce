"""Every error this package raises, as one tree on MLflow's own exception.

    AgentTargetError (mlflow.exceptions.MlflowException)
    |-- InvalidInputError          the payload, the target or an option can't be used; nothing was sent
    |-- InterfaceMismatchError     the payload can't be said in the endpoint's interface
    |-- AuthenticationError        401, or no usable credentials
    |-- PermissionDeniedError      403
    |-- EndpointNotFoundError      404
    |-- RateLimitError             429
    |-- EndpointUnavailableError   502, 503, 504; refused, failed or broken connections
    |-- RequestTimeoutError        no answer in time
    |-- AgentError                 the agent failed, as an HTTP error or as an event in a stream
    |-- StreamInterruptedError     a stream ended before it was complete
    |   `-- StreamIdleError        ... because it was silent for too long (a RequestTimeoutError too)
    `-- InvalidResponseError       the answer is not what the protocol says
        `-- SignInPageError        ... but a page that asks a person to log in (an AuthenticationError too)

They take one positional message and keyword attributes with defaults, so that they pickle by themselves.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)

_Error = TypeVar("_Error", bound="AgentTargetError")


class AgentTargetError(MlflowException):
    """Base of every error of this package.

    Attributes:
        endpoint: Name of the endpoint that was called; None when no endpoint was involved.
        status_code: HTTP status of the answer; None when there was none.
        request_id: The server's id of the request; None when it gave none.
        body: The answer's body, parsed where it was JSON, else as text; None when there was none.
        attempts: How many times the request was sent, or tried to be.
        retryable: Whether the same request may succeed later.
        may_have_run: False: the agent has certainly not run. True: it may have, so that running it again is the
            caller's decision.
        invocation_id: Id of the run that was or may have been started, for `client.get_run`; None where there is none,
            or the server keeps no runs.
    """

    mlflow_error_code: ClassVar[int] = INTERNAL_ERROR
    retryable: bool = False
    may_have_run: bool = False

    def __init__(
        self,
        message: str,
        *,
        endpoint: str | None = None,
        status_code: int | None = None,
        request_id: str | None = None,
        body: Any = None,
        attempts: int = 0,
        retryable: bool | None = None,
        may_have_run: bool | None = None,
        invocation_id: str | None = None,
    ) -> None:
        super().__init__(message, error_code=self.mlflow_error_code)
        self.endpoint = endpoint
        self.status_code = status_code
        self.request_id = request_id
        self.body = body
        self.attempts = attempts
        self.invocation_id = invocation_id
        if retryable is not None:
            self.retryable = retryable
        if may_have_run is not None:
            self.may_have_run = may_have_run


class InvalidInputError(AgentTargetError):
    """The payload, the endpoint's name, the target or an option can't be used. Nothing was sent to the agent."""

    mlflow_error_code = INVALID_PARAMETER_VALUE


class InterfaceMismatchError(AgentTargetError):
    """The payload has no counterpart in the interface that the endpoint serves. The agent has not run."""

    mlflow_error_code = INVALID_PARAMETER_VALUE


class AuthenticationError(AgentTargetError):
    """The credentials are missing, expired or not accepted."""

    mlflow_error_code = UNAUTHENTICATED


class PermissionDeniedError(AgentTargetError):
    """The credentials are valid and may not query this endpoint."""

    mlflow_error_code = PERMISSION_DENIED


class EndpointNotFoundError(AgentTargetError):
    """There is no such endpoint, or it serves nothing yet."""

    mlflow_error_code = RESOURCE_DOES_NOT_EXIST


class RateLimitError(AgentTargetError):
    """The endpoint, the workspace or the agent's own model is over its rate limit.

    Attributes:
        retry_after: Seconds the server asked to wait; None when it did not say.
    """

    mlflow_error_code = REQUEST_LIMIT_EXCEEDED
    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None, **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.retry_after = retry_after


class EndpointUnavailableError(AgentTargetError):
    """The endpoint can't be reached, is not ready, or broke the connection.

    Attributes:
        retry_after: Seconds the server asked to wait; None when it did not say.
        unreachable: Whether no connection could be made at all.
        cut_off: Whether the connection broke before the whole request was sent, as one does that was kept alive for
            longer than the server liked.
    """

    mlflow_error_code = TEMPORARILY_UNAVAILABLE
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        unreachable: bool = False,
        cut_off: bool = False,
        **attributes: Any,
    ) -> None:
        super().__init__(message, **attributes)
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.cut_off = cut_off


class RequestTimeoutError(AgentTargetError):
    """No answer came in time. The agent may still be running."""

    mlflow_error_code = DEADLINE_EXCEEDED
    retryable = True
    may_have_run = True


class _PartialAnswerError(AgentTargetError):
    may_have_run = True

    def __init__(self, message: str, *, partial: dict[str, Any] | None = None, **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.partial = partial


class AgentError(_PartialAnswerError):
    """The agent itself failed, as an HTTP error or as an event in its stream.

    Attributes:
        partial: What had arrived of a stream, in the shape that `predict` gives; None for other calls.
    """


class StreamInterruptedError(_PartialAnswerError):
    """A stream ended before it was complete.

    Attributes:
        partial: What had arrived, in the shape that `predict` gives; None when nothing had.
    """

    retryable = True


class StreamIdleError(StreamInterruptedError, RequestTimeoutError):
    """A stream was silent for longer than `idle_timeout`, or a run's for longer than `total_timeout`: out of time."""

    mlflow_error_code = DEADLINE_EXCEEDED


class InvalidResponseError(AgentTargetError):
    """The answer is not what the protocol says: HTML, broken JSON, a redirect."""

    may_have_run = True


class SignInPageError(AuthenticationError, InvalidResponseError):
    """A page that asks a person to log in, or a redirect to one, came in place of an answer. The agent has not run."""

    may_have_run = False


def server_name(endpoint: str | None) -> str:
    """Return what an error calls the server, at the start of a sentence."""
    return f"Endpoint '{endpoint}'" if endpoint else "The server"


def retold(error: AgentTargetError, kind: type[_Error], message: str, **more: Any) -> _Error:
    """Return an error of the same exchange that says something else.

    Args:
        error: What is known of the exchange.
        kind: The class of the new error.
        message: What it says.
        more: Further attributes, such as `may_have_run`.
    """
    return kind(
        message,
        endpoint=error.endpoint,
        status_code=error.status_code,
        request_id=error.request_id,
        body=error.body,
        attempts=error.attempts,
        **more,
    )


def reword(error: AgentTargetError, message: str) -> None:
    """Have an error say something else."""
    error.message = message
    error.args = (message,)


def has_not_run(error: AgentTargetError) -> None:
    """Have an error say that the agent has certainly not run."""
    error.may_have_run = False
    reword(error, f"{error.message.removesuffix(' The agent may have run.')} The agent has not run.")
