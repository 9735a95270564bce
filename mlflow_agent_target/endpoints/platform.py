"""What a workspace knows of its serving endpoints and apps, and the REST calls that ask and change it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    EndpointUnavailableError,
    InvalidInputError,
    InvalidResponseError,
    RequestTimeoutError,
)
from mlflow_agent_target.http.exchange import Transport
from mlflow_agent_target.http.options import RequestOptions
from mlflow_agent_target.http.steps import Steps
from mlflow_agent_target.text import encode_json, server_reason

_PATH = "/api/2.0/serving-endpoints"


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


def is_settled(described: dict[str, Any]) -> bool:
    """Return whether an endpoint is ready, and not changing."""
    state = described.get("state")
    if not isinstance(state, dict):
        return state == "READY"  # as other gateways say it
    return state.get("ready") == "READY" and state.get("config_update") in (None, "NOT_UPDATING")


def data_plane(described: dict[str, Any]) -> tuple[str, str] | None:
    """Return the URL of a route-optimized endpoint and the authorization details for its tokens; None for others.

    https://docs.databricks.com/aws/en/machine-learning/model-serving/query-route-optimization
    """
    info = described.get("data_plane_info")
    query = info.get("query_info") if isinstance(info, dict) else None
    query = query if isinstance(query, dict) else {}
    url, details = query.get("endpoint_url") or described.get("endpoint_url"), query.get("authorization_details")
    if not described.get("route_optimized") or not isinstance(url, str) or not isinstance(details, str):
        return None
    return (url, details) if re.match("https?://[^/]", url) else None


def get_endpoint(transport: Transport, name: str, options: RequestOptions) -> Steps[ServingEndpoint]:
    """Return one endpoint's description, asked for once: no retries."""
    url = f"{transport.base_url}{_PATH}/{quote(name, safe='')}"
    reply = yield from transport.get(url, options)
    return _described(reply.value, url)


def manage(
    transport: Transport,
    method: str,
    options: RequestOptions,
    *,
    name: str | None = None,
    part: str = "",
    payload: Mapping[str, Any] | None = None,
) -> Steps[ServingEndpoint]:
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
    url = transport.base_url + path
    body = None if payload is None else encode_json(payload)
    try:
        reply = yield from transport.call(
            method, url, body, replace(options, endpoint=name, idempotent=method == "GET")
        )
    except AgentTargetError as error:
        explained = _explained(error, f"{method} {path}", changes=method != "GET")
        if explained is error:
            raise
        raise explained from error
    value = reply.value
    if isinstance(value, list) and (part == "tags" or (name is None and method == "GET")):
        value = {part or "endpoints": value}  # they may come bare
    return _described({} if value is None and method != "GET" else value, url)


def list_endpoints(transport: Transport, options: RequestOptions) -> Steps[list[ServingEndpoint]]:
    """Return the descriptions of all endpoints; a workspace without any answers without the key."""
    described = yield from manage(transport, "GET", options)
    items = described.get("endpoints") or []
    return [_described(item, transport.base_url + _PATH) for item in (items if isinstance(items, list) else [items])]


def _described(value: Any, url: str) -> ServingEndpoint:
    if not isinstance(value, dict):
        raise InvalidResponseError(
            f"{url} answered {value!r:.50}, which describes no endpoints.", status_code=200, body=value
        )
    return ServingEndpoint(value)


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


def get_app_url(transport: Transport, name: str, options: RequestOptions) -> Steps[str]:
    """Return the URL of a Databricks App. https://docs.databricks.com/api/workspace/apps/get

    Raises:
        EndpointUnavailableError: It is not running.
        AgentTargetError: It can't be looked up.
    """
    reply = yield from transport.get(f"{transport.base_url}/api/2.0/apps/{quote(name, safe='')}", options)
    app = reply.value
    url = app.get("url") if isinstance(app, dict) else None
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise EndpointUnavailableError(
            f"The app '{name}' has no URL: it is not deployed. Deploy and start it first.",
            endpoint=options.endpoint,
            body=app,
            retryable=False,
        )
    return url.rstrip("/")
