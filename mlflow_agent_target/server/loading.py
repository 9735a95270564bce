"""An agent object from what a caller names: a logged model, a folder, a Python file, or the object itself."""

from __future__ import annotations

import importlib.util
import sys
import uuid
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModelContext

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.server.wrapping import wrapped
from mlflow_agent_target.text import printable

ACCEPTED = (
    "Give a logged model (models:/NAME/VERSION, runs:/RUN/PATH), a model's folder, a Python file that calls "
    "mlflow.models.set_model, a ResponsesAgent, ChatAgent or ChatModel object, a function of a text, a graph of "
    "LangGraph, or an agent of OpenAI's Agents SDK"
)
# The folders of the agents that were loaded from files.
_agent_folders: set[Path] = set()


def load_agent(source: Any) -> tuple[Any, Any]:
    """Return an agent object, and the context that MLflow gives a logged ChatModel.

    Args:
        source: A model URI, a model's folder, a Python file, or an agent object.

    Raises:
        InvalidInputError: It can't be loaded.
    """
    if not isinstance(source, (str, Path)):
        return wrapped(source), None
    path = Path(source)
    if path.suffix == ".py":
        agent = _load_file(path)
        context = PythonModelContext(artifacts={}, model_config={})
        if callable(getattr(agent, "load_context", None)):
            agent.load_context(context)  # as MLflow does when it loads a logged model
        return agent, context
    try:
        model = mlflow.pyfunc.load_model(str(source))
        return model.get_raw_model(), getattr(model._model_impl, "context", None)
    except NotImplementedError:
        return model, None  # a model of another flavor, which is no agent
    except (Exception, SystemExit) as error:  # a model's own code runs here, and it may raise anything
        raise InvalidInputError(f"{str(source)!r} can't be loaded: {printable(str(error))} {ACCEPTED}.") from error


def _load_file(path: Path) -> Any:
    """Run a models-from-code file and return what it gave to `mlflow.models.set_model`."""
    if not path.is_file():
        raise InvalidInputError(f"There is no file {str(path)!r}. {ACCEPTED}.")
    _prefer_modules_beside(path.resolve().parent)
    name = f"agent_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{str(path)!r} can't be read as Python. {ACCEPTED}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # set_model puts the agent here. Emptied first: a file that does not call it would seem to have set the last agent.
    mlflow.models.model.__mlflow_model__ = None
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InvalidInputError(f"{str(path)!r} can't be run: {type(error).__name__}: {error}.") from error
    agent = mlflow.models.model.__mlflow_model__
    if agent is None:
        raise InvalidInputError(f"{str(path)!r} sets no model: end it with mlflow.models.set_model(agent).")
    return agent


def _prefer_modules_beside(folder: Path) -> None:
    """Let a file import the modules beside it, as `python agent.py` does, not those beside other agents."""
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "")
        for other in _agent_folders - {folder}:
            if file.is_relative_to(other) and (folder / file.relative_to(other)).exists():
                del sys.modules[name]  # the other agent keeps the module that it has imported
                break
    _agent_folders.add(folder)
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
