"""The real DurableAgentServer, in a process of its own, with an agent that does what its input says.

Messages are answered as Databricks' OpenAI Agents template does: `You said: TEXT`, word by word; and like the template,
it fails without a session. `wait:SECONDS TEXT` waits halfway. `{"do": [STEP, ...]}` performs steps: `["emit", EVENT]`,
`["sleep", SECONDS]`, `["raise", TEXT]`, `["raise_auth", STATUS, CODE]`, `["return", ANY]`, `["context"]`, which returns
what the agent was told, and `["attempt", NUMBER, STEP]`, a step of that attempt alone. Each run and each request is
noted in a file that outlives the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
STALE_SECONDS = 1.0
"""A run whose worker has been silent for so long is another's to recover (the server's own default: 10)."""


def question(value: Any) -> str:
    """What `DurableServer.runs` calls a run: its last message's text, what it says under "question", or its steps."""
    if isinstance(value, dict):
        if "question" in value:
            return str(value["question"])
        if not value.get("messages"):
            return json.dumps(value.get("do", value))
        value = value["messages"]
    return str(value[-1]["content"]) if value else ""


class DurableServer:
    """The server, started, killed and stopped.

    Args:
        postgres: The URL of the database that keeps its runs; None keeps them in its memory.
        recover: Whether the agent is run again when its worker died (only with a database).
        user_auth: Whether the agent acts for its user, so that the headers of an app's ingress are required.
    """

    def __init__(self, *, postgres: str | None = None, recover: bool = True, user_auth: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="durable_server_", ignore_cleanup_errors=True)
        self._notes = Path(self._folder.name) / "notes.jsonl"
        self._notes.touch()
        self._log = Path(self._folder.name) / "log.txt"
        options = {"postgres": postgres, "recover": recover, "user_auth": user_auth}
        self._options = {**options, "notes": str(self._notes), "schema": f"rt_{uuid.uuid4().hex}"}
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("DATABRICKS_", "LAKEBASE_"))
        }
        if user_auth:
            self._environment["DATABRICKS_APP_NAME"] = "tested"
        self.port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"
        self.target_uri = f"agent-target:{self.url}"

    def __enter__(self) -> DurableServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server; again, on the port that it had."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.durable_server", str(self.port), json.dumps(self._options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=self._environment,
            )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(10)
            raise RuntimeError(f"The server did not start:\n{self._log.read_text(encoding='utf-8')[-3000:]}")
        self.port = int(line)

    def kill(self) -> None:
        """Kill the server as a machine that is lost would be, whatever it is doing."""
        self._process.kill()
        self._close()

    def stop(self) -> None:
        """Stop the server, and forget what was noted."""
        assert self._process.stdin
        self._process.stdin.close()
        self._close()
        self._folder.cleanup()

    def _close(self) -> None:
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()

    def started(self) -> list[dict[str, Any]]:
        """Return each time that the agent was run: `question`, `id`, `session_id`, `attempt`, `input`, `at`."""
        return [note["run"] for note in self._noted() if "run" in note]

    def runs(self) -> Counter[str]:
        """Return how often the agent was run for each question."""
        return Counter(run["question"] for run in self.started())

    def received(self) -> list[dict[str, Any]]:
        """Return each request: `method`, `path` (with its query), `headers`."""
        return [note["request"] for note in self._noted() if "request" in note]

    def requests(self) -> Counter[str]:
        """Return how often each kind of request came, ids written as ID: `GET /api/invocations/ID/events`."""
        return Counter(_kind(request["method"], request["path"]) for request in self.received())

    def reset(self) -> None:
        """Forget what was noted. Runs that are still going may be noted later."""
        os.truncate(self._notes, 0)

    def wait_for_runs(self, number: int, seconds: float = 20.0) -> None:
        """Wait until the agent was run so often."""
        ends = time.monotonic() + seconds
        while len(self.started()) < number:
            assert time.monotonic() < ends, f"{len(self.started())} runs, not {number}, within {seconds} s"
            time.sleep(0.01)

    def _noted(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._notes.read_bytes().split(b"\n") if line]


def _kind(method: str, path: str) -> str:
    root, found, rest = path.partition("?")[0].partition("/api/invocations/")
    rest = "/".join(["ID", *rest.split("/")[1:]]) if found else ""
    return f"{method} {root}{found}{rest}"


# What follows runs in the server's own process.


