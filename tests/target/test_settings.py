"""MLflow's own variables mean here what they mean for its clients, whenever they are set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_agent_target import AgentTargetClient, InvalidInputError, RequestTimeoutError
from mlflow_agent_target.target.settings import Backoff, TimeLimits, network, verifies_tls
from tests.scripted import ScriptedServer, whole

Make = Callable[..., ScriptedServer]
ANSWER = {"output": []}


def test_settings_mean_what_they_mean_to_mlflow() -> None:
    given = {
        "MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT": " 30",
        "MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT": "90.5",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "3",
        "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    }
    assert TimeLimits.read(given) == TimeLimits(timeout=30, total_timeout=90.5)
    assert Backoff.read(given) == Backoff(max_retries=0, factor=3, jitter=0)


@pytest.mark.parametrize(
    "environment", [{}, {"MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT": " ", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": ""}]
)
def test_what_is_not_said_is_as_mlflow_has_it(environment: dict[str, str]) -> None:
    assert TimeLimits.read(environment) == TimeLimits(timeout=120, total_timeout=600)
    assert Backoff.read(environment) == Backoff(max_retries=7, factor=2, jitter=1)


@pytest.mark.parametrize(
    ("said", "verified"), [(None, True), ("", True), ("false", True), ("0", True), (" TRUE ", False), ("1", False)]
)
def test_certificates_are_checked_unless_told_otherwise(said: str | None, verified: bool) -> None:
    assert verifies_tls({} if said is None else {"MLFLOW_TRACKING_INSECURE_TLS": said}) is verified


def test_the_network_is_what_requests_reads_of_it() -> None:
    said = {"HTTPS_PROXY": "p", "no_proxy": "n", "REQUESTS_CA_BUNDLE": "c", "PROXY_USER": "u"}
    assert network(said) == (("HTTPS_PROXY", "p"), ("REQUESTS_CA_BUNDLE", "c"), ("no_proxy", "n"))


@pytest.mark.parametrize(
    ("read", "variable", "values"),
    [
        (TimeLimits.read, "MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT", ("soon", "-1", "nan", "inf", "0")),
        (TimeLimits.read, "MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT", ("soon", "0")),
        (Backoff.read, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", ("soon", "-1", "1.5")),
        (Backoff.read, "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", ("soon", "-1")),
        (Backoff.read, "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", ("soon", "-1")),
    ],
)
def test_a_setting_that_is_no_such_number_is_refused_by_name(
    read: Callable[[dict[str, str]], Any], variable: str, values: tuple[str, ...]
) -> None:
    for value in values:
        with pytest.raises(InvalidInputError, match=variable):
            read({variable: value})


def test_a_setting_that_cannot_be_read_is_told_when_a_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "many")
    with pytest.raises(InvalidInputError, match="MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        AgentTargetClient("agent-target:http://127.0.0.1:1")


def test_a_time_limit_that_is_set_later_counts(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    client = AgentTargetClient(scripted([5.0]).target_uri).with_options(interface="ResponsesAgent")
    patient = client.with_options(timeout=0.4)
    monkeypatch.setenv("MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT", "0.2")
    with pytest.raises(RequestTimeoutError, match=r"within 0\.2 s"):
        client.predict(endpoint="a", inputs="hi")
    with pytest.raises(RequestTimeoutError, match=r"within 0\.4 s"):
        patient.predict(endpoint="a", inputs="hi")
    monkeypatch.setenv("MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT", "0.1")
    with pytest.raises(RequestTimeoutError, match=r"within 0\.1 s"):
        patient.predict(endpoint="a", inputs="hi")


def test_a_number_of_retries_that_is_set_later_counts(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = scripted(whole({"message": "busy"}, 503), whole({"message": "busy"}, 503), whole(ANSWER))
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    assert client.predict(endpoint="a", inputs="hi") == ANSWER
    assert len(server.posts) == 3


def test_a_client_whose_certificates_are_no_longer_checked_has_connections_of_its_own(
    scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(whole(ANSWER))
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    client.predict(endpoint="a", inputs="hi")
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    client.predict(endpoint="a", inputs="hi")
    monkeypatch.delenv("MLFLOW_TRACKING_INSECURE_TLS")
    client.predict(endpoint="a", inputs="hi")
    first, unchecked, last = (request.connection for request in server.posts)
    assert first == last != unchecked
