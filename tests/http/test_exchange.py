"""One request over a real socket: what is sent, what failures mean, when it is sent again."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import json
import logging
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3

from mlflow_agent_target import (
    AgentError,
    AgentTargetClient,
    AuthenticationError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    InvalidInputError,
    InvalidResponseError,
    RateLimitError,
    RequestTimeoutError,
)
from mlflow_agent_target.errors import AgentTargetError
from mlflow_agent_target.http.exchange import Transport
from mlflow_agent_target.http.options import RequestOptions
from mlflow_agent_target.http.steps import perform
from mlflow_agent_target.target.login import Login
from mlflow_agent_target.target.settings import Backoff
from tests.conftest import user
from tests.scripted import CLOSE, RESET, Answer, ScriptedServer, chunked, events, whole

Make = Callable[..., ScriptedServer]
ANSWER = {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ho"}]}]}
NOT_READY = whole({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "not ready"}, 503)


def client_of(server: ScriptedServer, **options: Any) -> AgentTargetClient:
    return AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent", **options)


def test_a_request_is_the_payload_and_says_who_sends_it(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_TARGET_TOKEN", "hunter2")
    monkeypatch.setenv("DATABRICKS_TOKEN", "hunter3")
    server = scripted(whole(ANSWER, headers="x-request-id: r-1\r\n"))
    payload = {"input": [user("é\u2028")], "databricks_options": {"return_trace": True}}
    response = client_of(server).predict(endpoint="my agent", inputs=payload)
    request = server.posts[0]
    assert request.path == "/serving-endpoints/my%20agent/invocations"
    assert request.json == payload
    assert request.headers["authorization"] == "Bearer hunter2"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "application/json"
    assert request.headers["user-agent"].startswith("mlflow-agent-target/")
    assert response == ANSWER
    assert response.request_id == "r-1"


def test_no_token_and_no_netrc_login_goes_to_a_plain_base_url(
    scripted: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("DATABRICKS_TOKEN", "hunter3")
    server = scripted(whole(ANSWER))
    client_of(server).predict(endpoint="a", inputs="hi")
    assert "authorization" not in server.posts[0].headers


def test_calls_in_a_row_use_one_connection_whoever_makes_the_client(scripted: Make) -> None:
    server = scripted(whole(ANSWER))
    for _ in range(20):
        client_of(server).predict(endpoint="a", inputs="hi")
    assert {request.connection for request in server.posts} == {1}


def test_threads_share_a_client_without_crosstalk(server: Any) -> None:
    client = AgentTargetClient(server.target_uri)
    wrong: list[tuple[str, str]] = []

    def ask(thread: int) -> None:
        for turn in range(5):
            question = f"{thread} {turn}"
            answer = client.predict(endpoint="chat_model", inputs={"messages": [user(question)]}).output_text
            streamed = "".join(client.predict_stream(endpoint="chat_model", inputs=question).text_stream)
            if not answer == streamed == question:
                wrong.append((question, answer))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_gzipped_answer_is_read(scripted: Make) -> None:
    body = gzip.compress(json.dumps(ANSWER).encode())
    server = scripted(whole(body, headers="Content-Encoding: gzip\r\n"))
    assert client_of(server).predict(endpoint="a", inputs="hi") == ANSWER


@pytest.mark.parametrize(
    ("first", "sent"),
    [
        pytest.param(NOT_READY, 2, id="503 is sent again"),
        pytest.param(whole({"message": "slow down"}, 429), 2, id="429 is sent again"),
        *(
            pytest.param(whole({"message": "no"}, status), 1, id=f"{status} is not")
            for status in (400, 401, 403, 404, 408, 409, 413, 422, 500, 501, 502, 504)
        ),
        pytest.param([RESET], 1, id="a reset is not"),
        pytest.param([CLOSE], 1, id="a connection closed without an answer is not"),
        pytest.param([b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{", CLOSE], 1, id="a cut answer is not"),
        pytest.param(whole(b"<html>"), 1, id="nonsense is not"),
    ],
)
def test_only_what_the_agent_cannot_have_seen_is_sent_again(first: Answer, sent: int, scripted: Make) -> None:
    server = scripted(first, whole(ANSWER))
    try:
        assert client_of(server).predict(endpoint="a", inputs="hi") == ANSWER
    except AgentTargetError as error:
        assert sent == 1
        assert error.attempts == 1  # noqa: PT017
    assert len(server.posts) == sent


@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_an_idempotent_call_is_sent_again_after_every_passing_failure(status: int, scripted: Make) -> None:
    server = scripted(whole({"message": "no"}, status), whole(ANSWER))
    assert client_of(server, idempotent=True).predict(endpoint="a", inputs="hi") == ANSWER
    assert len(server.posts) == 2


def test_retries_end_with_the_last_answer(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    server = scripted(
        whole({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"}, 429, headers="Retry-After: 0\r\n")
    )
    with pytest.raises(RateLimitError, match="REQUEST_LIMIT_EXCEEDED: slow down") as caught:
        client_of(server).predict(endpoint="a", inputs="hi")
    assert (caught.value.attempts, caught.value.retry_after, len(server.posts)) == (3, 0, 3)
    assert caught.value.body == {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"}


class Clock:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_waits_are_logged_and_kept_within_the_total_time(scripted: Make, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    server = scripted(NOT_READY)
    transport = Transport(Login(server.url, dict), clock=clock)
    options = RequestOptions(endpoint="a", total_timeout=20, backoff=Backoff(jitter=0))
    with caplog.at_level(logging.INFO), pytest.raises(EndpointUnavailableError) as caught:
        perform(transport.post(server.url, b"{}", options))
    assert clock.slept == [2, 4, 8]
    assert caught.value.attempts == 4
    assert "Attempt 3 failed, trying again in 8.0 s: Endpoint 'a' answered 503" in caplog.text


def test_a_login_that_takes_all_the_time_to_be_made_anew_leaves_the_refusal(scripted: Make) -> None:
    clock = Clock()
    server = scripted(whole({"message": "expired"}, 401))

    def log_in() -> Login:
        clock.sleep(30)
        return Login(server.url, lambda: {"Authorization": "Bearer new"})

    transport = Transport(Login(server.url, dict, log_in=log_in), clock=clock)
    with pytest.raises(AuthenticationError, match="expired") as caught:
        perform(transport.post(server.url, b"{}", RequestOptions(total_timeout=20)))
    assert (caught.value.may_have_run, caught.value.attempts) == (False, 1)


def test_nothing_listening_is_an_error_with_the_next_step() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(EndpointUnavailableError, match="run-local") as caught:
        AgentTargetClient(f"agent-target:http://127.0.0.1:{port}").predict(endpoint="a", inputs="hi")
    assert caught.value.may_have_run is False
    assert f"http://127.0.0.1:{port}" in str(caught.value)
    assert "Connection refused" in str(caught.value)


def test_a_host_that_is_not_there_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(EndpointUnavailableError, match="Check the address") as caught:
        AgentTargetClient("agent-target:http://nobody.invalid").predict(endpoint="a", inputs="hi")
    assert caught.value.may_have_run is False


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 X\r\n\r\n", None], ids=["plain HTTP", "silence"])
def test_a_server_that_speaks_no_tls_was_not_asked(greeting: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    accepted = []

    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted.append(listener.accept()[0])
                if greeting:
                    accepted[-1].sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        client = AgentTargetClient(f"agent-target:https://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(EndpointUnavailableError, match="was not asked") as caught:
            client.with_options(timeout=0.5, interface="ChatAgent").predict(endpoint="a", inputs="hi")
    for connection in accepted:
        connection.close()
    assert caught.value.may_have_run is False


@pytest.mark.parametrize(
    "answer", [[5.0], [b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n{", 5.0]], ids=["head", "body"]
)
def test_an_agent_that_is_too_slow_may_still_be_running(answer: Answer, scripted: Make) -> None:
    server = scripted(answer)
    with pytest.raises(RequestTimeoutError, match="with_options") as caught:
        client_of(server, timeout=0.2).predict(endpoint="a", inputs="hi")
    assert caught.value.may_have_run is True
    assert len(server.posts) == 1


def test_a_body_that_trickles_is_bounded_as_a_whole(scripted: Make) -> None:
    head = b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n"
    server = scripted([head, *[part for _ in range(100) for part in (b" ", 0.05)]])
    started = time.monotonic()
    with pytest.raises(RequestTimeoutError):
        client_of(server, timeout=0.5).predict(endpoint="a", inputs="hi")
    assert time.monotonic() - started < 3


def test_an_errors_body_that_trickles_is_bounded_too(scripted: Make) -> None:
    head = b"HTTP/1.1 400 X\r\nContent-Length: 100\r\n\r\nkaput"
    server = scripted([head, *[part for _ in range(95) for part in (b" ", 0.05)]])
    started = time.monotonic()
    with pytest.raises(AgentError, match="400: kaput"):
        client_of(server, timeout=0.5).predict(endpoint="a", inputs="hi")
    assert time.monotonic() - started < 3


def test_an_attempt_takes_no_longer_than_all_may_take_together(scripted: Make) -> None:
    server = scripted([5.0])
    with pytest.raises(RequestTimeoutError):
        client_of(server, total_timeout=0.3).predict(endpoint="a", inputs="hi")


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"timeout": 0.2}, r"with_options\(timeout=\.\.\."),
        ({"timeout": 5, "total_timeout": 0.2}, r"with_options\(total_timeout=\.\.\."),
    ],
)
@pytest.mark.parametrize("call", ["predict", "predict_stream"])
def test_the_advice_is_for_the_limit_that_was_met(
    options: dict[str, float], advice: str, call: str, scripted: Make
) -> None:
    slow = [5.0] if call == "predict" else chunked([5.0])
    with pytest.raises(RequestTimeoutError, match=advice):
        list(getattr(client_of(scripted(slow), **options), call)(endpoint="a", inputs="hi"))


def test_finding_out_what_is_served_counts_as_time_of_the_call(scripted: Make) -> None:
    server = scripted(whole(ANSWER), describe=[1.0, *whole({"task": "agent/v1/responses"})])
    client = AgentTargetClient(server.target_uri).with_options(timeout=0.3, total_timeout=0.3)
    with pytest.raises(RequestTimeoutError, match="was not asked") as caught:
        client.predict(endpoint="a", inputs="hi")
    assert (caught.value.may_have_run, server.posts) == (False, [])


def test_what_the_caller_was_handling_says_nothing_of_this_call(scripted: Make) -> None:
    """A fallback, called while the primary's refused connection is being handled."""
    server = scripted([RESET])
    try:
        raise ConnectionRefusedError("the primary's") from urllib3.exceptions.NewConnectionError(None, "no")
    except ConnectionRefusedError:
        with pytest.raises(EndpointUnavailableError) as caught:
            client_of(server).predict(endpoint="a", inputs="hi")
    assert (caught.value.may_have_run, len(server.posts)) == (True, 1)


