"""Who may reach a local server's agents: whatever runs on this machine, and no web page of another site."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mlflow_agent_target import AgentTargetClient, InvalidInputError, serve
from mlflow_agent_target.server import LocalServer
from tests.conftest import DEMO

JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"input": [{"role": "user", "content": "hi"}]}).encode()
PATH = "/serving-endpoints/a/invocations"
FRONT_END = "http://localhost:3000"


@pytest.fixture(scope="module")
def own(tracking_store: None) -> Iterator[LocalServer]:
    with serve({"a": DEMO / "responses_agent.py"}, allowed_origins=[FRONT_END], max_request_bytes=1000) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tracking_store: None) -> Iterator[LocalServer]:
    with serve({"a": DEMO / "responses_agent.py"}, token="s3cret") as running:
        yield running


def ask(
    server: LocalServer, headers: dict[str, str], method: str = "POST", path: str = PATH, body: Any = BODY
) -> tuple[int, str, http.client.HTTPMessage]:
    """What is answered to exactly these headers."""
    address = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    sent = {"Host": address, **headers}
    if method == "POST" and "Transfer-Encoding" not in sent:
        sent.setdefault("Content-Length", str(len(body)))
    for name, value in sent.items():
        connection.putheader(name, value.replace("PORT", address.partition(":")[2]))
    connection.endheaders(body if method == "POST" else None)
    response = connection.getresponse()
    answer = response.status, response.read().decode(), response.headers
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:PORT"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "agents.localhost:1"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:PORT"}, 200),
        ({"Host": socket.gethostname()}, 200),
        ({"Host": "evil.example:PORT"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "10.1.2.3"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://127.0.0.1:PORT"}, 200),
        ({"Origin": FRONT_END}, 200),
        ({"Origin": FRONT_END, "Sec-Fetch-Site": "same-site"}, 200),
        ({"Origin": "http://localhost:3001"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example", "Origin": FRONT_END}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Content-Type": "text/plain;charset=UTF-8"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded", "Origin": FRONT_END}, 415),
        ({"Content-Type": "", "Sec-Fetch-Site": "none"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 200),  # as urllib and curl -d have it
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": "application/vnd.api+json"}, 200),
    ],
    ids=str,
)
def test_who_is_answered(headers: dict[str, str], status: int, own: LocalServer) -> None:
    found, body, _ = ask(own, {**JSON, **headers})
    assert found == status, body
    if status != 200:
        answer = json.loads(body)
        assert answer["error_code"] == {403: "PERMISSION_DENIED", 415: "UNSUPPORTED_MEDIA_TYPE"}[status]
        assert {"Host": "-C token=", "Origin": "-C allowed_origins="}.get(next(iter(headers)), "") in answer["message"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/health", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ("GET", "/api/2.0/serving-endpoints", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("GET", "/api/2.0/serving-endpoints", {"Origin": "https://evil.example"}, 403),
        ("GET", "/api/2.0/serving-endpoints", {"Host": "evil.example"}, 403),
    ],
)
def test_a_link_may_be_clicked(method: str, path: str, headers: dict[str, str], status: int, own: LocalServer) -> None:
    assert ask(own, headers, method, path)[0] == status


def test_with_a_token_callers_need_nothing_else(guarded: LocalServer) -> None:
    login = {"Authorization": "Bearer s3cret"}
    everything = {"Host": "agents.example", "Origin": "https://x.example", "Content-Type": "text/plain"}
    assert ask(guarded, {**everything, **login})[0] == 200
    assert ask(guarded, everything)[0] == 401


# What a browser asks before it sends a page's request.
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "same-site",
}


class TestFrontEnds:
    def test_a_listed_origin_may_read_answers_and_errors(self, own: LocalServer) -> None:
        status, _, headers = ask(own, {**PREFLIGHT, "Origin": FRONT_END}, "OPTIONS")
        assert status == 200
        assert headers["access-control-allow-origin"] == FRONT_END
        assert "POST" in headers["access-control-allow-methods"]
        assert {"authorization", "content-type"} <= set(headers["access-control-allow-headers"].split(","))
        for body, wanted in ((BODY, 200), (b"{", 400), (b" " * 2000, 413)):
            status, _, headers = ask(own, {**JSON, "Origin": FRONT_END}, body=body)
            assert (status, headers["access-control-allow-origin"]) == (wanted, FRONT_END)
        assert "x-request-id" in headers["access-control-expose-headers"]

    def test_a_page_that_is_refused_is_told_of_once(self, own: LocalServer, caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(2):
            ask(own, {**JSON, "Origin": "http://localhost:4000"})
        (record,) = caplog.records
        assert "http://localhost:4000" in record.getMessage()
        assert "-C allowed_origins=" in record.getMessage()

    def test_no_other_origin_may(self, own: LocalServer, guarded: LocalServer) -> None:
        for server in (own, guarded):
            status, _, headers = ask(server, {**PREFLIGHT, "Origin": "https://evil.example"}, "OPTIONS")
            assert (status >= 400, headers["access-control-allow-origin"]) == (True, None)


class TestLargeRequests:
    @pytest.mark.parametrize("size", [999, 1000, 1001, 5_000_000])
    @pytest.mark.parametrize("is_chunked", [False, True])
    def test_are_refused_before_they_are_read(self, size: int, is_chunked: bool, own: LocalServer) -> None:
        body = BODY + b" " * (size - len(BODY))
        sent: Any = (body[start : start + 65536] for start in range(0, size, 65536)) if is_chunked else body
        answer = requests.post(own.url + PATH, data=sent, headers=JSON, timeout=30)
        assert answer.status_code == (200 if size <= 1000 else 413)
        if size > 1000:
            assert answer.json()["error_code"] == "MAX_REQUEST_SIZE_EXCEEDED"
            assert "1000 bytes" in answer.json()["message"]

    def test_a_caller_who_waits_to_send_is_told_at_once(self, own: LocalServer) -> None:
        with socket.create_connection(("127.0.0.1", int(own.url.rpartition(":")[2]))) as caller:
            caller.settimeout(30)
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            caller.sendall(f"{head}Content-Length: 60000000\r\nExpect: 100-continue\r\n\r\n".encode())
            assert caller.recv(65536).startswith(b"HTTP/1.1 413 ")

    def test_four_megabytes_by_default(self, server: LocalServer) -> None:
        client = AgentTargetClient(server.target_uri)
        assert client.predict(endpoint="responses_agent", inputs="x" * 4_000_000).output_text
        with pytest.raises(Exception, match="4194304 bytes"):
            client.predict(endpoint="responses_agent", inputs="x" * 4_200_000)


class TestSmallThings:
    def test_what_a_request_said_may_be_half_a_character(self, own: LocalServer) -> None:
        status, body, _ = ask(own, JSON, path="/serving-endpoints/responses", body=b'{"model":"\\ud800","input":[]}')
        assert (status, json.loads(body)["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")

    def test_a_slash_at_the_end_changes_nothing(self, own: LocalServer) -> None:
        assert ask(own, JSON, path=f"{PATH}/")[0] == 200
        assert ask(own, {}, "GET", "/api/2.0/serving-endpoints/")[0] == 200
        assert ask(own, JSON, path="/nothing/")[0] == 404

    def test_a_served_entity_is_asked_by_its_name(self, own: LocalServer) -> None:
        described = requests.get(f"{own.url}/api/2.0/serving-endpoints/a", timeout=30).json()
        name = described["config"]["served_entities"][0]["name"]
        status, _, headers = ask(own, JSON, path=f"/serving-endpoints/a/served-models/{name}/invocations")
        assert (status, headers["served-model-name"]) == (200, name)
        assert ask(own, JSON, path="/serving-endpoints/a/served-models/other/invocations")[0] == 404

    @pytest.mark.parametrize("stream", ['"false"', "0", "[]"])
    def test_stream_is_true_or_false(self, stream: str, own: LocalServer) -> None:
        status, body, _ = ask(own, JSON, body=BODY[:-1] + f', "stream": {stream}}}'.encode())
        assert (status, "'stream' must be true or false" in body) == (400, True)

    def test_a_null_stream_is_none(self, own: LocalServer) -> None:
        assert ask(own, JSON, body=BODY[:-1] + b', "stream": null}')[2]["content-type"] == "application/json"

    def test_a_caller_who_leaves_while_sending_is_no_failure(
        self, own: LocalServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        for declared in ("500", "5000"):
            with socket.create_connection(("127.0.0.1", int(own.url.rpartition(":")[2]))) as caller:
                head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                caller.sendall(f"{head}Content-Length: {declared}\r\n\r\n{{".encode())
        assert ask(own, JSON)[0] == 200
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    def test_an_idle_connection_is_kept(self, own: LocalServer) -> None:
        """httpx keeps its own for 5 seconds: a server that keeps them no longer fails calls now and then."""
        connection = http.client.HTTPConnection(own.url.removeprefix("http://"), timeout=30)
        for _ in range(2):
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            kept = connection.sock
            time.sleep(5.5)
            assert connection.sock is kept
        connection.close()

    def test_an_agents_file_that_exits_is_refused(self, tmp_path: Path) -> None:
        agent = tmp_path / "agent.py"
        agent.write_text("import sys\nsys.exit(3)\n")
        with pytest.raises(InvalidInputError, match="can't be run: SystemExit: 3"):
            serve({"a": agent})

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"token": ""}, "token is empty"),
            ({"token": " "}, "token is empty"),
            ({"allowed_origins": ["localhost:3000"]}, "list of origins"),
            ({"allowed_origins": ["http://localhost:3000/page"]}, "list of origins"),
            ({"allowed_origins": ["*"]}, "list of origins"),
            ({"allowed_origins": "http://a.example,*"}, "list of origins"),
            ({"max_request_bytes": 0}, "max_request_bytes"),
            ({"max_request_bytes": "4MB"}, "max_request_bytes"),
        ],
        ids=str,
    )
    def test_what_can_not_be_an_option(self, options: Any, says: str) -> None:
        with pytest.raises(InvalidInputError, match=says):
            serve({"a": DEMO / "responses_agent.py"}, **options)
