"""The recorder: a local server between a program and real endpoints, which writes down what they answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response

from mlflow_agent_target.endpoints.access import Access
from mlflow_agent_target.errors import AgentTargetError, InvalidInputError
from mlflow_agent_target.http.options import RequestOptions
from mlflow_agent_target.http.steps import perform
from mlflow_agent_target.redaction import redacted, secrets_of, secrets_of_environment
from mlflow_agent_target.server.options import ServerOptions
from mlflow_agent_target.server.recordings import Exchange, RecordingFile
from mlflow_agent_target.server.refusals import RefusedError
from mlflow_agent_target.server.rehearsal import BreakableResponse, BrokenOffError
from mlflow_agent_target.server.replay import StandIn, is_stream
from mlflow_agent_target.server.serving import LocalServer
from mlflow_agent_target.target.addresses import is_loopback
from mlflow_agent_target.target.names import agent_name, app_of
from mlflow_agent_target.text import encode_json

_logger = logging.getLogger(__name__)

_KEPT_HEADERS = ("content-type", "retry-after", "x-request-id", "served-model-name")


@dataclass(frozen=True)
class _Head:
    status: int
    headers: dict[str, str]


class ForwardedEndpoint(StandIn):
    """A real endpoint that is asked what this one is asked, and whose answers are recorded.

    Args:
        access: The target.
        name: The endpoint's name there, or an app's, `apps:/my-app`.
        file: The recording.
        secrets: What must not be written, beside what the target is sent.

    Raises:
        AgentTargetError: The target can't be logged in to, or the name can't be used.
    """

    def __init__(self, access: Access, name: str, file: RecordingFile, secrets: Sequence[str] = ()) -> None:
        there = agent_name(name)
        self.name = app_of(there)
        self.entity = there
        self._file = file
        self._options = RequestOptions(endpoint=there)
        agent = access.routes.agent(there)
        self._route = perform(agent.route(self._options))
        self.task = None
        with contextlib.suppress(AgentTargetError):  # an app, or one that may be asked and not described
            self.task = perform(agent.describe(self._options)).get("task")
        self._secrets = [*secrets, *_hosts(self._route.url, access.routes.transport.base_url)]
        file.append({"endpoint": self.name, "task": self.task})

    async def answer(self, body: dict[str, Any], runs: Callable[[], None]) -> Response:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Any] = asyncio.Queue()

        def put(what: _Head | bytes | Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped
                loop.call_soon_threadsafe(arrived.put_nowait, what)

        def exchange() -> None:
            try:
                self._exchange(body, put)
            except Exception as error:
                put(error)
            else:
                put(None)

        # To its end, even if the caller leaves: what was begun is recorded as a whole.
        threading.Thread(target=exchange, name="recorder", daemon=True).start()
        head = await arrived.get()
        if isinstance(head, Exception):
            raise head
        if head.status < 300:
            runs()
        if is_stream(head.headers):
            return BreakableResponse(_until_the_end(arrived), head.status, head.headers)
        came = []
        try:
            async for chunk in _until_the_end(arrived):
                came.append(chunk)
        except BrokenOffError:
            return BreakableResponse(_broken(came), head.status, head.headers)
        return Response(b"".join(came), head.status, head.headers)

    def _exchange(self, body: dict[str, Any], put: Callable[[_Head | bytes], None]) -> None:
        """Ask the endpoint, pass on what comes, its head and then bytes, and record it.

        Raises:
            RefusedError: Nothing was answered.
            BrokenOffError: The answer broke off.
        """
        began = time.monotonic()
        try:
            # The name of this endpoint is no part of what that one is asked: the path names it.
            payload = encode_json({key: value for key, value in body.items() if key != "model"})
            answer, failure = perform(self._route.transport.forward(self._route.url, payload, self._options))
        except AgentTargetError as error:
            status = error.status_code or (502 if error.may_have_run else 503)
            raise RefusedError(status, str(error.error_code), error.message) from error
        kept = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
        put(_Head(answer.status, kept))
        exchange = Exchange(self.name, body, answer.status, kept)
        is_good = 200 <= answer.status < 300
        broken: AgentTargetError | None = None
        try:
            with contextlib.closing(answer):
                for chunk in iter(lambda: answer.read(answer.facts.timeout), b"") if is_good else [failure]:
                    exchange.chunks.append((time.monotonic() - began, chunk))
                    put(chunk)
        except AgentTargetError as error:
            broken = error
        secrets = [*self._secrets, *secrets_of(answer.facts.logins), *secrets_of_environment()]
        try:
            self._file.append(_without_secrets(replace(exchange, is_broken=broken is not None), secrets).line())
        except (OSError, ValueError) as error:
            _logger.error("An exchange with '%s' could not be recorded: %s", self.name, error)
        if broken is not None:
            raise BrokenOffError from broken


async def _until_the_end(arrived: asyncio.Queue[Any]) -> AsyncIterator[bytes]:
    while (chunk := await arrived.get()) is not None:
        if isinstance(chunk, Exception):
            raise BrokenOffError from chunk
        yield chunk


async def _broken(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    raise BrokenOffError


def _hosts(*urls: str) -> Iterator[str]:
    for url in urls:
        parts = urlsplit(url)
        yield parts.netloc
        if parts.hostname and not is_loopback(parts.hostname):
            yield parts.hostname


def _without_secrets(exchange: Exchange, secrets: Sequence[str]) -> Exchange:
    # Bytes as Latin-1 have a character for each: what is not redacted stays as it is, byte for byte.
    def clean(chunk: bytes) -> bytes:
        text: str = redacted(chunk.decode("latin-1"), secrets)
        return text.encode("latin-1")

    whole = b"".join(chunk for _, chunk in exchange.chunks)
    chunks = [(seconds, clean(chunk)) for seconds, chunk in exchange.chunks]
    if clean(whole) != b"".join(chunk for _, chunk in chunks):  # one lies across two chunks
        chunks = [(exchange.chunks[-1][0], clean(whole))]
    return replace(
        exchange,
        request=redacted(exchange.request, secrets),
        headers=redacted(dict(exchange.headers), secrets),
        chunks=chunks,
    )


class Recorder:
    """A running recorder, on a port of this machine. Stop it with `stop()`, or use it in a `with` block.

    Attributes:
        endpoints: The names of the endpoints that it takes requests for.
        url: Its base URL.
        target_uri: The target that reaches it, and through it the endpoints.

    Args:
        target: The target URI.
        names: The endpoints, and apps, that are recorded.
        path: The recording. What is in it is kept.
        port: The port on 127.0.0.1; 0 takes a free one.
        token: A bearer token that callers must send; None for none.

    Raises:
        AgentTargetError: The target can't be logged in to, or one of these can't be used.
    """

    def __init__(
        self, target: str, names: Sequence[str], path: str | Path, port: int = 0, token: str | None = None
    ) -> None:
        access = Access(target)
        self._file = RecordingFile(Path(path))
        try:
            served: dict[str, ForwardedEndpoint] = {}
            for name in names:
                endpoint = ForwardedEndpoint(access, name, self._file, [token] if token else [])
                if endpoint.name in served:
                    raise InvalidInputError(f"Two endpoints are named '{endpoint.name}'. Name each once.")
                served[endpoint.name] = endpoint
            self._server = LocalServer(served, port, ServerOptions(token=token))
        except BaseException:
            self._file.close()
            raise
        self.endpoints = list(served)
        self.url = self._server.url
        self.target_uri = self._server.target_uri

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def exchanges(self) -> int:
        """How many were recorded."""
        return self._file.exchanges

    def stop(self) -> None:
        """Stop it, giving running calls 3 seconds to finish. Any number of times."""
        self._server.stop()
        self._file.close()
