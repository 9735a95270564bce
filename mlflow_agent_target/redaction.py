"""What is secret, and how it is taken out of what a server or a library said. Works on values, not on their JSON."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

REDACTED = "[redacted]"

# Of the variables that databricks-sdk, this package and requests read, those that hold a secret.
_SECRET_VARIABLES = (
    "AGENT_TARGET_TOKEN",
    "DATABRICKS_TOKEN",
    "DATABRICKS_PASSWORD",
    "DATABRICKS_CLIENT_SECRET",
    "DATABRICKS_OIDC_TOKEN",
    "ARM_CLIENT_SECRET",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "GOOGLE_CREDENTIALS",
)
# A secret that is shorter is found as a whole word only; one that is a mere word, only behind what announces it.
_LONG, _SHORT = 12, 6


def secrets_of(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield what is secret of headers that were sent as a login: their values, and what these hold."""
    for value in headers.values():
        yield value
        scheme, _, credentials = value.partition(" ")
        if credentials:
            yield credentials
        if scheme.lower() == "basic":
            try:
                login = base64.b64decode(credentials).decode()
            except (ValueError, binascii.Error):
                continue
            yield login
            yield login.partition(":")[2]


def secrets_of_environment(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield the secrets that stand in the environment: tokens, and the passwords of proxies."""
    yield from (environment[name] for name in _SECRET_VARIABLES if name in environment)
    for name, value in environment.items():
        if name.lower().endswith("_proxy") and "@" in value:
            # By hand where it is no URL: a password may hold any character.
            login = value.partition("://")[2].rpartition("@")[0]
            password = login.partition(":")[2] or login
            yield password
            yield unquote(password)


def redacted(said: Any, secrets: Iterable[str]) -> Any:
    """Return JSON values without the secrets in them: in texts, as keys, as numbers. What holds none stays as it is.

    Args:
        said: What a server or a library said.
        secrets: What must not be shown.
    """
    known = {secret.strip() for secret in secrets} - {""}
    if not known:
        return said
    pattern = re.compile("|".join(_pattern(secret) for secret in sorted(known, key=len, reverse=True)))
    try:
        return _without(said, pattern, {secret for secret in known if secret.isdigit()})
    except RecursionError:
        return "[nested too deeply to be shown]"


def _pattern(secret: str) -> str:
    """Return what finds a secret, as it is and as forms and JSON have it, but not within other words."""
    forms = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    found = "(?:" + "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)) + ")"
    if len(secret) >= _LONG:
        return found
    if len(secret) >= _SHORT or not secret.isalnum():
        return rf"(?<![A-Za-z0-9]){found}(?![A-Za-z0-9])"
    return rf"(?i:(?<=bearer )|(?<=basic )|(?<=token )|(?<=password )){found}(?![A-Za-z0-9])|\A{found}\Z"


def _without(said: Any, pattern: re.Pattern[str], numbers: set[str]) -> Any:
    if isinstance(said, str):
        return pattern.sub(REDACTED, said)
    if isinstance(said, dict):
        return {_without(key, pattern, numbers): _without(value, pattern, numbers) for key, value in said.items()}
    if isinstance(said, list):
        return [_without(value, pattern, numbers) for value in said]
    if numbers and isinstance(said, (int, float)) and not isinstance(said, bool) and str(said) in numbers:
        return REDACTED
    return said