@pytest.mark.parametrize("answer", [[RESET], [CLOSE]], ids=["reset", "closed"])
def test_a_broken_connection_may_have_run_the_agent(answer: Answer, scripted: Make) -> None:
    with pytest.raises(EndpointUnavailableError) as caught:
        client_of(scripted(answer)).predict(endpoint="a", inputs="hi")
    assert caught.value.may_have_run is True


def test_a_redirect_is_not_followed(scripted: Make) -> None:
    other = scripted(whole(ANSWER))
    server = scripted(whole({}, 307, headers=f"Location: {other.url}/serving-endpoints/a/invocations\r\n"))
    with pytest.raises(InvalidResponseError, match=f"127.0.0.1:{other.port}"):
        client_of(server).predict(endpoint="a", inputs="hi")
    assert other.received == []


@pytest.mark.parametrize("raw", [b"<html><title>Sign in</title></html>", b"", b"{", b"\xff", b"3", b"null", b"true"])
def test_an_answer_that_is_none_is_an_error(raw: bytes, scripted: Make) -> None:
    with pytest.raises(InvalidResponseError):
        client_of(scripted(whole(raw, content_type="text/html"))).predict(endpoint="a", inputs="hi")


UMLAUT = {"predictions": "h\u00f6"}


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [
        (json.dumps(UMLAUT, ensure_ascii=False).encode(), "application/json"),
        (json.dumps(UMLAUT, ensure_ascii=False).encode("latin-1"), "application/json; charset=iso-8859-1"),
        (json.dumps(UMLAUT, ensure_ascii=False).encode("utf-16"), 'application/json; charset="UTF-16"'),
        (json.dumps(UMLAUT, ensure_ascii=False).encode(), "application/json; charset=utf-8"),
        (json.dumps(UMLAUT, ensure_ascii=False).encode(), "application/json; charset=nonsense"),
        (json.dumps(UMLAUT, ensure_ascii=False).encode(), "application/json; charset=rot13"),
        (
            b"\xff\xfe" + json.dumps(UMLAUT, ensure_ascii=False).encode("utf-16-le"),
            "application/json; charset=utf-16-le",
        ),
        (b"\xef\xbb\xbf" + json.dumps(UMLAUT).encode(), "application/json"),
    ],
)
def test_an_answer_is_read_in_the_charset_that_it_names(raw: bytes, content_type: str, scripted: Make) -> None:
    assert client_of(scripted(whole(raw, content_type=content_type))).predict(endpoint="a", inputs="hi") == UMLAUT
    with pytest.raises(AgentError) as caught:
        client_of(scripted(whole(raw, 400, content_type=content_type))).predict(endpoint="a", inputs="hi")
    assert caught.value.body == UMLAUT


