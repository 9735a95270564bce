"""One connection: heads, framings and time limits, and what is known of a request that got no answer."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_target import (
    AgentTargetClient,
    EndpointUnavailableError,
    InvalidInputError,
    InvalidResponseError,
    RequestTimeoutError,
)
from mlflow_agent_target.http.exchange import Transport
from mlflow_agent_target.http.framing import Chunks, MalformedError
from mlflow_agent_target.http.options import RequestOptions
from mlflow_agent_target.http.steps import perform
from mlflow_agent_target.target.login import Login
from tests.scripted import CLOSE, Answer, ScriptedServer

Make = Callable[..., ScriptedServer]


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    extension=st.sampled_from([b"", b";x=1"]),
    trailer=st.sampled_from([b"", b"Checked: yes\r\n"]),
    after=st.sampled_from([b"", b"HTTP/1.1 200 OK"]),
    places=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_chunks_add_up_however_they_arrive(
    chunks: list[bytes], extension: bytes, trailer: bytes, after: bytes, places: list[int]
) -> None:
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    reader = Chunks()
    pieces = cut(framed + b"0\r\n" + trailer + b"\r\n" + after, places)
    read = []
    while not reader.is_over:
        read.append(reader.feed(pieces.pop(0)))
    assert b"".join(read) == b"".join(chunks)
    assert reader.rest + b"".join(pieces) == after


def test_all_chunks_that_have_arrived_are_given_at_once() -> None:
    reader = Chunks()
    assert [reader.feed(piece) for piece in (b"1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n0\r\n\r\n")] == [b"ab", b"c"]
    assert reader.is_over


@pytest.mark.parametrize("rest", [b"nonsense\r\n", b"-1\r\n", b"\r\n", b"f" * 70_000])
def test_what_is_no_chunk_is_told_after_what_came_before_it(rest: bytes) -> None:
    reader = Chunks()
    assert reader.feed(b"1\r\na\r\n" + rest) == b"a"
    with pytest.raises(MalformedError):
        reader.feed(b"1\r\nb\r\n")


# Heads and framings, over a real socket.

ANSWER = {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ho"}]}]}
RAW = json.dumps(ANSWER).encode()
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%s\r\n" % (len(RAW), RAW)
SIZED = OK + b"Content-Length: %d\r\n\r\n" % len(RAW)


def client_of(server: ScriptedServer, **options: Any) -> AgentTargetClient:
    return AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent", **options)


READABLE: dict[str, Answer] = {
    "100, then the answer": [b"HTTP/1.1 100 Continue\r\n\r\n", SIZED + RAW],
    "102, later the answer": [b"HTTP/1.1 102 Processing\r\n\r\n", 0.1, SIZED + RAW],
    "103 with headers, in one packet": [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + SIZED + RAW],
    "many interim answers": [b"HTTP/1.1 102 Processing\r\n\r\n" * 50 + SIZED + RAW],
    "a head a byte at a time": [SIZED[i : i + 1] for i in range(len(SIZED))] + [RAW],
    "lines that end with LF": [SIZED.replace(b"\r\n", b"\n") + RAW],
    "no reason": [SIZED.replace(b" OK", b"") + RAW],
    "the same length twice": [OK + b"Content-Length: %d\r\ncontent-length: %d\r\n\r\n" % (len(RAW), len(RAW)) + RAW],
    "a header that goes on in the next line": [OK + b"X: a\r\n b\r\nContent-Length: %d\r\n\r\n" % len(RAW) + RAW],
    "a line that is no header": [OK + b"nonsense\r\nContent-Length: %d\r\n\r\n" % len(RAW) + RAW],
    "chunks and a length": [OK + b"Content-Length: 3\r\n" + CHUNKED[len(OK) :] + CHUNK + b"0\r\n\r\n"],
    "a trailer": [CHUNKED + CHUNK + b"0\r\nX: y\r\n\r\n"],
    "the last chunk without its blank line": [CHUNKED + CHUNK + b"0\r\n", CLOSE],
    "neither length nor chunks": [OK + b"\r\n" + RAW, CLOSE],
    "HTTP/1.0": [b"HTTP/1.0 200 OK\r\n\r\n" + RAW, CLOSE],
}  # fmt: skip


@pytest.mark.parametrize("answer", READABLE.values(), ids=READABLE)
def test_an_answer_is_read_as_the_standard_has_it(answer: Answer, scripted: Make) -> None:
    server = scripted(answer)
    client = client_of(server, timeout=5)
    for _ in range(2):
        assert client.predict(endpoint="a", inputs="hi") == ANSWER
    assert len(server.posts) == 2


UNREADABLE: dict[str, bytes] = {
    "no status line": b"hello\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 two hundred\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20\r\n\r\n",
    "another protocol": b"HTTP/2 200 OK\r\n\r\n",
    "two lengths": OK + b"Content-Length: 14\r\nContent-Length: 15\r\n\r\n" + RAW,
    "a length that is no number": OK + b"Content-Length: many\r\n\r\n" + RAW,
    "a length below nothing": OK + b"Content-Length: -1\r\n\r\n" + RAW,
    "a head without end": OK + b"X: " + b"x" * 400_000,
    "no chunks": OK + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    "no gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain",
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
def test_an_agent_whose_answer_cannot_be_read_may_have_run(raw: bytes, scripted: Make) -> None:
    server = scripted([raw, CLOSE])
    with pytest.raises(InvalidResponseError, match="can't be read") as caught:
        client_of(server).predict(endpoint="a", inputs="hi")
    assert (caught.value.may_have_run, caught.value.retryable, len(server.posts)) == (True, False, 1)


@pytest.mark.parametrize(
    "cut",
    [SIZED[:5], SIZED[:-2], SIZED + RAW[:-1], CHUNKED + CHUNK[:-2]],
    ids=["in the status line", "in the headers", "in a body with a length", "in a chunk"],
)
def test_an_agent_whose_answer_breaks_off_may_have_run(cut: bytes, scripted: Make) -> None:
    server = scripted([cut, CLOSE])
    with pytest.raises(EndpointUnavailableError, match="broke the connection") as caught:
        client_of(server).predict(endpoint="a", inputs="hi")
    assert (caught.value.may_have_run, len(server.posts)) == (True, 1)


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        pytest.param([SIZED + RAW], [1, 1], id="a length"),
        pytest.param([SIZED + RAW + b"HTTP/1.1 200 OK\r\n\r\n"], [1, 2], id="what comes unasked after it"),
        pytest.param([SIZED.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n") + RAW], [1, 2], id="Connection: close"),
        pytest.param([SIZED.replace(b"HTTP/1.1", b"HTTP/1.0") + RAW], [1, 2], id="HTTP/1.0"),
        pytest.param(
            [SIZED.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"OK\r\n", b"OK\r\nConnection: keep-alive\r\n") + RAW],
            [1, 1],
            id="HTTP/1.0 that is kept alive",
        ),
    ],
)
def test_a_connection_is_used_again_where_the_answer_leaves_it_free(
    answer: Answer, connections: list[int], scripted: Make
) -> None:
    server = scripted(answer)
    for _ in connections:
        assert client_of(server).predict(endpoint="a", inputs="hi") == ANSWER
    assert [request.connection for request in server.posts] == connections


@pytest.mark.parametrize("call", ["predict", "predict_stream"])
@pytest.mark.parametrize("status", [204, 205])
def test_a_success_without_content_is_no_answer(call: str, status: int, scripted: Make) -> None:
    server = scripted([b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status])
    with pytest.raises(InvalidResponseError, match=f"answered {status}, which holds no answer") as caught:
        getattr(client_of(server), call)(endpoint="a", inputs="hi")
    assert (caught.value.status_code, caught.value.may_have_run) == (status, True)


# Time: one deadline for all that an attempt reads and writes. What drips here is whole after two seconds.


def dripping(before: bytes, drop: bytes, after: bytes) -> Answer:
    return [before, *[step for _ in range(20) for step in (drop, 0.1)], after]


GZIPPED = gzip.compress(RAW)
NAMED_GZIP = GZIPPED[:3] + b"\x08" + GZIPPED[4:10]  # a head of gzip's that holds a file's name
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPS: dict[str, Answer] = {
    "the status line": dripping(b"HTTP/1.1 200 ", b"O", b"\r\n" + SIZED[len(OK) :] + RAW),
    "header lines": dripping(OK, b"X-A: b\r\n", SIZED[len(OK) :] + RAW),
    "interim answers": dripping(b"", b"HTTP/1.1 102 Processing\r\n\r\n", SIZED + RAW),
    "a body": dripping(OK + b"Content-Length: %d\r\n\r\n" % (len(RAW) + 20), b" ", RAW),
    "a chunk's size": dripping(CHUNKED, b"0", CHUNK + b"0\r\n\r\n"),
    "a trailer": dripping(CHUNKED + CHUNK + b"0\r\n", b"X-A: b\r\n", b"\r\n"),
    "a compressed head": dripping(
        OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (len(GZIPPED) + 21) + NAMED_GZIP,
        b"n",
        b"\0" + GZIPPED[10:],
    ),
}  # fmt: skip


@pytest.mark.parametrize("answer", DRIPS.values(), ids=DRIPS)
def test_an_answer_that_drips_is_bounded_as_a_whole(answer: Answer, scripted: Make) -> None:
    server = scripted(answer)
    with pytest.raises(RequestTimeoutError) as caught:
        client_of(server, timeout=0.4).predict(endpoint="a", inputs="hi")
    assert (caught.value.may_have_run, len(server.posts)) == (True, 1)


@pytest.mark.parametrize("answer", DRIPS.values(), ids=DRIPS)
def test_what_drips_is_an_answer_to_who_waits_for_it(answer: Answer, scripted: Make) -> None:
    assert client_of(scripted(answer), timeout=20).predict(endpoint="a", inputs="hi") == ANSWER


def test_a_stream_is_bounded_within_a_chunks_frame(scripted: Make) -> None:
    event = b'data: {"type": "response.output_text.delta", "item_id": "m", "delta": "ho"}\n\n'
    chunk = b"%x\r\n%s\r\n" % (len(event), event)
    answer = dripping(EVENTS + chunk, b"0", b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    stream = client_of(scripted(answer), idle_timeout=0.4).predict_stream(endpoint="a", inputs="hi")
    with pytest.raises(RequestTimeoutError, match=r"silent for 0\.4 s"):
        stream.get_final_response()


class Unread:
    """Takes connections, reads a little of the first request, and maybe answers."""

    def __init__(self, answer: bytes = b"") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._answer = answer
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._connections.append(self._listener.accept()[0])
                self._connections[-1].recv(1000)
                self._connections[-1].sendall(self._answer)

    def __enter__(self) -> Unread:
        return self

    def __exit__(self, *_: object) -> None:
        for closing in (self._listener, *self._connections):
            closing.close()


LARGE = {"input": [{"role": "user", "content": "x" * 20_000_000}]}


def test_sending_is_bounded_by_the_calls_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Unread() as server:
        client = AgentTargetClient(f"agent-target:{server.url}").with_options(interface="ChatAgent", timeout=0.5)
        with pytest.raises(RequestTimeoutError, match=r"could not be sent within 0\.5 s") as caught:
            client.predict(endpoint="a", inputs={"messages": LARGE["input"]})
    assert caught.value.may_have_run is False


def test_the_answer_of_a_server_that_reads_no_further_counts() -> None:
    refusal = json.dumps({"error_code": "BAD_REQUEST", "message": "too large"}).encode()
    with Unread(b"HTTP/1.1 413 X\r\nContent-Length: %d\r\n\r\n%s" % (len(refusal), refusal)) as server:
        client = AgentTargetClient(f"agent-target:{server.url}").with_options(interface="ResponsesAgent", timeout=0.5)
        with pytest.raises(InvalidInputError, match="too large"):
            client.predict(endpoint="a", inputs=LARGE)


# What is known of a request that got no answer.


@pytest.mark.parametrize("options", [{}, {"wait_until_ready": 1}])
def test_an_agent_behind_a_proxy_is_not_run_again(
    options: dict[str, Any], scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = scripted([CLOSE])
    monkeypatch.setenv("http_proxy", proxy.url)
    client = AgentTargetClient("agent-target:http://agents.invalid").with_options(interface="ChatAgent", **options)
    with pytest.raises(EndpointUnavailableError) as caught:
        client.predict(endpoint="a", inputs="hi")
    assert (caught.value.may_have_run, len(proxy.posts)) == (True, 1)


CONNECTS: dict[str, tuple[Answer, str, bool]] = {
    "closes": ([CLOSE], "HTTPS_PROXY", True),
    "answers nonsense": ([b"nonsense\r\n", CLOSE], "HTTPS_PROXY", True),
    "refuses": ([b"HTTP/1.1 403 No\r\n\r\n", CLOSE], "403 No", True),
    "wants a login": ([b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", CLOSE], "USER:PASSWORD@127.0.0.1", False),
    "drips": (dripping(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", b"\r\n"), "timed out", True),
}


@pytest.mark.parametrize(("answer", "said", "retryable"), CONNECTS.values(), ids=CONNECTS)
def test_nothing_was_sent_where_a_proxy_makes_no_connection(
    answer: Answer, said: str, retryable: bool, scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("https_proxy", scripted(answer).url.replace("//", "//me:hunter2@"))
    client = AgentTargetClient("agent-target:https://agents.invalid").with_options(interface="ChatAgent", timeout=0.5)
    with pytest.raises(EndpointUnavailableError, match=r"through the proxy 127\.0\.0\.1") as caught:
        client.predict(endpoint="a", inputs="hi")
    assert said in str(caught.value)
    assert (caught.value.may_have_run, caught.value.retryable) == (False, retryable)
    assert "hunter2" not in str(caught.value)


SETTINGS = [
    ("REQUESTS_CA_BUNDLE", "/nonexistent/ca.pem", "REQUESTS_CA_BUNDLE"),
    ("https_proxy", "ftp://me:hunter2@127.0.0.1:1", "HTTPS_PROXY"),
    ("https_proxy", "http://me:hunter2@proxy:port", "HTTPS_PROXY"),
    ("https_proxy", "http://", "HTTPS_PROXY"),
]


@pytest.mark.parametrize(("variable", "value", "said"), SETTINGS)
def test_settings_with_which_nothing_can_be_sent_are_told_by_name(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    client = AgentTargetClient("agent-target:https://agents.invalid").with_options(interface="ChatAgent")
    with pytest.raises(EndpointUnavailableError, match="no connection can be made") as caught:
        client.predict(endpoint="a", inputs="hi")
    assert said in str(caught.value)
    assert (caught.value.may_have_run, caught.value.retryable, caught.value.attempts) == (False, False, 1)
    assert "hunter2" not in str(caught.value)


def test_a_proxys_login_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:\u0416hunter2@127.0.0.1:1")
    with pytest.raises(EndpointUnavailableError, match="HTTP_PROXY") as caught:
        AgentTargetClient("agent-target:http://agents.invalid").predict(endpoint="a", inputs="hi")
    assert (caught.value.may_have_run, caught.value.retryable) == (False, False)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["Bearer hunter2\r\nX: y", "Bearer hunter2\n", "Bearer \u0416hunter2", "hunter2\0"])
def test_a_login_that_no_header_can_carry_is_refused_before_anything_is_sent(value: str, scripted: Make) -> None:
    server = scripted([SIZED + RAW])
    transport = Transport(Login(server.url, lambda: {"Authorization": value}))
    with pytest.raises(InvalidInputError, match="'Authorization' can't be sent") as caught:
        perform(transport.post(f"{server.url}/invocations", b"{}", RequestOptions()))
    assert "hunter2" not in str(caught.value)
    assert server.received == []
