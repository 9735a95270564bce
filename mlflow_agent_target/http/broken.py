"""What a failure below HTTP means: which error, and whether the agent may have run. Pure."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from mlflow_agent_target.errors import (
    AgentTargetError,
    EndpointUnavailableError,
    InvalidInputError,
    InvalidResponseError,
    RequestTimeoutError,
)
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.http.framing import MalformedError
from mlflow_agent_target.http.sockets import BrokenError, Stage
from mlflow_agent_target.text import printable, seconds

_PROXY = "Check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."
_PROXY_FAULTS = (
    urllib3.exceptions.ProxySchemeUnknown,
    urllib3.exceptions.LocationValueError,
    requests.exceptions.InvalidProxyURL,
)
_CERTIFICATES = "Point REQUESTS_CA_BUNDLE to your organisation's certificates, or check the address."


def broken_error(broken: BrokenError, facts: Facts) -> AgentTargetError:
    """Return the error that a broken exchange means.

    Whether the agent may have run follows from how far the request came, and from nothing else.

    Args:
        broken: What the connection knows of it.
        facts: What is known of the exchange.
    """
    causes = list(_causes(broken.cause))
    reason = printable(str(causes[-1]) or type(causes[-1]).__name__, 200)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    whose = facts.server
    if broken.stage is Stage.SETUP or (broken.stage is Stage.CONNECTING and has(UnicodeError)):  # a host that is none
        return _no_setup(causes, reason, broken.proxy, facts)
    if broken.stage is Stage.CONNECTING:
        return _no_connection(causes, reason, broken.proxy, facts)
    if broken.stage is Stage.SENDING:
        if has(TimeoutError):
            return facts.error(
                RequestTimeoutError,
                f"{whose} was not asked: the request could not be sent within {seconds(facts.timeout)} s. "
                f"{facts.how_to_allow_more}",
                may_have_run=False,
            )
        return facts.error(
            EndpointUnavailableError,
            f"{whose} was not asked: the connection to {facts.url} broke before the whole request was there "
            f"({reason}).",
            cut_off=True,
        )
    if has(requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError):
        return facts.error(
            RequestTimeoutError,
            f"{whose} did not answer within {seconds(facts.timeout)} s. The agent may still be running. "
            f"{facts.how_to_allow_more}",
        )
    if has(MalformedError, urllib3.exceptions.DecodeError):
        return facts.error(
            InvalidResponseError, f"{whose} sent an answer that can't be read ({reason}). The agent may have run."
        )
    return facts.error(
        EndpointUnavailableError,
        f"{whose} broke the connection ({reason}). The agent may have run.",
        may_have_run=True,
    )


def _no_setup(causes: list[BaseException], reason: str, proxy: str | None, facts: Facts) -> AgentTargetError:
    """Return the error of settings with which no connection can be made."""
    if any(isinstance(cause, UnicodeError) for cause in causes) and proxy is None:
        return facts.error(
            InvalidInputError, f"{facts.server} can't be asked at {facts.url} ({reason}). Check the target."
        )
    if any(isinstance(cause, requests.exceptions.InvalidSchema) for cause in causes):
        advice = f"Install PySocks (pip install pysocks) for a SOCKS proxy, or name another. {_PROXY}"
    elif any(isinstance(cause, (UnicodeError, *_PROXY_FAULTS)) for cause in causes):
        advice = _PROXY
    else:
        advice = "Check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE."
    return facts.error(
        EndpointUnavailableError,
        f"{facts.server} was not asked: no connection can be made to {facts.url} ({reason}). {advice}",
        retryable=False,
    )


def _no_connection(causes: list[BaseException], reason: str, proxy: str | None, facts: Facts) -> AgentTargetError:
    """Return the error of a connection that could not be made."""
    timed_out = any(isinstance(cause, (TimeoutError, requests.ConnectTimeout)) for cause in causes)
    if any(isinstance(cause, (ssl.SSLError, urllib3.exceptions.SSLError)) for cause in causes) and not timed_out:
        return facts.error(
            EndpointUnavailableError,
            f"{facts.server} was not asked: no trusted connection to {facts.url} ({reason}). {_CERTIFICATES}",
            retryable=False,
        )
    tried = f" in {facts.attempts} attempts" if facts.attempts > 1 else ""
    if proxy is not None:
        wants_login = " 407 " in reason
        advice = f"The proxy wants a login: HTTPS_PROXY=http://USER:PASSWORD@{proxy}:PORT" if wants_login else _PROXY
        return facts.error(
            EndpointUnavailableError,
            f"{facts.server} was not asked: no connection to {facts.url} through the proxy {proxy}{tried} ({reason}). "
            f"{advice}",
            unreachable=True,
            retryable=not wants_login,
        )
    if urlsplit(facts.url).hostname in ("127.0.0.1", "localhost", "::1"):
        advice = "Check the port, or start an agent there with `mlflow deployments run-local -t agent-target`."
    else:
        advice = "Check the address and the network."
    return facts.error(
        EndpointUnavailableError,
        f"{facts.server} was not asked: no connection to {facts.url}{tried} ({reason}). {advice}",
        unreachable=True,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is wrapped in it: requests and urllib3 keep the cause in `args` or `reason`."""
    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        cause = pending.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            # Not __context__: that may be an error which the caller was handling when it made this call.
            pending += [getattr(cause, "reason", None), *cause.args, cause.__cause__]
