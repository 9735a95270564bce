"""One endpoint: its address, which interface it speaks (asked once), query and stream."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from mlflow_agent_target.answers import AgentResponse, whole_answer
from mlflow_agent_target.conversion import encode, read_inputs
from mlflow_agent_target.errors import AgentTargetError, AuthenticationError, EndpointNotFoundError, InvalidInputError
from mlflow_agent_target.interfaces import Interface, interface_for_task
from mlflow_agent_target.streams import AgentStream
from mlflow_agent_target.transport import RequestOptions, Transport
from mlflow_agent_target.workspace import get_endpoint

_logger = logging.getLogger(__name__)

_PREFIX = "endpoints:/"
# What could change a URL's path, host or query, quoted or not: proxies unquote.
_FORBIDDEN = frozenset("/\\?#%")
# Describing an endpoint is quick, and only a hint: it must not hold up the call itself.
_DESCRIBE_SECONDS = 15.0


def endpoint_name(value: Any) -> str:
    """Return an endpoint's name, without the `endpoints:/` it may be given with.

    Raises:
        InvalidInputError: It is no name, or could change the request's URL.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"The endpoint's name must be a string, not {type(value).__name__}.")
    name = value.removeprefix(_PREFIX)
    if not name or name != name.strip() or name in (".", "..") or not name.isprintable() or _FORBIDDEN & set(name):
        raise InvalidInputError(
            f"{value!r:.100} can't be an endpoint's name: give it as shown in the workspace's serving page, "
            "such as 'my-agent' or 'endpoints:/my-agent'."
        )
    return name


@dataclass
class Connection:
    """A target that is connected to: its transport, and what is known of its endpoints, for all clients of it."""

    transport: Transport
    interfaces: dict[str, type[Interface] | None] = field(default_factory=dict)
    asking: threading.Lock = field(default_factory=threading.Lock)


class Endpoint:
    """One endpoint of a target, or the bare agent server that a base URL is."""

    def __init__(
        self,
        connection: Connection,
        name: str | None,
        options: RequestOptions,
        interface: type[Interface] | None = None,
    ) -> None:
        self.name = name
        self._given_interface = interface
        self._connection = connection
        self._transport = connection.transport
        self._options = replace(options, endpoint=name)
        path = f"/serving-endpoints/{quote(name, safe='')}" if name else ""
        self._url = f"{self._transport.base_url}{path}/invocations"

    def query(self, inputs: Any) -> AgentResponse:
        """Send one request and wait for the whole answer. See `AgentTargetClient.predict`."""
        request = read_inputs(inputs)
        if request.payload.get("stream"):
            raise InvalidInputError("The payload has 'stream': true. Use predict_stream, or leave the key out.")
        payload = encode(request, self.interface())
        try:
            reply = self._transport.post(self._url, payload, self._options)
        except EndpointNotFoundError:
            self._forget()
            raise
        return whole_answer(reply.value, endpoint=self.name, request_id=reply.request_id, attempts=reply.attempts)

    def stream(self, inputs: Any) -> AgentStream:
        """Send one request and return its answer as it comes. See `AgentTargetClient.predict_stream`."""
        request = read_inputs(inputs)
        payload = {**encode(request, self.interface()), "stream": True}
        started = time.monotonic()
        try:
            body = self._transport.open_stream(self._url, payload, self._options)
        except EndpointNotFoundError:
            self._forget()
            raise
        return AgentStream(body, endpoint=self.name, started=started, idle_timeout=self._options.idle_timeout)

    def interface(self) -> type[Interface] | None:
        """Return the interface the endpoint serves, asked for once; None where that can't be known.

        A login that may query an endpoint may still be forbidden to describe it, and a gateway may describe nothing:
        then the payload goes as it is.
        """
        known = self._connection.interfaces
        if self._given_interface is not None or self.name is None:
            return self._given_interface
        if self.name not in known:
            with self._connection.asking:  # threads that start together ask once
                if self.name not in known:
                    self._ask(self.name)
        return known.get(self.name)

    def _ask(self, name: str) -> None:
        quick = replace(self._options, timeout=min(self._options.timeout, _DESCRIBE_SECONDS))
        try:
            description = get_endpoint(self._transport, name, quick)
            self._connection.interfaces[name] = interface_for_task(description.get("task"))
        except AgentTargetError as error:
            _logger.debug("Endpoint '%s' can't be described: %s", name, error)
            # What may pass is asked again next time.
            if not error.retryable and not isinstance(error, AuthenticationError):
                self._connection.interfaces[name] = None

    def _forget(self) -> None:
        """Forget the interface of an endpoint that is not there: it may be made anew, as another."""
        self._connection.interfaces.pop(self.name or "", None)
