"""`agent-target record`: what real endpoints answer a program, written down."""

from __future__ import annotations

import contextlib
import signal
import threading

import click


@click.command()
@click.option("--target", "-t", default="agent-target", show_default=True, help="The target URI.")
@click.option(
    "--endpoint",
    "-e",
    "endpoints",
    multiple=True,
    required=True,
    help="An endpoint's name. For several, several times.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port on 127.0.0.1.  [default: a free one]")
@click.option("--token", help="A bearer token that the program must send.  [default: none]")
@click.argument("recording")
def record(target: str, endpoints: tuple[str, ...], port: int, token: str | None, recording: str) -> None:
    """Stand between a program and real endpoints, and add what these answer to the file RECORDING.

    The program is pointed to the target that is printed, and gets what the endpoints answer, byte for byte. Neither
    tokens nor hosts are written. serve(recording=RECORDING) plays it to the program's tests.
    """
    from mlflow_agent_target.server import Recorder

    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    with Recorder(target, endpoints, recording, port, token) as recorder:
        url, first = recorder.url, recorder.endpoints[0]
        print(
            f"Recording {', '.join(map(repr, recorder.endpoints))} of {target} to {recording} on {url}\n"
            f"  Target:   {recorder.target_uri}\n"
            f'  Python:   get_deploy_client("{recorder.target_uri}").predict(endpoint="{first}", inputs="Hello")\n'
            f"  REST:     POST {url}/serving-endpoints/{first}/invocations\n"
            f'  OpenAI:   OpenAI(base_url="{url}/serving-endpoints", api_key={"TOKEN" if token else "any"!r})\n'
            f"  Replay:   mlflow_agent_target.serve(recording={recording!r})\n"
            "Stop with Ctrl-C.",
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    recorded = recorder.exchanges
    print(f"Stopped. {recorded} {'exchange was' if recorded == 1 else 'exchanges were'} recorded.", flush=True)