def test_bytes_that_are_no_text_are_replaced(scripted: Make) -> None:
    server = scripted(whole(b'{"predictions": "h\xff"}'))
    assert client_of(server).predict(endpoint="a", inputs="hi").output_text == "h\ufffd"


@pytest.mark.parametrize("raw", [b'"ho"', b'["ho"]', b'{"predictions": "ho"}'])
def test_a_bare_prediction_is_an_answer(raw: bytes, scripted: Make) -> None:
    assert client_of(scripted(whole(raw))).predict(endpoint="a", inputs="hi").output_text == "ho"


@pytest.mark.parametrize(
    "body",
    [
        {"output": [], "status": "failed", "error": {"code": "c", "message": "kaput"}},
        {"output": [], "databricks_output": {"error": {"error_code": "BAD_REQUEST", "message": "kaput"}}},
        {"error": "kaput"},
    ],
)
def test_a_failure_with_status_200_is_a_failure(body: dict[str, Any], scripted: Make) -> None:
    with pytest.raises(AgentError, match="kaput") as caught:
        client_of(scripted(whole(body))).predict(endpoint="a", inputs="hi")
    assert (caught.value.status_code, caught.value.body) == (200, body)


SAID = "bad token hunter2\nforged line"
PAGE = whole(f"<pre>{SAID}".encode(), content_type="text/html")


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        pytest.param("predict", whole({"error_code": "X", "message": SAID}, 401), id="an error"),
        pytest.param("predict", PAGE, id="a page"),
        pytest.param("predict", whole({"error": {"message": SAID}}), id="a failure with status 200"),
        pytest.param("predict_stream", chunked([events({"error": {"message": SAID}})]), id="an event"),
        pytest.param("predict_stream", chunked([events(SAID)]), id="an event that is none"),
        pytest.param("predict_stream", whole({"error": {"message": SAID}}), id="a failure in place of a stream"),
        pytest.param("predict_stream", PAGE, id="a page in place of a stream"),
    ],
)
def test_a_token_is_in_no_error_and_no_log(
    call: str, answer: Answer, scripted: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AGENT_TARGET_TOKEN", "hunter2")
    client = client_of(scripted(answer))
    with caplog.at_level(logging.DEBUG), pytest.raises(AgentTargetError) as caught:
        list(getattr(client, call)(endpoint="a", inputs="hi"))
    assert "hunter2" not in f"{caught.value} {caught.value.body} {caplog.text}"
    assert "\n" not in str(caught.value)
    assert "bad token [redacted]" in str(caught.value)


def test_what_a_trace_adds_to_a_request_is_no_secret(scripted: Make) -> None:
    body = {"message": "kaput", "fatal": True}
    server = scripted(whole(body, 400))
    options = RequestOptions(headers={"x-mlflow-return-trace-id": "true"})
    with pytest.raises(AgentError) as caught:
        perform(Transport(Login(server.url, dict)).post(server.url, b"{}", options))
    assert caught.value.body == body


def test_a_tls_connection_that_breaks_after_the_request_may_have_run_the_agent(tmp_path: Path) -> None:
    """Unlike a failed handshake, though the error is of the same class."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer(listener: socket.socket) -> None:
        raw, _ = listener.accept()
        with contextlib.suppress(OSError):
            context.wrap_socket(raw, server_side=True).recv(65536)
        raw.close()

    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as environment:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        uri = f"agent-target:https://127.0.0.1:{listener.getsockname()[1]}"
        environment.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with pytest.raises(EndpointUnavailableError) as caught:
            AgentTargetClient(uri).with_options(interface="ChatAgent").predict(endpoint="a", inputs="hi")
    assert caught.value.may_have_run is True


# Connections that were kept alive


def test_a_connection_that_the_server_has_closed_is_not_used_again(scripted: Make) -> None:
    server = scripted([*whole(ANSWER), CLOSE])
    client = client_of(server)
    for _ in range(5):
        assert client.predict(endpoint="a", inputs="hi") == ANSWER
        time.sleep(0.05)
    assert [request.connection for request in server.posts] == [1, 2, 3, 4, 5]


class ClosesUnread:
    """Answers on each connection once; what comes after that it does not read."""

    def __init__(self) -> None:
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        length = 0
        while line := reader.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        reader.read(length)
        self.requests += 1
        connection.sendall(whole(ANSWER)[0])  # type: ignore[arg-type]
        # A few bytes of the next request, and the connection is reset.
        connection.recv(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reader.close()
        connection.close()

    def stop(self) -> None:
        self._listener.close()


def test_a_request_that_was_cut_off_in_the_sending_is_sent_again_at_once() -> None:
    """The agent can't have run: it takes a whole request. Large, so that the socket can't take it all at once."""
    server = ClosesUnread()
    payload = {"input": [user("x" * 20_000_000)]}
    client = AgentTargetClient(f"agent-target:{server.url}").with_options(interface="ResponsesAgent")
    assert client.predict(endpoint="a", inputs="hi") == ANSWER
    assert client.predict(endpoint="a", inputs=payload) == ANSWER
    server.stop()
    assert server.requests == 2


def test_a_request_that_is_always_cut_off_says_that_the_agent_has_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(10)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()

        threading.Thread(target=reset, daemon=True).start()
        uri = f"agent-target:http://127.0.0.1:{listener.getsockname()[1]}"
        client = AgentTargetClient(uri).with_options(interface="ResponsesAgent")
        with pytest.raises(EndpointUnavailableError, match="before the whole request was there") as caught:
            client.predict(endpoint="a", inputs={"input": [user("x" * 20_000_000)]})
    assert (caught.value.may_have_run, caught.value.attempts) == (False, 3)


def test_a_large_payload_may_be_refused_while_it_is_sent() -> None:
    """The server's answer counts, though the rest of the request could not be sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(whole({"error_code": "BAD_REQUEST", "message": "too large"}, 413)[0])  # type: ignore[arg-type]
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1_000_000):
                pass
            connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        uri = f"agent-target:http://127.0.0.1:{listener.getsockname()[1]}"
        client = AgentTargetClient(uri).with_options(interface="ResponsesAgent")
        with pytest.raises(InvalidInputError, match=r"20,000,0\d\d bytes \(20.0 MB\).*4 MB for agents"):
            client.predict(endpoint="a", inputs={"input": [user("x" * 20_000_000)]})


