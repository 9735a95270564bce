"""What an HTTP answer other than a success means: which error, and whether the agent may have run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    AuthenticationError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InvalidInputError,
    InvalidResponseError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    SignInPageError,
)
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.text import printable, server_reason


class _Row(NamedTuple):
    error: type[AgentTargetError]
    advice: str
    may_have_run: bool


_SMALLER = "Send a smaller payload."
# Which statuses leave the agent certainly unrun is the platform's behaviour, not HTTP's: a 400 can be the agent
# crashing after it has acted.
_TABLE: dict[int, _Row] = {
    400: _Row(AgentError, "It refused the payload, or its agent failed.", True),
    401: _Row(AuthenticationError, "Check that the token is valid, not expired, and of this host.", False),
    403: _Row(
        PermissionDeniedError,
        "Ask its owner for CAN QUERY, or name another profile in the target: agent-target://PROFILE.",
        False,
    ),
    404: _Row(
        EndpointNotFoundError,
        "Check the endpoint's name and the target; client.list_endpoints() shows what is there. "
        "A bare agent server (MLflow's AgentServer, a DurableAgentServer, `mlflow models serve`) is called without an "
        "endpoint's name.",
        False,
    ),
    407: _Row(EndpointUnavailableError, "The proxy wants a login: HTTP_PROXY=http://USER:PASSWORD@HOST:PORT.", False),
    405: _Row(EndpointNotFoundError, "Nothing answers questions there: check the target.", False),
    408: _Row(RequestTimeoutError, "The agent may still be running.", True),
    411: _Row(InvalidInputError, _SMALLER, False),
    413: _Row(InvalidInputError, _SMALLER, False),
    415: _Row(InvalidInputError, "Nothing there takes JSON: check the target.", False),
    429: _Row(RateLimitError, "Send fewer requests at a time, or later.", False),
    431: _Row(InvalidInputError, "The login's headers are too long for it.", False),
    502: _Row(EndpointUnavailableError, "The agent may have run.", True),
    503: _Row(EndpointUnavailableError, "It may be starting, scaling or overloaded: try again later.", False),
    504: _Row(EndpointUnavailableError, "The agent may still be running.", True),
}

_APP_ADVICE = "Ask its owner for CAN USE, or name another profile in the target: agent-target://PROFILE."

# What Envoy, the proxy before Model Serving and Databricks Apps, writes when it has no answer for a request. With these
# reasons the request did not go out, or was refused unread; with any other, its agent may have been at work.
# https://github.com/envoyproxy/envoy/blob/main/source/common/http/utility.cc (resetReasonToString)
_NO_ANSWER = re.compile(r"disconnect/reset (?P<when>before|after) headers", re.I)
_RESET_REASON = re.compile(r"reset reason: *(?P<why>[a-z0-9 ]+)", re.I)
_NOT_SENT = (
    "connection failure",
    "remote connection failure",
    "local connection failure",
    "connection timeout",
    "connect error",
    "overflow",
    "overload manager reset",
    "local refused stream reset",
    "remote refused stream reset",
)

# https://docs.databricks.com/aws/en/machine-learning/model-serving/model-serving-limits
_AGENT_LIMIT_MB, _MODEL_LIMIT_MB = 4, 16
_SPEAKS_OF_SIZE = re.compile(
    r"(request|payload|body|content|entity)\b.{0,80}(too (large|big|long)|size|exceed|limit)", re.I
)
# What AgentServer says to a payload before its agent runs. Only at the start of a message: an agent that fails may
# quote another server's. (What MLflow's schema enforcement says could come from a model that the agent called.)
_REFUSED_UNRUN = re.compile(r"Invalid parameters for (ResponsesAgent|ChatAgent|ChatModel)\b")
# What a workspace says, with 403, of a token that has expired or was revoked: databricks-vscode#583,
# databricks-sdk-go#1061, terraform-provider-databricks#66, omnigent#3231.
_SPEAKS_OF_TOKEN = re.compile(
    r"(invalid|expired?|expiring|revoked|malformed|unknown)\b.{0,30}\b(token|jwt|credential)"
    r"|\b(token|jwt|credential)s?\b.{0,40}(invalid|not valid|expired?|expiring|revoked|malformed|not active)",
    re.I,
)
# What a DurableAgentServer says, before a run, whose agent acts for a user whom the request doesn't name.
_UNKNOWN_USER = ("MCP_USER_AUTH_REQUIRED", "MCP_USER_IDENTITY_MISSING")
_SPEAKS_OF_IP = re.compile(r"\bip (acl|access list|allow ?list)|\bip\b.{0,60}\b(blocked|not allowed|denied)", re.I)
_SPEAKS_OF_RIGHTS = re.compile(r"permission|not authorized|access level|CAN[_ ](QUERY|USE|MANAGE)", re.I)
_PRIVATE_LINK = "private-link"
_NETWORK = (
    "The workspace takes no calls from this network (an IP access list): call it from one that is allowed, or through "
    "your organisation's VPN, or ask the workspace's admin."
)
_BLOCK_PAGE = (
    "That is a web page, not the workspace's answer: a proxy or firewall on the way may have written it. Check "
    "HTTPS_PROXY and NO_PROXY, or ask your network's admin to let the host through."
)
_SIGN_IN = re.compile(r"log[ -]?in|sign[ -]?in|oauth|oidc|authoriz|\bsso\b|password", re.I)


def error_for_answer(
    facts: Facts, *, body: Any, headers: Mapping[str, str], retry_after: float | None, sent_bytes: int
) -> AgentTargetError:
    """Return the error that an HTTP answer other than a success means.

    Args:
        facts: What is known of the exchange, with the status, 300 or above.
        body: The body: JSON values, or text, or None.
        headers: The answer's headers, found under their names in lower case.
        retry_after: Seconds the server asked to wait, if it did.
        sent_bytes: The size of the request's body.
    """
    status = facts.status or 0
    body = facts.redacted(body)
    if status < 400:
        return _redirect(headers.get("location", ""), facts, body)
    reason = server_reason(body)
    row = _TABLE.get(status) or _Row(AgentError, "The agent may have run.", True)
    if is_failed_run(body):
        row = _Row(AgentError, "Its agent failed while it ran.", True)
    elif _names_no_user(body):
        row = _Row(AgentError, "The agent acts for its user, and has not run: ask the app as a user, by OAuth.", False)
    elif status == 400 and _is_refused_unrun(body):
        row = row._replace(advice="The agent has not run.", may_have_run=False)
    elif status == 422 and _is_validation(body):
        row = _Row(InvalidInputError, "It refused the payload: the agent has not run.", False)
    elif status == 503 and _was_being_answered(reason):
        row = row._replace(advice="Its connection to the agent broke: the agent may have run.", may_have_run=True)
    elif status == 403:
        is_app = (facts.endpoint or "").startswith("apps:/")
        row = _forbidden(reason, body, row._replace(advice=_APP_ADVICE) if is_app else row)
    advice = row.advice
    if status == 413 or (status == 400 and _SPEAKS_OF_SIZE.search(reason)):
        is_over = sent_bytes > _AGENT_LIMIT_MB * 1_000_000
        if status == 413 or is_over:
            advice = (
                f"The payload has {sent_bytes:,} bytes ({sent_bytes / 1e6:.1f} MB); Model Serving takes "
                f"{_AGENT_LIMIT_MB} MB for agents, {_MODEL_LIMIT_MB} MB for other custom models. {_SMALLER}"
            )
            if is_over:
                row = row._replace(may_have_run=False)
    more: dict[str, Any] = {}
    if row.error in (RateLimitError, EndpointUnavailableError):
        more["retry_after"] = retry_after
    if row.error is AgentError:
        more["retryable"] = status >= 500 and row.may_have_run and not is_failed_run(body)
    if status == 407:
        more["retryable"] = False
    said = f"{status}: {reason.removesuffix('.')}" if reason else str(status)
    request = f" (request {printable(facts.request_id)})" if facts.request_id else ""
    message = f"{facts.server} answered {said}{request}. {advice}"
    return facts.error(row.error, message, body=body, may_have_run=row.may_have_run, **more)


def _is_refused_unrun(body: Any) -> bool:
    said = [body.get(key) for key in ("message", "detail")] if isinstance(body, dict) else []
    return any(isinstance(message, str) and _REFUSED_UNRUN.match(message) for message in said)


def is_failed_run(body: Any) -> bool:
    """Return whether an answer of whatever status is how a DurableAgentServer tells of a run that failed.

    Its agent, or a tool, may fail for want of a right: that is this run's failure, and no refusal of the request.
    """
    code = _code_of_run(body)
    is_failure = code.startswith("MCP_") or code == "INVALID_APPROVAL"
    return (is_failure and code not in _UNKNOWN_USER) or body == {"detail": "agent invocation failed"}


def _names_no_user(body: Any) -> bool:
    """Return whether a DurableAgentServer refuses a request for want of the user that its agent acts for."""
    return _code_of_run(body) in _UNKNOWN_USER


def _code_of_run(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not error.keys() <= {"code", "message", "integration_id"}:
        return ""  # such as OpenAI's, which has a type
    return str(error.get("code"))


def _is_validation(body: Any) -> bool:
    """Return whether a 422 comes from FastAPI's check of a request, before anything of the agent's ran.

    https://fastapi.tiangolo.com/tutorial/handling-errors/#override-request-validation-exceptions
    """
    detail = body.get("detail") if isinstance(body, dict) else None
    return isinstance(detail, list) and all(
        isinstance(fault, dict) and {"loc", "msg"} <= fault.keys() for fault in detail
    )


def _was_being_answered(reason: str) -> bool:
    """Return whether a gateway's 503 says that the request was with the agent when its connection broke."""
    no_answer, why = _NO_ANSWER.search(reason), _RESET_REASON.search(reason)
    if no_answer is None and why is None:
        return False
    return (
        why is None
        or (no_answer is not None and no_answer["when"] == "after")
        or why["why"].strip().lower() not in _NOT_SENT
    )


