"""What is known of one exchange with a server. Every error that comes of the exchange is made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mlflow_agent_target.errors import AgentTargetError, server_name
from mlflow_agent_target.redaction import redacted, secrets_of, secrets_of_environment

_Error = TypeVar("_Error", bound=AgentTargetError)


@dataclass(slots=True)
class Facts:
    """What is known of one exchange: filled in as it goes on, and told by each error that comes of it.

    Attributes:
        endpoint: The endpoint's name; None where none was named.
        url: The base URL of the server.
        attempts: How many times the request was sent, this time included.
        timeout: Seconds that this attempt was given.
        is_capped: Whether that is what was left for all attempts together, and less than one may take.
        status: The HTTP status of the answer; None before there is one.
        request_id: The server's id of the request; None where it gave none.
        invocation_id: The id of the run that the exchange is about, where the server keeps runs.
        logins: The headers of the login, as they were sent. No error shows their values.
    """

    endpoint: str | None = None
    url: str = ""
    attempts: int = 1
    timeout: float = float("inf")
    is_capped: bool = False
    status: int | None = None
    request_id: str | None = None
    invocation_id: str | None = None
    logins: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def server(self) -> str:
        """What an error calls the server, at the start of a sentence."""
        return server_name(self.endpoint)

    @property
    def how_to_allow_more(self) -> str:
        """What an error says of an attempt whose time was over."""
        if self.is_capped:
            return (
                "More was not left of the time for all attempts together: allow more with "
                "MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT or client.with_options(total_timeout=...)."
            )
        return "Allow more with MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT or client.with_options(timeout=...)."

    def redacted(self, said: Any) -> Any:
        """Return what a server or a library said, JSON values, without the secrets that were sent or are set."""
        return redacted(said, [*secrets_of(self.logins), *secrets_of_environment()])

    def cause(self, error: BaseException) -> BaseException | None:
        """Return what to raise an error of this exchange from: `error`, unless that shows a secret."""
        seen: list[BaseException] = []
        cause: BaseException | None = error
        while cause is not None and cause not in seen:
            seen.append(cause)
            cause = cause.__cause__ or cause.__context__
        shown = [f"{one} {one.args}" for one in seen]
        return error if self.redacted(shown) == shown else None

    def error(self, kind: type[_Error], message: str, *, body: Any = None, **more: Any) -> _Error:
        """Return an error of this exchange.

        Args:
            kind: The error's class.
            message: What failed, and what to do about it.
            body: What the server said, JSON values.
            more: Further attributes of the error, such as `may_have_run`.

        Returns:
            The error, in which no secret is shown.
        """
        return kind(
            self.redacted(message),
            endpoint=self.endpoint,
            status_code=self.status,
            request_id=self.redacted(self.request_id),
            attempts=self.attempts,
            body=self.redacted(body),
            **{"invocation_id": self.invocation_id, **more},
        )
