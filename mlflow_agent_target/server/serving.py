"""Agents behind a port of this machine, beside the caller's program."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.server.faults import Faults
from mlflow_agent_target.server.listening import listen, url_of
from mlflow_agent_target.server.options import ServerOptions
from mlflow_agent_target.target.names import endpoint_name
from mlflow_agent_target.target.uri import NAME

if TYPE_CHECKING:
    import uvicorn

    from mlflow_agent_target.server.replay import Recording
    from mlflow_agent_target.server.requests import ServedRequests

# How long a stopping server waits for calls that are still running.
_GRACE_SECONDS = 3
# Longer than clients keep idle connections: a server that closes one just as it is used again fails the call.
_KEEP_ALIVE_SECONDS = 75
# What uvicorn logs of calls that are cancelled at the end of the time of grace, and of streams that are cut.
_MEANT = ("Cancel %s running task(s)", "ASGI callable returned without completing response")


class LocalServer:
    """A running server of local agents. Stop it with `stop()`, or use it in a `with` block.

    Attributes:
        url: Its base URL. There is a page to talk to the agents.
        target_uri: The target that reaches it: `get_deploy_client(server.target_uri)`.
        requests: What it was asked: a sequence, the newest request last, whose `runs` counts how often each agent ran.
    """

    requests: ServedRequests

    def __init__(self, agents: Mapping[str, Any] | None, port: int, options: ServerOptions) -> None:
        self._listener = listen("127.0.0.1", port)
        try:
            self._server, self.requests, _ = make_server(agents, options)
        except BaseException:
            self._listener.close()
            raise
        self.url = url_of(self._listener)
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
    """Serve agents from this process, with the REST surface of Model Serving and a page to talk to them.

    Without a token no web page of another site can reach them, and nothing but this machine's own names.

    Args:
        agents: For each endpoint name, a model URI (`models:/...`, `runs:/...`), a model's folder, a Python file that
            calls `mlflow.models.set_model`, a `ResponsesAgent`, `ChatAgent` or `ChatModel` object, a function of a
            question that returns a text or yields its pieces, a graph of LangGraph whose state has `messages`, or an
            agent of OpenAI's Agents SDK. None for a recording alone.
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
        InvalidInputError: A name, an agent, the port, the recording or an option can't be used.
    """
    given = {"faults": faults, "max_request_bytes": max_request_bytes}
    options = ServerOptions(
        token=token,
        recording=recording,
        allowed_origins=allowed_origins,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    return LocalServer(agents, port, options)


def make_server(
    agents: Mapping[str, Any] | None, options: ServerOptions
) -> tuple[uvicorn.Server, ServedRequests, list[str]]:
    """Return a server of agents, which is still to be run, what it will have been asked, and its endpoints' names.

    Raises:
        InvalidInputError: A name, an agent or the recording can't be used; or MLflow is not there as a whole.
    """
    if agents is None and options.recording is not None:
        agents = {}
    if not isinstance(agents, Mapping) or not (agents or options.recording):
        raise InvalidInputError(
            "Name at least one agent: serve({'my-agent': 'agent.py'}), or agent-target serve my-agent=agent.py."
        )
    try:
        import uvicorn

        from mlflow_agent_target.server.agents import ServedAgent
        from mlflow_agent_target.server.app import create_app
        from mlflow_agent_target.server.replay import Recording, StandIn
        from mlflow_agent_target.server.requests import ServedRequests
        from mlflow_agent_target.server.security import secured
    except ImportError as error:
        raise InvalidInputError(
            f"Serving agents needs the whole of MLflow ({error}): pip install 'mlflow-agent-target[local]'."
        ) from error
    served: dict[str, ServedAgent | StandIn] = {}
    if (recording := options.recording) is not None:
        served.update((recording if isinstance(recording, Recording) else Recording(recording)).endpoints())
    if both := sorted({endpoint_name(name) for name in agents} & set(served)):
        raise InvalidInputError(f"{', '.join(both)}: both an agent and recorded. Name the agent otherwise.")
    for name, source in agents.items():
        is_one = isinstance(source, StandIn)
        served[endpoint_name(name)] = source if is_one else ServedAgent(endpoint_name(name), source)
    requests = ServedRequests()
    app = secured(
        create_app(served, options.token, options.faults, requests),
        has_token=options.token is not None,
        allowed_origins=options.allowed_origins,
        max_request_bytes=options.max_request_bytes,
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
    return uvicorn.Server(config), requests, list(served)


def _is_no_cancelled_call(record: logging.LogRecord) -> bool:
    """Keep calls out of the log that a stopping server cancels after its time of grace, or that are cut on purpose."""
    cancelled = record.exc_info is not None and record.exc_info[0] is asyncio.CancelledError
    return not cancelled and not str(record.msg).startswith(_MEANT)