# An endpoint that is starting


def test_an_endpoint_that_is_starting_is_waited_for(scripted: Make, caplog: pytest.LogCaptureFixture) -> None:
    server = scripted(*[NOT_READY] * 12, whole(ANSWER))
    with caplog.at_level(logging.INFO):
        assert client_of(server, wait_until_ready=60).predict(endpoint="a", inputs="hi") == ANSWER
    assert len(server.posts) == 13
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "Endpoint 'a' is warming up" in warnings[0]
    assert "60 s" in warnings[0]


def test_an_endpoint_that_does_not_start_in_time_is_told_with_its_last_answer(scripted: Make) -> None:
    server = scripted(NOT_READY)
    with pytest.raises(EndpointUnavailableError, match="not ready") as caught:
        client_of(server, wait_until_ready=0.3).predict(endpoint="a", inputs="hi")
    assert caught.value.body == {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "not ready"}
    assert 2 <= len(server.posts) <= 5
    assert caught.value.attempts == len(server.posts)


def test_a_timeout_after_a_start_keeps_what_was_answered_before(scripted: Make) -> None:
    server = scripted(NOT_READY, [5.0])
    with pytest.raises(RequestTimeoutError, match=r"Before that it answered 503: .*not ready") as caught:
        client_of(server, timeout=0.3).predict(endpoint="a", inputs="hi")
    assert caught.value.body == {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "not ready"}
    assert (caught.value.may_have_run, caught.value.attempts) == (True, 2)


