"""What a local server was asked, as the author of a test looks at it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
import requests

from mlflow_agent_target import AgentError, AgentTargetClient, serve
from mlflow_agent_target.server import LocalServer
from mlflow_agent_target.server.requests import ServedRequest, ServedRequests
from tests.conftest import AGENTS, DEMO, user

HI = [user("b a")]


@pytest.fixture(scope="module")
def running(tracking_store: None) -> Iterator[LocalServer]:
    with serve({"reverser": DEMO / "chat_agent.py", "failing": AGENTS / "failing_agent.py"}) as server:
        yield server


@pytest.fixture
def asked(running: LocalServer) -> LocalServer:
    running.requests.clear()
    return running


class TestServer:
    def test_a_request_and_its_answer(self, asked: LocalServer) -> None:
        assert len(asked.requests) == 0
        assert not asked.requests
        body = {"messages": HI, "custom_inputs": {"k": [1, None, "ü"]}}
        AgentTargetClient(asked.target_uri).predict("reverser", body)
        (one,) = asked.requests
        assert (one.endpoint, one.body, one.streamed) == ("reverser", body, False)
        assert (one.status, one.ran, one.fault) == (200, 1, None)
        assert one.seconds is not None
        assert 0 < one.seconds < 30
        assert asked.requests[0] == asked.requests[-1] == one
        assert asked.requests[:1] == [one]
        assert asked.requests.runs["reverser"] == 1
        assert asked.requests.runs["failing"] == 0

    def test_a_stream(self, asked: LocalServer) -> None:
        with AgentTargetClient(asked.target_uri).predict_stream("reverser", "b a") as stream:
            list(stream)
        (one,) = asked.requests
        assert (one.streamed, one.body["stream"], one.status, one.ran) == (True, True, 200, 1)
        assert one.body["messages"][0]["content"] == "b a"

    def test_the_by_model_routes_name_the_endpoint(self, asked: LocalServer) -> None:
        url = f"{asked.url}/serving-endpoints/chat/completions"
        requests.post(url, json={"model": "reverser", "messages": HI}, timeout=5).raise_for_status()
        assert [one.endpoint for one in asked.requests] == ["reverser"]

    def test_what_is_refused_is_noted_and_ran_nothing(self, asked: LocalServer) -> None:
        for name, body, status in (("reverser", {"input": HI}, 400), ("nobody", {"messages": HI}, 404)):
            url = f"{asked.url}/serving-endpoints/{name}/invocations"
            assert requests.post(url, json=body, timeout=5).status_code == status
            one = asked.requests[-1]
            assert (one.endpoint, one.body, one.status, one.ran) == (name, body, status, 0)
            assert one.seconds is not None
        assert not asked.requests.runs

    def test_an_agent_that_fails_has_run(self, asked: LocalServer) -> None:
        with pytest.raises(AgentError):
            AgentTargetClient(asked.target_uri).predict("failing", "x")
        assert (asked.requests[-1].status, asked.requests[-1].ran) == (400, 1)
        assert asked.requests.runs == {"failing": 1}

    def test_a_request_is_there_as_long_as_it_runs(self) -> None:
        begun, go_on = threading.Event(), threading.Event()

        class Waiting(mlflow.pyfunc.ChatAgent):
            def predict(self, messages: Any, context: Any = None, custom_inputs: Any = None) -> Any:
                begun.set()
                go_on.wait(30)
                return {"messages": [{"role": "assistant", "content": "ho", "id": "1"}]}

        with serve({"waiting": Waiting()}) as server:
            call = threading.Thread(target=AgentTargetClient(server.target_uri).predict, args=("waiting", "hi"))
            call.start()
            assert begun.wait(30)
            one = server.requests[-1]
            assert (one.status, one.seconds, one.ran) == (None, None, 1)
            go_on.set()
            call.join(30)
            assert server.requests[-1].status == 200

    def test_other_routes_are_no_requests_to_agents(self, asked: LocalServer) -> None:
        AgentTargetClient(asked.target_uri).get_endpoint("reverser")
        requests.get(f"{asked.url}/health", timeout=5)
        assert asked.requests.total == 0


class TestServedRequests:
    def ask(self, log: ServedRequests, *texts: str) -> None:
        for text in texts:
            with log.asked("a", {"input": text}) as asked:
                asked.runs()
            asked.end(200)

    def kept(self, log: ServedRequests) -> list[str]:
        return [one.body["input"] for one in log]

    def test_the_newest_are_kept_and_all_are_counted(self) -> None:
        log = ServedRequests(most=3)
        self.ask(log, *"abcde")
        assert (self.kept(log), len(log), log.total, log.runs["a"]) == (["c", "d", "e"], 3, 5, 5)
        assert repr(log) == "ServedRequests(3 of 5)"
        self.ask(log, "f")
        assert self.kept(log) == ["d", "e", "f"]

    def test_their_bytes_are_bounded(self) -> None:
        log = ServedRequests(most_bytes=1000)
        self.ask(log, *"abc", "x" * 940)  # 14 bytes each, and 953
        assert [len(text) for text in self.kept(log)] == [1, 1, 1, 940]
        self.ask(log, "d")
        assert [len(text) for text in self.kept(log)] == [1, 1, 940, 1]
        self.ask(log, "y" * 2000, "z")  # one that is larger than all that is kept is not
        assert self.kept(log) == ["z"]
        assert log.total == 7

    def test_clear_forgets_and_a_request_that_ran_meanwhile_harms_nothing(self) -> None:
        log = ServedRequests(most_bytes=100)
        with log.asked("a", {"input": "x" * 50}) as asked:
            log.clear()
            asked.runs()
        asked.end(200)
        assert (len(log), log.total) == (0, 0)
        self.ask(log, "y" * 50)
        assert len(log) == 1

    def test_what_it_gives_can_be_changed_by_nobody(self) -> None:
        log = ServedRequests()
        self.ask(log, "a")
        log[0].body["input"] = log.runs["a"] = 7  # type: ignore[assignment]
        assert (log[0].body, log.runs["a"]) == ({"input": "a"}, 1)
        with pytest.raises(AttributeError):
            log[0].status = 500  # type: ignore[misc]
        assert isinstance(log[0], ServedRequest)

    def test_a_request_that_breaks_the_server_is_a_500(self) -> None:
        log = ServedRequests()
        with pytest.raises(ZeroDivisionError), log.asked("a", {}):
            _ = 1 / 0
        assert log[0].status == 500
