"""A workspace's login, as databricks-sdk's unified authentication finds it, or as it was given."""

from __future__ import annotations

import functools
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mlflow_agent_target.errors import (
    AgentTargetError,
    AuthenticationError,
    EndpointUnavailableError,
    InvalidInputError,
)
from mlflow_agent_target.target.addresses import (
    WorkspaceAddress,
    check_encrypted,
    host_of,
    is_loopback,
    workspace_address,
)
from mlflow_agent_target.target.failed_logins import ADVICE, login_error
from mlflow_agent_target.target.login import Login, bearer_login, ready_until
from mlflow_agent_target.target.profiles import FILE_VARIABLE, profile_in_use, sections

if TYPE_CHECKING:
    from databricks.sdk.core import Config

# databricks-sdk reads these; another value of one of them is another login.
VARIABLES = ("DATABRICKS_", "ARM_", "AZURE_", "GOOGLE_", "ACTIONS_ID_TOKEN_", "CLOUD_ENV")
# What they say of this machine, which holds for a named profile, too. All else is another login's.
_OF_THE_MACHINE = (FILE_VARIABLE, "DATABRICKS_CLI_PATH", "DATABRICKS_DISABLE_ASYNC_TOKEN_REFRESH")
# With the first two and no others than these, the SDK's login is that token for that host: it does not even read its
# file then.
HOST_VARIABLE = "DATABRICKS_HOST"
_TOKEN, _WORKSPACE_ID = "DATABRICKS_TOKEN", "DATABRICKS_WORKSPACE_ID"
_PLAIN_TOKEN = re.compile("[!-~]+")
_PLAIN = {HOST_VARIABLE, _TOKEN, _WORKSPACE_ID, FILE_VARIABLE}
# For these the SDK may ask a server or run a command, whoever asks. What else there is, such as a strategy of the
# user's own, may depend on the thread that asks, and so is asked in it.
_ASKED_APART = {
    *("oauth-m2m", "external-browser", "databricks-cli", "metadata-service", "env-oidc", "file-oidc", "github-oidc"),
    *("azure-client-secret", "azure-cli", "azure-devops-oidc", "github-oidc-azure", "google-credentials", "google-id"),
}
# The SDK looks for a host's metadata, and its own defaults try an unreachable host for five minutes. A call is tried
# again by us, within its own limits; 1 is the least that the SDK knows.
_SDK_RETRY_SECONDS, _SDK_HTTP_SECONDS = 1, 10
# Of a WorkspaceClient's `custom_headers`, those that each request has of its own.
_OURS = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"}
_OURS |= {"transfer-encoding", "user-agent"}


def is_plain(environment: Mapping[str, str]) -> bool:
    """Return whether the environment names a host and its token, and nothing else that says who logs in."""
    said = environment.keys()
    return (
        {HOST_VARIABLE, _TOKEN} <= said <= _PLAIN
        and environment[HOST_VARIABLE].lower().startswith(("http://", "https://"))
        and bool(_PLAIN_TOKEN.fullmatch(environment[_TOKEN]))
    )


def workspace_login(
    profile: str | None, environment: Mapping[str, str], log_in: Callable[[], Login] | None = None
) -> Login:
    """Return the login to a Databricks workspace.

    Args:
        profile: A profile of `~/.databrickscfg`, whose host and login are used, and no others; None for what the
            environment says.
        environment: The environment variables that `VARIABLES` name.
        log_in: Finds the login that holds now.

    Raises:
        AuthenticationError: There is none.
        EndpointUnavailableError: There is none for now.
        InvalidInputError: What was set up can't be used, or its token would travel unencrypted.
    """
    if profile is None and is_plain(environment):
        # The SDK takes seconds to import, and asks the host for its metadata, to come to the same.
        address = workspace_address(environment[HOST_VARIABLE], HOST_VARIABLE)
        routing = _routing(environment.get(_WORKSPACE_ID) or address.workspace_id)
        return bearer_login(address.host, environment[_TOKEN], log_in, routing)
    return _found_login(profile, environment, log_in)


