"""requests' adapter for one host: what it would find out for every request, found out once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import BaseHTTPResponse

from mlflow_agent_target.http.sockets import POOL_CLASSES

# Connections kept for reuse; more than any sensible number of threads, for batch runs.
_POOL_SIZE = 1024


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
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = POOL_CLASSES
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
