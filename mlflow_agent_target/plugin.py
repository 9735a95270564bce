"""The entry point `agent-target` of MLflow's deployments plugins.

MLflow inspects this module: `run_local`, `target_help` and exactly one subclass of `BaseDeploymentClient` must be
visible in it (https://mlflow.org/docs/latest/ml/plugins/).
"""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.client import AgentTargetClient

__all__ = ["AgentTargetClient", "run_local", "target_help"]


def run_local(name: str, model_uri: str, flavor: str | None = None, config: dict[str, Any] | None = None) -> None:
    """Serve an agent on this machine, with the REST surface of Model Serving, until Ctrl-C.

    Called by `mlflow deployments run-local -t agent-target`.

    Args:
        name: The endpoint's name.
        model_uri: A logged model (`models:/my-agent/1`, `runs:/...`), a model's folder, or a Python file that calls
            `mlflow.models.set_model`.
        flavor: None or "python_function": agents have no other.
        config: `port` (default 8080; 0 takes a free one), `host` (default 127.0.0.1), `token` (a bearer token that
            callers must send; required for any host but loopback), `allowed_origins` (of web pages that may ask, with
            commas between them), `max_request_bytes` (default 4194304), `recording` (a file that is played, too), and
            the faults of a rehearsal, such as `error_rate`: see `Faults`.

    Raises:
        InvalidInputError: The name, the model or the configuration can't be used.
    """
    from mlflow_agent_target.server import run_one

    run_one(name, model_uri, flavor, config)


def target_help() -> str:
    """Return what `mlflow deployments help -t agent-target` prints."""
    return _HELP


_HELP = """\
agent-target: query AI agents authored with MLflow (ResponsesAgent, ChatAgent, ChatModel, DurableAgentServer's).

Target URIs
  agent-target                          the Databricks workspace of your environment (databricks-sdk's unified login)
  agent-target://PROFILE                the workspace of that profile in ~/.databrickscfg
  agent-target:http://HOST:PORT         a base URL: run-local's, a gateway, a bare agent server.
                                        Bearer token, where one is needed: AGENT_TARGET_TOKEN
  An endpoint is named my-agent or endpoints:/my-agent; an agent hosted as a Databricks App apps:/my-app

In Python
  from mlflow.deployments import get_deploy_client
  client = get_deploy_client("agent-target")
  client.predict(endpoint="my-agent", inputs="What does Databricks do?").output_text
  for text in client.predict_stream(endpoint="my-agent", inputs="And MLflow?").text_stream:
      print(text, end="", flush=True)

  run = client.start(endpoint="apps:/my-app", inputs="Write the report")    an agent that works on: run.result()

Score and evaluate
  client.predict_batch(endpoint="my-agent", inputs=questions, journal="answers.db")
  mlflow.genai.evaluate(data=data, predict_fn=client.to_predict_fn("my-agent"), scorers=[...])
  agent-target score --endpoint my-agent --input questions.parquet --column question --output answers.parquet
  mlflow deployments predict -t agent-target --endpoint my-agent -I questions.json

Serve an agent on this machine, with the REST surface of Model Serving
  mlflow deployments run-local -t agent-target --name my-agent -m models:/my-agent/1
  -m  models:/NAME/VERSION, runs:/RUN/PATH, a model's folder, or agent.py (which calls mlflow.models.set_model)
  -C port=8080         0 takes a free port
  -C host=127.0.0.1
  -C token=SECRET      callers must send it as a bearer token; required for any host but loopback
  -C allowed_origins=http://localhost:3000    web pages that may ask; without a token no other may
  -C max_request_bytes=4194304
  -C error_rate=0.1    rehearses a bad day; so do latency, rate_limit, retry_after, cold_start, cut_streams, silence
  agent-target serve a=agent.py b=models:/my-agent/1         several agents; --open shows the page to talk to them
  agent-target record --endpoint my-agent recording.jsonl    what a real agent answers, to be played: -C recording=...
  Needs the extra 'local':  pip install "mlflow-agent-target[local]"

Show the deployed endpoints
  mlflow deployments list-endpoints -t agent-target
  mlflow deployments get-endpoint -t agent-target --endpoint my-agent

Create, update and delete an endpoint that serves one model of Unity Catalog (databricks.agents.deploy does more for it)
  mlflow deployments create -t agent-target --name my-agent -m models:/catalog.schema.model/1
  mlflow deployments update -t agent-target --name my-agent -m models:/catalog.schema.model/2
  mlflow deployments delete -t agent-target --name my-agent
  -C workload_size=Medium, -C scale_to_zero_enabled=false, -C 'environment_vars={"KEY": "value"}', ...

Try it without anything of your own
  agent-target demo

Settings from the environment, as for MLflow's own clients
  MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT (seconds for one request), MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT (seconds for all
  tries), MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR, MLFLOW_HTTP_REQUEST_BACKOFF_JITTER,
  MLFLOW_TRACKING_INSECURE_TLS
"""
