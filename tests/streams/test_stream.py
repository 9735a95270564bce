"""How a stream ends: complete, or with an exception that carries what had arrived. Over real sockets."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import threading
import time
import zlib
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
    "an error that is text": events({"databricks_output": {"error": "kaput"}}),
    "text under the name of an error": b"event: error\ndata: kaput\n\ndata: [DONE]\n\n",
    "a JSON string under the name of an error": b'event: error\ndata: "kaput"\n\n',
    "LongRunningAgentServer, not found": events(
        {"error": {"message": "kaput", "type": "not_found", "code": "x"}}, done=False
    ),
    "a failed answer as an event": events({"status": "failed", "output": [], "error": {"message": "kaput"}}),
    "with a type": events({"type": "x", "databricks_output": {"error": {"error_code": "X", "message": "kaput"}}}),
    "control characters": events({"error": "kaput\r\nINFO forged\u2028\x1b[31m\ud800"}),
    "response.cancelled": events({"type": "response.cancelled", "response": {"error": {"message": "kaput"}}}),
    "response.failed": events({"type": "response.failed", "response": {"error": {"code": "c", "message": "kaput"}}}),
}


@pytest.mark.parametrize("frame", ERROR_FRAMES.values(), ids=ERROR_FRAMES)
def test_an_error_event_raises_after_the_events_before_it(frame: bytes, scripted: Make) -> None:
    seen, error = read(ask(scripted(chunked([events(HEL, LO, done=False), frame]))))
    assert seen == [HEL, LO]
    assert isinstance(error, AgentError)
    assert "kaput" in str(error)
    assert str(error).isprintable()
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


def named(*values: dict[str, Any]) -> bytes:
    return b"".join(f"event: {value.get('type', 'x')}\n".encode() + events(value, done=False) for value in values)


COMPLETED = {"type": "response.completed", "response": {"output": [ITEM]}}
CREATED = {"type": "response.created", "response": {}}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 1}}
OTHER_CHOICE = {"choices": [{"index": 1, "delta": {"content": "Hi"}, "finish_reason": None}]}
INCOMPLETE = {
    "type": "response.incomplete",
    "response": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
}


def chunk(finish_reason: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": finish_reason}]}


def events_only(*values: dict[str, Any]) -> bytes:
    return events(*values, done=False)


@pytest.mark.parametrize(
    ("body", "complete"),
    [
        pytest.param(named(HEL, LO, COMPLETED), True, id="named, completed"),
        pytest.param(named(HEL, LO, {**COMPLETED, "type": "responses.completed"}), True, id="named, misspelt"),
        pytest.param(named(CHUNK, STOP), True, id="named, finish_reason"),
        pytest.param(named(CHUNK, STOP, USAGE), True, id="named, usage after finish_reason"),
        pytest.param(named(COMPLETED) + events({"trace_id": "t"}, done=False), True, id="named, a trace's id after it"),
        pytest.param(named(COMPLETED, {"type": "keepalive"}), True, id="named, a keep-alive event after it"),
        pytest.param(named(COMPLETED).removesuffix(b"\n\n"), True, id="named, without its blank line"),
        pytest.param(events(HEL, LO, COMPLETED, done=False), True, id="not named, completed"),
        pytest.param(events(CHUNK, STOP, done=False), True, id="not named, finish_reason"),
        pytest.param(events(CHUNK, STOP, USAGE, done=False), True, id="not named, usage after finish_reason"),
        pytest.param(events(CHAT, {"delta": {}, "finish_reason": "stop"}, done=False), True, id="a ChatAgent's end"),
        pytest.param(events(CHAT, done=False), False, id="a ChatAgent's, without its end"),
        pytest.param(events(HEL, LO, INCOMPLETE, done=False), True, id="incomplete"),
        pytest.param(events(COMPLETED, CREATED, HEL, done=False), False, id="cut in a second inner response"),
        pytest.param(events(COMPLETED, HEL, HEL, done=False), False, id="more text after completed"),
        pytest.param(events({**CHUNK, "id": "c"}, STOP, OTHER_CHOICE, done=False), False, id="another choice goes on"),
        pytest.param(events(OTHER_CHOICE, CHUNK, STOP, done=False), False, id="another choice has not ended"),
        *(
            pytest.param(frame(chunk(reason)), False, id=f"finish_reason {reason!r}, {frame.__name__}")
            for reason in ("", "null", None)
            for frame in (events_only, named)
        ),
        pytest.param(named(HEL, LO, DONE), False, id="named, only a done item"),
        pytest.param(named(CREATED, COMPLETED, CREATED, HEL), False, id="named, cut in a second inner response"),
        pytest.param(named(COMPLETED) + events(HEL, done=False), False, id="more text after completed, not named"),
        pytest.param(named(CHUNK, USAGE), False, id="named, usage but no finish_reason"),
    ],
)
def test_what_is_evidence_of_a_whole_stream(body: bytes, complete: bool, scripted: Make) -> None:
    _, error = read(ask(scripted(chunked([body]))))
    assert isinstance(error, type(None) if complete else StreamInterruptedError)


@pytest.mark.parametrize("terminal", [COMPLETED, INCOMPLETE, STOP], ids=["completed", "incomplete", "finish_reason"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda body: closing([body]), id="ends with the connection"),
        pytest.param(lambda body: [*chunked([body], end=False), CLOSE], id="no last chunk"),
        pytest.param(lambda body: [*chunked([body], end=False), RESET], id="reset"),
    ],
)
@pytest.mark.parametrize("frame", [events_only, named])
def test_a_body_whose_end_proves_nothing_is_cut_off_without_its_end_marker(
    frame: Callable[..., bytes], answer: Callable[[bytes], Answer], terminal: dict[str, Any], scripted: Make
) -> None:
    first = CHUNK if terminal is STOP else HEL
    _, error = read(ask(scripted(answer(frame(first, terminal)))))
    assert isinstance(error, StreamInterruptedError)


@pytest.mark.parametrize("ending", [b"data: [DONE]\n\n", b""], ids=["end marker", "none"])
def test_an_incomplete_answer_says_why(ending: bytes, scripted: Make) -> None:
    stream = ask(scripted(chunked([events(HEL, LO, INCOMPLETE, done=False), ending])))
    final = stream.get_final_response()
    assert final.output_text == "Hello"
    assert (final.status, final.incomplete_details) == ("incomplete", {"reason": "max_output_tokens"})


@pytest.mark.parametrize("data", ["", "x", "7", "null", '{"type": "ping"}', "[]"])
def test_a_ping_is_a_keep_alive(data: str, scripted: Make) -> None:
    ping = f"event: ping\ndata: {data}\n\n".encode()
    stream = ask(
        scripted(
            chunked([ping, events(HEL, done=False), ping, events(LO, DONE, done=False), ping, b"data: [DONE]\n\n"])
        )
    )
    assert list(stream) == [HEL, LO, DONE]


@pytest.mark.parametrize("status", ["queued", "in_progress", "cancelled"])
def test_a_stream_that_says_that_it_brought_no_answer_is_none(status: str, scripted: Make) -> None:
    told = {"id": "r", "object": "response", "status": status, "output": []}
    for body in (events(told), events(HEL, {key: told[key] for key in ("id", "status")})):
        with pytest.raises(StreamInterruptedError, match=f"its status is '{status}'"):
            ask(scripted(chunked([body]))).get_final_response()
    with pytest.raises(InvalidResponseError, match=f"its status is '{status}'"):
        ask(scripted(whole(told))).get_final_response()


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        pytest.param("; charset=iso-8859-1", "latin-1", id="another"),
        pytest.param('; Charset="ISO-8859-1"; x=y', "latin-1", id="quoted"),
        pytest.param("; charset=utf-16", "utf-16", id="two bytes"),
        pytest.param("; charset=utf-8", "utf-8-sig", id="with a BOM"),
        pytest.param("; charset=nonsense", "utf-8", id="unknown"),
        pytest.param("; charset=hex", "utf-8", id="no charset"),
        pytest.param("", "utf-8", id="none"),
    ],
)
def test_a_whole_answer_in_place_of_a_stream_is_read_in_its_charset(
    charset: str, encoding: str, scripted: Make
) -> None:
    body = json.dumps({"output": [{**ITEM, "content": "hé"}]}, ensure_ascii=False).encode(encoding)
    stream = ask(scripted(whole(body, content_type=f"application/json{charset}")))
    assert stream.get_final_response().output_text == "hé"


def test_text_can_be_printed_though_a_character_is_cut_in_two(scripted: Make) -> None:
    half = b'data: {"type": "response.output_text.delta", "delta": "%s"}\n\n'
    halves = [half % b"a\\ud83d", half % b"\\ude00b"]
    stream = ask(scripted(chunked([*halves, b"data: [DONE]\n\n"])))
    assert [text.encode() for text in stream.text_stream] == [b"a", "😀b".encode()]
    assert stream.get_final_response().output_text == "a😀b"


def test_pings_are_silence(scripted: Make) -> None:
    server = scripted(chunked([events(HEL, done=False), *[b"event: ping\ndata: {}\n\n", 0.1] * 5, events(DONE)]))
    seen, error = read(ask(server, idle_timeout=0.2))
    assert (seen, type(error).__name__) == ([HEL], "StreamIdleError")


def test_a_reader_that_stops_before_an_error_never_sees_it(scripted: Make) -> None:
    with ask(scripted(chunked([events(HEL, LO, {"error": "kaput"})]))) as stream:
        assert next(stream) == HEL
    with pytest.raises(StreamInterruptedError):
        next(stream)


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/plain", ""])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b" \r\n\r\n\t"], ids=["plain", "BOM", "blank"])
def test_a_whole_answer_is_known_whatever_its_content_type_says(
    content_type: str, start: bytes, scripted: Make
) -> None:
    answer = {"output": [ITEM]}
    body = start + json.dumps(answer, indent=2).encode()
    stream = ask(scripted(chunked([body[:7], body[7:]], content_type=content_type)))
    assert stream.get_final_response() == answer


@pytest.mark.parametrize("content_type", ["application/json", "text/html", "text/plain"])
def test_a_stream_is_known_whatever_its_content_type_says(content_type: str, scripted: Make) -> None:
    assert list(ask(scripted(chunked([events(HEL, DONE)], content_type=content_type)))) == [HEL, DONE]


def test_a_whole_json_answer_in_place_of_a_stream_is_one(scripted: Make) -> None:
    answer = {"output": [ITEM]}
    stream = ask(scripted(whole(answer)))
    assert "".join(stream.text_stream) == "Hello"
    assert stream.get_final_response() == answer


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(whole(b"<html>Sign in</html>", content_type="text/html"), InvalidResponseError, id="HTML"),
        pytest.param(chunked([b"<!doctype html>\n\n<p>"]), InvalidResponseError, id="HTML that is called a stream"),
        pytest.param(chunked([b'{"output": ']), InvalidResponseError, id="half an answer that is called a stream"),
        pytest.param(chunked([b'{"a": 1}\n{"a": 2}\n']), InvalidResponseError, id="JSON lines"),
        pytest.param(chunked([b": ping\n\n"] * 3), StreamInterruptedError, id="nothing but comments"),
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


@pytest.mark.parametrize("limit", ["timeout", "total_timeout"])
def test_the_wait_for_the_head_counts_as_a_wait_for_the_first_event(limit: str, scripted: Make) -> None:
    seen, error = read(ask(scripted([0.7, *chunked([0.7, events(HEL, LO, DONE)])]), **{limit: 1}))
    assert (seen, type(error).__name__) == ([], "StreamIdleError")
    assert "silent for 1 s" in str(error)


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


def packed(encoding: str, parts: list[bytes | float]) -> list[bytes | float]:
    packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    flushed = [p if isinstance(p, float) else packer.compress(p) + packer.flush(zlib.Z_SYNC_FLUSH) for p in parts]
    return [*flushed, packer.flush()]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("framing", [chunked, closing])
def test_a_packed_event_is_delivered_when_its_bytes_arrive(
    encoding: str, framing: Callable[..., Answer], scripted: Make
) -> None:
    body = packed(encoding, [events(HEL, done=False), 0.4, events(LO, DONE)])
    server = scripted(framing(body, content_type=f"text/event-stream\r\nContent-Encoding: {encoding}"))
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    for _ in range(2):
        stream = client.predict_stream(endpoint="a", inputs="hi")
        assert list(stream) == [HEL, LO, DONE]
        assert stream.time_to_first_event is not None
        assert stream.duration is not None
        assert stream.duration - stream.time_to_first_event > 0.3
    assert len({request.connection for request in server.posts}) == (1 if framing is chunked else 2)


def test_an_event_is_delivered_before_the_rest_of_its_chunk(scripted: Make) -> None:
    first, rest = events(HEL, done=False), events(LO, DONE)
    head = chunked([], end=False)
    answer = [*head, b"%x\r\n" % len(first + rest) + first, 0.4, rest + b"\r\n0\r\n\r\n"]
    stream = ask(scripted(answer))
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


def fail_in_the_loop(stream: AgentStream) -> None:
    with contextlib.suppress(ZeroDivisionError):
        for _ in stream:
            _ = 1 / 0


def take_one_text(stream: AgentStream) -> None:
    assert next(stream.text_stream) == "Hel"


def take_a_few(stream: AgentStream) -> None:
    assert list(itertools.islice(stream, 2)) == [HEL, HEL]


def forget(stream: AgentStream) -> None:
    next(stream)
    del stream


@pytest.mark.parametrize(
    "leave",
    [
        leave_the_loop,
        leave_the_text,
        leave_the_block,
        fail_in_the_loop,
        take_one_text,
        take_a_few,
        AgentStream.close,
    ],
)
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


def test_a_child_process_that_forgets_a_stream_leaves_it_to_its_parent(scripted: Make) -> None:
    stream = ask(scripted(chunked([events(HEL, done=False), 0.5, events(LO, DONE)])))
    next(stream)
    if (child := os.fork()) == 0:
        del stream
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert stream.get_final_response().output_text == "Hello"


def test_a_stream_that_ends_gives_its_connection_back(scripted: Make) -> None:
    server = scripted(chunked([events(HEL, LO, DONE)]))
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    for _ in range(5):
        assert client.predict_stream(endpoint="a", inputs="hi").get_final_response().output_text == "Hello"
    assert {request.connection for request in server.posts} == {1}


def test_closing_a_stream_that_has_ended_leaves_its_connection_to_the_next_request(scripted: Make) -> None:
    """Another thread may close it just as it ends: then the connection is another request's."""
    server = scripted(chunked([events(HEL, LO, DONE)]), [0.3, *whole({"output": [ITEM]})])
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    stream = client.predict_stream(endpoint="a", inputs="hi")
    stream.get_final_response()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(client.predict(endpoint="a", inputs="hi")))
    asking.start()
    while len(server.posts) < 2:
        time.sleep(0.01)
    stream._body.close()
    stream._body._answer.wake()  # type: ignore[attr-defined] # as a thread would that had looked a moment before
    asking.join()
    assert answers == [{"output": [ITEM]}]
    assert {request.connection for request in server.posts} == {1}


