"""Local agents behind a port: beside the caller's program, or as the command `mlflow deployments run-local`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.target.addresses import is_loopback
from mlflow_agent_target.target.names import endpoint_name
from mlflow_agent_target.target.uri import NAME, TOKEN_VARIABLE

if TYPE_CHECKING:
    import uvicorn

    from mlflow_agent_target.server.agents import ServedAgent
    from mlflow_agent_target.server.faults import Faults
    from mlflow_agent_target.server.replay import Recording, StandIn
    from mlflow_agent_target.server.requests import ServedRequests

_DEFAULT_HOST = "127.0.0.1"
_DEFAULT_PORT = 8080
_OPTIONS = ("port", "host", "token", "allowed_origins", "max_request_bytes")
# How long a stopping server waits for calls that are still running.
_GRACE_SECONDS = 3
# Longer than clients keep idle connections: a server that closes one just as it is used again fails the call.
_KEEP_ALIVE_SECONDS = 75
# What uvicorn logs of calls that are cancelled at the end of that time, and of streams that are cut.
_MEANT = ("Cancel %s running task(s)", "ASGI callable returned without completing response")


class LocalServer:
    """A running server of local agents. Stop it with `stop()`, or use it in a `with` block.

    Attributes:
        url: Its base URL.
        target_uri: The target that reaches it: `get_deploy_client(server.target_uri)`.
        requests: What it was asked: a sequence, the newest request last, whose `runs` counts how often each agent ran.
    """

    requests: ServedRequests

    def __init__(
        self,
        agents: Mapping[str, Any] | None = None,
        port: int = 0,
        token: str | None = None,
        faults: Faults | None = None,
        recording: str | Path | Recording | None = None,
        allowed_origins: str | Sequence[str] = (),
        max_request_bytes: int | None = None,
    ) -> None:
        self._listener = _listen(_DEFAULT_HOST, port)
        try:
            self._server, self.requests = _uvicorn_server(
                agents, token, allowed_origins, max_request_bytes, faults, recording
            )
        except BaseException:
            self._listener.close()
            raise
        self.url = _url(self._listener)
        self.target_uri = f"{NAME}:{self.url}"
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="agent-target-server", daemon=True
        )
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)

    def __repr__(self) -> str:
        return f"LocalServer({self.url!r})"

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server, giving running calls 3 seconds to finish. Any number of times."""
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


def serve(
    agents: Mapping[str, str | Path | Any] | None = None,
    port: int = 0,
    token: str | None = None,
    faults: Faults | None = None,
    recording: str | Path | Recording | None = None,
    allowed_origins: Sequence[str] = (),
    max_request_bytes: int | None = None,
) -> LocalServer:
    """Serve agents from this process, with the REST surface of Model Serving.

    Without a token no web page of another site can reach them, and no other name than this machine's.

    Args:
        agents: For each endpoint name, a model URI (`models:/...`, `runs:/...`), a model's folder, a Python file that
            calls `mlflow.models.set_model`, or a `ResponsesAgent`, `ChatAgent` or `ChatModel` object. None
            for a recording alone.
        port: The port on 127.0.0.1; 0 takes a free one.
        token: A bearer token that callers must send; None for none. This package's client sends `AGENT_TARGET_TOKEN`.
        faults: What is to go wrong, to rehearse a bad day; None for nothing.
        recording: A file that `agent-target record` made, whose endpoints are served, too: a request that was recorded
            gets the answer that was recorded, byte for byte, and any other is refused. `Recording(path, timing=True)`
            of `mlflow_agent_target.server` lets answers take as long as they took. None for none.
        allowed_origins: The origins of web pages that may ask, such as "http://localhost:3000".
        max_request_bytes: How long a request may be; None for 4 MB (4,194,304), as on the platform.

    Returns:
        The running server, a context manager: `with serve({"my-agent": "agent.py"}) as server:`.

    Raises:
        InvalidInputError: A name, an agent, the recording or an option can't be used.
    """
    return LocalServer(agents, port, token, faults, recording, allowed_origins, max_request_bytes)


