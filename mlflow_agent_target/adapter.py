"""requests' adapter for one host: what it would find out for every request, found out once."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError
from urllib3.response import HTTPResponse

# Connections kept for reuse; more than any sensible number of threads, for batch runs.
_POOL_SIZE = 1024
# Head and body go out together up to this size; beyond it, joining them costs more than a second packet.
_JOINED_BYTES = 65536
_CUT_OFF = "the connection broke before the whole request was sent"


class RequestCutOffError(ProtocolError):
    """The connection broke before the whole request was out: the server can't have acted on it."""


class _WholeRequests(HTTPConnection):
    """A connection that tells a request which was cut off from one which was sent and then not answered.

    urllib3 reads on after a broken pipe, since a server may refuse a large body early, and then reports only that
    nothing came.
    """

    _held: list[bytes] | None = None
    _cut_off = False

    def connect(self) -> None:
        self._cut_off = False
        super().connect()

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        joined = body is None or (isinstance(body, bytes) and len(body) <= _JOINED_BYTES)
        self._held = [] if joined else None
        try:
            super().request(method, url, body, headers, **options)
            if self._held is not None:
                whole, self._held = b"".join(self._held), None
                self.send(whole)
        finally:
            self._held = None

    def send(self, data: Any) -> None:
        if self._held is not None:
            self._held.append(data)
            return
        try:
            super().send(data)
        except (ConnectionError, ssl.SSLError) as error:
            self._cut_off = True
            if isinstance(error, ConnectionError):
                raise
            raise RequestCutOffError(_CUT_OFF, error) from error

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3's own
        try:
            return super().getresponse()
        except ConnectionError as error:
            if self._cut_off:
                raise RequestCutOffError(_CUT_OFF, error) from error
            raise


class _WholeRequestsTLS(_WholeRequests, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _WholeRequests


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _WholeRequestsTLS


_POOL_CLASSES = {"http": _Pool, "https": _TLSPool}


class HostAdapter(HTTPAdapter):
    """Sends requests to one host, over a pool of connections that any number of threads share.

    requests looks up proxies, certificates and the pool for each request; for one host they are always the same. It
    follows no redirect, keeps no cookies, and reads no netrc.

    Args:
        base_url: The host's URL. Every request's URL starts with it.
        verify_tls: Whether the server's certificate is checked.
    """

    def __init__(self, base_url: str, verify_tls: bool) -> None:
        super().__init__(pool_connections=4, pool_maxsize=_POOL_SIZE, max_retries=0)
        parts = urlsplit(base_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._pool: Any = None
        with requests.Session() as session:
            # The environment's proxies and certificates.
            self.settings: dict[str, Any] = dict(
                session.merge_environment_settings(base_url, {}, True, None if verify_tls else False, None)
            )
        self._is_proxied = bool(requests.utils.select_proxy(base_url, self.settings["proxies"]))

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: tuple[float, float]
    ) -> requests.Response:
        """Send a request and return its answer, of which only the head has been read.

        Args:
            method: The HTTP method.
            url: The whole URL, quoted.
            headers: All headers but `Content-Length`.
            body: The body; None for none.
            timeout: Seconds to wait for the connection, and for the answer's head.
        """
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, url, body
        request.headers = CaseInsensitiveDict(headers)
        return self.send(request, timeout=timeout, **self.settings)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOL_CLASSES

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOL_CLASSES
        return manager

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        # What it sets on a pool it sets for good.
        if not conn.num_requests:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]

    def request_url(self, request: Any, proxies: Any) -> str:
        if self._is_proxied:
            return super().request_url(request, proxies)
        path: str = request.url[len(self._origin) :]
        return path

    def build_response(self, req: requests.PreparedRequest, resp: BaseHTTPResponse) -> requests.Response:
        response = requests.Response()
        response.status_code = resp.status
        response.headers = cast("CaseInsensitiveDict[str]", resp.headers)
        response.reason = cast("str", resp.reason)
        response.raw = resp
        response.request = req
        response.url = cast("str", req.url)
        return response
