"""What it means that databricks-sdk can't log in: whether that may pass, and what is told of it."""

from __future__ import annotations

import base64
import re
import traceback
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote_plus

from mlflow_agent_target.errors import AgentTargetError, AuthenticationError, EndpointUnavailableError
from mlflow_agent_target.redaction import redacted
from mlflow_agent_target.text import parse_body, printable, server_reason

ADVICE = (
    "Set DATABRICKS_HOST and DATABRICKS_TOKEN, run `databricks auth login`, or name a profile: agent-target://PROFILE. "
    "For a local agent: agent-target:http://127.0.0.1:8080."
)

# What a server that has no time, or a network that breaks, is called by commands (`databricks`, `az`) and libraries.
_PASSING = re.compile(
    r"temporar|timed? ?out|timeout|connection (refused|reset|aborted|broken)|no such host|too many requests|unavailable"
    r"|try again|network is unreachable|\b(429|50[0234])\b",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    r"establish a new connection|resolve|refused|no such host|unreachable|no route", re.IGNORECASE
)
# The SDK doesn't say that a host did not tell where it gives tokens: it goes on, and asks None.
_NO_TOKEN_ENDPOINT = re.compile(r"Invalid URL '?None")


def login_error(error: BaseException, what: str, secrets: Iterable[str]) -> AgentTargetError:
    """Return the error that a failure of databricks-sdk means.

    Args:
        error: What the SDK raised.
        what: What failed, as the start of a sentence.
        secrets: What the login holds that nobody may see. Servers quote what they were sent.
    """
    answer = _refusal(error)
    chain = list(_chain(error))
    # What the SDK adds of its configuration names time limits, too.
    said = " ".join(str(cause).partition(". Config: ")[0] for cause in chain)
    reason, status, retry_after = printable(str(error)), None, None
    if answer is not None:
        status = answer.status_code
        reason = f"{status}: {_said(parse_body(answer.content))}".removesuffix(": ")
        retry_after = _seconds(answer.headers.get("retry-after"))
    is_untold = answer is None and bool(_NO_TOKEN_ENDPOINT.search(said))
    if is_untold:
        reason = "the host could not be asked where it gives tokens. Is it reachable, and a workspace's?"
    if status is not None:
        is_passing = status in (408, 429) or status >= 500
    else:
        is_trusted = not any("SSL" in type(cause).__name__ or "CERTIFICATE" in str(cause) for cause in chain)
        is_passing = is_trusted and (is_untold or any(map(_is_broken, chain)) or bool(_PASSING.search(said)))
    hidden = _as_quoted([*secrets])
    start = redacted(f"{what}: {reason}", hidden).rstrip(". ")
    made: AgentTargetError
    if is_passing:
        made = EndpointUnavailableError(
            f"{start}{'' if start.endswith('?') else '.'} The agent was not asked. That may pass.",
            retry_after=retry_after,
            unreachable=is_untold or bool(status is None and _UNREACHABLE.search(said)),
        )
    else:
        made = AuthenticationError(f"{start}. {ADVICE}")
    shown = "".join(traceback.format_exception(error))
    if redacted(shown, hidden) == shown and not any(isinstance(cause, UnicodeError) for cause in chain):
        made.__cause__ = error
    return made


def _said(body: Any) -> str:
    """Return what a server said; token endpoints say it in words of their own (RFC 6749, section 5.2)."""
    more = body.get("error_description") if isinstance(body, dict) else None
    return ": ".join(filter(None, [server_reason(body), printable(more) if isinstance(more, str) else ""]))


def _as_quoted(secrets: list[str]) -> list[str]:
    """Return secrets as servers quote them: as they are, as a form's value, as the login of a header."""
    return [
        form
        for secret in secrets
        for form in (secret, quote_plus(secret), base64.b64encode(secret.encode("utf-8", "replace")).decode())
    ]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _refusal(error: BaseException) -> Any:
    """Return the answer of the server that refused a login; None where no server did.

    The SDK raises a ValueError with what it takes for the reason ("unknown: unknown"), and tells no status. But the
    function that raised it had the answer in hand, under the name `resp` or `response` (databricks-sdk 0.20 to 0.162).
    Where that changes, the error's own words decide.
    """
    found = None
    for cause in _chain(error):
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            for name in ("resp", "response"):
                answer = frame.f_locals.get(name)
                status = getattr(answer, "status_code", None)
                if isinstance(status, int) and status >= 400 and isinstance(getattr(answer, "content", None), bytes):
                    found = answer
    return found


def _is_broken(error: BaseException) -> bool:
    """Return whether an error is that of a connection: requests' are known by name, as it isn't imported here."""
    is_requests = type(error).__module__.partition(".")[0] in ("requests", "urllib3")
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or (
        is_requests and bool(kinds & {"ConnectionError", "Timeout", "ChunkedEncodingError"})
    )


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdecimal() else None
