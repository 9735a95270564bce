"""A target URI and the environment, as one frozen, checked value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.target.addresses import base_url, check_encrypted, shown
from mlflow_agent_target.target.login import Login, bearer_login
from mlflow_agent_target.target.profiles import profile_in_use, sections
from mlflow_agent_target.target.sdk import HOST_VARIABLE, VARIABLES, is_plain, workspace_login

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
        section: What `~/.databrickscfg` says of it. Never shown.
    """

    uri: str
    base_url: str | None = None
    profile: str | None = None
    token: str | None = field(default=None, repr=False)
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    section: tuple[tuple[str, str], ...] = field(default=(), repr=False)

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
            raise InvalidInputError(f"Target {shown(uri)} is not one of this package's. Give {_FORMS}.")
        if rest.lower().startswith(("http:", "https:")):
            # Only the base URL's own token goes there: a workspace's login belongs to its own host.
            token = environment.get(TOKEN_VARIABLE, "").strip() or None
            if token and not (token.isascii() and token.isprintable()):
                raise InvalidInputError(f"{TOKEN_VARIABLE} holds characters that a header can't carry.")
            try:
                url = base_url(rest, TOKEN_VARIABLE)
            except ValueError as error:
                raise InvalidInputError(f"Target {shown(uri)} {error}. Write it like {_EXAMPLE}.") from None
            if token:
                check_encrypted(url)
            return cls(uri, base_url=url, token=token)
        login = {k: v for k, v in environment.items() if k.startswith(VARIABLES)}
        if not colon:
            return cls(uri, environment=_sorted(login), section=_section(None, login))
        profile = rest.removeprefix("//")
        if not rest.startswith("//") or not profile or not _is_profile(profile):
            is_address = rest.startswith("//") and (":" in profile or profile[:1].isdigit())
            hint = f" Did you mean '{NAME}:http:{rest}'?" if is_address else ""
            raise InvalidInputError(f"Target {shown(uri)} can't be read.{hint} Give {_FORMS}.")
        return cls(uri, profile=profile, environment=_sorted(login), section=_section(profile, login))

    @property
    def place(self) -> str:
        """What errors call the target before its host has been found."""
        said = {} if self.profile else dict(self.environment)
        host = self.base_url or said.get(HOST_VARIABLE) or dict(self.section).get("host")
        return f"{self.uri} ({shown(host)})" if host else self.uri

    def log_in(self) -> Login:
        """Return the target's host and login.

        Raises:
            AuthenticationError: No usable login was found for the workspace.
        """
        if self.base_url is not None:
            return bearer_login(self.base_url, self.token, self._log_in_now)
        return workspace_login(self.profile, dict(self.environment), self._log_in_now)

    def _log_in_now(self) -> Login:
        """Log in anew, as the environment and the file now have it."""
        return Target.parse(self.uri).log_in()


def _section(profile: str | None, environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what the profiles' file says of a login: another login where that has changed."""
    if profile is None and is_plain(environment):
        return ()
    try:
        return _sorted(sections(environment).get(profile or profile_in_use(environment), {}))
    except InvalidInputError:  # told where the file is needed
        return ()


def _sorted(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


def _is_profile(profile: str) -> bool:
    return not any(char in "/?#@:\\" or char.isspace() or not char.isprintable() for char in profile)