def run(name: str, model_uri: str, flavor: str | None, config: Mapping[str, Any] | None) -> None:
    """Serve one agent until Ctrl-C. See `run_local`, which says what the arguments are."""
    config = dict(config or {})
    if flavor not in (None, "python_function"):
        raise InvalidInputError(f"Agents have the flavor 'python_function', not {flavor!r}. Leave --flavor out.")
    if unknown := sorted(set(config) - set(_OPTIONS)):
        raise InvalidInputError(f"run-local has no option {', '.join(unknown)}. It has {', '.join(_OPTIONS)}.")
    host = str(config.get("host", _DEFAULT_HOST))
    token = None if config.get("token") is None else str(config["token"])
    if token is None and not is_loopback(host):
        raise InvalidInputError(
            f"Anyone who reaches {host} could run the agent: set -C token=..., or leave host at {_DEFAULT_HOST}."
        )
    import mlflow

    with _listen(host, _port(config.get("port", _DEFAULT_PORT))) as listener:
        server, _ = _uvicorn_server(
            {name: model_uri}, token, config.get("allowed_origins", ()), config.get("max_request_bytes")
        )
        url = _url(listener)
        python = f"""get_deploy_client("{NAME}:{url}").predict(endpoint="{name}", inputs="Hello")"""
        print(
            f"Serving '{name}' from {model_uri} on {url}\n"
            f"  Target:   {NAME}:{url}\n"
            f"  Python:   {python}\n"
            f"  REST:     POST {url}/serving-endpoints/{name}/invocations\n"
            f'  OpenAI:   OpenAI(base_url="{url}/serving-endpoints", api_key={"TOKEN" if token else "any"!r})\n'
            + (
                f"  Callers must send the token; this package's client takes it from {TOKEN_VARIABLE}.\n"
                if token
                else ""
            )
            + f"  Traces:   {mlflow.get_tracking_uri()} (MLFLOW_TRACKING_URI)\n"
            + "Stop with Ctrl-C.",
            flush=True,
        )
        # When uvicorn has stopped the server, it raises the signal that it had again.
        with contextlib.suppress(KeyboardInterrupt), _sigterm_as_ctrl_c():
            server.run(sockets=[listener])
    print("Stopped.", flush=True)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM (Docker, systemd, an IDE's stop button) end the program as Ctrl-C does, and not at once."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _uvicorn_server(
    agents: Mapping[str, Any] | None,
    token: str | None,
    allowed_origins: str | Sequence[str],
    max_request_bytes: Any,
    faults: Faults | None = None,
    recording: str | Path | Recording | None = None,
) -> tuple[uvicorn.Server, ServedRequests]:
    if agents is None and recording is not None:
        agents = {}
    if not isinstance(agents, Mapping) or not (agents or recording):
        raise InvalidInputError("Name at least one agent: serve({'my-agent': 'agent.py'}).")
    if token is not None and not (isinstance(token, str) and token.strip()):
        raise InvalidInputError("token is empty. Give a text that callers must send, or leave it out for none.")
    try:
        import uvicorn

        from mlflow_agent_target.server.app import create_app
        from mlflow_agent_target.server.requests import ServedRequests
        from mlflow_agent_target.server.security import LARGEST_REQUEST_BYTES, check_origins, secured
    except ImportError as error:
        raise InvalidInputError(
            f"Serving agents needs the whole of MLflow ({error}): pip install 'mlflow-agent-target[local]'."
        ) from error
    requests = ServedRequests()
    app = secured(
        create_app(_endpoints(agents, recording), token, faults, requests),
        has_token=token is not None,
        allowed_origins=check_origins(allowed_origins),
        max_request_bytes=LARGEST_REQUEST_BYTES if max_request_bytes is None else _bytes(max_request_bytes),
    )
    config = uvicorn.Config(
        app,
        log_config=None,  # uvicorn's own configuration would close the log handlers of the caller's program
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancelled_call)
    return uvicorn.Server(config), requests


def _endpoints(agents: Mapping[str, Any], recording: str | Path | Recording | None) -> dict[str, ServedAgent | StandIn]:
    """Return what is served, by name."""
    from mlflow_agent_target.server.agents import ServedAgent
    from mlflow_agent_target.server.replay import Recording, StandIn

    named = {endpoint_name(name): source for name, source in agents.items()}
    if isinstance(recording, (str, Path)):
        recording = Recording(recording)
    played = {} if recording is None else recording.endpoints()
    if both := sorted(set(named) & set(played)):
        raise InvalidInputError(f"{', '.join(both)}: both an agent and recorded. Name the agent otherwise.")
    made = {name: one if isinstance(one, StandIn) else ServedAgent(name, one) for name, one in named.items()}
    return {**made, **played}


def _is_no_cancelled_call(record: logging.LogRecord) -> bool:
    """Keep calls out of the log that a stopping server cancels after its time of grace, or that are cut on purpose."""
    cancelled = record.exc_info is not None and record.exc_info[0] is asyncio.CancelledError
    return not cancelled and not str(record.msg).startswith(_MEANT)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY, and so sends small packets at once, only if the protocol is named here.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InvalidInputError(
            f"Port {port} of {host} can't be listened on ({error}). Choose another port, or 0 for a free one."
        ) from error
    return listener


def _bytes(value: Any) -> int:
    number = int(value) if str(value).isdecimal() else 0
    if number < 1:
        raise InvalidInputError(f"max_request_bytes must be a whole number of bytes above 0, not {value!r}.")
    return number


def _port(value: Any) -> int:
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = -1
    if not 0 <= port <= 65535:
        raise InvalidInputError(f"port must be a number from 0 (a free one) to 65535, not {value!r}.")
    return port


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
