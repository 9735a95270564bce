"""Logins: a host, and the headers that it is to be sent, asked for each request since tokens expire."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.errors import AgentTargetError, AuthenticationError, RequestTimeoutError
from mlflow_agent_target.target.addresses import check_encrypted, origin
from mlflow_agent_target.target.asking import Asking, TookTooLongError
from mlflow_agent_target.target.failed_logins import login_error
from mlflow_agent_target.text import seconds as said_seconds

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

# A login that was refused right after it was made is not made again sooner.
_VAIN_SECONDS = 60.0
# databricks-sdk renews a token 40 seconds before it expires.
_RENEWAL_SECONDS = 60.0


class Login:
    """Who sends the requests to a host. Any number of threads may ask it.

    Attributes:
        host: The base URL of the host that the login belongs to.
        config: databricks-sdk's configuration that the login comes from; None where it comes from elsewhere.
        routing: Headers that say which workspace is meant, for a host that serves several.
        custom: Further headers that the login's owner wants sent to the host. They may hold secrets.

    Args:
        host: The base URL.
        ask: Gives the headers of one request.
        config: databricks-sdk's configuration, or None.
        log_in: Logs in anew; None where that would give the same again.
        lasts: Says until when `ask` needs no server for its answer, by `time.time`; None where it never needs one.
        routing: Headers that say which workspace is meant.
        custom: Further headers for the host.
    """

    def __init__(
        self,
        host: str,
        ask: Callable[[], Mapping[str, str]],
        config: Config | None = None,
        log_in: Callable[[], Login] | None = None,
        *,
        lasts: Callable[[], float] | None = None,
        routing: Mapping[str, str] | None = None,
        custom: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.config = config
        self.routing = routing or {}
        self.custom = custom or {}
        self._ask = ask
        self._log_in = log_in
        self._lasts = lasts
        # Until then, asking takes no time: the login is asked in the caller's own thread.
        self._ready_until = float("-inf")
        self._is_stuck = False
        self._headers: Asking[Mapping[str, str]] = Asking(asks_anew=log_in is not None)
        self._renewal: Asking[None] = Asking(asks_anew=True)
        self._vain_until = float("-inf")

    def __repr__(self) -> str:
        return f"Login({self.host!r})"

    def headers(self, seconds: float = float("inf")) -> Mapping[str, str]:
        """Return the headers of one request.

        Args:
            seconds: How long that may take, where a server must be asked for another token.

        Raises:
            AuthenticationError: There are none.
            EndpointUnavailableError: There are none for now.
            RequestTimeoutError: It took longer.
        """
        if self._lasts is None or time.time() < self._ready_until:
            return self._ask()
        try:
            return self._headers.ask(self._fresh, seconds)
        except TookTooLongError:
            self._is_stuck = True
        raise took_too_long(self.host, seconds)

    def renew(self, refused: Mapping[str, str], seconds: float = float("inf")) -> bool:
        """Return whether there are other headers than those that the host refused, logging in anew for them.

        Args:
            refused: The headers.
            seconds: How long that may take.

        Raises:
            AgentTargetError: Logging in failed, as with `headers`.
        """
        if self.headers(seconds) != refused:
            return True  # expired meanwhile, or another thread was here before
        if self._log_in is None or time.monotonic() < self._vain_until:
            return False
        try:
            self._renewal.ask(lambda: self._renew(refused), seconds)
        except TookTooLongError:
            pass
        else:
            return self.headers(seconds) != refused
        raise took_too_long(self.host, seconds)

    def confirm(self) -> None:
        """Note that the headers which `renew` gave were accepted: it may be asked again at any time."""
        self._vain_until = float("-inf")

    def is_oauth(self, seconds: float = float("inf")) -> bool:
        """Return whether this is an OAuth login of databricks-sdk's: a Databricks App takes no other.

        Args:
            seconds: How long that may take.
        """
        if self.config is None:
            return False
        self.headers(seconds)  # within the time limit; the token is there then
        try:
            return bool(self.config.oauth_token())
        except Exception:  # the SDK's word for "not OAuth" is ValueError; what else it raises means no token either
            return False

    def workspace_client(self) -> WorkspaceClient:
        """Return databricks-sdk's client of a workspace, with this login."""
        from databricks.sdk import WorkspaceClient

        if self.config is not None:
            return WorkspaceClient(config=self.config)
        token = self.headers().get("Authorization", "").removeprefix("Bearer ")
        return WorkspaceClient(host=self.host, token=token, auth_type="pat")

    def for_endpoint(self, url: str, authorization_details: str) -> Login:
        """Return the login to a route-optimized endpoint, whose token databricks-sdk exchanges this one's for.

        https://docs.databricks.com/aws/en/machine-learning/model-serving/query-route-optimization

        Args:
            url: The endpoint's own URL.
            authorization_details: What the endpoint's description says of its authorization.
        """
        try:
            from databricks.sdk.data_plane import DataPlaneTokenSource
        except ImportError as error:
            raise AuthenticationError(
                f"{url} is route-optimized, which this databricks-sdk can't log in to: pip install -U databricks-sdk."
            ) from error
        config = self.config
        if config is None:
            raise AuthenticationError(f"{url} takes OAuth only. Log in with `databricks auth login`.")
        tokens: Any = DataPlaneTokenSource(self.host, config.oauth_token)
        given: list[Any] = []

        def ask() -> Mapping[str, str]:
            try:
                given[:] = [tokens.token(url, authorization_details)]
            except Exception as error:
                failed = login_error(error, f"No token could be had for {url}", _tokens(config))
            else:
                return {"Authorization": f"Bearer {given[0].access_token}"}
            raise failed

        return Login(
            origin(url),
            ask,
            config,
            lambda: self.for_endpoint(url, authorization_details),
            lasts=lambda: ready_until(given[0]),
        )

    def _fresh(self) -> Mapping[str, str]:
        if self._is_stuck and self._log_in is not None:
            # Who asked last may be waiting for ever, and with a lock of the SDK's.
            self._take(self._log_in())
        self._is_stuck = False
        headers = self._ask()
        if self._lasts is not None:
            self._ready_until = self._lasts()
        return headers

    def _renew(self, refused: Mapping[str, str]) -> None:
        if self._ask() != refused or self._log_in is None:
            return
        try:
            fresh = self._log_in()
        except AgentTargetError as error:
            if not error.retryable:
                self._vain_until = time.monotonic() + _VAIN_SECONDS
            raise
        self._vain_until = time.monotonic() + _VAIN_SECONDS
        self._take(fresh)

    def _take(self, fresh: Login) -> None:
        """Take over another login, unless it belongs elsewhere: what was set up for it may name another host now."""
        if (fresh.host, fresh.routing) == (self.host, self.routing):
            self._ask, self._lasts, self.config, self.custom = fresh._ask, fresh._lasts, fresh.config, fresh.custom
            self._ready_until = fresh._ready_until


