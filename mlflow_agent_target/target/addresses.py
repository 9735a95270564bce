"""Addresses: base URLs and workspaces' hosts, checked, and whether a token may travel there."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from mlflow_agent_target.errors import InvalidInputError

ALLOW_HTTP_VARIABLE = "AGENT_TARGET_ALLOW_HTTP"

_ROUTE = "/serving-endpoints"
_WORKSPACE = "Write it like https://my-workspace.cloud.databricks.com."
# Databricks' own domains. A path there is a page's; on another host it may be a gateway's.
_DATABRICKS = (
    *(".databricks.com", ".azuredatabricks.net", ".databricks.azure.us", ".databricks.azure.cn"),
    *(".databricks.us", ".databricks.mil"),
)


class WorkspaceAddress(NamedTuple):
    """Where a workspace is.

    Attributes:
        host: Its base URL, without a trailing slash.
        workspace_id: Which workspace it is, on a host that serves several; None where the address doesn't say.
        account_id: Whose it is, likewise.
    """

    host: str
    workspace_id: str | None = None
    account_id: str | None = None


def base_url(url: str, credentials_variable: str) -> str:
    """Return a base URL without a trailing slash, and without the route that is added to it.

    Args:
        url: What was given.
        credentials_variable: Where credentials belong, which have no place in a URL.

    Raises:
        ValueError: It can't be one; the text says why, and quotes nothing of it.
    """
    parts = _split(url, credentials_variable)
    if parts.query or parts.fragment:
        raise ValueError("holds a query or fragment, which a base URL can't have")
    if parts.path.rstrip("/").endswith("/invocations"):
        raise ValueError("holds the path of one agent: leave the path out, and name the endpoint in the call")
    start = f"{url[: len(parts.scheme)]}://{_ascii(parts.netloc)}"
    return start + quote(_without_route(parts.path), safe="/[]%~!$&'()*+,;=@:")


def workspace_address(given: str, named_by: str) -> WorkspaceAddress:
    """Return the address of a workspace, cut out of what may be a page's address, as the `databricks` command does.

    Args:
        given: A host, with or without a scheme, or the address of one of its pages.
        named_by: What it comes from, such as a variable's name.

    Raises:
        InvalidInputError: It can't be one. The error shows nothing that may be a password.
    """
    url = given.strip()
    if not re.match(r"[a-z][a-z0-9+.-]*:/", url, re.IGNORECASE):
        url = f"https://{url}"
    try:
        parts = _split(url, "the login's own variables")
    except ValueError as error:
        raise InvalidInputError(f"{named_by} {shown(given)} {error}. {_WORKSPACE}") from None
    asked = parse_qs(parts.query)
    # `w` names any kind of id. The older spellings are numbers, and other pages' own parameters otherwise.
    numbers = [value for name in ("o", "workspace_id") for value in asked.get(name, []) if value.isdecimal()]
    is_page = parts.query or parts.fragment or (parts.hostname or "").endswith(_DATABRICKS)
    path = "" if is_page else _without_route(parts.path)
    return WorkspaceAddress(
        f"{parts.scheme}://{_ascii(parts.netloc)}{path}",
        next(iter([*numbers, *asked.get("w", [])]), None),
        next(iter([*asked.get("a", []), *asked.get("account_id", [])]), None),
    )


def origin(url: str) -> str:
    """Return the scheme and host of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def host_of(url: str) -> str:
    """Return the host's name of a URL, with or without a scheme; "" where there is none."""
    try:
        return urlsplit(url if "://" in url else f"//{url}").hostname or ""
    except ValueError:
        return ""


def check_encrypted(url: str) -> None:
    """Refuse to send a token to another machine unencrypted.

    This machine is asked directly, never through a proxy on another one (`http/pool.py`), so that its name says enough.

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
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def shown(address: str) -> str:
    """Return an address as an error may show it: what stands before an @, or in a query, could be a password."""
    # With an @ in it, what looks like the start of a query may be a password's own character.
    start, at, rest = address.rpartition("@")
    scheme = re.match(r"(agent-target:)?(https?:)?(//)?", start, re.IGNORECASE)
    front = f"{scheme.group() if scheme else ''}***@" if at else ""
    rest, mark, _ = re.sub("#", "?", rest).partition("?")
    return repr(f"{front}{rest}{'?***' if mark else ''}")


def _split(url: str, credentials_variable: str) -> SplitResult:
    """Return a URL's parts, checked but for its path, query and fragment.

    Raises:
        ValueError: It can't be a server's; the text says why, and quotes nothing of it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("can't be read: its brackets enclose no IPv6 address") from None
    try:
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        port_is_valid = False
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"holds credentials: put them in {credentials_variable} instead")
    if parts.scheme.lower() not in ("http", "https"):
        raise ValueError("is neither http nor https")
    if not parts.hostname or not url.lower().startswith(f"{parts.scheme}://"):
        raise ValueError("names no host")
    if not port_is_valid:
        raise ValueError("has a port that is not a number from 1 to 65535")
    if any(char.isspace() or not char.isprintable() or char == "\\" for char in url):
        raise ValueError("holds a space or a character that can't stand in a URL")
    if not _is_host(parts.hostname, in_brackets="[" in parts.netloc):
        raise ValueError("names a host that can't be one")
    return parts


def _is_host(host: str, in_brackets: bool) -> bool:
    try:
        if in_brackets:
            return bool(ipaddress.IPv6Address(host))
        labels = host.removesuffix(".").encode("idna").decode().split(".")
    except ValueError:  # no IPv6 address; an empty label, or one that is too long
        return False
    return all(label.replace("-", "").replace("_", "").isalnum() for label in labels)


def _ascii(netloc: str) -> str:
    return netloc if netloc.isascii() else netloc.encode("idna").decode()


def _without_route(path: str) -> str:
    return path.rstrip("/").removesuffix(_ROUTE).rstrip("/")
