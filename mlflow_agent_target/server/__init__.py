"""Real MLflow agents behind the REST surface of Model Serving, on this machine.

From the bottom up:
    refusals.py   requests that are refused, as the platform refuses them
    wrapping.py   functions, LangGraph's graphs and OpenAI's agents as agents of MLflow
    loading.py    an agent object from a logged model, a folder or a Python file
    runs.py       the trace of one run of an agent
    frames.py     what the platform adds to a stream: the run's trace, the agent's failure
    agents.py     an agent, called as its interface wants: a payload in, a whole answer or events out
    requests.py   what was asked, and how often each agent ran
    faults.py     what is to go wrong, and with which calls
    rehearsal.py  calls that meet with faults
    recordings.py what real endpoints answered: a file, written and read
    replay.py     endpoints whose agents are not here, and those that play a recording
    page/         the page to talk to the agents, which a browser shows
    app.py        the REST surface, over what is served
    security.py   which requests may reach it: not those of other sites' web pages, nor what is too large
    options.py    how a server is to be
    listening.py  the port
    serving.py    `serve` and `LocalServer`: the app behind a port, beside the caller's program
    foreground.py `run`: the same as a command of its own
    recorder.py   the recorder, between a program and real endpoints
    demo/         small agents to copy from, which `agent-target demo` and the tests serve
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Loaded when they are first used (PEP 562): the name, and the module that it is in.
_WHERE = {
    "LocalServer": "serving",
    "Recorder": "recorder",
    "Recording": "replay",
    "run": "foreground",
    "run_one": "foreground",
    "serve": "serving",
}
__all__ = ["LocalServer", "Recorder", "Recording", "run", "run_one", "serve"]

if TYPE_CHECKING:
    from mlflow_agent_target.server.foreground import run as run
    from mlflow_agent_target.server.foreground import run_one as run_one
    from mlflow_agent_target.server.recorder import Recorder as Recorder
    from mlflow_agent_target.server.replay import Recording as Recording
    from mlflow_agent_target.server.serving import LocalServer as LocalServer
    from mlflow_agent_target.server.serving import serve as serve


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
