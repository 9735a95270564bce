"""`agent-target serve`: agents on this machine, with the REST surface of Model Serving and a page to talk to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# The options of `Faults`, and what they are.
FAULTS = {
    "latency": "Seconds before each answer; 0.1-0.5 for any time between two.",
    "error_rate": "The share of calls, from 0 to 1, that end with 500, 502 or 504.",
    "rate_limit": "Requests a second that are let through; others get 429.",
    "retry_after": "Seconds in the header Retry-After of 429 and 503.",
    "cold_start": "Seconds from an endpoint's first request on that it answers 503.",
    "cut_streams": "The share of streams, from 0 to 1, that break off.",
    "silence": "Seconds of silence within each stream.",
    "seed": "Another number makes other calls fail.",
}


def _fault_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, what in reversed(FAULTS.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, help=f"Rehearsal: {what}")(command)
    return command


@click.command()
@click.argument("agents", nargs=-1, metavar="[NAME=]AGENT...")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--token", help="A bearer token that callers must send.  [default: none]")
@click.option(
    "--allowed-origin",
    "allowed_origins",
    multiple=True,
    help="The origin of a web page that may ask, such as http://localhost:3000. For several, several times.",
)
@click.option("--max-request-bytes", type=click.IntRange(1), help="How long a request may be.  [default: 4194304]")
@click.option("--recording", help="A file of `agent-target record` that is played.")
@click.option("--timing", is_flag=True, help="Let recorded answers take as long as they took.")
@click.option("--open", "opens_page", is_flag=True, help="Open the page in the browser.")
@click.option("--reload", "reloads", is_flag=True, help="Load the agents anew when their files change.")
@click.option("--quiet", is_flag=True, help="No line for each request.")
@_fault_options
def serve(
    agents: tuple[str, ...],
    opens_page: bool,
    reloads: bool,
    quiet: bool,
    recording: str | None,
    timing: bool,
    **options: Any,
) -> None:
    """Serve agents on this machine, until Ctrl-C.

    An AGENT is a Python file that calls mlflow.models.set_model, a logged model (models:/NAME/VERSION, runs:/RUN/PATH)
    or a model's folder. Without NAME= its endpoint is called as it is: agent.py is 'agent', models:/bot/1 is 'bot'.
    """
    from mlflow_agent_target.errors import InvalidInputError
    from mlflow_agent_target.server import Recording, run

    named: dict[str, str] = {}
    for given in agents:
        name, source = _named(given)
        if name in named:
            raise InvalidInputError(f"Two agents are called '{name}': name one otherwise, as NAME={source}.")
        named[name] = source
    given_options = {name: value for name, value in options.items() if value not in (None, ())}
    if recording is not None:
        given_options["recording"] = Recording(recording, timing)
    run(named, given_options, opens_page=opens_page, is_quiet=quiet, reloads=reloads)


def _named(given: str) -> tuple[str, str]:
    """Return an agent's name and source."""
    name, equals, source = given.partition("=")
    if equals and re.fullmatch(r"[\w.-]+", name):
        return name, source
    if found := re.fullmatch(r"models:/([^/@]+)([/@].*)?", given):
        return found[1].rpartition(".")[2], given
    return Path(given).stem if given.endswith(".py") else Path(given).name, given
