"""The clients that are compared, each as its documentation shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

TOKEN = "benchmark"
QUESTION = {"input": [{"role": "user", "content": "What does Databricks do?"}]}


class Client(Protocol):
    """One way to ask an agent."""

    def predict(self, endpoint: str) -> Any: ...
    def stream(self, endpoint: str) -> Iterable[Any]: ...


class Bare:
    """`requests`, as one would write it by hand: the reference."""

    def __init__(self, base_url: str, lines_from: int = 512) -> None:
        import requests

        self._session = requests.Session()
        self._url = f"{base_url}/serving-endpoints/{{}}/invocations"
        self._headers = {"Authorization": f"Bearer {TOKEN}"}
        self._lines_from = lines_from

    def predict(self, endpoint: str) -> Any:
        response = self._session.post(self._url.format(endpoint), json=QUESTION, headers=self._headers, timeout=120)
        response.raise_for_status()
        return response.json()

    def stream(self, endpoint: str) -> Iterator[Any]:
        url, body = self._url.format(endpoint), {**QUESTION, "stream": True}
        with self._session.post(url, json=body, headers=self._headers, timeout=120, stream=True) as response:
            response.raise_for_status()
            for line in response.iter_lines(chunk_size=self._lines_from):
                if line.startswith(b"data: "):
                    if line == b"data: [DONE]":
                        return
                    yield json.loads(line[6:])


class BareByByte(Bare):
    """The bare loop that holds nothing back where a body is not chunked."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url, lines_from=1)


class Deployments:
    """A client of MLflow's deployments API: MLflow's own, or this package's."""

    def __init__(self, target_uri: str) -> None:
        from mlflow.deployments import get_deploy_client

        self._client = get_deploy_client(target_uri)

    def predict(self, endpoint: str) -> Any:
        return self._client.predict(endpoint=endpoint, inputs=QUESTION)

    def stream(self, endpoint: str) -> Iterable[Any]:
        return self._client.predict_stream(endpoint=endpoint, inputs=QUESTION)


class OpenAI:
    """The OpenAI client, pointed to the workspace as Databricks documents it."""

    def __init__(self, base_url: str) -> None:
        import openai

        self._client = openai.OpenAI(base_url=f"{base_url}/serving-endpoints", api_key=TOKEN)

    def predict(self, endpoint: str) -> Any:
        return self._client.responses.create(model=endpoint, input=QUESTION["input"])  # type: ignore[arg-type]

    def stream(self, endpoint: str) -> Iterable[Any]:
        return self._client.responses.create(model=endpoint, input=QUESTION["input"], stream=True)  # type: ignore[arg-type]


class Limit:
    """No client: `json.loads` of the text of events that is in memory, split already."""

    def __init__(self, base_url: str) -> None:
        self._bare = Bare(base_url)
        self._texts: dict[str, list[str]] = {}

    def load(self, endpoint: str) -> None:
        self._texts = {endpoint: [json.dumps(event) for event in self._bare.stream(endpoint)]}

    def predict(self, endpoint: str) -> Any:
        raise NotImplementedError

    def stream(self, endpoint: str) -> Iterable[Any]:
        return map(json.loads, self._texts[endpoint])


CLIENTS: dict[str, Callable[[str], Client]] = {
    "bare": Bare,
    "bare-by-byte": BareByByte,
    "mlflow": lambda _: Deployments("databricks"),
    "openai": OpenAI,
    "ours": lambda base_url: Deployments(f"agent-target:{base_url}"),
    "ours-workspace": lambda _: Deployments("agent-target"),
    "limit": Limit,
}
