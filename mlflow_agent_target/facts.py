"""What is known of one exchange with a server. Every error that comes of the exchange is made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mlflow_agent_target.errors import AgentTargetError, server_name
from mlflow_agent_target.text import redacted

_Error = TypeVar("_Error", bound=AgentTargetError)


@dataclass(slots=True)
class Facts:
    """What is known of one exchange: filled in as it goes on, and told by each error that comes of it.

    Attributes:
        endpoint: The endpoint's name; None where none was named.
        url: The base URL of the server.
        attempts: How many times the request was sent, this time included.
        timeout: Seconds that this attempt was given.
        status: The HTTP status of the answer; None before there is one.
        request_id: The server's id of the request; None where it gave none.
        logins: The headers of the login, as they were sent. No error shows their values.
    """

    endpoint: str | None = None
    url: str = ""
    attempts: int = 1
    timeout: float = float("inf")
    status: int | None = None
    request_id: str | None = None
    logins: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def server(self) -> str:
        """What an error calls the server, at the start of a sentence."""
        return server_name(self.endpoint)

    def redacted(self, said: Any) -> Any:
        """Return what a server said, JSON values, without the login that it quotes."""
        secrets = [value.rpartition(" ")[2] for value in self.logins.values()]
        return redacted(said, secrets) if secrets else said

    def error(self, kind: type[_Error], message: str, *, body: Any = None, **more: Any) -> _Error:
        """Return an error of this exchange.

        Args:
            kind: The error's class.
            message: What failed, and what to do about it.
            body: What the server said, JSON values.
            more: Further attributes of the error, such as `may_have_run`.
        """
        return kind(
            self.redacted(message),
            endpoint=self.endpoint,
            status_code=self.status,
            request_id=self.request_id,
            attempts=self.attempts,
            body=self.redacted(body),
            **more,
        )
