"""Logins: a host, and the headers that it is to be sent, asked for each request since tokens expire."""

from __future__ import annotations

import copy
import ipaddress
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlflow_agent_target.errors import AuthenticationError, InvalidInputError
from mlflow_agent_target.text import printable

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

ALLOW_HTTP_VARIABLE = "AGENT_TARGET_ALLOW_HTTP"

# databricks-sdk reads these; another value of one of them is another login.
SDK_VARIABLES = ("DATABRICKS_", "ARM_", "AZURE_", "GOOGLE_", "ACTIONS_ID_TOKEN_", "CLOUD_ENV")
# With these two and no other, the SDK's login is that token for that host: it does not even read its file then.
_HOST, _TOKEN = "DATABRICKS_HOST", "DATABRICKS_TOKEN"
_PLAIN_HOST = re.compile(r"https?://[A-Za-z0-9.\-:\[\]]+/?")
_PLAIN_TOKEN = re.compile(r"[!-~]+")
# How long the SDK may look for a host's metadata. Its own default tries an unreachable host for five minutes.
_SDK_RETRY_SECONDS = 10
# A login that was refused right after it was made is not made again sooner.
_VAIN_SECONDS = 60.0
_ADVICE = (
    "Set DATABRICKS_HOST and DATABRICKS_TOKEN, run `databricks auth login`, or name a profile: agent-target://PROFILE. "
    "For a local agent: agent-target:http://127.0.0.1:8080."
)


class Login:
    """Who sends the requests to a host. Any number of threads may ask it.

    Args:
        host: The base URL of the host that the login belongs to.
        headers: Gives the headers of one request.
        config: databricks-sdk's configuration that the login comes from; None where it comes from elsewhere.
        log_in: Logs in anew; None where that would give the same again.
    """

    def __init__(
        self,
        host: str,
        headers: Callable[[], Mapping[str, str]],
        config: Config | None = None,
        log_in: Callable[[], Login] | None = None,
    ) -> None:
        self.host = host
        self.headers = headers
        self.config = config
        self._log_in = log_in
        self._lock = threading.Lock()
        self._vain_until = float("-inf")

    def __repr__(self) -> str:
        return f"Login({self.host!r})"

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Return whether there are other headers than those that the host refused with 401, logging in anew for them.

        Raises:
            AuthenticationError: Logging in failed.
        """
        with self._lock:
            if self.headers() != refused:
                return True  # expired meanwhile, or another thread was here before
            if self._log_in is None or time.monotonic() < self._vain_until:
                return False
            self._vain_until = time.monotonic() + _VAIN_SECONDS
            fresh = self._log_in()
            self.headers, self.config = fresh.headers, fresh.config
            return self.headers() != refused

    def confirm(self) -> None:
        """Note that the headers which `renew` gave were accepted: it may be asked again at any time."""
        self._vain_until = float("-inf")

    @property
    def is_oauth(self) -> bool:
        """Whether the login is an OAuth login of databricks-sdk's: a Databricks App takes no other."""
        try:
            return self.config is not None and bool(self.config.oauth_token())
        except Exception:  # the SDK's word for "not OAuth" is ValueError; what else it raises means no token either
            return False

    def workspace_client(self) -> WorkspaceClient:
        """Return databricks-sdk's client of a workspace, with this login."""
        from databricks.sdk import WorkspaceClient

        if self.config is not None:
            return WorkspaceClient(config=self.config)
        token = self.headers().get("Authorization", "").removeprefix("Bearer ")
        return WorkspaceClient(host=self.host, token=token, auth_type="pat")

    def for_host(self, host: str) -> Login:
        """Return the same login for another host of the workspace's, such as a Databricks App's."""
        login = copy.copy(self)
        login.host = host
        return login

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

        def headers() -> Mapping[str, str]:
            try:
                return {"Authorization": f"Bearer {tokens.token(url, authorization_details).access_token}"}
            except Exception as error:
                raise AuthenticationError(f"No token could be had for {url}: {printable(str(error))}") from error

        return Login(origin(url), headers, config, lambda: self.for_endpoint(url, authorization_details))


def bearer_login(host: str, token: str | None) -> Login:
    """Return the login to a host that takes one token for ever, or none.

    Raises:
        InvalidInputError: The token would travel unencrypted.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if token:
        check_encrypted(host)
    return Login(host, lambda: headers)


def workspace_login(profile: str | None, environment: Mapping[str, str]) -> Login:
    """Return the login to a Databricks workspace that databricks-sdk's unified authentication finds.

    Args:
        profile: A profile of `~/.databrickscfg`; None for what the environment says.
        environment: The environment variables that `SDK_VARIABLES` name.

    Raises:
        AuthenticationError: There is none.
        InvalidInputError: Its token would travel unencrypted.
    """
    host, token = environment.get(_HOST, ""), environment.get(_TOKEN, "")
    is_plain = _PLAIN_HOST.fullmatch(host) and _PLAIN_TOKEN.fullmatch(token)
    if profile is None and is_plain and environment.keys() - {"DATABRICKS_CONFIG_FILE"} == {_HOST, _TOKEN}:
        # The SDK takes seconds to import, and asks the host for its metadata, to come to the same.
        return bearer_login(host.rstrip("/"), token)
    return _sdk_login(profile)


def _sdk_login(profile: str | None) -> Login:
    from databricks.sdk.core import Config

    from mlflow_agent_target import __version__

    where = f"profile '{profile}'" if profile else "the environment and ~/.databrickscfg"
    try:
        config: Config = Config(
            profile=profile,
            retry_timeout_seconds=_SDK_RETRY_SECONDS,
            product="mlflow-agent-target",
            product_version=__version__,
        )
        config.authenticate()
    except Exception as error:  # the SDK raises ValueError, OSError and its own kinds
        raise AuthenticationError(
            f"No usable Databricks login was found in {where}: {printable(str(error)).removesuffix('.')}. {_ADVICE}"
        ) from error
    if not config.host:
        raise AuthenticationError(f"The Databricks login in {where} names no workspace. {_ADVICE}")
    return sdk_login(config, lambda: _sdk_login(profile))


def sdk_login(config: Config, log_in: Callable[[], Login] | None = None) -> Login:
    """Return the login of a databricks-sdk configuration.

    Args:
        config: The configuration. It is asked for each request, in the thread that makes it.
        log_in: Logs in anew; None where only the configuration's owner can.

    Raises:
        InvalidInputError: Its token would travel unencrypted.
    """
    host = (config.host or "").rstrip("/")
    check_encrypted(host)

    def headers() -> Mapping[str, str]:
        try:
            return config.authenticate()
        except Exception as error:
            raise AuthenticationError(
                f"The login to {host} could not be renewed: {printable(str(error)).removesuffix('.')}. {_ADVICE}"
            ) from error

    return Login(host, headers, config, log_in)


def origin(url: str) -> str:
    """Return the scheme and host of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def check_encrypted(url: str) -> None:
    """Refuse to send a token to another machine unencrypted.

    Raises:
        InvalidInputError: The URL is plain http to a host that is not this one, and the user has not allowed that.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() != "http" or is_loopback(parts.hostname or ""):
        return
    if os.environ.get(ALLOW_HTTP_VARIABLE, "").strip().lower() not in ("true", "1"):
        raise InvalidInputError(
            f"The token would travel unencrypted to {parts.netloc}. Use https, or set {ALLOW_HTTP_VARIABLE}=true if "
            "the network in between is yours."
        )


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")
