"""Agents behind a port as a command of its own: `mlflow deployments run-local`, `agent-target serve`."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.server.listening import listen, url_of
from mlflow_agent_target.server.options import ServerOptions
from mlflow_agent_target.server.serving import make_server
from mlflow_agent_target.target.addresses import is_loopback
from mlflow_agent_target.target.uri import NAME, TOKEN_VARIABLE

_DEFAULT_HOST = "127.0.0.1"
_DEFAULT_PORT = 8080


def run_one(name: str, model_uri: str, flavor: str | None, config: Mapping[str, Any] | None) -> None:
    """Serve one agent until Ctrl-C. See `run_local`, which says what the arguments are."""
    if flavor not in (None, "python_function"):
        raise InvalidInputError(f"Agents have the flavor 'python_function', not {flavor!r}. Leave --flavor out.")
    run({name: model_uri}, config or {})


def run(
    agents: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    opens_page: bool = False,
    is_quiet: bool = False,
    reloads: bool = False,
) -> None:
    """Serve agents until Ctrl-C or SIGTERM.

    Args:
        agents: As for `serve`; files and model URIs only if it `reloads`.
        config: The options, as text or as values: `host`, `port`, and those of `ServerOptions`.
        opens_page: Whether the page to talk to the agents is opened in the browser.
        is_quiet: Whether the log has no line for each request.
        reloads: Whether the agents are loaded anew when a Python file changes that lies beside one, or below.

    Raises:
        InvalidInputError: An agent or an option can't be used.
    """
    rest = dict(config)
    host, port = str(rest.pop("host", _DEFAULT_HOST)), rest.pop("port", _DEFAULT_PORT)
    if unknown := sorted(set(rest) - set(ServerOptions.names())):
        known = ", ".join(("port", "host", *ServerOptions.names()))
        raise InvalidInputError(f"There is no option {', '.join(unknown)}. There are {known}.")
    options = ServerOptions.read(rest)
    if options.token is None and not is_loopback(host):
        raise InvalidInputError(
            f"Anyone who reaches {host} could run the agent: set a token that callers must send (-C token=..., or "
            f"--token of agent-target serve), or leave host at {_DEFAULT_HOST}."
        )
    with listen(host, port) as listener:
        if opens_page:
            webbrowser.open(f"{url_of(listener)}/")
        if reloads:
            _reload(functools.partial(_serve, agents, options, is_quiet), agents, listener)
        else:
            _serve(agents, options, is_quiet, sockets=[listener])


def _serve(agents: Mapping[str, Any], options: ServerOptions, is_quiet: bool, *, sockets: list[socket.socket]) -> None:
    """Serve agents on a socket that listens, and say how they are reached."""
    import mlflow

    server, _, (first, *_) = make_server(agents, options)
    url = url_of(sockets[0])
    if not is_quiet:
        _log_requests()
    sources = ", ".join(f"'{name}' from {source}" for name, source in agents.items())
    python = f"""get_deploy_client("{NAME}:{url}").predict(endpoint="{first}", inputs="Hello")"""
    print(
        f"Serving {sources or f'the recording {options.recording}'} on {url}\n"
        f"  Page:     {url}/ (to talk to the agents)\n"
        f"  Target:   {NAME}:{url}\n"
        f"  Python:   {python}\n"
        f"  REST:     POST {url}/serving-endpoints/{first}/invocations\n"
        f'  OpenAI:   OpenAI(base_url="{url}/serving-endpoints", api_key={"TOKEN" if options.token else "any"!r})\n'
        + (
            f"  Callers must send the token; this package's client takes it from {TOKEN_VARIABLE}.\n"
            if options.token
            else ""
        )
        + f"  Traces:   {mlflow.get_tracking_uri()} (MLFLOW_TRACKING_URI)\n"
        + "Stop with Ctrl-C.",
        flush=True,
    )
    # When uvicorn has stopped the server, it raises the signal that it had again.
    with contextlib.suppress(KeyboardInterrupt), _sigterm_as_ctrl_c():
        server.run(sockets=sockets)
    print("Stopped.", flush=True)


def _reload(serve: Callable[..., None], agents: Mapping[str, Any], listener: socket.socket) -> None:
    """Run `serve` in a process of its own, and a new one after each change. The port stays open in between."""
    import uvicorn
    from uvicorn.supervisors import ChangeReload

    folders = {str(Path(source).resolve().parent) for source in agents.values() if str(source).endswith(".py")}
    if not folders:
        raise InvalidInputError("Only agents in Python files can be loaded anew: name one, or leave --reload out.")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    config = uvicorn.Config("", reload=True, reload_dirs=sorted(folders), log_config=None)
    ChangeReload(config, target=functools.partial(_serve_or_wait, serve), sockets=[listener]).run()


def _serve_or_wait(serve: Callable[..., None], sockets: list[socket.socket]) -> None:
    try:
        serve(sockets=sockets)
    except InvalidInputError as error:
        print(f"Error: {error}\nWaiting for a change.", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM (Docker, systemd, an IDE's stop button) end the program as Ctrl-C does, and not at once."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _log_requests() -> None:
    """Show a line for each request on standard error."""
    logger = logging.getLogger("mlflow_agent_target.server.requests")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