def _found_login(profile: str | None, environment: Mapping[str, str], log_in: Callable[[], Login] | None) -> Login:
    from databricks.sdk.core import Config

    from mlflow_agent_target import __version__

    where = f"profile '{profile}'" if profile else "the environment and ~/.databrickscfg"
    said = environment if profile is None else {k: environment[k] for k in _OF_THE_MACHINE if k in environment}
    attributes = list(Config.attributes())
    given: dict[str, Any] = {attribute.name: value for attribute in attributes if (value := _value(attribute, said))}
    if profile is not None:
        given["profile"] = profile
    name = _profile_read(given, said, [attribute.name for attribute in attributes if attribute.auth])
    section = {} if name is None else dict(sections(said).get(name, {}))
    if profile is not None and not section:
        raise AuthenticationError(f"There is no {where} in {said.get(FILE_VARIABLE) or '~/.databrickscfg'}. {ADVICE}")
    _check_sendable({_TOKEN: given.get("token", ""), "DATABRICKS_CLIENT_SECRET": given.get("client_secret", "")})
    _check_sendable({f"'{key}' of profile '{name}'": section.get(key, "") for key in ("token", "client_secret")})
    address = _clean_address(given, section, name)
    sensitive = [attribute.name for attribute in attributes if attribute.sensitive]
    if address is not None:
        _check_reachable(address.host)
    failed: AgentTargetError
    try:
        config = _config_class()(
            **given,
            retry_timeout_seconds=_SDK_RETRY_SECONDS,
            http_timeout_seconds=_SDK_HTTP_SECONDS,
            product="mlflow-agent-target",
            product_version=__version__,
        )
        config.authenticate()
    except Exception as error:  # the SDK raises ValueError, OSError and its own kinds
        secrets = _secrets(sensitive, {**section, **given})
        failed = login_error(error, f"No usable Databricks login was found in {where}", secrets)
    else:
        if not config.host:
            raise AuthenticationError(f"The Databricks login in {where} names no workspace. {ADVICE}")
        if profile and address and host_of(config.host) != host_of(address.host):
            # Within a notebook or Model Serving, the SDK takes the login of where it runs.
            raise AuthenticationError(f"There is no login in {where} for its host {address.host}. {ADVICE}")
        # An older SDK knows of no workspace ids.
        named = given.get("workspace_id") or said.get(_WORKSPACE_ID) or section.get("workspace_id")
        return sdk_login(config, log_in, named)
    raise failed


def sdk_login(config: Config, log_in: Callable[[], Login] | None = None, workspace_id: str | None = None) -> Login:
    """Return the login of a databricks-sdk configuration.

    Args:
        config: The configuration. It is asked for each request.
        log_in: Logs in anew; None where only the configuration's owner can.
        workspace_id: Which workspace it is, where the configuration doesn't say.

    Raises:
        InvalidInputError: Its host can't be one, or its token would travel unencrypted.
    """
    address = workspace_address(config.host or "", "The workspace's host")
    check_encrypted(address.host)
    sensitive = [attribute.name for attribute in config.attributes() if attribute.sensitive]

    def ask() -> Mapping[str, str]:
        try:
            headers = config.authenticate()
        except Exception as error:
            failed = login_error(
                error, f"The login to {address.host} could not be renewed", _secrets(sensitive, config.as_dict())
            )
        else:
            _check_sendable(headers)
            return headers
        raise failed

    def lasts() -> float:
        try:
            return ready_until(config.oauth_token())
        except Exception:  # no OAuth login: it runs a command, or asks a service, whenever it is asked
            return time.time()

    return Login(
        address.host,
        ask,
        config,
        log_in,
        lasts=lasts if config.auth_type in _ASKED_APART else None,
        routing=_routing(getattr(config, "workspace_id", None) or workspace_id or address.workspace_id),
        custom=_custom_headers(config),
    )


