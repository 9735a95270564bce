"""The OpenAI client for a target's serving endpoints, with its login."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_agent_target.errors import AuthenticationError, InvalidInputError
from mlflow_agent_target.target.login import Login

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
