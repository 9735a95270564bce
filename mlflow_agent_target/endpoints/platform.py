"""The platform's calls around serving endpoints other than querying them, and the OpenAI client for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    AuthenticationError,
    EndpointUnavailableError,
    InvalidInputError,
    InvalidResponseError,
    RequestTimeoutError,
)
from mlflow_agent_target.http.exchange import RequestOptions, Transport
from mlflow_agent_target.target.login import Login
from mlflow_agent_target.text import server_reason

if TYPE_CHECKING:
    from openai import OpenAI

_PATH = "/api/2.0/serving-endpoints"
_OPENAI_ADVICE = "pip install 'mlflow-agent-target[openai]'."
_REGISTERED_MODEL = re.compile(r"models:/([^/.@\s]+\.[^/.@\s]+\.[^/@\s]+)/([0-9]+)")
# What the platform says of a served model beside its settings. The name is made of the version.
_NOT_SETTINGS = ("name", "creator", "creation_timestamp", "state", "foundation_model")


class ServingEndpoint(dict[str, Any]):
    """What the platform says of an endpoint: a dict whose keys are attributes too, as are those of the dicts in it.

    https://docs.databricks.com/api/workspace/servingendpoints/get
    """

    def __getattr__(self, name: str) -> Any:
        if name == "endpoint_type":  # MLflow reads it of every endpoint; the platform gives it for models only
            return self.get(name, self.get("task"))
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(f"The endpoint's description has no {name!r}; it has {sorted(self)}.") from None
        return ServingEndpoint(value) if isinstance(value, dict) else value


def get_endpoint(transport: Transport, name: str, options: RequestOptions) -> ServingEndpoint:
    """Return one endpoint's description, asked for once: no retries."""
    url = f"{transport.base_url}{_PATH}/{quote(name, safe='')}"
    return _described(transport.get(url, options).value, url)


def manage(
    transport: Transport,
    method: str,
    options: RequestOptions,
    *,
    name: str | None = None,
    part: str = "",
    payload: Mapping[str, Any] | None = None,
) -> ServingEndpoint:
    """Read or change serving endpoints.

    A question is asked again after every passing failure, a change only when it can't have arrived.

    Args:
        transport: The way to the workspace.
        method: The HTTP method; all but GET change something.
        options: How the call is made.
        name: The endpoint; None for all of them, or a new one.
        part: What of the endpoint: "config", "tags", "rate-limits", "ai-gateway"; "" for itself.
        payload: The change.

    Raises:
        InvalidInputError: The platform refused the change.
        AgentTargetError: The call failed in another way; the subclass says how.
    """
    path = "/".join([_PATH, *(quote(step, safe="") for step in (name, part) if step)])
    try:
        url = transport.base_url + path
        value = transport.call(method, url, payload, replace(options, endpoint=name, idempotent=method == "GET")).value
    except AgentTargetError as error:
        explained = _explained(error, f"{method} {path}", changes=method != "GET")
        if explained is error:
            raise
        raise explained from error
    if isinstance(value, list):  # tags may come bare
        value = {(part or "endpoints").replace("-", "_"): value}
    return _described(value, url)


def list_endpoints(transport: Transport, options: RequestOptions) -> list[ServingEndpoint]:
    """Return the descriptions of all endpoints; a workspace without any answers without the key."""
    items = manage(transport, "GET", options).get("endpoints") or []
    return [_described(item, transport.base_url + _PATH) for item in (items if isinstance(items, list) else [items])]


def _described(value: Any, url: str) -> ServingEndpoint:
    if value is not None and not isinstance(value, dict):
        raise InvalidResponseError(
            f"{url} answered {value!r:.50}, which describes no endpoints.", status_code=200, body=value
        )
    return ServingEndpoint(value or {})


def _explained(error: AgentTargetError, call: str, changes: bool) -> AgentTargetError:
    """Return what an error of `Transport`, which speaks of agents, means for a call that runs none."""
    status = error.status_code or 0
    kind = type(error)
    if status == 403:
        advice = (
            "Ask for the right to do it (CAN MANAGE), or name another profile in the target: agent-target://PROFILE."
        )
    elif status == 404:
        advice = "Check the names in it; client.list_endpoints() shows what is there."
    elif 400 <= status < 500 and status not in (401, 408, 429):
        kind, advice = InvalidInputError, "Nothing was changed."
    elif error.may_have_run and kind is not InvalidResponseError:
        kind = EndpointUnavailableError if kind is AgentError else kind
        advice = "The change may have been made: see client.get_endpoint(...)." if changes else "Try again later."
    else:
        return error
    if status:
        outcome = f"was answered {status}: {server_reason(error.body)}".rstrip(": .")
    else:
        outcome = "got no answer in time" if kind is RequestTimeoutError else "got no answer: the connection broke"
    return kind(
        f"{call} {outcome}. {advice}",
        endpoint=error.endpoint,
        status_code=error.status_code,
        request_id=error.request_id,
        body=error.body,
        attempts=error.attempts,
        retryable=error.retryable,
        may_have_run=changes and error.may_have_run and kind is not InvalidInputError,
    )


def get_app_url(transport: Transport, name: str, options: RequestOptions) -> str:
    """Return the URL of a Databricks App. https://docs.databricks.com/api/workspace/apps/get

    Raises:
        EndpointUnavailableError: It is not running.
        AgentTargetError: It can't be looked up.
    """
    app = transport.get(f"{transport.base_url}/api/2.0/apps/{quote(name, safe='')}", options).value
    url = app.get("url") if isinstance(app, dict) else None
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise EndpointUnavailableError(
            f"The app '{name}' has no URL: it is not deployed. Deploy and start it first.",
            endpoint=options.endpoint,
            body=app,
            retryable=False,
        )
    return url.rstrip("/")


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


def open_ai_client(login: Login, is_workspace: bool, verify_tls: bool) -> OpenAI:
    """Return an OpenAI client for a host's serving endpoints. See `AgentTargetClient.get_open_ai_client`."""
    try:
        import openai
    except ImportError as error:
        raise InvalidInputError(f"The OpenAI client is not installed. {_OPENAI_ADVICE}") from error
    if tuple(map(int, openai.__version__.split(".")[:2])) < (1, 106):
        raise InvalidInputError(f"OpenAI's client {openai.__version__} can't renew a token. {_OPENAI_ADVICE}")
    # It follows redirects unless told otherwise, with the prompt.
    if is_workspace and verify_tls:
        try:
            from databricks_openai import DatabricksOpenAI

            client: OpenAI = DatabricksOpenAI(workspace_client=login.workspace_client(), follow_redirects=False)
            return client
        except (ImportError, TypeError):  # not installed, or a version that can't refuse redirects
            pass

    def token() -> str:
        scheme, _, value = login.headers().get("Authorization", "Bearer none").partition(" ")
        if scheme.lower() != "bearer":
            raise AuthenticationError(f"The login to {login.host} has no bearer token, which OpenAI's client needs.")
        return value

    return openai.OpenAI(
        base_url=f"{login.host}/serving-endpoints",
        api_key=token,
        http_client=openai.DefaultHttpxClient(follow_redirects=False, verify=verify_tls),
    )
