"""The demo's ResponsesAgent on MLflow's own AgentServer, on a free port that is printed. Fails when told "fail"."""

import socket

import mlflow
import uvicorn
from mlflow.genai.agent_server import AgentServer, invoke, stream

import mlflow_agent_target.server.demo.responses_agent as _demo  # noqa: F401 (sets the model)

agent = mlflow.models.model.__mlflow_model__


def check(request):
    if request.input[-1].content == "fail":
        raise ValueError("asked to fail")


@invoke()
def answer(request):
    check(request)
    return agent.predict(request)


@stream()
def events(request):
    check(request)
    yield from agent.predict_stream(request)


listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
listener.listen()  # callers may come before the server is up
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)  # noqa: T201
uvicorn.Server(uvicorn.Config(AgentServer("ResponsesAgent").app, log_level="warning")).run(sockets=[listener])
