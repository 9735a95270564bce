"""Real MLflow agents behind the REST surface of Model Serving, on this machine.

From the bottom up:
    loading.py  an agent object from a logged model, a folder or a Python file
    runs.py     the trace of one run of an agent
    agents.py   an agent, called as its interface wants: a payload in, a whole answer or events out
    page/       the page to talk to the agents, which a browser shows
    app.py      the REST surface, over the agents that are served
    serving.py  `serve`, `LocalServer` and `run`: the app behind a port
    demo/       small agents to copy from, which `agent-target demo` and the tests serve
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["LocalServer", "run", "serve"]  # loaded when they are first used (PEP 562)

if TYPE_CHECKING:
    from mlflow_agent_target.server.serving import LocalServer as LocalServer
    from mlflow_agent_target.server.serving import run as run
    from mlflow_agent_target.server.serving import serve as serve


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlflow_agent_target.server import serving

    return getattr(serving, name)
