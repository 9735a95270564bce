"""The names that agents are asked under, checked before they become part of a URL. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow_agent_target.errors import InvalidInputError

_ENDPOINT_PREFIX = "endpoints:/"
_APP_PREFIX = "apps:/"
_APP_PREFIXES = (_APP_PREFIX, "apps/")
# What could change a URL's path, host or query, quoted or not: proxies unquote.
_FORBIDDEN = frozenset("/\\?#%")


def endpoint_name(value: Any) -> str:
    """Return an endpoint's name, without the `endpoints:/` it may be given with.

    Raises:
        InvalidInputError: It is no name, or could change the request's URL.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"The endpoint's name must be a string, not {type(value).__name__}.")
    name = value.removeprefix(_ENDPOINT_PREFIX)
    if not name or name != name.strip() or name in (".", "..") or not name.isprintable() or _FORBIDDEN & set(name):
        raise InvalidInputError(
            f"{value!r:.100} can't be an endpoint's name: give it as shown in the workspace's serving page, "
            "such as 'my-agent' or 'endpoints:/my-agent', or an app's, such as 'apps:/my-app'."
        )
    return name


def one_name(check: Callable[[Any], str], *given: Any) -> str | None:
    """Return the name that is given, maybe more than once; None when none is.

    Args:
        check: `endpoint_name` or `agent_name`.
        given: Names, or None.

    Raises:
        InvalidInputError: One is no name, or two differ.
    """
    names = [check(value) for value in given if value is not None]
    if len(set(names)) > 1:
        raise InvalidInputError(f"Two endpoints were named, {names[0]!r} and {names[1]!r}. Name one.")
    return names[0] if names else None


def is_app(name: str | None) -> bool:
    """Return whether the agent of this name is hosted as a Databricks App."""
    return name is not None and name.startswith(_APP_PREFIX)


def is_bricks_app(name: str | None) -> bool:
    """Return whether an app's name is one of those that `agentbricks deploy` gives: most are a DurableAgentServer."""
    return name is not None and name.startswith(f"{_APP_PREFIX}agent-bricks-")


def app_of(name: str) -> str:
    """Return the app's own name, without the prefix that tells it from an endpoint's."""
    return name.removeprefix(_APP_PREFIX)


def agent_name(value: Any) -> str:
    """Return the name of an agent that can be asked: an endpoint's, or `apps:/` and a Databricks App's.

    Raises:
        InvalidInputError: It is no name, or could change the request's URL.
    """
    for prefix in _APP_PREFIXES:
        if isinstance(value, str) and value.startswith(prefix):
            return _APP_PREFIX + endpoint_name(value.removeprefix(prefix))
    return endpoint_name(value)