class _Notes:
    """Lines of a file, each written whole by one call of the system: what was noted outlives a kill."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def add(self, **note: Any) -> None:
        os.write(self._file, json.dumps(note).encode() + b"\n")


class _Agent:
    def __init__(self, notes: _Notes) -> None:
        self._notes = notes

    async def __call__(self, value: Any, context: Any) -> Any:
        told = {
            "id": context.invocation_id,
            "session_id": context.session_id,
            "attempt": context.attempt,
            "input": value,
        }
        self._notes.add(run={"question": question(value), "at": time.time(), **told})
        if isinstance(value, dict) and "do" in value:
            return await self._perform(value["do"], context, told)
        if context.session_id is None:
            raise ValueError("session_id is required")
        return await self._converse(value, context)

    @staticmethod
    async def _perform(steps: list[list[Any]], context: Any, told: dict[str, Any]) -> Any:
        from databricks_agentkit.runtime import AuthError

        for name, *arguments in _steps_of_attempt(steps, context.attempt):
            if name == "emit":
                await context.emit(arguments[0])
            elif name == "sleep":
                await asyncio.sleep(arguments[0])
            elif name == "raise":
                raise RuntimeError(arguments[0])
            elif name == "raise_auth":
                status, code = arguments or (403, "MCP_PERMISSION_DENIED")
                raise AuthError(code, "MCP permission denied.", status, "my_tool")
            elif name == "return":
                return arguments[0]
            elif name == "context":
                return told
            else:
                raise ValueError(f"no step: {name}")
        return None

    @staticmethod
    async def _converse(value: Any, context: Any) -> Any:
        if isinstance(value, dict) and "resume" in value:
            text = ", ".join(decision["type"] for decision in value["resume"]["decisions"])
        else:
            messages = value["messages"] if isinstance(value, dict) else value
            text = messages[-1]["content"]
        seconds = 0.0
        if text.startswith("wait:"):
            first, _, text = text.partition(" ")
            seconds = float(first.removeprefix("wait:"))
        said = f"You said: {text}"
        words = said.split(" ")
        for number, word in enumerate(words):
            if seconds and number == len(words) // 2:
                await asyncio.sleep(seconds)
            content = word if number == 0 else f" {word}"
            await context.emit({"type": "delta", "content": content, "id": "msg_1"})
        message = {"role": "assistant", "content": said}
        await context.emit({"type": "message", "message": message})
        return {"output": [message], "status": "completed"}


def _steps_of_attempt(steps: list[list[Any]], attempt: int) -> Iterator[list[Any]]:
    for step in steps:
        if step[0] != "attempt":
            yield step
        elif step[1] == attempt:
            yield step[2]


def _noting(app: Any, notes: _Notes) -> Callable[[Any, Any, Any], Awaitable[None]]:
    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            query = scope["query_string"].decode("latin-1")
            path = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            notes.add(request={"method": scope["method"], "path": path, "headers": headers})
        await app(scope, receive, send)

    return noting


def _app(options: dict[str, Any], notes: _Notes) -> Any:
    from databricks_agentkit.runtime import DurableAgentServer, InvocationAuthPolicy

    policy = InvocationAuthPolicy(user_required=options["user_auth"])
    agent = _Agent(notes)
    if options["postgres"] is None:
        app = DurableAgentServer(auth_policy=policy)
    else:
        store = _postgres_store(options["postgres"], options["schema"])
        app = DurableAgentServer(auth_policy=policy, runtime_store=store)
        # The server takes no times of its own; its runtime does.
        app._runtime = type(app._runtime).durable(
            app._execute,
            runtime_store=store,
            recovery_enabled=lambda: bool(options["recover"]),
            heartbeat_seconds=STALE_SECONDS / 4,
            stale_seconds=STALE_SECONDS,
            scan_seconds=STALE_SECONDS / 4,
        )
        if options["recover"]:
            app.recover(agent)
    app.invoke(agent)
    return app


def _postgres_store(url: str, schema: str) -> Any:
    from databricks_agentkit.runtime.durability.lakebase_runtime_store import LakebaseDurableRuntimeStore
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url)

    async def create_schema() -> None:
        async with engine.begin() as connection:
            await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))

    return LakebaseDurableRuntimeStore(
        lakebase=SimpleNamespace(engine=engine, create_schema=create_schema), schema=schema
    )


def _main(port: int, options: dict[str, Any]) -> None:
    import socket

    import uvicorn

    notes = _Notes(options["notes"])
    app = _noting(_app(options, notes), notes)
    # Only where the protocol is named does asyncio set TCP_NODELAY, without which an answer's body waits for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(512)
    config = uvicorn.Config(app, log_level="warning", lifespan="on")

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            print(listener.getsockname()[1], flush=True)  # noqa: T201

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    _main(int(sys.argv[1]), json.loads(sys.argv[2]))