def _forbidden(reason: str, body: Any, row: _Row) -> _Row:
    """Return what a 403 means, by its words: they may speak of the token, of the network, or be a proxy's."""
    if _SPEAKS_OF_IP.search(reason):
        return row._replace(advice=_NETWORK)
    if _SPEAKS_OF_TOKEN.search(reason):
        return _TABLE[401]
    if isinstance(body, str) and body.lstrip()[:1] == "<" and not _SPEAKS_OF_RIGHTS.search(reason):
        return row._replace(advice=_BLOCK_PAGE)
    return row


def _redirect(location: str, facts: Facts, body: Any) -> AgentTargetError:
    try:
        _, host, path, query, _ = urlsplit(location)
    except ValueError:
        host, path, query = "", location, ""
    where = printable(host) or "another path of the same host"
    told = parse_qs(query)
    given = [value for key in ("error", "error_description", "reason", "message") for value in told.get(key, [])]
    reason = printable(": ".join(given), 300)
    if _PRIVATE_LINK in reason or _SPEAKS_OF_IP.search(reason):
        advice = (
            "The workspace takes calls through Private Link only, and this one came from another network. Call it from "
            "a network with its Private Link endpoint, whose DNS points the workspace's name there."
            if _PRIVATE_LINK in reason
            else _NETWORK
        )
        return facts.error(
            PermissionDeniedError, f"{facts.server} answered {facts.status}: {reason}. {advice}", body=body
        )
    where += f", which says why ({reason})" if reason else ""
    if _SIGN_IN.search(path) or _SIGN_IN.search(host):
        return sign_in_page(f"a redirect to a page that asks for a login, of {where}", facts, body)
    return facts.error(
        InvalidResponseError,
        f"{facts.server} answered {facts.status}, a redirect to {where}, which is not followed: the prompt would go "
        "there too. Name the address that answers itself in the target.",
        body=body,
        may_have_run=False,
    )


def is_sign_in_page(content_type: str, text: str) -> bool:
    """Return whether a body is a page that asks a person to log in."""
    start = text[:20_000]
    return ("html" in content_type or start.lstrip()[:1] == "<") and bool(_SIGN_IN.search(start))


def sign_in_page(what: str, facts: Facts, body: Any) -> SignInPageError:
    """Return the error that a page which asks a person to log in means.

    Args:
        what: What came in place of an answer.
        facts: What is known of the exchange.
        body: The page, or what came with a redirect to it.
    """
    return facts.error(
        SignInPageError,
        f"{facts.server} answered with {what}, so the login was not accepted. A Databricks App takes OAuth only, no "
        "personal access token: run `databricks auth login`, or use a service principal's client id and secret. "
        "Elsewhere, check that the token is of this host (AGENT_TARGET_TOKEN for an explicit base URL).",
        body=body,
    )
