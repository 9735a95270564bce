"""The OpenAI client for a target's serving endpoints, with its login."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_agent_target.errors import AuthenticationError, InvalidInputError
from mlflow_agent_target.target.addresses import host_of, is_loopback
from mlflow_agent_target.target.login import Login
from mlflow_agent_target.target.settings import has_proxies

if TYPE_CHECKING:
    from openai import OpenAI

_OPENAI_ADVICE = "pip install 'mlflow-agent-target[openai]'."


def open_ai_client(login: Login, is_workspace: bool, verify_tls: bool) -> OpenAI:
    """Return an OpenAI client for a host's serving endpoints. See `AgentTargetClient.get_open_ai_client`."""
    try:
        import openai
    except ImportError as error:
        raise InvalidInputError(f"The OpenAI client is not installed. {_OPENAI_ADVICE}") from error
    if tuple(map(int, openai.__version__.split(".")[:2])) < (1, 106):
        raise InvalidInputError(f"OpenAI's client {openai.__version__} can't renew a token. {_OPENAI_ADVICE}")
    headers = {**login.custom, **login.routing}
    # What is on this machine is asked directly, as by `http/pool.py`.
    goes_astray = is_loopback(host_of(login.host)) and has_proxies()
    # It follows redirects unless told otherwise, with the prompt.
    if is_workspace and verify_tls and not goes_astray:
        try:
            from databricks_openai import DatabricksOpenAI

            more = {"default_headers": headers} if headers else {}
            client: OpenAI = DatabricksOpenAI(workspace_client=login.workspace_client(), follow_redirects=False, **more)
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
        default_headers=headers,
        http_client=openai.DefaultHttpxClient(follow_redirects=False, verify=verify_tls, trust_env=not goes_astray),
    )
