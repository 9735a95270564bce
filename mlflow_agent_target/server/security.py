"""Which requests may reach the agents: none that a web page of another site made, and none that is too large.

A browser sends what any page asks it to, also to servers on this machine: an agent runs, though the page may not see
its answer. With DNS rebinding it sees that, too: the page's own name is made to point to this machine. Without a token,
nothing else stands in between. MLflow's tracking server guards itself alike:
https://mlflow.org/docs/latest/self-hosting/security/network/
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlflow_agent_target.server.refusals import RefusedError, refusal
from mlflow_agent_target.target.addresses import is_loopback

_logger = logging.getLogger(__name__)

# So much of a body that is too large is read and thrown away: most clients read no answer before they have sent all.
_MOST_THROWN_AWAY_BYTES = 256 * 1024 * 1024
_MOST_TOLD = 100
_SAFE_METHODS = ("GET", "HEAD")


def secured(app: ASGIApp, *, has_token: bool, allowed_origins: Collection[str], max_request_bytes: int) -> ASGIApp:
    """Return an app behind the checks of this module.

    Args:
        app: The app.
        has_token: Whether callers must send a token, which no page of another site knows.
        allowed_origins: The origins of web pages that may ask; they are given what browsers want to hear (CORS).
        max_request_bytes: How long a request's body may be.
    """
    app = _Bodies(app, max_request_bytes)
    if not has_token:
        app = _OnlyJson(app)
    app = CORSMiddleware(
        app,
        allow_origins=[origin.lower() for origin in allowed_origins],  # as browsers write them
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "served-model-name", "retry-after"],
    )
    return app if has_token else _OnlyOwnCallers(app, allowed_origins)


class _OnlyOwnCallers:
    """Refuses what pages of other sites send, and requests to a name that isn't this machine's."""

    def __init__(self, app: ASGIApp, allowed_origins: Collection[str]) -> None:
        self._app = app
        self._allowed = {origin.lower() for origin in allowed_origins}
        self._names = {socket.gethostname().lower()}
        self._told: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (why := self._why_not(scope)):
            if why not in self._told and len(self._told) < _MOST_TOLD:  # a browser shows its page nothing of the answer
                self._told.add(why)
                _logger.warning("Refused: %s", why)
            await refusal(RefusedError(403, "PERMISSION_DENIED", why))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _why_not(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host and not self._is_own(_name(host), scope):
            return (
                f"The request is to {host[:200]!r}, which is no name of this machine: a web page could have sent it, "
                "whose name was made to point here. Ask localhost, or set a token for callers to send (-C token=...)."
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() in self._allowed:
            return None
        site = headers.get("sec-fetch-site", "none").lower()
        is_foreign = origin is not None and origin.lower().partition("://")[2] != host.lower()
        if not is_foreign and site in ("same-origin", "none"):
            return None
        if scope["method"] in _SAFE_METHODS and headers.get("sec-fetch-mode") == "navigate":
            return None  # a link that was clicked: no page sees the answer
        sender = f"the web page {origin[:200]!r}" if origin and origin != "null" else "a web page of another site"
        return (
            f"The request comes from {sender}, which may not use this server's agents. To allow that, list its origin "
            "(-C allowed_origins=http://localhost:3000), or set a token for callers to send (-C token=...)."
        )

    def _is_own(self, name: str, scope: Scope) -> bool:
        address = (scope.get("server") or ("",))[0]
        return is_loopback(name) or name in self._names or name == address


class _OnlyJson:
    """Refuses bodies that aren't declared JSON: a page can send others without a browser's asking this server first."""

    # What urllib and curl declare where nothing is said, and http.client, which declares nothing. Browsers send more.
    _DEFAULTS = ("", "application/x-www-form-urlencoded")
    _BROWSERS = ("origin", "referer", "cookie", "sec-fetch-site", "sec-fetch-mode")

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in (*_SAFE_METHODS, "OPTIONS"):
            headers = Headers(scope=scope)
            declared = headers.get("content-type", "").partition(";")[0].strip().lower()
            is_json = declared == "application/json" or declared.endswith("+json")
            if not is_json and (declared not in self._DEFAULTS or any(name in headers for name in self._BROWSERS)):
                error = RefusedError(
                    415,
                    "UNSUPPORTED_MEDIA_TYPE",
                    f"The body is declared {declared or 'nothing'!r}. Send JSON, with the header Content-Type: "
                    "application/json.",
                )
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Bodies:
    """Refuses bodies that are too large, before anything of them is kept."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._error = RefusedError(
            413,
            "MAX_REQUEST_SIZE_EXCEEDED",
            f"The request's body is larger than {most} bytes, the most that an agent's endpoint takes "
            "(-C max_request_bytes=...).",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._most:
            if headers.get("expect", "").lower() != "100-continue":  # such a caller sends nothing before it is told to
                await _throw_away(receive)
            await refusal(self._error)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                if message.get("more_body"):
                    await _throw_away(receive)
                raise self._error
            return message

        await self._app(scope, counted, send)


async def _throw_away(receive: Receive) -> None:
    seen = 0
    while seen < _MOST_THROWN_AWAY_BYTES:
        message = await receive()
        seen += len(message.get("body", b""))
        if not message.get("more_body"):
            return


def _name(host: str) -> str:
    """Return the name or address of a `Host` header, without the port."""
    found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:]*))(?::[0-9]*)?", host.strip())
    return (found[1] or found[2] or "").lower() if found else host.lower()
