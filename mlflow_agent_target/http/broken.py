"""What a failure below HTTP means: above all, whether the agent can have run."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from mlflow_agent_target.errors import (
    AgentTargetError,
    EndpointUnavailableError,
    InvalidInputError,
    RequestTimeoutError,
    server_name,
)
from mlflow_agent_target.http.sockets import RequestCutOffError
from mlflow_agent_target.text import printable

# What requests, urllib3 and the socket raise; ValueError: a URL or header that can't be sent.
FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)


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


def _is_of_handshake(cause: BaseException) -> bool:
    """Return whether an error comes from TLS's handshake: nothing was sent before it, anything may have been after.

    Neither the error's class nor urllib3's wrapping tells: a handshake's timeout is a read timeout there, and a
    certificate that is not trusted is of the same class as a connection that broke in the midst of an answer.
    """
    return any(frame.f_code.co_name == "do_handshake" for frame, _ in traceback.walk_tb(cause.__traceback__))


def connection_error(
    error: Exception, *, base_url: str, endpoint: str | None, timeout: float, attempt: int
) -> AgentTargetError:
    """Return what a failure of requests, urllib3 or the socket means.

    Args:
        error: What was raised.
        base_url: Where the request was going.
        endpoint: The endpoint's name, if one was named.
        timeout: Seconds that the answer was given.
        attempt: How many times the request was sent, or tried to be.
    """
    causes = list(_causes(error))
    whose = server_name(endpoint)
    common: dict[str, Any] = {"endpoint": endpoint, "attempts": attempt}
    tried = f" in {attempt} attempts" if attempt > 1 else ""

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    reason = printable(str(causes[-1]) or type(causes[-1]).__name__, 200)
    if has(RequestCutOffError):
        return EndpointUnavailableError(
            f"{whose} was not asked: the connection to {base_url} broke before the whole request was there ({reason}).",
            cut_off=True,
            **common,
        )
    if has(requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, UnicodeError):
        return InvalidInputError(f"{whose} can't be asked at {base_url} ({reason}). Check the target.", **common)
    in_handshake = any(map(_is_of_handshake, causes))
    if in_handshake and not has(TimeoutError):
        return EndpointUnavailableError(
            f"{whose} was not asked: no trusted connection to {base_url} ({reason}). Point REQUESTS_CA_BUNDLE to "
            "your organisation's certificates, or check the address.",
            retryable=False,
            **common,
        )
    if has(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError):
        return EndpointUnavailableError(
            f"{whose} was not asked: the proxy to {base_url} failed ({reason}). Check HTTPS_PROXY and NO_PROXY.",
            unreachable=True,
            **common,
        )
    if in_handshake or has(
        urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, requests.ConnectTimeout
    ):
        host = urlsplit(base_url).hostname or ""
        next_step = (
            "Check the port, or start an agent there with `mlflow deployments run-local -t agent-target`."
            if host in ("127.0.0.1", "localhost", "::1")
            else "Check the address and the network."
        )
        return EndpointUnavailableError(
            f"{whose} was not asked: no connection to {base_url}{tried} ({reason}). {next_step}",
            unreachable=True,
            **common,
        )
    if has(requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError):
        return RequestTimeoutError(
            f"{whose} did not answer within {round(timeout, 3):g} s. The agent may still be running. Allow more with "
            "MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT or client.with_options(timeout=...).",
            **common,
        )
    return EndpointUnavailableError(
        f"{whose} broke the connection ({reason}). The agent may have run.", may_have_run=True, **common
    )
