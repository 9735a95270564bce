"""The management calls of MLflow's `databricks` client, and MLflow's deployments as endpoints."""

from __future__ import annotations

import warnings
from typing import Any

from mlflow.deployments.base import BaseDeploymentClient
from mlflow.utils.annotations import deprecated

from mlflow_agent_target.endpoints.access import Access
from mlflow_agent_target.endpoints.payloads import creation_payload, from_text, served_model
from mlflow_agent_target.endpoints.platform import ServingEndpoint, list_endpoints, manage
from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.http.steps import Steps, perform
from mlflow_agent_target.target.names import endpoint_name, one_name

_FLAVOR = "python_function"


class EndpointManagement(BaseDeploymentClient):
    """Creates, changes, describes and deletes serving endpoints, as `get_deploy_client("databricks")` does.

    Every call raises `InvalidInputError` for what can't be sent and for what the platform refuses,
    `PermissionDeniedError`, `EndpointNotFoundError`, or another `AgentTargetError`.
    """

    _access: Access

    def create_endpoint(
        self, name: str | None = None, config: dict[str, Any] | None = None, route_optimized: bool = False
    ) -> ServingEndpoint:
        """Create an endpoint.

        Args:
            name: Deprecated: the endpoint's name. Put it into `config`.
            config: The request's whole payload: `{"name": ..., "config": {"served_entities": [...]}, ...}`.
                https://docs.databricks.com/api/workspace/servingendpoints/create
            route_optimized: Deprecated: whether the endpoint is route-optimized. Put it into `config`.

        Returns:
            The new endpoint's description, which is not ready yet.
        """
        payload, said = creation_payload(name, _checked(config or {}), route_optimized)
        if said:
            warnings.warn("\n".join(said), UserWarning, stacklevel=2)
        return self._create({**payload, "name": endpoint_name(payload["name"])})

    @deprecated(
        alternative="update_endpoint_config, update_endpoint_tags, update_endpoint_rate_limits, "
        "or update_endpoint_ai_gateway"
    )
    def update_endpoint(self, endpoint: str, config: dict[str, Any] | None = None) -> ServingEndpoint:
        """Change an endpoint's rate limits, where `config` holds these alone, or else its configuration.

        Args:
            endpoint: The endpoint's name.
            config: As for `update_endpoint_rate_limits` or `update_endpoint_config`. Values may be JSON in text, as
                `mlflow deployments update-endpoint -C` gives them.
        """
        warnings.warn(
            "The `update_endpoint` method is deprecated. Use the specific update methods—"
            "`update_endpoint_config`, `update_endpoint_tags`, `update_endpoint_rate_limits`, "
            "`update_endpoint_ai_gateway`—instead.",
            UserWarning,
            stacklevel=3,  # past the wrapper that @deprecated makes
        )
        part = "rate-limits" if list(_checked(config)) == ["rate_limits"] else "config"
        return self._change("PUT", endpoint, part, from_text(config))

    def update_endpoint_config(self, endpoint: str, config: dict[str, Any]) -> ServingEndpoint:
        """Change what an endpoint serves.

        Args:
            endpoint: The endpoint's name.
            config: https://docs.databricks.com/api/workspace/servingendpoints/updateconfig
        """
        return self._change("PUT", endpoint, "config", config)

    def update_endpoint_tags(self, endpoint: str, config: dict[str, Any]) -> ServingEndpoint:
        """Add and remove an endpoint's tags.

        Args:
            endpoint: The endpoint's name.
            config: `{"add_tags": [{"key": ..., "value": ...}], "delete_tags": ["key"]}`.

        Returns:
            The tags, as `{"tags": [...]}`.
        """
        return self._change("PATCH", endpoint, "tags", config)

    def update_endpoint_rate_limits(self, endpoint: str, config: dict[str, Any]) -> ServingEndpoint:
        """Change an endpoint's rate limits.

        Args:
            endpoint: The endpoint's name.
            config: `{"rate_limits": [{"calls": 10, "key": "user", "renewal_period": "minute"}]}`.
        """
        return self._change("PUT", endpoint, "rate-limits", config)

    def update_endpoint_ai_gateway(self, endpoint: str, config: dict[str, Any]) -> ServingEndpoint:
        """Change an endpoint's AI Gateway.

        Args:
            endpoint: The endpoint's name.
            config: https://docs.databricks.com/api/workspace/servingendpoints/putaigateway
        """
        return self._change("PUT", endpoint, "ai-gateway", config)

    def delete_endpoint(self, endpoint: str) -> ServingEndpoint:
        """Delete an endpoint.

        Args:
            endpoint: The endpoint's name.

        Returns:
            What the platform answered, usually an empty dict.
        """
        return self._change("DELETE", endpoint)

    def list_endpoints(self) -> list[ServingEndpoint]:
        """Return the descriptions of all serving endpoints that the login may see."""
        return perform(list_endpoints(self._access.routes.transport, self._access.options))

    def get_endpoint(self, endpoint: str) -> ServingEndpoint:
        """Return an endpoint's description as the platform gives it: a dict, which also reads as attributes.

        Args:
            endpoint: The endpoint's name.
        """
        name = endpoint_name(endpoint)
        return perform(self._access.routes.agent(name).described(self._ask(name)))

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: dict[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> ServingEndpoint:
        """Create an endpoint that serves one version of a model of Unity Catalog.

        `databricks.agents.deploy` does more for an agent: its permissions, its tracing, its review app.

        Args:
            name: The endpoint's name.
            model_uri: `models:/catalog.schema.model/version`.
            flavor: None or "python_function": agents have no other.
            config: Settings of the served model, over `workload_size` "Small" and `scale_to_zero_enabled` True:
                `workload_type`, `environment_vars`, ... Values may be JSON in text, as `mlflow deployments create -C`
                gives them.
            endpoint: Synonym of `name`.

        Returns:
            The endpoint's description, with `flavor`.
        """
        name = _deployment(name, endpoint, flavor)
        answer = self._create({"name": name, "config": served_model(model_uri, config)})
        return ServingEndpoint({**answer, "name": name, "flavor": _FLAVOR})

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: dict[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> ServingEndpoint:
        """Make an endpoint serve another version of a model of Unity Catalog, or with other settings.

        Args:
            name: The endpoint's name. It must serve one model.
            model_uri: `models:/catalog.schema.model/version`; None for the one that is served now.
            flavor: None or "python_function": agents have no other.
            config: As for `create_deployment`. Settings that are not named stay as they are.
            endpoint: Synonym of `name`.

        Returns:
            The endpoint's description, with `flavor`.
        """
        name = _deployment(name, endpoint, flavor)
        if model_uri is None and not config:
            raise InvalidInputError("Nothing to update was named: give a model URI, or a configuration.")
        served_model(model_uri, config)  # what can't be served is refused before anything is asked
        answer = self._change("PUT", name, "config", served_model(model_uri, config, perform(self._ask(name))))
        return ServingEndpoint({**answer, "name": name, "flavor": _FLAVOR})

    def delete_deployment(self, name: str, config: dict[str, Any] | None = None, endpoint: str | None = None) -> None:
        """Delete an endpoint: a deployment is an endpoint here.

        Args:
            name: The endpoint's name.
            config: Nothing: there is nothing to configure.
            endpoint: Synonym of `name`.
        """
        if config:
            raise InvalidInputError(f"Deleting takes no configuration, such as {sorted(config)}.")
        self.delete_endpoint(_deployment(name, endpoint))

    def get_deployment(self, name: str, endpoint: str | None = None) -> ServingEndpoint:
        """Return an endpoint's description: a deployment is an endpoint here. See `get_endpoint`.

        Args:
            name: The endpoint's name.
            endpoint: Synonym of `name`.
        """
        return self.get_endpoint(_deployment(name, endpoint))

    def list_deployments(self, endpoint: str | None = None) -> list[ServingEndpoint]:
        """Return all endpoints: a deployment is an endpoint here. See `list_endpoints`.

        Args:
            endpoint: The name of the only endpoint to return.
        """
        return self.list_endpoints() if endpoint is None else [self.get_endpoint(endpoint)]

    def _ask(self, name: str) -> Steps[ServingEndpoint]:
        return manage(self._access.routes.transport, "GET", self._access.options, name=name)

    def _create(self, payload: dict[str, Any]) -> ServingEndpoint:
        answer = perform(manage(self._access.routes.transport, "POST", self._access.options, payload=payload))
        self._access.routes.agent(payload["name"]).forget()  # there may have been another of this name
        return answer

    def _change(self, method: str, endpoint: str, part: str = "", config: Any = None) -> ServingEndpoint:
        name = endpoint_name(endpoint)
        payload = _checked(config) if part else None
        answer = perform(
            manage(self._access.routes.transport, method, self._access.options, name=name, part=part, payload=payload)
        )
        self._access.routes.agent(name).forget()  # it may serve something else from now on
        return answer


def _checked(config: Any) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise InvalidInputError(f"The configuration must be a dict, not {type(config).__name__}.")
    return config


def _deployment(name: str, endpoint: str | None, flavor: str | None = None) -> str:
    if flavor not in (None, _FLAVOR):
        raise InvalidInputError(f"Agents have the flavor '{_FLAVOR}', not {flavor!r}. Leave it out.")
    return one_name(endpoint_name, name, endpoint) or endpoint_name(name)