def test_a_body_that_was_closed_is_not_taken_for_a_whole_one(scripted: Make) -> None:
    stream = ask(scripted(closing([events(HEL, done=False), 5.0])))
    next(stream)
    stream._body.close()
    _, error = read(stream)
    assert isinstance(error, StreamInterruptedError)


def test_streams_that_are_closed_as_they_end_harm_no_other_request(scripted: Make) -> None:
    server = scripted(chunked([events(HEL, LO, DONE)]))
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    errors: list[Exception] = []

    def ask() -> None:
        for _ in range(60):
            stream = client.predict_stream(endpoint="a", inputs="hi")
            closing = threading.Thread(target=stream.close)
            try:
                for _ in stream:
                    if not closing.ident:
                        closing.start()
            except StreamInterruptedError as error:
                if "closed by its reader" not in str(error):
                    errors.append(error)
            except AgentTargetError as error:
                errors.append(error)
            closing.join()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param([b"0\r\n\r\n"], id="at once"),
        pytest.param([b"5\r\n: x\n\n\r\n1\r\n\n\r\n", b"0\r\n\r\n"], id="after comments and blank lines"),
        pytest.param([0.01, b"0\r\n", 0.005, b"\r\n"], id="a little later"),
    ],
)
def test_what_follows_the_end_marker_does_not_cost_the_connection(tail: list[bytes | float], scripted: Make) -> None:
    server = scripted([*chunked([events(HEL, LO, DONE)], end=False), *tail])
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    for _ in range(3):
        assert len(list(client.predict_stream(endpoint="a", inputs="hi"))) == 3
    assert {request.connection for request in server.posts} == {1}


def test_threads_may_share_a_stream(scripted: Make) -> None:
    sent = [{**HEL, "sequence_number": number} for number in range(3000)]
    stream = ask(scripted(chunked([events(event, done=False) for event in sent] + [b"data: [DONE]\n\n"])))
    seen: list[dict[str, Any]] = []

    def take() -> None:
        while (event := next(stream, None)) is not None:
            seen.append(event)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(event["sequence_number"] for event in seen) == list(range(3000))
    assert stream.get_final_response().output_text == "Hel" * 3000


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


@pytest.mark.parametrize("answer", [{"output": [ITEM], "id": "r"}, {"predictions": "Hello"}])
def test_a_whole_answer_as_an_event_is_one(answer: dict[str, Any], scripted: Make) -> None:
    stream = ask(scripted(chunked([events(answer)])))
    assert list(stream.text_stream) == ["Hello"]
    assert stream.get_final_response() == answer
