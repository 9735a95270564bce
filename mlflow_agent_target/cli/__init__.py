"""The command line, `agent-target`: parses, calls, prints. Results go to stdout, everything else to stderr.

From the bottom up:
    demo.py   `agent-target demo`: two small agents, served, queried and evaluated on this machine
    record.py `agent-target record`: what real endpoints answer a program, written down
    score.py  `agent-target score`: an agent asked once for each row of a file
    serve.py  `agent-target serve`: agents on this machine, and a page to talk to them
    group.py  `main`, and the group of all commands: each is a module here with a function of the same name

A command's module imports at its top no more than click, since `agent-target --help` loads them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["commands", "main"]  # loaded when they are first used (PEP 562)

if TYPE_CHECKING:
    from mlflow_agent_target.cli.group import commands as commands
    from mlflow_agent_target.cli.group import main as main


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlflow_agent_target.cli import group

    return getattr(group, name)
