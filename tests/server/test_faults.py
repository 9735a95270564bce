"""Bad days, rehearsed: endpoints that are slow, limited, starting, failing and cut, met by real clients."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import openai
import pytest
import requests
from starlette.responses import Response, StreamingResponse

from mlflow_agent_target import (
    AgentTargetClient,
    AgentTargetError,
    EndpointUnavailableError,
    Faults,
    InvalidInputError,
    RateLimitError,
    StreamInterruptedError,
    serve,
)
from mlflow_agent_target.server import LocalServer
from mlflow_agent_target.server.faults import LIMITED, STARTING
from mlflow_agent_target.server.rehearsal import Rehearsal
from mlflow_agent_target.server.requests import ServedRequests
from tests.conftest import AGENTS as TEST_AGENTS
from tests.conftest import DEMO, user

# How many events each agent streams when it is told three words.
_EVENTS = {"reverser": 3, "counter": 99}
AGENTS = {"reverser": DEMO / "chat_agent.py", "counter": DEMO / "responses_agent.py"}


def post(server: LocalServer, endpoint: str = "reverser", **more: Any) -> requests.Response:
    url = f"{server.url}/serving-endpoints/{endpoint}/invocations"
    key = "messages" if endpoint == "reverser" else "input"
    return requests.post(url, json={key: [user("b a")], **more}, timeout=30)


class TestFaults:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"latency": -1}, "latency of Faults must be a number of seconds"),
            ({"latency": (2, 1)}, "smaller one first"),
            ({"latency": (1, 2, 3)}, "latency of Faults must be"),
            ({"latency": float("nan")}, "latency of Faults must be"),
            ({"latency": True}, "latency of Faults must be"),
            ({"latency": "fast"}, "'fast'"),
            ({"error_rate": 1.1}, "error_rate of Faults must be a share of the calls, from 0 to 1, not 1.1"),
            ({"error_rate": None}, "error_rate of Faults must be"),
            ({"cut_streams": -0.1}, "cut_streams of Faults must be a share"),
            ({"rate_limit": 0}, "rate_limit of Faults must be a number of requests a second, above 0, not 0"),
            ({"rate_limit": float("inf")}, "rate_limit of Faults must be"),
            ({"retry_after": -1}, "retry_after of Faults must be a number of seconds"),
            ({"cold_start": float("inf")}, "cold_start of Faults must be a number of seconds"),
            ({"silence": "1"}, "silence of Faults must be a number of seconds"),
            ({"silence": None}, "silence of Faults must be a number of seconds"),
            ({"seed": 1.5}, "seed of Faults must be a whole number, not 1.5"),
            ({"seed": True}, "seed of Faults must be a whole number"),
        ],
    )
    def test_what_can_not_be_is_refused(self, given: dict[str, Any], says: str) -> None:
        with pytest.raises(InvalidInputError) as caught:
            Faults(**given)
        assert says in str(caught.value)

    @pytest.mark.parametrize(
        ("options", "faults"),
        [
            ({}, Faults()),
            ({"latency": "0.5", "error_rate": "0.1"}, Faults(latency=0.5, error_rate=0.1)),
            ({"latency": "0.1-0.5", "seed": "7"}, Faults(latency=(0.1, 0.5), seed=7)),
            ({"latency": "1e-3"}, Faults(latency=0.001)),
            ({"rate_limit": 5, "retry_after": "2"}, Faults(rate_limit=5, retry_after=2)),
            ({"cold_start": "3", "cut_streams": "1", "silence": "0"}, Faults(cold_start=3, cut_streams=1)),
        ],
    )
    def test_from_options_of_a_command(self, options: Mapping[str, Any], faults: Faults) -> None:
        assert Faults.from_options(options) == faults

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"latnecy": "1"}, "No fault is named latnecy. There are latency, error_rate, "),
            ({"latency": "0.1-x"}, "latency of Faults must be"),
            ({"latency": "-1"}, "latency of Faults must be"),
            ({"error_rate": "5%"}, "error_rate of Faults must be a share of the calls, from 0 to 1, not '5%'"),
            ({"seed": "1.5"}, "seed of Faults must be a whole number, not '1.5'"),
        ],
    )
    def test_options_that_can_not_be_are_refused(self, options: Mapping[str, Any], says: str) -> None:
        with pytest.raises(InvalidInputError) as caught:
            Faults.from_options(options)
        assert says in str(caught.value)

    def test_shares_are_kept_and_all_failures_come(self) -> None:
        faults = Faults(error_rate=0.2, cut_streams=0.5, latency=(1, 3))
        fates = [faults.fate("a", number) for number in range(2000)]
        failed = [fate.refusal for fate in fates if fate.refusal is not None]
        assert 320 < len(failed) < 480
        assert Counter((one.status, one.agent_runs) for one in failed).keys() == {
            (500, False),
            (500, True),
            (502, False),
            (502, True),
            (504, True),
        }
        whole = [fate for fate in fates if fate.refusal is None]
        assert 0.4 < sum(fate.cut_after is not None for fate in whole) / len(whole) < 0.6
        assert {fate.cut_after for fate in whole} == {None, 1, 2, 3, 4, 5, 6, 7, 8}
        assert 1 <= min(fate.latency for fate in fates) < 1.1
        assert 2.9 < max(fate.latency for fate in fates) <= 3

    def test_a_fate_follows_from_the_seed_the_endpoint_and_the_number(self) -> None:
        def fates(endpoint: str = "a", **more: Any) -> list[Any]:
            return [Faults(error_rate=0.5, **more).fate(endpoint, number).refusal for number in range(50)]

        assert fates() == fates()
        assert fates() == fates(cut_streams=1, latency=3, cold_start=5)  # another fault changes nothing of this one
        assert fates() != fates(seed=1)
        assert fates() != fates("b")


class TestRehearsal:
    """The faults of time, with a clock of its own."""

    @pytest.mark.parametrize(
        ("rate", "times", "let_through"),
        [
            (2, [0, 0.1, 0.2, 0.9, 1.0, 1.05, 1.1], [True, True, False, False, True, False, True]),
            (0.5, [0, 1, 1.9, 2, 3], [True, False, False, True, False]),
            (1.5, [0, 0.6, 0.7, 1.3, 1.4], [True, False, True, False, True]),
            (None, [0, 0, 0], [True, True, True]),
        ],
    )
    def test_a_rate_limit(self, rate: float | None, times: list[float], let_through: list[bool]) -> None:
        now = 0.0
        rehearsal = Rehearsal(Faults(rate_limit=rate), lambda: now)
        for now, expected in zip(times, let_through, strict=True):
            assert (rehearsal.fate("a") is not LIMITED) is expected, now
        assert rehearsal.fate("b") is not LIMITED  # each endpoint has its own

    def test_a_cold_start(self) -> None:
        now = 100.0
        rehearsal = Rehearsal(Faults(cold_start=5), lambda: now)
        assert not rehearsal.is_starting("a")
        for time_of_call, starts in ((100.0, True), (104.9, True), (105.0, False), (200.0, False)):
            now = time_of_call
            assert (rehearsal.fate("a") is STARTING) is starts
            assert rehearsal.is_starting("a") is starts
        assert not rehearsal.is_starting("b")
        assert rehearsal.fate("b") is STARTING

    def test_calls_that_are_not_let_through_change_no_other_calls_fate(self) -> None:
        now = 0.0
        faults = Faults(error_rate=0.5, rate_limit=1, cold_start=1)
        rehearsal = Rehearsal(faults, lambda: now)
        met = []
        for step in range(100):
            now = step / 3
            met.append(rehearsal.fate("a"))
        assert {STARTING, LIMITED} < set(met)
        through = [fate for fate in met if fate not in (STARTING, LIMITED)]
        assert through == [faults.fate("a", number) for number in range(1, len(through) + 1)]

    def test_silence_comes_once_after_the_first_event(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []

        async def sleep(seconds: float) -> None:
            seen.append(seconds)

        async def frames() -> AsyncIterator[bytes]:
            for frame in (b"1", b"2", b"3"):
                yield frame

        async def run() -> Response:
            return StreamingResponse(frames())

        async def meet() -> None:
            with ServedRequests().asked("a", {}) as asked:
                response = await Rehearsal(Faults(silence=7, latency=2)).meet(asked, run)
            assert isinstance(response, StreamingResponse)
            async for frame in response.body_iterator:
                seen.append(frame)

        monkeypatch.setattr(asyncio, "sleep", sleep)
        asyncio.run(meet())
        assert seen == [2.0, b"1", 7, b"2", b"3"]


class TestServer:
    def test_no_faults_change_nothing(self) -> None:
        with serve(AGENTS, faults=Faults()) as server:
            assert AgentTargetClient(server.target_uri).predict("reverser", "b a").output_text == "a b"
            assert server.requests[-1].fault is None

    def test_a_rate_limit_is_waited_out_and_each_agent_runs_once_for_each_row(self) -> None:
        rows = [f"row {number}" for number in range(40)]
        with serve(AGENTS, faults=Faults(rate_limit=20, latency=(0, 0.02))) as server:
            result = AgentTargetClient(server.target_uri).predict_batch("reverser", rows)
            assert [row.output_text for row in result] == [f"{number} row" for number in range(40)]
            assert server.requests.runs == {"reverser": 40}
            asked = Counter((one.status, one.fault, one.ran) for one in server.requests)
        assert asked[200, None, 1] == 40
        assert asked.keys() == {(200, None, 1), (429, "rate_limit", 0)}

    def test_a_job_on_a_bad_day_ends_with_all_rows_where_it_may_run_them_again(self) -> None:
        faults = Faults(error_rate=0.3, rate_limit=50, cold_start=0.2, latency=(0, 0.02), retry_after=0.1, seed=3)
        rows = [f"row {number}" for number in range(30)]
        with serve(AGENTS, faults=faults) as server:
            client = AgentTargetClient(server.target_uri)
            careful = client.predict_batch("reverser", rows)
            failed = sum(row.status == "failed" for row in careful)
            ran = server.requests.runs["reverser"]
            # A row that failed may have run, and was not run again.
            assert 0 < failed == sum(one.fault == "error_rate" for one in server.requests)
            assert 30 - failed < ran <= 30
            server.requests.clear()
            bold = client.with_options(idempotent=True).predict_batch("reverser", rows)
            assert [row.output_text for row in bold] == [f"{number} row" for number in range(30)]
            assert server.requests.runs["reverser"] >= 30

    def test_a_limited_call_says_when_to_come_back(self) -> None:
        with serve(AGENTS, faults=Faults(rate_limit=0.01, retry_after=7)) as server:
            assert post(server).status_code == 200
            answer = post(server)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
            assert answer.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
            assert post(server, "counter").status_code == 200
            client = AgentTargetClient(server.target_uri).with_options(total_timeout=1)
            with pytest.raises(RateLimitError) as caught:
                client.predict("reverser", "hi")
            assert (caught.value.retry_after, caught.value.may_have_run) == (7, False)
            assert server.requests.runs == {"reverser": 1, "counter": 1}

    def test_an_endpoint_that_starts_is_waited_for(self) -> None:
        with serve(AGENTS, faults=Faults(cold_start=0.5, retry_after=0.1)) as server:
            client = AgentTargetClient(server.target_uri)
            described = f"{server.url}/api/2.0/serving-endpoints"
            assert requests.get(f"{described}/reverser", timeout=5).json()["state"]["ready"] == "READY"
            answer = post(server)
            assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
            assert answer.headers["retry-after"] == "0.1"
            states = {
                one["name"]: one["state"]["ready"] for one in requests.get(described, timeout=5).json()["endpoints"]
            }
            assert states == {"reverser": "NOT_READY", "counter": "READY"}
            assert client.with_options(wait_until_ready=30).predict("reverser", "b a").output_text == "a b"
            assert requests.get(f"{described}/reverser", timeout=5).json()["state"]["ready"] == "READY"
            assert server.requests.runs == {"reverser": 1}
            assert {one.fault for one in server.requests} == {"cold_start", None}

    def test_without_retry_after_no_header_comes(self) -> None:
        with serve(AGENTS, faults=Faults(cold_start=100)) as server:
            assert "retry-after" not in post(server).headers

    @pytest.mark.parametrize("stream", [False, True])
    def test_failures_are_the_platforms_and_the_log_knows_whether_the_agent_ran(self, stream: bool) -> None:
        faults = Faults(error_rate=1, retry_after=1)
        with serve(AGENTS, faults=faults) as server:
            for number in range(1, 21):
                expected = faults.fate("reverser", number).refusal
                assert expected is not None
                answer = post(server, stream=stream)
                assert (answer.status_code, answer.text) == (expected.status, expected.body)
                assert answer.headers["content-type"] == expected.content_type
                assert "retry-after" not in answer.headers
                asked = server.requests[-1]
                assert (asked.status, asked.ran, asked.fault) == (expected.status, expected.agent_runs, "error_rate")
            assert {one.ran for one in server.requests} == {0, 1}
            client = AgentTargetClient(server.target_uri)
            for _ in range(10):
                with pytest.raises(AgentTargetError) as caught:
                    client.predict("reverser", "hi")
                assert caught.value.may_have_run
                assert caught.value.attempts == 1
                assert isinstance(caught.value, EndpointUnavailableError) is (caught.value.status_code != 500)

    def test_the_same_seed_makes_the_same_calls_fail(self) -> None:
        def day(seed: int) -> list[tuple[int, int]]:
            with serve(AGENTS, faults=Faults(error_rate=0.4, seed=seed)) as server:
                for _ in range(25):
                    post(server)
                return [(one.status or 0, one.ran) for one in server.requests]

        assert day(1) == day(1)
        assert day(1) != day(2)

    def test_an_agent_that_fails_by_itself_does_not_undo_a_fault(self) -> None:
        faults = Faults(error_rate=1, seed=next(s for s in range(99) if _runs_first(Faults(error_rate=1, seed=s))))
        with serve({"failing": TEST_AGENTS / "failing_agent.py"}, faults=faults) as server:
            answer = requests.post(
                f"{server.url}/serving-endpoints/failing/invocations", json={"input": [user("x")]}, timeout=30
            )
            assert answer.status_code in (500, 502, 504)
            assert server.requests.runs["failing"] == 1

    def test_what_is_refused_anyway_meets_no_fault(self) -> None:
        with serve(AGENTS, token="hunter2", faults=Faults(cold_start=100)) as server:
            assert post(server).status_code == 401
            url = f"{server.url}/serving-endpoints"
            headers = {"Authorization": "Bearer hunter2"}
            cases = [("reverser", {"input": []}, 400), ("reverser", [], 400), ("nobody", {"messages": []}, 404)]
            for name, body, status in cases:
                answer = requests.post(f"{url}/{name}/invocations", json=body, headers=headers, timeout=5)
                assert answer.status_code == status
            described = requests.get(f"{server.url}/api/2.0/serving-endpoints/reverser", headers=headers, timeout=5)
            assert described.json()["state"]["ready"] == "READY"  # nothing of all that has woken it
            body = {"messages": [user("x")], "model": "reverser"}
            assert requests.post(f"{url}/chat/completions", json=body, headers=headers, timeout=5).status_code == 503

    @pytest.mark.parametrize("endpoint", list(AGENTS))
    def test_a_cut_stream_is_broken_off_and_never_looks_whole(
        self, endpoint: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        faults = Faults(cut_streams=1)
        with serve(AGENTS, faults=faults) as server:
            client = AgentTargetClient(server.target_uri)
            for number in range(1, 11):
                stream = client.predict_stream(endpoint, "one two three")
                events: list[Any] = []
                with pytest.raises(StreamInterruptedError):
                    events.extend(stream)
                assert len(events) == min(faults.fate(endpoint, number).cut_after or 0, _EVENTS[endpoint])
            assert server.requests.runs == {endpoint: 10}
            assert {(one.status, one.fault) for one in server.requests} == {(200, "cut_streams")}
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                post(server, endpoint, stream=True)
            assert client.predict(endpoint, "b a").output_text  # whole answers are none
            assert server.requests[-1].fault is None
        assert not caplog.records

    def test_the_openai_client_meets_a_cut_too(self) -> None:
        faults = Faults(cut_streams=1)
        with serve(AGENTS, faults=faults) as server:
            client = openai.OpenAI(base_url=f"{server.url}/serving-endpoints", api_key="x")
            stream: Any = client.responses.create(model="counter", input=[user("one")], stream=True)
            events: list[Any] = []
            with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):
                events.extend(stream)
            assert len(events) == faults.fate("counter", 1).cut_after

    def test_silence_comes_within_each_stream(self) -> None:
        with serve(AGENTS, faults=Faults(silence=0.5)) as server:
            client = AgentTargetClient(server.target_uri)
            began = time.monotonic()
            stream = client.predict_stream("reverser", "one two three")
            next(stream)
            arrived = time.monotonic()
            list(stream)
            assert time.monotonic() - arrived >= 0.4
            assert stream.get_final_response().output_text == "three two one"
            with pytest.raises(AgentTargetError, match=r"0\.1 s"):
                list(client.with_options(idle_timeout=0.1).predict_stream("reverser", "one two three"))
            assert time.monotonic() - began >= 0.5

    def test_latency_comes_before_each_answer(self) -> None:
        with serve(AGENTS, faults=Faults(latency=0.3)) as server:
            for more in ({}, {"stream": True}):
                began = time.monotonic()
                assert post(server, **more).status_code == 200
                assert time.monotonic() - began >= 0.3
            assert all(one.seconds is not None and one.seconds >= 0.3 for one in server.requests)


def _runs_first(faults: Faults) -> bool:
    refusal = faults.fate("failing", 1).refusal
    return refusal is not None and refusal.agent_runs
