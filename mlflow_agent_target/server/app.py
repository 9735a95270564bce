"""The platform's REST surface of serving endpoints, over agents that run in this process.

Routes, bodies and errors are Databricks Model Serving's, so that every official client works against it unchanged:
https://docs.databricks.com/aws/en/generative-ai/agent-framework/query-agent
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hmac
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import quote

import anyio
import mlflow
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from mlflow_agent_target.server.agents import CallSettings, ServedAgent
from mlflow_agent_target.server.faults import Faults
from mlflow_agent_target.server.page import HEADERS, page
from mlflow_agent_target.server.refusals import RefusedError, refusal
from mlflow_agent_target.server.rehearsal import Rehearsal
from mlflow_agent_target.server.replay import StandIn
from mlflow_agent_target.server.requests import Asked, ServedRequests

# So many calls of one agent run at a time, whatever the other agents do.
_CALLS_PER_AGENT = 256
_EVENTS_IN_ADVANCE = 16

_T = TypeVar("_T")


def create_app(
    agents: Mapping[str, ServedAgent | StandIn], token: str | None, faults: Faults, requests: ServedRequests
) -> ASGIApp:
    """Return the app that serves agents.

    Args:
        agents: What is served, by name.
        token: A bearer token that callers must send; None for none.
        faults: What is to go wrong.
        requests: Where what is asked is noted.
    """
    rehearsal = Rehearsal(faults)
    created = int(time.time() * 1000)
    slots = {name: asyncio.Semaphore(_CALLS_PER_AGENT) for name in agents}

    def authenticate(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise RefusedError(401, "UNAUTHENTICATED", "The bearer token is missing or is not this server's.")

    def find(name: str) -> ServedAgent | StandIn:
        if name not in agents:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", f"The endpoint '{name}' does not exist.")
        return agents[name]

    def describe(agent: ServedAgent | StandIn) -> dict[str, Any]:
        described = _description(agent, created)
        if rehearsal.is_starting(agent.name):
            described["state"]["ready"] = "NOT_READY"
        return described

    async def query(name: str, request: Request, body: dict[str, Any]) -> Response:
        with requests.asked(name, body) as asked:
            agent = find(name)
            if isinstance(agent, StandIn):
                run = partial(agent.answer, body, asked.runs)
            else:
                call = _Call(agent, body, request.headers.get("traceparent"), asked)
                run = partial(call.stream if body.get("stream") else call.answer, slots[name])
            return asked.answered(await rehearsal.meet(asked, run))

    app = FastAPI(title="agent-target", openapi_url=None, redirect_slashes=False)
    secured = [Depends(authenticate)]

    @app.exception_handler(RefusedError)
    async def refuse(_request: Request, error: RefusedError) -> Response:
        return refusal(error)

    @app.exception_handler(HTTPException)
    async def unknown_route(request: Request, error: HTTPException) -> Response:
        message = f"No API found for '{request.method} {request.url.path}'"
        return refusal(RefusedError(error.status_code, "ENDPOINT_NOT_FOUND", message))

    @app.exception_handler(ClientDisconnect)
    async def caller_has_left(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it

    @app.post("/serving-endpoints/{name}/invocations", dependencies=secured)
    async def invocations(request: Request, name: str) -> Response:
        return await query(name, request, await _json_body(request))

    @app.post("/serving-endpoints/{name}/served-models/{served}/invocations", dependencies=secured)
    async def invocations_of_served(request: Request, name: str, served: str) -> Response:
        if served != find(name).served_entity:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", f"The endpoint '{name}' serves no '{served}'.")
        return await query(name, request, await _json_body(request))

    @app.post("/serving-endpoints/responses", dependencies=secured)
    @app.post("/serving-endpoints/chat/completions", dependencies=secured)
    @app.post("/serving-endpoints/completions", dependencies=secured)
    async def by_model(request: Request) -> Response:
        body = await _json_body(request)
        if not isinstance(name := body.get("model"), str):
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", "Missing required parameter: 'model'")
        return await query(name, request, body)

    @app.get("/api/2.0/serving-endpoints", dependencies=secured)
    async def list_endpoints() -> dict[str, Any]:
        return {"endpoints": [describe(agent) for agent in agents.values()]}

    @app.get("/api/2.0/serving-endpoints/{name}", dependencies=secured)
    async def get_endpoint(name: str) -> dict[str, Any]:
        return {**describe(find(name)), "permission_level": "CAN_MANAGE", "route_optimized": False}

    @app.api_route("/", methods=["GET", "HEAD"])
    async def talk() -> Response:
        # No token is asked for: the page holds nothing secret, and asks for the token itself.
        return HTMLResponse(page(mlflow.get_tracking_uri()), headers=HEADERS)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.get("/.well-known/databricks-config")
    async def databricks_config() -> dict[str, Any]:
        # databricks-sdk asks for this when it is constructed, and warns where it finds nothing.
        return {}

    async def same_with_a_slash_at_the_end(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/":
            scope["path"] = scope["path"].rstrip("/")
        await app(scope, receive, send)

    return same_with_a_slash_at_the_end


class _Call:
    """One checked call of an agent, run in a thread of its own."""

    def __init__(self, agent: ServedAgent, body: dict[str, Any], traceparent: str | None, asked: Asked) -> None:
        options = body.get("databricks_options")
        self._agent = agent
        self._runs = asked.runs
        self._arguments = agent.arguments(body)
        return_trace = isinstance(options, dict) and bool(options.get("return_trace"))
        self._settings = CallSettings(str(uuid.uuid4()), return_trace, traceparent, asked.used)
        self._headers = {"x-request-id": self._settings.request_id, "served-model-name": quote(agent.served_entity)}

    async def answer(self, slots: asyncio.Semaphore) -> Response:
        def run() -> bytes:
            self._runs()
            return self._agent.answer(self._arguments, self._settings)

        return Response(await _in_thread(run, slots), media_type="application/json", headers=self._headers)

    async def stream(self, slots: asyncio.Semaphore) -> Response:
        loop = asyncio.get_running_loop()
        send, receive = anyio.create_memory_object_stream[bytes](_EVENTS_IN_ADVANCE)

        def run() -> None:
            self._runs()
            # The whole stream in one thread: spans and other context variables don't survive a change of threads.
            frames = _frames(self._agent.events(self._arguments, self._settings))
            with contextlib.closing(frames), contextlib.suppress(anyio.BrokenResourceError):  # the caller has left
                for frame in frames:
                    sending = send.send(frame)
                    try:
                        asyncio.run_coroutine_threadsafe(sending, loop).result()
                    except RuntimeError:  # the server has stopped
                        sending.close()
                        return

        async def produce() -> None:
            async with send:
                await _in_thread(run, slots)

        async def frames() -> AsyncIterator[bytes]:
            producer = asyncio.create_task(produce())
            async with receive:
                async for frame in receive:
                    yield frame
            await producer

        return StreamingResponse(frames(), media_type="text/event-stream", headers=self._headers)


async def _in_thread(work: Callable[[], _T], slots: asyncio.Semaphore) -> _T:
    """Run `work` in a thread of its own, once there is a slot for it.

    The thread is a daemon, unlike those of asyncio's and anyio's pools: an agent in the midst of its work must not keep
    a stopped server alive.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if outcome.done():
            return  # the caller has left
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(cast("_T", result))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            # SystemExit and its like would end the event loop, and so the server.
            error = caught if isinstance(caught, Exception) else RuntimeError(repr(caught))
        with contextlib.suppress(RuntimeError):  # the server has stopped
            loop.call_soon_threadsafe(settle, result, error)

    async with slots:
        threading.Thread(target=contextvars.copy_context().run, args=(run,), name="agent", daemon=True).start()
        return await outcome


