"""Connections to one host: where they go (proxies), whom they trust (certificates), and which are free."""

from __future__ import annotations

import http.client
import io
import time
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.http.sockets import Answer, BrokenError, Connection, Stage
from mlflow_agent_target.target.addresses import host_of, is_loopback

_CONNECT_SECONDS = 10.0
# Connections kept for reuse; more than any sensible number of threads, for batch runs.
_MOST_IDLE = 1024
# Sets of headers that are kept as they go over the wire.
_MOST_BLOCKS = 32
# requests asks for a timeout, which the deadline makes superfluous.
_NO_TIMEOUT: Any = urllib3.Timeout()


class Pool(HTTPAdapter):
    """Sends requests to one host, over connections that any number of threads share.

    As requests' adapter, it finds the environment's proxies and certificates; and what replaces requests' answers in
    tests, such as the package `responses`, replaces this one's. It follows no redirect, keeps no cookies, and reads no
    netrc.

    Args:
        base_url: The host's URL. Every request's URL starts with it.
        verify_tls: Whether the server's certificate is checked.
    """

    def __init__(self, base_url: str, verify_tls: bool) -> None:
        super().__init__(max_retries=0)
        self._base_url = base_url
        parts = urlsplit(base_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        port = "" if parts.port in (None, {"http": 80, "https": 443}.get(parts.scheme)) else f":{parts.port}"
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self._host = f"{name}{port}"
        with requests.Session() as session:
            # The environment's proxies and certificates.
            self._settings: dict[str, Any] = dict(
                session.merge_environment_settings(base_url, {}, True, None if verify_tls else False, None)
            )
        proxies = {key: _quoted_login(proxy) for key, proxy in self._settings["proxies"].items()}
        self._settings["proxies"] = {} if _is_asked_directly(base_url, proxies) else proxies
        self._proxy = requests.utils.select_proxy(base_url, self._settings["proxies"])
        self._forwards = parts.scheme == "http" and (self._proxy or "socks").partition(":")[0][:5] != "socks"
        self._proxy_host = urlsplit(self._proxy).hostname if self._proxy else None
        self._makes: Any = None
        self._idle: deque[Connection] = deque()
        self._blocks: dict[tuple[tuple[str, str], ...], tuple[CaseInsensitiveDict[str], bytes]] = {}

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, deadline: float
    ) -> Answer | requests.Response:
        """Send a request and return its answer, of which only the head has been read.

        Args:
            method: The HTTP method.
            url: The whole URL, quoted.
            headers: All headers but `Host` and `Content-Length`.
            body: The body; None for none.
            deadline: When the head must be there, by `time.monotonic`.

        Returns:
            The answer, or what something in a test put in its place.

        Raises:
            BrokenError: No answer came.
            InvalidInputError: A header can't be sent.
        """
        try:
            said, block = self._block(headers)
        except UnicodeError as error:  # of the proxy's login, which requests encodes
            raise BrokenError(error, Stage.SETUP, self._proxy_host) from None
        request = requests.PreparedRequest()
        request.method, request.url, request.headers, request.body = method, url, said, body
        request.deadline = deadline  # type: ignore[attr-defined]
        request.block = block  # type: ignore[attr-defined]
        try:
            return self.send(request, timeout=_NO_TIMEOUT, **self._settings)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            # Raised by what stands in for the server in a test.
            is_unconnected = isinstance(error, requests.ConnectTimeout)
            raise BrokenError(error, Stage.CONNECTING if is_unconnected else Stage.ANSWERING) from error

    # What `HTTPAdapter.send` asks for on its way.

    def get_connection_with_tls_context(self, request: Any, *_: Any, **__: Any) -> Any:
        return _Opening(self, request)

    def cert_verify(self, *_: Any) -> None:
        """Do nothing: certificates are set once, for all connections."""

    def request_url(self, request: Any, _proxies: Any) -> str:
        url: str = request.url
        return url if self._forwards else url[len(self._origin) :] or "/"

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> Any:
        if isinstance(resp, Answer):
            return resp
        response = requests.Response()
        response.status_code, response.headers, response.reason = resp.status, resp.headers, resp.reason
        response.raw, response.request, response.url = resp, req, req.url or ""
        return response

    def open(self, method: str, target: str, block: bytes, body: bytes | None, deadline: float) -> Answer:
        """Send a request on a connection that is free, or on a new one. See `exchange`."""
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        head = b"%s %s HTTP/1.1\r\n%s%s\r\n" % (method.encode(), target.encode("ascii"), block, length)
        connection = self._free() or self._connect(deadline)
        try:
            return connection.exchange(head, body, deadline, lambda: self._give_back(connection))
        except BaseException:
            connection.close()
            raise

    def _free(self) -> Connection | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None  # another thread took it
            if connection.is_usable:
                return connection
            connection.close()
        return None

    def _give_back(self, connection: Connection) -> None:
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _connect(self, deadline: float) -> Connection:
        try:
            pool = self._makes = self._makes or self._urllib3s_pool()
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise BrokenError(error, Stage.SETUP, self._proxy_host) from error
        made = pool._new_conn()
        made.timeout = min(_CONNECT_SECONDS, max(deadline - time.monotonic(), 0.001))
        try:
            if pool.proxy is not None and pool.scheme == "https":
                made.response_class = _bounded_response(time.monotonic() + made.timeout)
                pool._prepare_proxy(made)
            pool._validate_conn(made)  # connects for https, and warns where certificates are not checked
            if made.is_closed:
                made.connect()
        except BaseException as error:
            made.close()
            if isinstance(error, Exception):
                raise BrokenError(error, Stage.CONNECTING, self._proxy_host) from error
            raise
        return Connection(made)

    def _urllib3s_pool(self) -> Any:
        """Return what makes urllib3's connections to the host.

        Of its pool, methods are used that are not public: `_new_conn`, `_prepare_proxy` and `_validate_conn`, as they
        are from urllib3 2.2.2 to 2.8.
        """
        request = requests.PreparedRequest()
        request.prepare_url(self._base_url, None)
        settings = {key: value for key, value in self._settings.items() if key != "stream"}
        pool = super().get_connection_with_tls_context(request, **settings)
        super().cert_verify(pool, self._base_url, settings["verify"], settings["cert"])  # type: ignore[no-untyped-call]
        return pool

    def _block(self, headers: Mapping[str, str]) -> tuple[CaseInsensitiveDict[str], bytes]:
        """Return headers for requests, and as they go over the wire: made once, since they seldom change."""
        key = tuple(headers.items())
        known = self._blocks.get(key)
        if known is None:
            said = CaseInsensitiveDict(headers)
            if self._forwards:
                said.update(self.proxy_headers(self._proxy or ""))
            known = said, _encoded({"Host": self._host, **said})
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            self._blocks[key] = known
        return known