def _check_reachable(host: str) -> None:
    """Look whether anything answers at a host, since the SDK tries for long to ask it, and then doesn't say.

    Raises:
        EndpointUnavailableError: Nothing does.
        InvalidInputError: The SDK would send the login in the clear to a proxy on another machine.
    """
    parts = urlsplit(host)
    name, port = parts.hostname or "", parts.port or {"http": 80}.get(parts.scheme, 443)
    proxies: Mapping[str, str] = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(name):
        if is_loopback(name) and parts.scheme == "http" and not is_loopback(host_of(proxy)):
            raise InvalidInputError(
                f"The login to {host}, which is on this machine, would be sent to the proxy {host_of(proxy)}. Set "
                f"NO_PROXY={name}."
            )
        return
    try:
        socket.create_connection((name, port), _SDK_HTTP_SECONDS).close()
    except OSError as error:
        raise EndpointUnavailableError(
            f"The agent was not asked: no connection to {host} to log in to ({error}). Check the address and the "
            "network.",
            unreachable=True,
        ) from error


@functools.cache
def _config_class() -> type[Config]:
    """Return databricks-sdk's configuration, but one that adds nothing of the environment to what it is given.

    It overrides a method that is not public, as it is in databricks-sdk 0.20 to 0.162. Where there is none of that
    name, what is given still goes before the environment's.
    """
    from databricks.sdk.core import Config

    Config.attributes()  # keeps them for its subclasses, which find none by themselves

    class Given(Config):
        def _load_from_env(self) -> None:
            pass

    return Given


def _value(attribute: Any, environment: Mapping[str, str]) -> str | None:
    variables = [attribute.env, *(getattr(attribute, "env_aliases", None) or [])]
    return next((value for variable in variables if variable and (value := environment.get(variable))), None)


def _profile_read(given: Mapping[str, str], environment: Mapping[str, str], auths: Iterable[str]) -> str | None:
    """Return the profile that the SDK adds to what is given; None where it adds none."""
    if "profile" in given:
        return given["profile"]
    if given.keys() & {*auths, "host", "azure_workspace_resource_id"}:
        return None
    return profile_in_use(environment)


def _clean_address(given: dict[str, str], section: Mapping[str, str], profile: str | None) -> WorkspaceAddress | None:
    """Check the workspace's address, and give the SDK, which would ask a page's, that of the host."""
    host = given.get("host") or section.get("host")
    if not host:
        return None
    address = workspace_address(host, HOST_VARIABLE if given.get("host") else f"The host of profile '{profile}'")
    ids = {"workspace_id": address.workspace_id, "account_id": address.account_id}
    found = {key: value for key, value in ids.items() if value and not (given.get(key) or section.get(key))}
    if profile is not None and (found or address.host != host.rstrip("/")):
        given["profile"] = profile  # or else the SDK would not read it, as a host is given
    if "host" in given or given.get("profile"):
        given["host"] = address.host
    given.update(found)
    return address


def _secrets(sensitive: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    secrets = [value for name in sensitive if isinstance(value := values.get(name), str) and value]
    users = [user for name in ("client_id", "azure_client_id", "username") if (user := values.get(name))]
    return [*secrets, *(f"{user}:{secret}" for user in users for secret in secrets)]


def _check_sendable(values: Mapping[str, str]) -> None:
    """Refuse a login that no header can carry, and name it without showing it.

    Raises:
        InvalidInputError: A value holds a line break, another control character, or one that is not Latin-1.
    """
    for name, value in values.items():
        if not (value.isascii() and value.isprintable()):
            raise InvalidInputError(f"{name} holds a line break or another character that a header can't carry.")


def _routing(workspace_id: Any) -> dict[str, str]:
    """Return the headers that say which workspace is meant, as databricks-sdk and MLflow send them."""
    return (
        {"X-Databricks-Workspace-Id": str(workspace_id), "x-databricks-org-id": str(workspace_id)}
        if workspace_id
        else {}
    )


def _custom_headers(config: Config) -> dict[str, str]:
    """Return a WorkspaceClient's `custom_headers`. Their name is not public: as in databricks-sdk 0.68 to 0.162."""
    headers = getattr(config, "_custom_headers", None) or {}
    return {name: value for name, value in headers.items() if name.lower() not in _OURS}
