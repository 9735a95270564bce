"""What an agent serves is asked once, whoever comes meanwhile, and however the one who asks ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from mlflow_agent_target import AgentTargetClient, EndpointNotFoundError, RequestTimeoutError
from mlflow_agent_target.endpoints.routes import Agent, Route, Routes
from mlflow_agent_target.formats.responses import ResponsesAgent
from mlflow_agent_target.http.options import RequestOptions
from mlflow_agent_target.http.steps import perform
from mlflow_agent_target.target.login import Login
from tests.scripted import ScriptedServer, whole

Make = Callable[..., ScriptedServer]
ANSWER = {"output": []}
DESCRIPTION = whole({"name": "a", "task": "agent/v1/responses"})
OPTIONS = RequestOptions(timeout=5.0)


def agent_of(server: ScriptedServer, name: str = "a") -> Agent:
    return Routes(lambda: Login(server.url, dict), verify_tls=True, is_workspace=False).agent(name)


def gets(server: ScriptedServer) -> int:
    return sum(request.method == "GET" for request in server.received)


def test_who_waits_for_anothers_question_waits_no_longer_than_he_may(scripted: Make) -> None:
    server = scripted(whole(ANSWER), describe=[1.0, *DESCRIPTION])
    patient = AgentTargetClient(server.target_uri)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(patient.predict(endpoint="a", inputs="hi")))
    asking.start()
    while not server.received:
        time.sleep(0.01)
    with pytest.raises(RequestTimeoutError, match=r"'a' was not asked: .* within 0\.2 s.*interface=") as caught:
        patient.with_options(timeout=0.2).predict(endpoint="a", inputs="hi")
    assert caught.value.may_have_run is False
    asking.join()
    assert (answers, gets(server), len(server.posts)) == ([ANSWER], 1, 1)


def until_interrupted(steps: Generator[Any, Any, Route], performed: int) -> None:
    """Perform so many steps, and then get a Ctrl-C in the midst of the next one."""
    step = next(steps)
    for _ in range(performed):
        step = steps.send(step.perform())
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt())


@pytest.mark.parametrize("performed", [0, 1, 2])
def test_an_interrupt_is_for_the_one_who_asks_alone(performed: int, scripted: Make) -> None:
    agent = agent_of(scripted(describe=DESCRIPTION))
    asking = agent.route(OPTIONS)
    step = next(asking)
    for _ in range(performed):
        step = asking.send(step.perform())
    found: list[Route] = []
    waiting = threading.Thread(target=lambda: found.append(perform(agent.route(OPTIONS))))
    waiting.start()
    time.sleep(0.1)
    assert found == []
    with pytest.raises(KeyboardInterrupt):
        asking.throw(KeyboardInterrupt())
    waiting.join(5)
    assert [route.interface for route in found] == [ResponsesAgent]


@pytest.mark.parametrize("performed", [0, 1, 2])
@pytest.mark.parametrize("leave", [until_interrupted, lambda steps, _: (next(steps), steps.close())])
def test_who_leaves_in_the_midst_of_asking_leaves_nobody_waiting(
    performed: int, leave: Callable[[Any, int], Any], scripted: Make
) -> None:
    agent = agent_of(scripted(describe=DESCRIPTION))
    leave(agent.route(OPTIONS), performed)
    assert perform(agent.route(OPTIONS)).interface is ResponsesAgent


def test_a_failure_is_told_to_all_who_wait_for_it(scripted: Make) -> None:
    server = scripted(describe=[0.3, *whole({"error_code": "NOT_FOUND", "message": "no app"}, 404)])

    class OAuth(Login):
        def is_oauth(self, seconds: float = 0.0) -> bool:
            return True

    agent = Routes(lambda: OAuth(server.url, dict), verify_tls=True, is_workspace=True).agent("apps:/a")
    errors: list[Exception] = []

    def ask() -> None:
        try:
            perform(agent.route(OPTIONS))
        except EndpointNotFoundError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(errors), gets(server)) == (5, 1)


@pytest.mark.parametrize(
    ("status", "asked_again"),
    [(403, False), (404, False), (400, False), (401, True), (429, True), (500, True), (503, True)],
)
def test_an_endpoint_that_may_not_be_described_is_asked_no_more(status: int, asked_again: bool, scripted: Make) -> None:
    server = scripted(describe=whole({"message": "no"}, status))
    agent = agent_of(server)
    for _ in range(2):
        assert perform(agent.route(OPTIONS)).interface is None
    assert gets(server) == (2 if asked_again else 1)


@pytest.mark.parametrize(
    "described",
    [
        {"task": {"a": 1}},
        {"task": "agent/v1/responses", "state": "READY"},
        {"task": "agent/v1/responses", "route_optimized": True, "data_plane_info": "x"},
        {"route_optimized": True, "data_plane_info": {"query_info": [1]}},
        *(
            {
                "route_optimized": True,
                "data_plane_info": {"query_info": {"endpoint_url": url, "authorization_details": "d"}},
            }
            for url in ("127.0.0.1:1/x", 5, "https://", "/x", None)
        ),
        {"endpoint_type": ["x"], "task": None},
    ],
)
def test_a_description_in_another_form_fails_no_call(described: dict[str, Any], scripted: Make) -> None:
    server = scripted(whole(ANSWER), describe=whole(described))
    assert AgentTargetClient(server.target_uri).predict(endpoint="a", inputs="hi") == ANSWER
    assert server.posts[0].path == "/serving-endpoints/a/invocations"


def test_what_is_forgotten_is_asked_anew(scripted: Make) -> None:
    server = scripted(describe=DESCRIPTION)
    agent = agent_of(server)
    assert agent.is_known is False
    assert perform(agent.route(OPTIONS)) is perform(agent.route(OPTIONS))
    assert agent.is_known is True
    agent.forget()
    assert agent.is_known is False
    perform(agent.route(OPTIONS))
    assert gets(server) == 2


def test_each_name_has_one_object(scripted: Make) -> None:
    routes = Routes(lambda: Login("http://127.0.0.1:1", dict), verify_tls=True, is_workspace=False)
    assert routes.agent("a") is routes.agent("a") is not routes.agent("b")
    assert routes.agent(None) is routes.agent(None)