def _is_asked_directly(url: str, proxies: Mapping[str, str]) -> bool:
    """Return whether a URL is this machine's own, so that no proxy on another one is to see what is sent there."""
    proxy = requests.utils.select_proxy(url, dict(proxies)) or ""
    return is_loopback(urlsplit(url).hostname or "") and not is_loopback(host_of(proxy))


def _quoted_login(proxy: str) -> str:
    """Return a proxy's URL whose password may hold what else would end the host's name, and be shown as that."""
    start, at, host = proxy.rpartition("@")
    scheme, mark, login = start.rpartition("://")
    quoted = login.replace("/", "%2F").replace("?", "%3F").replace("#", "%23")
    return f"{scheme}{mark}{quoted}{at}{host}"


class _Opening:
    """What `HTTPAdapter.send` takes for urllib3's pool: sends one request, which knows its deadline."""

    def __init__(self, pool: Pool, request: Any) -> None:
        self._pool = pool
        self._request = request

    def urlopen(self, method: str, url: str, body: bytes | None, **_: Any) -> Answer:
        request = self._request
        return self._pool.open(method, url, request.block, body, request.deadline)


def _encoded(headers: Mapping[str, str]) -> bytes:
    """Return headers as they go over the wire.

    Raises:
        InvalidInputError: One holds a character that would be taken for the end of it, or that a header can't carry.
    """
    for name, value in headers.items():
        if not (name.isascii() and name.isprintable() and ":" not in name and _is_sendable(value)):
            raise InvalidInputError(
                f"The header {name!r:.60} can't be sent: its value holds a line break or another character that a "
                "header can't carry. Check the login that it comes from."
            )
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")


def _is_sendable(value: str) -> bool:
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return not any(char in "\r\n\0" for char in value)


def _bounded_response(deadline: float) -> Any:
    """Return http.client's response to CONNECT, every read of which is bounded."""

    def response(sock: Any, *arguments: Any, **options: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Bounded(sock, deadline), *arguments, **options)  # type: ignore[arg-type]

    return response


class _Bounded(io.RawIOBase):
    """A socket whose reads have one deadline, as a file."""

    def __init__(self, sock: Any, deadline: float) -> None:
        self._socket = sock
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        # A byte at a time: what follows the proxy's answer is TLS, and not to be read here.
        return io.BufferedReader(self, 1)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the proxy's answer took too long")
        self._socket.settimeout(left)
        return int(self._socket.recv_into(buffer))
