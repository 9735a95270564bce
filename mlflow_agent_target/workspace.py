"""The platform's calls around serving endpoints, other than querying them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from mlflow_agent_target.errors import InvalidResponseError
from mlflow_agent_target.transport import RequestOptions, Transport

_PATH = "/api/2.0/serving-endpoints"


class ServingEndpoint(dict[str, Any]):
    """An endpoint's description as the platform gives it, whose keys are attributes too.

    https://docs.databricks.com/api/workspace/servingendpoints/get
    """

    def __getattr__(self, name: str) -> Any:
        if name == "endpoint_type":  # MLflow reads it of every endpoint; the platform gives it for models only
            return self.get(name, self.get("task"))
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"The endpoint's description has no {name!r}; it has {sorted(self)}.") from None


def get_endpoint(transport: Transport, name: str, options: RequestOptions) -> ServingEndpoint:
    """Return one endpoint's description."""
    return ServingEndpoint(_object(transport, f"{_PATH}/{quote(name, safe='')}", options))


def list_endpoints(transport: Transport, options: RequestOptions) -> list[ServingEndpoint]:
    """Return the descriptions of all endpoints; a workspace without any answers without the key."""
    return [ServingEndpoint(item) for item in _object(transport, _PATH, options).get("endpoints") or []]


def _object(transport: Transport, path: str, options: RequestOptions) -> dict[str, Any]:
    value = transport.get(transport.base_url + path, options).value
    if not isinstance(value, dict):
        raise InvalidResponseError(
            f"{transport.base_url}{path} answered {value!r:.50}, which describes no endpoints.",
            status_code=200,
            body=value,
        )
    return value
