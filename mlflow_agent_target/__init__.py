"""Query deployed AI agents from MLflow: `mlflow.deployments.get_deploy_client("agent-target")`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are loaded when they are first used (PEP 562): importing the package costs nothing by itself.
_HOMES = {
    "AgentError": "errors",
    "AgentResponse": "formats.answers",
    "AgentRun": "endpoints.runs",
    "AgentStream": "streams.stream",
    "AgentTargetClient": "client",
    "AgentTargetError": "errors",
    "AuthenticationError": "errors",
    "BatchResult": "batch.results",
    "BatchRow": "batch.shown",
    "EndpointNotFoundError": "errors",
    "EndpointUnavailableError": "errors",
    "Faults": "server.faults",
    "InterfaceMismatchError": "errors",
    "InvalidInputError": "errors",
    "InvalidResponseError": "errors",
    "PermissionDeniedError": "errors",
    "RateLimitError": "errors",
    "RequestTimeoutError": "errors",
    "StreamInterruptedError": "errors",
    "autolog": "tracing.spans",
    "run_local": "plugin",
    "serve": "server",
    "target_help": "plugin",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 (strings all)

if TYPE_CHECKING:
    from mlflow_agent_target.batch.results import BatchResult as BatchResult
    from mlflow_agent_target.batch.shown import BatchRow as BatchRow
    from mlflow_agent_target.client import AgentTargetClient as AgentTargetClient
    from mlflow_agent_target.endpoints.runs import AgentRun as AgentRun
    from mlflow_agent_target.errors import AgentError as AgentError
    from mlflow_agent_target.errors import AgentTargetError as AgentTargetError
    from mlflow_agent_target.errors import AuthenticationError as AuthenticationError
    from mlflow_agent_target.errors import EndpointNotFoundError as EndpointNotFoundError
    from mlflow_agent_target.errors import EndpointUnavailableError as EndpointUnavailableError
    from mlflow_agent_target.errors import InterfaceMismatchError as InterfaceMismatchError
    from mlflow_agent_target.errors import InvalidInputError as InvalidInputError
    from mlflow_agent_target.errors import InvalidResponseError as InvalidResponseError
    from mlflow_agent_target.errors import PermissionDeniedError as PermissionDeniedError
    from mlflow_agent_target.errors import RateLimitError as RateLimitError
    from mlflow_agent_target.errors import RequestTimeoutError as RequestTimeoutError
    from mlflow_agent_target.errors import StreamInterruptedError as StreamInterruptedError
    from mlflow_agent_target.formats.answers import AgentResponse as AgentResponse
    from mlflow_agent_target.plugin import run_local as run_local
    from mlflow_agent_target.plugin import target_help as target_help
    from mlflow_agent_target.server import serve as serve
    from mlflow_agent_target.server.faults import Faults as Faults
    from mlflow_agent_target.streams.stream import AgentStream as AgentStream
    from mlflow_agent_target.tracing.spans import autolog as autolog


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