async def _json_body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "MALFORMED_REQUEST", f"Invalid JSON in the request's body: {error}") from error
    if not isinstance(body, dict):
        raise RefusedError(
            400, "MALFORMED_REQUEST", f"The request's body must be a JSON object, not {type(body).__name__}."
        )
    # The documentation's raw REST samples nest what the OpenAI client merges.
    extra = body.pop("extra_body", None)
    return {**body, **extra} if isinstance(extra, dict) else body


def _frames(events: Iterator[bytes]) -> Generator[bytes, None, None]:
    for event in events:
        yield b"data: " + event + b"\n\n"
    yield b"data: [DONE]\n\n"


def _description(agent: ServedAgent | StandIn, created: int) -> dict[str, Any]:
    served = agent.served_entity
    return {
        "name": agent.name,
        "id": uuid.uuid5(uuid.NAMESPACE_URL, agent.name).hex,
        "creator": "local",
        "creation_timestamp": created,
        "last_updated_timestamp": created,
        "state": {"ready": "READY", "config_update": "NOT_UPDATING"},
        "config": {
            "served_entities": [
                {
                    "name": served,
                    "entity_name": agent.entity,
                    "entity_version": "1",
                    "workload_size": "Small",
                    "workload_type": "CPU",
                    "scale_to_zero_enabled": False,
                    "state": {"deployment": "DEPLOYMENT_READY", "deployment_state_message": ""},
                }
            ],
            "traffic_config": {"routes": [{"served_model_name": served, "traffic_percentage": 100}]},
            "config_version": 1,
        },
        "tags": [],
        "task": agent.task,
    }