def bearer_login(
    host: str,
    token: str | None,
    log_in: Callable[[], Login] | None = None,
    routing: Mapping[str, str] | None = None,
) -> Login:
    """Return the login to a host that takes a bearer token, or none.

    Args:
        host: The base URL.
        token: The token.
        log_in: Finds the token that holds now.
        routing: Headers that say which workspace is meant.

    Raises:
        InvalidInputError: The token would travel unencrypted.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if token:
        check_encrypted(host)
    return Login(host, lambda: headers, log_in=log_in, routing=routing)


def took_too_long(whose: str, seconds: float) -> RequestTimeoutError:
    """Return the error of a login that took longer than the time that was left.

    Args:
        whose: The host, or what else the login is to.
        seconds: The time that was left.
    """
    return RequestTimeoutError(
        f"The login to {whose} was not done within {said_seconds(max(seconds, 0.0))} s, so the agent was not asked. "
        "Check that the host can be reached, or allow more with client.with_options(timeout=...).",
        may_have_run=False,
    )


def ready_until(token: Any) -> float:
    """Return until when an OAuth token of databricks-sdk's is given without asking anyone, by `time.time`."""
    expiry = getattr(token, "expiry", None)
    return expiry.timestamp() - _RENEWAL_SECONDS if isinstance(expiry, datetime) else float("-inf")


def _tokens(config: Any) -> list[str]:
    try:
        return [config.oauth_token().access_token]
    except Exception:  # it is the reason of what failed
        return []
