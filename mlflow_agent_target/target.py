"""A target URI and the environment, as one frozen, checked value with its credentials and settings."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

from mlflow_agent_target.errors import AuthenticationError, InvalidInputError

if TYPE_CHECKING:
    from databricks.sdk.core import Config

NAME = "agent-target"
TOKEN_VARIABLE = "AGENT_TARGET_TOKEN"  # noqa: S105 (a variable's name)

_FORMS = (
    "'agent-target' (the Databricks workspace of your environment), 'agent-target://PROFILE' (a profile of "
    "~/.databrickscfg) or 'agent-target:http://HOST:PORT' (a base URL, such as run_local's)"
)
_EXAMPLE = f"{NAME}:http://127.0.0.1:8080"
# databricks-sdk reads these; another value of one of them is another login.
_SDK_VARIABLES = ("DATABRICKS_", "ARM_", "AZURE_", "GOOGLE_", "ACTIONS_ID_TOKEN_")
# How long the SDK may look for a host's metadata. Its own default tries an unreachable host for five minutes.
_SDK_RETRY_SECONDS = 10

_T = TypeVar("_T", int, float)


@dataclass(frozen=True)
class Target:
    """Where requests go and who sends them. Equal targets share their connections.

    Attributes:
        uri: The target URI as it was given.
        base_url: The explicit base URL without a trailing slash; None for a workspace.
        profile: The profile of `~/.databrickscfg`; None for the environment's own login.
        token: Bearer token for an explicit base URL; None for none. Never shown.
        environment: What the environment says of the workspace's login. Never shown.
    """

    uri: str
    base_url: str | None = None
    profile: str | None = None
    token: str | None = field(default=None, repr=False)
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, uri: str, environment: Mapping[str, str] = os.environ) -> Target:
        """Check a target URI.

        Args:
            uri: One of the three forms: `agent-target`, `agent-target://PROFILE`, `agent-target:http://HOST:PORT`.
            environment: The environment variables to read tokens and logins from.

        Raises:
            InvalidInputError: The URI is none of them.
        """
        if not isinstance(uri, str):
            raise InvalidInputError(f"The target must be a string, not {type(uri).__name__}. Give {_FORMS}.")
        scheme, colon, rest = uri.partition(":")
        if scheme.lower() != NAME:
            raise InvalidInputError(f"Target {_shown(uri)} is not one of this package's. Give {_FORMS}.")
        if rest.lower().startswith(("http:", "https:")):
            # Only the base URL's own token goes there: a workspace's login belongs to its own host.
            token = environment.get(TOKEN_VARIABLE, "").strip() or None
            if token and not (token.isascii() and token.isprintable()):
                raise InvalidInputError(f"{TOKEN_VARIABLE} holds characters that a header can't carry.")
            return cls(uri, base_url=_checked_base_url(rest), token=token)
        login = tuple(sorted((k, v) for k, v in environment.items() if k.startswith(_SDK_VARIABLES)))
        if not colon:
            return cls(uri, environment=login)
        profile = rest.removeprefix("//")
        if not rest.startswith("//") or not profile or not _is_profile(profile):
            is_address = rest.startswith("//") and (":" in profile or profile[:1].isdigit())
            hint = f" Did you mean '{NAME}:http:{rest}'?" if is_address else ""
            raise InvalidInputError(f"Target {_shown(uri)} can't be read.{hint} Give {_FORMS}.")
        return cls(uri, profile=profile, environment=login)

    def connect(self) -> Credentials:
        """Return the target's host and login, ready to be asked for headers.

        Raises:
            AuthenticationError: No usable credentials were found for the workspace.
        """
        if self.base_url is not None:
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            return Credentials(self.base_url, lambda: headers)
        return _workspace_credentials(self.profile)


@dataclass(frozen=True)
class Credentials:
    """A host, and a function that gives the headers to send it: asked for each request, since tokens expire.

    Attributes:
        host: Where to send requests: a URL without a trailing slash.
        headers: Gives the headers.
        config: The databricks-sdk configuration that the headers are from; None for an explicit base URL.
    """

    host: str
    headers: Callable[[], Mapping[str, str]] = field(repr=False)
    config: Config | None = field(default=None, repr=False)


def _workspace_credentials(profile: str | None) -> Credentials:
    # Imported here: the SDK takes seconds to import, and an explicit base URL never needs it.
    from databricks.sdk.core import Config

    where = f"profile '{profile}'" if profile else "the environment and ~/.databrickscfg"
    advice = (
        f"Set DATABRICKS_HOST and DATABRICKS_TOKEN, run `databricks auth login`, or name a profile: "
        f"{NAME}://PROFILE. For a local agent: {NAME}:http://127.0.0.1:8080."
    )
    try:
        config: Config = Config(
            profile=profile,
            retry_timeout_seconds=_SDK_RETRY_SECONDS,
            product="mlflow-agent-target",
            product_version=_version(),
        )
        config.authenticate()
    except Exception as error:  # the SDK raises ValueError, OSError and its own kinds
        raise AuthenticationError(f"No usable Databricks login was found in {where}: {error}. {advice}") from error
    if not config.host:
        raise AuthenticationError(f"The Databricks login in {where} names no workspace. {advice}")
    return credentials_of(config)


def credentials_of(config: Config) -> Credentials:
    """Return the host and login of a databricks-sdk configuration."""

    def headers() -> Mapping[str, str]:
        try:
            return config.authenticate()
        except Exception as error:
            raise AuthenticationError(f"The login to {config.host} could not be renewed: {error}") from error

    return Credentials((config.host or "").rstrip("/"), headers, config)


def _version() -> str:
    from mlflow_agent_target import __version__

    return __version__


def _is_profile(profile: str) -> bool:
    return not any(char in "/?#@:\\" or char.isspace() or not char.isprintable() for char in profile)


def _checked_base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        shown = _shown(f"{NAME}:{url}")
        raise InvalidInputError(f"Target {shown} can't be read ({error}). Write it like {_EXAMPLE}.") from None
    try:
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        port_is_valid = False
    problem = None
    if not parts.hostname or not url.lower().startswith((f"{parts.scheme}://",)):
        problem = "names no host"
    elif not port_is_valid:
        problem = "has a port that is not a number from 1 to 65535"
    elif parts.username or parts.password:
        problem = f"holds credentials: put the token in {TOKEN_VARIABLE} instead"
    elif parts.query or parts.fragment:
        problem = "holds a query or fragment, which a base URL can't have"
    elif any(char.isspace() or not char.isprintable() or char == "\\" for char in url):
        problem = "holds a space or a character that can't stand in a URL"
    elif not _is_host(parts.hostname, in_brackets="[" in parts.netloc):
        problem = "names a host that can't be one"
    if problem:
        shown = _shown(f"{NAME}:{url}")
        raise InvalidInputError(f"Target {shown} {problem}. Write it like {_EXAMPLE}.")
    return quote(url.rstrip("/"), safe=":/[]%~!$&'()*+,;=@")


def _is_host(host: str, in_brackets: bool) -> bool:
    try:
        if in_brackets:
            return bool(ipaddress.IPv6Address(host))
        labels = host.removesuffix(".").encode("idna").decode().split(".")
    except ValueError:  # no IPv6 address; an empty label, or one that is too long
        return False
    return all(label.replace("-", "").replace("_", "").isalnum() for label in labels)


def _shown(uri: str) -> str:
    """Return the URI as an error may show it: whatever stands before an @ could be a password."""
    head, at, tail = uri.rpartition("@")
    return repr(f"{head.split('//')[0]}//***@{tail}" if at else uri)


@dataclass(frozen=True)
class Settings:
    """What MLflow's own environment variables say about requests. Times in seconds.

    Attributes:
        timeout: For one attempt: until the answer, or a stream's first event, is there.
        total_timeout: For all attempts together.
        max_retries: Retries after the first attempt.
        backoff_factor: Seconds before the first retry; doubled for each further one.
        backoff_jitter: Seconds of randomness added to each wait.
        verify_tls: Whether servers' certificates are checked.
    """

    timeout: float = 120.0
    total_timeout: float = 600.0
    max_retries: int = 7
    backoff_factor: float = 2.0
    backoff_jitter: float = 1.0
    verify_tls: bool = True

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings.

        Raises:
            InvalidInputError: A variable holds something that is not such a number.
        """

        def number(variable: str, default: _T, least: float = 0.0) -> _T:
            text = environment.get(variable, "").strip()
            if not text:
                return default
            try:
                value = type(default)(text)
            except ValueError:
                value = None
            if value is None or not least <= value < float("inf"):
                kind = "a whole number" if isinstance(default, int) else "a number"
                raise InvalidInputError(f"{variable} must be {kind}, {least:g} or more, not {text!r}.")
            return value

        return cls(
            timeout=number("MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT", cls.timeout, least=0.001),
            total_timeout=number("MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT", cls.total_timeout, least=0.001),
            max_retries=number("MLFLOW_HTTP_REQUEST_MAX_RETRIES", cls.max_retries),
            backoff_factor=number("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", cls.backoff_factor),
            backoff_jitter=number("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", cls.backoff_jitter),
            verify_tls=environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").strip().lower() not in ("true", "1"),
        )
