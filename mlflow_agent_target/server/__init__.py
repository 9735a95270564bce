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
    recordings.py the file of what real endpoints answered: written and read
    replay.py     a recording, played to who asks the same
    app.py        the REST surface, over the agents that are served
    security.py   which requests may reach it: not those of other sites' web pages, nor what is too large
    serving.py    `serve`, `LocalServer` and `run`: the app behind a port
    recorder.py   the recorder, between a program and real endpoints
    demo/         small agents to copy from, which `agent-target demo` and the tests serve
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["LocalServer", "Recorder", "Recording", "run", "serve"]  # loaded when they are first used (PEP 562)

if TYPE_CHECKING:
    from mlflow_agent_target.server.recorder import Recorder as Recorder
    from mlflow_agent_target.server.replay import Recording as Recording
    from mlflow_agent_target.server.serving import LocalServer as LocalServer
    from mlflow_agent_target.server.serving import run as run
    from mlflow_agent_target.server.serving import serve as serve


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Recording":
        from mlflow_agent_target.server.replay import Recording

        return Recording
    if name == "Recorder":
        from mlflow_agent_target.server.recorder import Recorder

        return Recorder
    from mlflow_agent_target.server import serving

    return getattr(serving, name)
