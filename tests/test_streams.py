"""How a stream ends: complete, or with an exception that carries what had arrived. Over real sockets."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mlflow_agent_target import (
    AgentError,
    AgentStream,
    AgentTargetClient,
    AgentTargetError,
    InvalidResponseError,
    RequestTimeoutError,
    StreamInterruptedError,
)
from tests.conftest import user
from tests.scripted import CLOSE, RESET, Answer, ScriptedServer, chunked, closing, events, whole

Make = Callable[..., ScriptedServer]
HEL = {"type": "response.output_text.delta", "item_id": "m", "delta": "Hel"}
LO = {"type": "response.output_text.delta", "item_id": "m", "delta": "lo"}
ITEM = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}
DONE = {"type": "response.output_item.done", "item": ITEM}
CHAT = {"delta": {"role": "assistant", "content": "Hel", "id": "m1"}}


def ask(server: ScriptedServer, **options: Any) -> AgentStream:
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent", **options)
    return client.predict_stream(endpoint="a", inputs={"input": [user("hi")]})


def read(stream: AgentStream) -> tuple[list[dict[str, Any]], AgentTargetError | None]:
    seen: list[dict[str, Any]] = []
    try:
        for event in stream:
            seen.append(event)
    except AgentTargetError as error:
        return seen, error
    return seen, None


WHOLE_STREAMS: dict[str, Answer] = {
    "a chunk for all": chunked([events(HEL, LO, DONE)]),
    "a chunk for each event": chunked([events(e, done=False) for e in (HEL, LO, DONE)] + [b"data: [DONE]\n\n"]),
    "a chunk for each byte": chunked([bytes([byte]) for byte in events(HEL, LO, DONE)]),
    "a body that ends with the connection": closing([events(HEL, LO, DONE)]),
    "a body with a length": whole(events(HEL, LO, DONE), content_type="text/event-stream; charset=utf-8"),
    "no space before [DONE]": chunked([events(HEL, LO, DONE, done=False), b"data:[DONE]\n\n"]),
    "spaces around [DONE]": chunked([events(HEL, LO, DONE, done=False), b"data:   [DONE]  \n\n"]),
    "[DONE] without its blank line": chunked([events(HEL, LO, DONE, done=False), b"data: [DONE]"]),
    "keep-alive comments and empty data": chunked(
        [b": ping\n\n", events(HEL, done=False), b":\n\n", b"data:\n\n", events(LO, DONE)]
    ),
    "no content type": chunked([events(HEL, LO, DONE)], content_type=""),
}


@pytest.mark.parametrize("answer", WHOLE_STREAMS.values(), ids=WHOLE_STREAMS)
def test_a_whole_stream_is_complete(answer: Answer, scripted: Make) -> None:
    with ask(scripted(answer)) as stream:
        assert list(stream) == [HEL, LO, DONE]
    assert stream.get_final_response().output_text == "Hello"
    assert stream.time_to_first_event is not None
    assert stream.duration is not None
    assert 0 <= stream.time_to_first_event <= stream.duration


CUTS: dict[str, Answer] = {
    "reset": [*chunked([events(HEL, LO, done=False), 0.05], end=False), RESET],
    "closed within a chunk": [*chunked([events(HEL, LO, done=False)], end=False), b"ff\r\ndata: {", CLOSE],
    "closed before the last chunk": [*chunked([events(HEL, LO, done=False)], end=False), CLOSE],
    "ended without its end marker": chunked([events(HEL, LO, done=False)]),
    "ended within an event": chunked([events(HEL, LO, done=False), b'data: {"type": "resp']),
    "ended with the connection": closing([events(HEL, LO, done=False)]),
    "less than its length": [
        b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n",
        events(HEL, LO, done=False),
        CLOSE,
    ],
    "a done item is no end": chunked([events(HEL, LO, done=False)]),
    "an incomplete response": chunked(
        [events(HEL, LO, {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "max_tokens"}}})]
    ),
}


@pytest.mark.parametrize("answer", CUTS.values(), ids=CUTS)
def test_a_cut_stream_raises_with_what_had_arrived(answer: Answer, scripted: Make) -> None:
    server = scripted(answer)
    stream = ask(server)
    seen, error = read(stream)
    assert seen[:2] == [HEL, LO]
    assert isinstance(error, StreamInterruptedError)
    assert error.partial is not None
    assert error.partial["output"][0]["content"][0]["text"] == "Hello"
    assert (error.endpoint, error.may_have_run) == ("a", True)
    assert len(server.posts) == 1
    with pytest.raises(StreamInterruptedError):
        stream.get_final_response()
    with pytest.raises(StreamInterruptedError):
        next(stream)


ERROR_FRAMES: dict[str, bytes] = {
    "Model Serving": events({"databricks_output": {"error": {"error_code": "BAD_REQUEST", "message": "kaput"}}}),
    "Genie": b'event: error\ndata: {"error_code": "X", "message": "kaput"}\n\ndata: [DONE]\n\n',
    "AgentServer": events({"error": "kaput"}),
    "OpenAI chat": events({"error": {"message": "kaput", "type": "server_error", "code": None}}),
    "LongRunningAgentServer": events({"type": "error", "error": {"message": "kaput", "code": "task_timeout"}}),
    "OpenAI responses": events({"type": "error", "code": "c", "message": "kaput", "param": None}),
    "response.failed": events({"type": "response.failed", "response": {"error": {"code": "c", "message": "kaput"}}}),
}


@pytest.mark.parametrize("frame", ERROR_FRAMES.values(), ids=ERROR_FRAMES)
def test_an_error_event_raises_after_the_events_before_it(frame: bytes, scripted: Make) -> None:
    seen, error = read(ask(scripted(chunked([events(HEL, LO, done=False), frame]))))
    assert seen == [HEL, LO]
    assert isinstance(error, AgentError)
    assert "kaput" in str(error)
    assert (error.status_code, error.may_have_run, error.endpoint) == (200, True, "a")
    assert error.partial is not None
    assert error.partial["output"][0]["content"][0]["text"] == "Hello"


def test_an_event_that_brings_an_error_and_text_is_delivered_first(scripted: Make) -> None:
    both = {**CHAT, "databricks_output": {"error": {"error_code": "BAD_REQUEST", "message": "kaput"}}}
    seen, error = read(ask(scripted(chunked([events(both)]))))
    assert seen == [both]
    assert isinstance(error, AgentError)
    assert error.partial is not None
    assert error.partial["messages"][0]["content"] == "Hel"


def test_a_whole_json_answer_in_place_of_a_stream_is_one(scripted: Make) -> None:
    answer = {"output": [ITEM]}
    stream = ask(scripted(whole(answer)))
    assert "".join(stream.text_stream) == "Hello"
    assert stream.get_final_response() == answer


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(whole(b"<html>Sign in</html>", content_type="text/html"), InvalidResponseError, id="HTML"),
        pytest.param(whole(b"{nope", content_type="application/json"), InvalidResponseError, id="broken JSON"),
        pytest.param(chunked([b"data: {nope\n\n"]), InvalidResponseError, id="a broken event"),
        pytest.param(chunked([b"data: 7\n\n"]), InvalidResponseError, id="an event that is no object"),
        pytest.param(whole({"error_code": "X", "message": "kaput"}), AgentError, id="an error with status 200"),
        pytest.param(chunked([]), StreamInterruptedError, id="nothing at all"),
    ],
)
def test_what_is_no_stream_raises(answer: Answer, kind: type[Exception], scripted: Make) -> None:
    with pytest.raises(kind):
        ask(scripted(answer)).get_final_response()


def test_an_error_in_the_request_is_raised_by_the_call_itself(scripted: Make) -> None:
    with pytest.raises(AgentError, match="kaput"):
        ask(scripted(whole({"error_code": "INTERNAL_ERROR", "message": "kaput"}, 500)))


@pytest.mark.parametrize("silence", [[0.5], [b": ping\n\n", 0.1] * 5], ids=["nothing at all", "only keep-alives"])
def test_silence_ends_a_stream(silence: list[bytes | float], scripted: Make) -> None:
    server = scripted(chunked([events(HEL, LO, done=False), *silence, events(DONE)]))
    seen, error = read(ask(server, idle_timeout=0.2))
    assert seen == [HEL, LO]
    assert isinstance(error, StreamInterruptedError)
    assert isinstance(error, RequestTimeoutError)
    assert error.partial is not None


def test_a_slow_reader_is_no_silence(scripted: Make) -> None:
    big = {"type": "response.output_item.done", "item": {**ITEM, "padding": "x" * 300_000}}
    stream = ask(scripted(chunked([events(HEL, done=False), events(big)])), idle_timeout=0.2)
    seen = []
    for event in stream:
        seen.append(event)
        time.sleep(0.4)
    assert seen == [HEL, big]


def test_an_event_that_takes_long_to_arrive_is_no_silence(scripted: Make) -> None:
    slow = [part for byte in events(DONE) for part in (bytes([byte]), 0.005)]
    stream = ask(scripted(chunked([events(HEL, LO, done=False), *slow])), idle_timeout=0.4)
    assert stream.get_final_response().output_text == "Hello"
    assert stream.duration is not None
    assert stream.duration > 0.4


def test_silence_is_bounded_also_where_the_body_ends_with_the_connection(scripted: Make) -> None:
    stream = ask(scripted(closing([events(HEL, LO, done=False), 3.0])), idle_timeout=0.2)
    seen, error = read(stream)
    assert (seen, type(error).__name__) == ([HEL, LO], "StreamIdleError")
    assert stream.duration is not None
    assert stream.duration < 2


def test_the_first_event_may_take_as_long_as_an_answer(scripted: Make) -> None:
    stream = ask(scripted(chunked([0.5, events(HEL, LO, DONE)])), timeout=5, idle_timeout=0.1)
    assert stream.get_final_response().output_text == "Hello"
    seen, error = read(ask(scripted(chunked([b": ping\n\n", 0.1] * 20)), timeout=0.3, idle_timeout=5))
    assert (seen, type(error).__name__) == ([], "StreamIdleError")


def test_a_stream_that_is_broken_off_never_looks_complete(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = ask(scripted(chunked([events(HEL, done=False), 0.1, events(LO, DONE)])))
    next(stream)

    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream._body, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    with pytest.raises(StreamInterruptedError) as caught:
        stream.get_final_response()
    assert caught.value.partial is not None


def test_another_thread_may_close_a_stream_that_is_waited_for(scripted: Make) -> None:
    stream = ask(scripted(chunked([events(HEL, done=False), 10.0])))
    next(stream)
    threading.Timer(0.2, stream.close).start()
    started = time.monotonic()
    with pytest.raises(StreamInterruptedError):
        next(stream)
    assert time.monotonic() - started < 5


def test_an_error_in_a_stream_says_how_often_the_request_was_sent(scripted: Make) -> None:
    busy = whole({"message": "busy"}, 503)
    _, error = read(ask(scripted(busy, busy, chunked([events(HEL, done=False)]))))
    assert error is not None
    assert error.attempts == 3


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(chunked([events(HEL, done=False), 0.4, events(LO, DONE)]), id="chunked"),
        pytest.param(closing([events(HEL, done=False), 0.4, events(LO, DONE)]), id="until the connection closes"),
    ],
)
def test_an_event_is_delivered_when_its_bytes_arrive(body: Answer, scripted: Make) -> None:
    stream = ask(scripted(body))
    assert len(list(stream)) == 3
    assert stream.time_to_first_event is not None
    assert stream.duration is not None
    assert stream.duration - stream.time_to_first_event > 0.3


ENDLESS = chunked([part for _ in range(500) for part in (events(HEL, done=False), 0.02)])


def leave_the_loop(stream: AgentStream) -> None:
    for _ in stream:
        break


def leave_the_text(stream: AgentStream) -> None:
    for _ in stream.text_stream:
        break


def leave_the_block(stream: AgentStream) -> None:
    with stream:
        next(stream)


def take_a_few(stream: AgentStream) -> None:
    assert list(itertools.islice(stream, 2)) == [HEL, HEL]


def forget(stream: AgentStream) -> None:
    next(stream)
    del stream


@pytest.mark.parametrize("leave", [leave_the_loop, leave_the_text, leave_the_block, take_a_few, AgentStream.close])
def test_leaving_a_stream_closes_its_connection(leave: Callable[[AgentStream], None], scripted: Make) -> None:
    server = scripted(ENDLESS)
    stream = ask(server)
    leave(stream)
    assert server.closed.wait(5)
    with pytest.raises(StreamInterruptedError, match="closed by its reader"):
        stream.get_final_response()


def test_forgetting_a_stream_closes_its_connection(scripted: Make) -> None:
    server = scripted(ENDLESS)
    gc.disable()
    try:
        next(ask(server))
        assert server.closed.wait(5)
    finally:
        gc.enable()


def test_a_stream_that_ends_gives_its_connection_back(scripted: Make) -> None:
    server = scripted(chunked([events(HEL, LO, DONE)]))
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    for _ in range(5):
        assert client.predict_stream(endpoint="a", inputs="hi").get_final_response().output_text == "Hello"
    assert {request.connection for request in server.posts} == {1}


def test_a_server_that_keeps_a_finished_stream_open_is_not_waited_for(scripted: Make) -> None:
    stream = ask(scripted(chunked([events(HEL, LO, DONE), 20.0])))
    assert stream.get_final_response().output_text == "Hello"
    assert stream.duration is not None
    assert stream.duration < 10


def test_the_request_says_that_it_wants_a_stream(scripted: Make) -> None:
    server = scripted(chunked([events(HEL, LO, DONE)]))
    given = {"input": [user("hi")], "custom_inputs": {"k": [1]}, "unknown": {"x": None}}
    before = json.dumps(given)
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    client.predict_stream(endpoint="a", inputs=given).get_final_response()
    assert server.posts[0].json == {**given, "stream": True}
    assert server.posts[0].headers["accept"] == "text/event-stream"
    assert json.dumps(given) == before
