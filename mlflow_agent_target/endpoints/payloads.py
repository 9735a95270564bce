"""What creates or changes an endpoint, from the arguments that MLflow's client and command line take. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlflow_agent_target.endpoints.platform import ServingEndpoint
from mlflow_agent_target.errors import InvalidInputError

_REGISTERED_MODEL = re.compile(r"models:/([^/.@\s]+\.[^/.@\s]+\.[^/@\s]+)/([0-9]+)")
# What the platform says of a served model beside its settings. The name is made of the version.
_NOT_SETTINGS = ("name", "creator", "creation_timestamp", "state", "foundation_model")


def creation_payload(
    name: str | None, config: Mapping[str, Any] | None, route_optimized: bool | None
) -> tuple[dict[str, Any], list[str]]:
    """Return what creates an endpoint, and the warnings to give, from the arguments that MLflow's client takes.

    The rules and the words are those of `create_endpoint` in `mlflow.deployments.databricks`.

    Args:
        name: The endpoint's name. Deprecated in favour of `config["name"]`.
        config: The whole payload (which has a key "config"), or, deprecated, only what stands below that key.
        route_optimized: Deprecated in favour of `config["route_optimized"]`.

    Raises:
        InvalidInputError: The arguments contradict each other.
    """
    config = dict(config or {})
    if "config" not in config:
        extras = {key: value for key in ("tags", "rate_limits") if (value := config.pop(key, None))}
        return {"name": name, "config": config, "route_optimized": route_optimized, **extras}, [
            "Passing 'name', 'config', and 'route_optimized' as separate parameters is deprecated. "
            "Please pass the full API request payload as a single dictionary in the 'config' parameter."
        ]
    warnings = []
    if name is not None:
        only = "only " if "name" in config else ""
        warnings.append(
            f"Passing 'name' as a parameter is deprecated. Please specify 'name' {only}within the config dictionary."
        )
    elif "name" not in config:
        raise InvalidInputError("The 'name' field is required. Please specify it within the config dictionary.")
    if config.setdefault("name", name) != name and name is not None:
        raise InvalidInputError(
            f"Name mismatch. Found '{name}' as parameter and '{config['name']}' in config. Please specify 'name' only "
            "within the config dictionary as this parameter is deprecated."
        )
    if ("route_optimized" in config and route_optimized is not None) or route_optimized:
        only = "only " if "route_optimized" in config else ""
        warnings.append(
            "Passing 'route_optimized' as a parameter is deprecated. "
            f"Please specify 'route_optimized' {only}within the config dictionary."
        )
        if config.setdefault("route_optimized", route_optimized) != route_optimized:
            raise InvalidInputError(
                "Conflicting 'route_optimized' values found. Please specify 'route_optimized' only within the config "
                "dictionary as this parameter is deprecated."
            )
    return config, warnings


def served_model(
    model_uri: str | None, config: Mapping[str, Any] | None, current: ServingEndpoint | None = None
) -> dict[str, Any]:
    """Return the `config` of an endpoint that serves one version of a registered model.

    Args:
        model_uri: `models:/catalog.schema.model/version`; None for the one that is served now.
        config: More of the served entity's settings, such as `workload_size`; text as the command line gives it is
            read as JSON where it is some.
        current: The endpoint as it is, whose settings stay where nothing else is said; None for a new one.

    Raises:
        InvalidInputError: An endpoint can't serve that, or serves more than one model.
    """
    if current is None:
        entity: dict[str, Any] = {"workload_size": "Small", "scale_to_zero_enabled": True}
    else:
        served = (current.get("config") or {}).get("served_entities") or []
        if len(served) != 1:
            raise InvalidInputError(
                f"Endpoint '{current.get('name')}' serves {len(served)} models, which one deployment can't stand for. "
                "Use client.update_endpoint_config(endpoint, {'served_entities': [...]})."
            )
        entity = {key: value for key, value in served[0].items() if key not in _NOT_SETTINGS}
    if model_uri is not None:
        match = _REGISTERED_MODEL.fullmatch(model_uri)
        if match is None:
            raise InvalidInputError(
                f"An endpoint can't serve {model_uri!r}: name a version of a Unity Catalog model, as in "
                "'models:/catalog.schema.model/1'. Agents are deployed with databricks.agents.deploy, which also sets "
                "up their permissions and tracing; `mlflow deployments run-local -t agent-target` serves any logged "
                "agent on this machine."
            )
        entity |= {"entity_name": match[1], "entity_version": match[2]}
    settings = from_text(config)
    if taken := sorted({"entity_name", "entity_version"} & set(settings)):
        raise InvalidInputError(f"The configuration holds {', '.join(taken)}, which the model's URI says already.")
    return {"served_entities": [{**entity, **settings}]}


def from_text(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a configuration whose texts are read as JSON where they are some: the command line has only text."""
    return {key: _from_text(value) for key, value in (config or {}).items()}


def _from_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return value
