"""Recordings: what endpoints answered is played byte for byte, and says nothing of tokens and hosts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from mlflow.deployments import get_deploy_client

from mlflow_agent_target import (
    AgentError,
    AgentTargetClient,
    EndpointNotFoundError,
    EndpointUnavailableError,
    Faults,
    InvalidInputError,
    StreamInterruptedError,
    serve,
)
from mlflow_agent_target.server import LocalServer, Recorder, Recording
from tests.conftest import DEMO, user
from tests.scripted import CLOSE, ScriptedServer, chunked, events, whole

LIMITED = b'{"error_code": "X", "message": "m"}'
SPLIT = b'data: {"a": "\xc3\xbc"}\n\ndata: [DONE]\n\n'
HI = [user("b a")]
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("chat_agent", {"messages": HI}),
    ("chat_agent", {"messages": HI, "stream": True}),
    ("responses_agent", {"input": HI, "custom_inputs": {"k": "ü\u2028"}}),
    ("responses_agent", {"input": HI, "stream": True}),
    ("chat_agent", {"messages": 5}),
    ("chat_agent", {"input": HI}),
]


def ask(url: str, endpoint: str, body: Any, **more: Any) -> requests.Response:
    return requests.post(f"{url}/serving-endpoints/{endpoint}/invocations", json=body, timeout=30, **more)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def exchanges(path: Path) -> list[dict[str, Any]]:
    return [line for line in lines(path) if "request" in line]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.jsonl"


@pytest.fixture
def recorded(server: LocalServer, path: Path) -> Iterator[Recorder]:
    with Recorder(server.target_uri, ["chat_agent", "endpoints:/responses_agent"], path) as recorder:
        yield recorder


@pytest.fixture
def upstream(
    scripted: Callable[..., ScriptedServer], path: Path
) -> Iterator[Callable[..., tuple[ScriptedServer, Recorder]]]:
    """Makes a recorder of an endpoint `a` that answers as a test scripts it."""
    recorders: list[Recorder] = []

    def make(*answers: Any) -> tuple[ScriptedServer, Recorder]:
        server = scripted(*answers)
        recorders.append(Recorder(f"agent-target:{server.url}", ["a"], path))
        return server, recorders[-1]

    yield make
    for recorder in recorders:
        recorder.stop()


class TestRecordAndReplay:
    def test_answers_streams_and_refusals_are_played_byte_for_byte(self, recorded: Recorder, path: Path) -> None:
        first = [ask(recorded.url, *body) for body in BODIES]
        assert [one.status_code for one in first] == [200, 200, 200, 200, 400, 400]
        assert recorded.exchanges == len(BODIES)
        recorded.stop()
        with serve(recording=path) as server:
            again = [ask(server.url, *body) for body in BODIES]
            assert server.requests.runs == {"chat_agent": 2, "responses_agent": 2}
        for one, other in zip(first, again, strict=True):
            assert one.content == other.content
            assert one.status_code == other.status_code
            for name in ("content-type", "x-request-id", "served-model-name"):
                assert one.headers.get(name) == other.headers.get(name)

    def test_the_programs_own_clients_see_no_difference(
        self, recorded: Recorder, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def program(url: str) -> list[Any]:
            ours = AgentTargetClient(f"agent-target:{url}")
            theirs = openai.OpenAI(base_url=f"{url}/serving-endpoints", api_key="x")
            monkeypatch.setenv("DATABRICKS_HOST", url)
            monkeypatch.setenv("DATABRICKS_TOKEN", "x")
            mlflows = get_deploy_client("databricks")
            said: Any = HI
            return [
                ours.predict("chat_agent", "b a"),
                ours.predict("responses_agent", "b a").trace,
                list(ours.predict_stream("responses_agent", "b a")),
                ours.get_endpoint("responses_agent")["task"],
                theirs.responses.create(model="responses_agent", input=said).to_dict(),
                [
                    event.to_dict()
                    for event in theirs.responses.create(model="responses_agent", input=said, stream=True)
                ],
                mlflows.predict(endpoint="chat_agent", inputs={"messages": HI}),
                list(mlflows.predict_stream(endpoint="chat_agent", inputs={"messages": HI})),
            ]

        first = program(recorded.url)
        recorded.stop()
        with serve(recording=str(path)) as server:
            assert program(server.url) == first

    def test_the_same_question_gets_its_answers_in_order_and_then_the_last(
        self, upstream: Callable[..., Any], path: Path
    ) -> None:
        _, recorder = upstream(*(whole({"output": [], "number": number}) for number in range(2)))
        assert [ask(recorder.url, "a", {"input": HI}).json()["number"] for _ in range(2)] == [0, 1]
        assert ask(recorder.url, "a", {"input": []}).json()["number"] == 1
        recorder.stop()
        with serve(recording=path) as server:
            assert [ask(server.url, "a", {"input": HI}).json()["number"] for _ in range(4)] == [0, 1, 1, 1]
        with serve(recording=path) as server:  # another server begins anew
            assert ask(server.url, "a", {"input": HI}).json()["number"] == 0

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"temperature": 1, "input": HI}, 200),
            ({"input": HI, "temperature": 1, "client_request_id": "7", "usage_context": {"a": "b"}}, 200),
            ({"input": HI, "temperature": 1, "databricks_options": {"return_trace": True}, "model": "a"}, 200),
            ({"input": HI, "temperature": 1, "stream": False, "context": None}, 200),
            ({"input": HI, "temperature": 1, "stream": True}, 400),
            ({"input": HI, "temperature": 2}, 400),
            ({"input": HI}, 400),
            ({"input": HI, "temperature": 1, "custom_inputs": {}}, 400),
        ],
    )
    def test_what_is_the_same_question(
        self, body: dict[str, Any], status: int, upstream: Callable[..., Any], path: Path
    ) -> None:
        _, recorder = upstream(whole({"output": []}))
        ask(recorder.url, "a", {"input": HI, "temperature": 1})
        recorder.stop()
        with serve(recording=path) as server:
            assert ask(server.url, "a", body).status_code == status

    def test_what_was_not_recorded_is_refused_and_told_what_was(self, recorded: Recorder, path: Path) -> None:
        client = AgentTargetClient(recorded.target_uri)
        client.predict("chat_agent", "what is it worth?")
        client.predict("chat_agent", "another thing altogether")
        recorded.stop()
        with serve(recording=path) as server:
            client = AgentTargetClient(server.target_uri)
            with pytest.raises(AgentError) as caught:
                client.predict("chat_agent", "what is it worth now?")
            said = str(caught.value)
            assert f"This request to 'chat_agent' is not in the recording '{path}'" in said
            assert "has 2 to that endpoint. The nearest differs in messages: " in said
            assert "what is it worth?" in said
            with pytest.raises(AgentError, match="which has none to that endpoint"):
                client.predict("responses_agent", "hi")
            with pytest.raises(EndpointNotFoundError, match="'other' does not exist"):
                client.predict("other", "hi")
            assert not server.requests.runs
            rows = ["what is it worth?", "something new", "another thing altogether"]
            results = client.predict_batch("chat_agent", rows, progress=False)
            assert [row.status for row in results] == ["ok", "failed", "ok"]

    def test_timing_is_kept_where_it_is_asked_for(self, upstream: Callable[..., Any], path: Path) -> None:
        _, recorder = upstream(chunked([events({"n": 1}, done=False), 0.4, events({"n": 2})]))
        ask(recorder.url, "a", {"input": HI, "stream": True})
        recorder.stop()
        (exchange,) = exchanges(path)
        assert [len(exchange["chunks"])] == [2]
        assert exchange["chunks"][1][0] - exchange["chunks"][0][0] >= 0.3

        def seconds(recording: Any) -> float:
            with serve(recording=recording) as server:
                began = time.monotonic()
                assert ask(server.url, "a", {"input": HI, "stream": True}).content == events({"n": 1}, {"n": 2})
                return time.monotonic() - began

        assert seconds(Recording(path, timing=True)) >= 0.35
        path.write_text(path.read_text().replace(str(exchange["chunks"][1][0]), "600"))
        assert seconds(path) < 60

    def test_agents_and_a_recording_are_served_side_by_side(self, recorded: Recorder, path: Path) -> None:
        ask(recorded.url, *BODIES[0])
        recorded.stop()
        with serve({"mine": DEMO / "chat_agent.py"}, recording=path, faults=Faults(cut_streams=1)) as server:
            client = AgentTargetClient(server.target_uri)
            assert {one["name"] for one in client.list_endpoints()} == {"mine", "chat_agent", "responses_agent"}
            assert client.predict("mine", "b a").output_text == client.predict("chat_agent", "b a").output_text
        with pytest.raises(InvalidInputError, match="chat_agent: both an agent and recorded"):
            serve({"chat_agent": DEMO / "chat_agent.py"}, recording=path)

    def test_faults_hit_a_recording_too(self, recorded: Recorder, path: Path) -> None:
        ask(recorded.url, *BODIES[1])
        recorded.stop()
        with serve(recording=path, faults=Faults(cut_streams=1)) as server:
            with pytest.raises(StreamInterruptedError):
                list(AgentTargetClient(server.target_uri).predict_stream("chat_agent", "b a"))
            assert server.requests[-1].fault == "cut_streams"


class TestRecorder:
    def test_no_token_and_no_host_is_written(
        self, scripted: Callable[..., ScriptedServer], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token, own = "dapi0123456789abcdef", "the-recorders-own-token"
        monkeypatch.setenv("AGENT_TARGET_TOKEN", token)
        server = scripted(CLOSE)
        leaks = {"token": token, "own": own, "host": f"{server.url}/x", "message": f"Bearer {token} at {server.url}"}
        parts = [b'data: {"a": "', token[:9].encode(), token[9:].encode(), b'", "b": 1}\n\ndata: [DONE]\n\n']
        headers = f"x-request-id: {token}\r\nset-cookie: s=1\r\nserver: {server.url}\r\n"
        server.answers = [
            whole(leaks, headers=headers),
            chunked([parts[0], parts[1], 0.2, *parts[2:]]),
            chunked([events(leaks)]),
        ]
        with Recorder(f"agent-target:{server.url}", ["a"], path, token=own) as recorder:
            monkeypatch.delenv("AGENT_TARGET_TOKEN")  # known from the login, too
            assert ask(recorder.url, "a", {"input": HI}).status_code == 401
            login = {"Authorization": f"Bearer {own}"}
            answer = ask(recorder.url, "a", {"input": HI, "custom_inputs": leaks}, headers=login)
            assert answer.json() == leaks  # what the program gets is not changed
            stream = ask(recorder.url, "a", {"input": HI, "stream": True}, headers=login)
            assert stream.content == b"".join(parts)
            ask(recorder.url, "a", {"input": [], "stream": True}, headers=login)
        asked = [one for one in server.received if one.method == "POST"]
        assert {one.headers["authorization"] for one in asked} == {f"Bearer {token}"}
        written = path.read_text()
        for secret in (token, token[:9], own, server.url.removeprefix("http://"), "cookie", "uthorization"):
            assert secret not in written
        assert written.count("[redacted]") >= 9
        with serve(recording=path) as playing:
            played = ask(playing.url, "a", {"input": HI, "stream": True})
            assert played.content == b'data: {"a": "[redacted]", "b": 1}\n\ndata: [DONE]\n\n'

    def test_a_workspaces_host_is_not_written_either(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from mlflow_agent_target.server.recorder import _hosts

        assert list(_hosts("https://w.cloud.databricks.com:443/a", "http://127.0.0.1:80")) == [
            "w.cloud.databricks.com:443",
            "w.cloud.databricks.com",
            "127.0.0.1:80",
        ]

    @pytest.mark.parametrize(
        ("answer", "status", "content", "headers"),
        [
            (whole(LIMITED, 429, headers="Retry-After: 7\r\n"), 429, LIMITED, {"retry-after": "7"}),
            (whole(b"<html>bad</html>", 502, "text/html"), 502, b"<html>bad</html>", {"content-type": "text/html"}),
            (whole(b"", 500, "text/plain"), 500, b"", {}),
            (whole(b"\xff\xfe\x00", 200, "application/octet-stream"), 200, b"\xff\xfe\x00", {}),
            (chunked([b'data: {"a": "\xc3', b'\xbc"}\n\n', b"data: [DONE]\n\n"]), 200, SPLIT, {}),
        ],
    )
    def test_whatever_is_answered_is_passed_on_once_and_played(
        self,
        answer: Any,
        status: int,
        content: bytes,
        headers: dict[str, str],
        upstream: Callable[..., Any],
        path: Path,
    ) -> None:
        server, recorder = upstream(answer)
        first = ask(recorder.url, "a", {"input": HI})
        recorder.stop()
        assert len([one for one in server.received if one.method == "POST"]) == 1
        with serve(recording=path) as playing:
            again = ask(playing.url, "a", {"input": HI})
        for got in (first, again):
            assert got.status_code == status
            assert headers.items() <= {name.lower(): value for name, value in got.headers.items()}.items()
        assert first.content == again.content
        assert first.content == content
        assert recorder._server.requests.runs["a"] == (status == 200)

    def test_a_stream_is_passed_on_as_it_comes(self, upstream: Callable[..., Any]) -> None:
        _, recorder = upstream(chunked([events({"n": 1}, done=False), 1.0, events({"n": 2})]))
        answer = ask(recorder.url, "a", {"input": HI, "stream": True}, stream=True)
        parts = answer.iter_content(None)
        assert next(parts) == events({"n": 1}, done=False)
        assert recorder.exchanges == 0
        assert b"".join(parts) == events({"n": 2})
        assert recorder.exchanges == 1

    @pytest.mark.parametrize("stream", [True, False])
    def test_what_broke_off_breaks_off_for_the_program_and_when_it_is_played(
        self, stream: bool, upstream: Callable[..., Any], path: Path
    ) -> None:
        kind = "text/event-stream" if stream else "application/json"
        _, recorder = upstream([*chunked([events({"n": 1}, done=False)], kind, end=False), CLOSE])
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            ask(recorder.url, "a", {"input": HI, "stream": stream})
        recorder.stop()
        (exchange,) = exchanges(path)
        assert exchange["broken"]
        with serve(recording=path) as server, pytest.raises(requests.exceptions.ChunkedEncodingError):
            ask(server.url, "a", {"input": HI, "stream": stream})

    def test_a_stream_whose_caller_leaves_is_recorded_as_a_whole(
        self, upstream: Callable[..., Any], path: Path
    ) -> None:
        _, recorder = upstream(chunked([events({"n": 1}, done=False), 0.3, events({"n": 2})]))
        with ask(recorder.url, "a", {"input": HI, "stream": True}, stream=True) as answer:
            next(answer.iter_content(None))
        deadline = time.monotonic() + 30
        while recorder.exchanges == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "".join(chunk for _, chunk in exchanges(path)[0]["chunks"]).endswith("[DONE]\n\n")

    def test_where_nothing_is_answered_nothing_is_recorded(self, upstream: Callable[..., Any], path: Path) -> None:
        _, recorder = upstream([CLOSE])
        answer = ask(recorder.url, "a", {"input": HI})
        assert answer.status_code == 502
        assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert recorder.exchanges == 0
        with Recorder("agent-target:http://127.0.0.1:1", ["a"], path) as recorder:
            with pytest.raises(EndpointUnavailableError) as caught:
                AgentTargetClient(recorder.target_uri).predict("a", "hi")
            assert caught.value.status_code == 503
            assert not caught.value.may_have_run
        assert exchanges(path) == []

    def test_the_request_is_sent_as_it_came_without_the_endpoints_name(self, upstream: Callable[..., Any]) -> None:
        server, recorder = upstream(whole({"output": []}))
        body = {"model": "a", "input": HI, "odd": [None, "\u2028"]}
        requests.post(f"{recorder.url}/serving-endpoints/responses", json=body, timeout=30).raise_for_status()
        received = server.received[-1]
        assert received.path == "/serving-endpoints/a/invocations"
        assert received.json == {"input": HI, "odd": [None, "\u2028"]}

    def test_what_is_there_is_kept(self, server: LocalServer, path: Path) -> None:
        for number in range(2):
            with Recorder(server.target_uri, ["chat_agent"], path) as recorder:
                AgentTargetClient(recorder.target_uri).predict("chat_agent", f"b {number}")
                assert recorder.exchanges == 1
            path.write_bytes(path.read_bytes().rstrip(b"\n"))  # as an editor may leave it
        with serve(recording=path) as playing:
            client = AgentTargetClient(playing.target_uri)
            assert [client.predict("chat_agent", f"b {number}").output_text for number in range(2)] == ["0 b", "1 b"]

    def test_many_calls_at_a_time_are_whole_lines(self, recorded: Recorder, path: Path) -> None:
        client = AgentTargetClient(recorded.target_uri)
        texts = [f"{number} " + "x" * 5000 for number in range(60)]
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda text: client.predict("chat_agent", text), texts))
        recorded.stop()
        assert {one["request"]["messages"][0]["content"] for one in exchanges(path)} == set(texts)

    def test_only_what_is_named_is_recorded(self, recorded: Recorder) -> None:
        assert ask(recorded.url, "slow_agent", {"messages": HI}).status_code == 404

    @pytest.mark.parametrize(
        ("target", "names", "says"),
        [
            ("agent-target:nowhere", ["a"], "agent-target:nowhere"),
            ("agent-target:http://127.0.0.1:1", ["a/b"], "can't be an endpoint's name"),
            ("agent-target:http://127.0.0.1:1", ["a", "endpoints:/a"], "Two endpoints are named 'a'"),
            ("agent-target:http://127.0.0.1:1", [], "at least one"),
        ],
    )
    def test_what_can_not_be_recorded_is_refused(
        self, target: str, names: list[str], says: str, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(InvalidInputError) as caught:
            Recorder(target, names, path)
        assert says in str(caught.value)

    def test_a_stopped_recorder_writes_nothing_anywhere(self, upstream: Callable[..., Any], path: Path) -> None:
        _, recorder = upstream(whole({}))
        recorder.stop()
        before = path.read_bytes()
        with pytest.raises(ValueError, match="closed file"):
            recorder._file.append({"request": {}})
        recorder.stop()
        assert path.read_bytes() == before


GOOD = {
    "version": 1,
    "endpoint": "a",
    "request": {"input": []},
    "status": 200,
    "headers": {"content-type": "application/json"},
    "chunks": [[0.1, "{}"], [0.2, {"base64": "AA=="}]],
    "broken": False,
}


class TestReading:
    def test_a_good_line_is_read(self, path: Path) -> None:
        path.write_text(f"\n{json.dumps(GOOD)}\n\n")
        with serve(recording=path) as server:
            assert ask(server.url, "a", {"input": []}).content == b"{}\0"
            described = requests.get(f"{server.url}/api/2.0/serving-endpoints/a", timeout=5).json()
            assert described["task"] is None  # never told

    @pytest.mark.parametrize(
        "line",
        [
            "{",
            "5",
            "null",
            "[]",
            '{"input": [], "output": []}',
            json.dumps(GOOD)[:-20],
            "[" * 100_000,
            *(
                json.dumps({**GOOD, **change})
                for change in (
                    {"endpoint": None},
                    {"endpoint": "a/b"},
                    {"request": []},
                    {"status": "200"},
                    {"status": True},
                    {"status": 100},
                    {"status": 600},
                    {"headers": None},
                    {"headers": {"a": 1}},
                    {"chunks": None},
                    {"chunks": [["x", "y"]]},
                    {"chunks": [[1]]},
                    {"chunks": [[1, {"base64": "?"}]]},
                    {"chunks": [[1, None]]},
                )
            ),
            *(json.dumps({key: value for key, value in GOOD.items() if key != name}) for name in GOOD),
            '{"version": 1, "endpoint": "a", "task": 5}',
        ],
    )
    def test_a_damaged_line_is_named(self, line: str, path: Path) -> None:
        path.write_text(f"{json.dumps(GOOD)}\n{line}\n")
        for use in (lambda: serve(recording=path), lambda: Recorder("agent-target:http://127.0.0.1:1", ["a"], path)):
            with pytest.raises(InvalidInputError, match=r"Line 2 of the recording .* is damaged") as caught:
                use()
            assert len(str(caught.value)) < 500

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (json.dumps({**GOOD, "version": 2}), "Line 1 of the recording .* has version 2, and .* reads version 1"),
            ("", "is empty"),
            (None, r"can't be read \(No such file or directory\)"),
        ],
    )
    def test_what_can_not_be_read_is_refused(self, text: str | None, says: str, path: Path) -> None:
        if text is not None:
            path.write_text(text)
        with pytest.raises(InvalidInputError, match=says):
            serve(recording=path)

    def test_a_recording_that_can_not_be_written_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="can't be written"):
            Recorder("agent-target:http://127.0.0.1:1", ["a"], tmp_path / "nowhere" / "r.jsonl")