@pytest.mark.parametrize("exists", [True, False])
def test_an_endpoint_that_answers_404_is_waited_for_if_it_exists(exists: bool, scripted: Make) -> None:
    gone = whole({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no served entity yet"}, 404)
    server = scripted(gone, gone, whole(ANSWER), describe=whole({"name": "a"}) if exists else gone)
    client = client_of(server, wait_until_ready=60)
    if exists:
        assert client.predict(endpoint="a", inputs="hi") == ANSWER
        assert len(server.posts) == 3
    else:
        with pytest.raises(EndpointNotFoundError):
            client.predict(endpoint="a", inputs="hi")
        assert len(server.posts) == 1


def test_a_server_that_is_not_up_yet_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    answers = []
    client = AgentTargetClient(f"agent-target:http://127.0.0.1:{port}")
    client = client.with_options(interface="ResponsesAgent", wait_until_ready=60)
    asking = threading.Thread(target=lambda: answers.append(client.predict(endpoint="a", inputs="hi")))
    asking.start()
    time.sleep(0.5)
    with socket.create_server(("127.0.0.1", port)) as listener:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(whole(ANSWER)[0])  # type: ignore[arg-type]
        asking.join()
        connection.close()
    assert answers == [ANSWER]


def test_the_time_for_all_attempts_begins_when_the_endpoint_is_up(scripted: Make) -> None:
    clock = Clock()
    busy = whole({"message": "slow down"}, 429, headers="Retry-After: 15\r\n")
    server = scripted(*[NOT_READY] * 6, busy, whole(ANSWER))
    transport = Transport(Login(server.url, dict), clock=clock)
    options = RequestOptions(endpoint="a", total_timeout=20, wait_until_ready=100, backoff=Backoff(jitter=0))
    assert perform(transport.post(server.url, b"{}", options)).value == ANSWER
    assert clock.slept == [2, 4, 8, 10, 10, 10, 15]


def test_http_clients_own_debugging_can_be_turned_on(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    assert client_of(scripted(whole(ANSWER))).predict(endpoint="a", inputs="hi") == ANSWER


def test_a_child_process_opens_connections_of_its_own(scripted: Make) -> None:
    server = scripted(whole(ANSWER))
    client = client_of(server)
    client.predict(endpoint="a", inputs="hi")
    if (child := os.fork()) == 0:
        is_answered = client.predict(endpoint="a", inputs="hi") == ANSWER
        os._exit(0 if is_answered else 1)
    assert os.waitpid(child, 0)[1] == 0
    client.predict(endpoint="a", inputs="hi")
    first, childs, last = (request.connection for request in server.posts)
    assert first == last != childs


def test_a_proxy_of_the_environments_is_used(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = scripted(whole(ANSWER))
    monkeypatch.setenv("http_proxy", proxy.url)
    client = AgentTargetClient("agent-target:http://agents.invalid/prefix").with_options(interface="ResponsesAgent")
    for _ in range(2):
        assert client.predict(endpoint="a", inputs="hi") == ANSWER
    assert {request.path for request in proxy.posts} == {"http://agents.invalid/prefix/serving-endpoints/a/invocations"}
    assert {request.connection for request in proxy.posts} == {1}


def test_a_proxy_that_is_set_later_is_used_by_the_next_client(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    direct, proxy = scripted(whole(ANSWER)), scripted(whole(ANSWER))
    monkeypatch.setenv("no_proxy", "")
    client_of(direct).predict(endpoint="a", inputs="hi")
    monkeypatch.setenv("http_proxy", proxy.url)
    client_of(direct).predict(endpoint="a", inputs="hi")
    assert (len(direct.posts), len(proxy.posts)) == (1, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_asked_directly(host: str, scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = scripted(whole(ANSWER))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://user:hunter2@proxy.invalid:3128")
    monkeypatch.setenv("AGENT_TARGET_TOKEN", "t")
    client = AgentTargetClient(f"agent-target:http://{host}:{server.port}")
    assert client.predict(endpoint="a", inputs="hi") == ANSWER
    assert [request.path for request in server.posts] == ["/serving-endpoints/a/invocations"]


@pytest.mark.parametrize("password", ["p#q", "p/q", "p?q", "p@q"])
def test_a_proxys_password_may_hold_what_ends_a_host(
    password: str, scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = scripted(whole(ANSWER))
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://me:{password}@127.0.0.1:{proxy.port}")
    AgentTargetClient("agent-target:http://agents.invalid").predict(endpoint="a", inputs="hi")
    login = base64.b64encode(f"me:{password}".encode()).decode()
    assert proxy.posts[0].headers["proxy-authorization"] == f"Basic {login}"
