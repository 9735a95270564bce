"""A new process that imports, makes a client and asks once; prints what that took.

Nothing may be imported here before the clock starts that the client would import itself.
"""

import json
import resource
import sys
import time


def taken(prefix: str, started: float) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        f"{prefix}_s": time.perf_counter() - started,
        f"{prefix}_cpu_s": time.process_time(),
        f"{prefix}_mb": peak / 1024,
    }


def main(name: str, base_url: str) -> dict[str, float]:
    started = time.perf_counter()
    if name == "import":
        import mlflow.deployments  # noqa: F401

        return taken("made", started)
    if name == "openai":
        import openai

        client = openai.OpenAI(base_url=f"{base_url}/serving-endpoints", api_key="benchmark")
        numbers = taken("made", started)
        client.responses.create(model="answer-2000", input=[{"role": "user", "content": "hi"}])
    else:
        from mlflow.deployments import get_deploy_client

        targets = {"mlflow": "databricks", "ours": f"agent-target:{base_url}", "ours-workspace": "agent-target"}
        client = get_deploy_client(targets[name])
        numbers = taken("made", started)
        client.predict(endpoint="answer-2000", inputs={"input": [{"role": "user", "content": "hi"}]})
    return {**numbers, **taken("answer", started), "sdk_imported": float("databricks.sdk" in sys.modules)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2])))  # noqa: T201
