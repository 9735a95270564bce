"""A target URI and the environment, as one frozen, checked value."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.target.login import SDK_VARIABLES, Login, bearer_login, check_encrypted, workspace_login

NAME = "agent-target"
TOKEN_VARIABLE = "AGENT_TARGET_TOKEN"  # noqa: S105 (a variable's name)

_FORMS = (
    "'agent-target' (the Databricks workspace of your environment), 'agent-target://PROFILE' (a profile of "
    "~/.databrickscfg) or 'agent-target:http://HOST:PORT' (a base URL, such as run_local's)"
)
_EXAMPLE = f"{NAME}:http://127.0.0.1:8080"


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
            base_url = _checked_base_url(rest)
            if token:
                check_encrypted(base_url)
            return cls(uri, base_url=base_url, token=token)
        login = tuple(sorted((k, v) for k, v in environment.items() if k.startswith(SDK_VARIABLES)))
        if not colon:
            return cls(uri, environment=login)
        profile = rest.removeprefix("//")
        if not rest.startswith("//") or not profile or not _is_profile(profile):
            is_address = rest.startswith("//") and (":" in profile or profile[:1].isdigit())
            hint = f" Did you mean '{NAME}:http:{rest}'?" if is_address else ""
            raise InvalidInputError(f"Target {_shown(uri)} can't be read.{hint} Give {_FORMS}.")
        return cls(uri, profile=profile, environment=login)

    def log_in(self) -> Login:
        """Return the target's host and login.

        Raises:
            AuthenticationError: No usable login was found for the workspace.
        """
        if self.base_url is not None:
            return bearer_login(self.base_url, self.token)
        return workspace_login(self.profile, dict(self.environment))


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
