"""Where other clients of these endpoints go wrong, a case for each: here the answer is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_agent_target import AgentError, AgentTargetClient, AgentTargetError, StreamInterruptedError
from tests.conftest import user
from tests.scripted import Answer, ScriptedServer, chunked, events, whole

Make = Callable[..., ScriptedServer]
HI = {"type": "response.output_text.delta", "item_id": "m", "delta": "Hi"}
SAID = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
DONE = {"type": "response.output_item.done", "item": SAID}
ODD = {"type": "response.output_text.delta", "item_id": "m", "delta": "a\u2028b\u0085c\u2029"}
CHAT = {"delta": {"role": "assistant", "content": "Hi", "id": "m"}, "finish_reason": "stop"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
TRACE = {"trace": {"info": {}, "data": {"spans": []}}, "databricks_request_id": "r-1"}


def client_of(server: ScriptedServer) -> AgentTargetClient:
    return AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")


STREAMS: dict[str, tuple[bytes, list[Any]]] = {
    "lines that name the event": (b"event: response\ndata: " + events(HI, DONE)[6:], [HI, DONE]),
    "comments that keep the connection alive": (b": ping\n\n" + events(HI, DONE), [HI, DONE]),
    "data over several lines": (b'data: {"type":\ndata: "x"}\n\n' + events(HI, DONE), [{"type": "x"}, HI, DONE]),
    "line separators within JSON": (
        'data: {"type": "response.output_text.delta", "item_id": "m", "delta": "a\u2028b\u0085c\u2029"}\n\n'.encode()
        + b"data: [DONE]\n\n",
        [ODD],
    ),
    "a last event without its blank line": (events(HI, DONE, done=False) + b"data: [DONE]", [HI, DONE]),
    "events of a ChatAgent": (events(CHAT), [CHAT]),
    "events of no type": (events({"trace_id": "tr-1"}, HI, DONE), [{"trace_id": "tr-1"}, HI, DONE]),
}


@pytest.mark.parametrize(("body", "expected"), STREAMS.values(), ids=STREAMS)
def test_every_event_comes_as_it_was_sent(body: bytes, expected: list[Any], scripted: Make) -> None:
    with client_of(scripted(chunked([body]))).predict_stream(endpoint="a", inputs="hi") as stream:
        assert list(stream) == expected
    assert all(type(event) is dict for event in expected)


FAILURES: dict[str, bytes] = {
    "an error in text": events({"error": "kaput"}),
    "an error in an object": events({"error": {"message": "kaput"}}),
    "an event of the type error": events({"type": "error", "message": "kaput", "code": "c"}),
    "response.failed": events({"type": "response.failed", "response": {"error": {"code": "c", "message": "kaput"}}}),
    "an event named error": b'event: error\ndata: {"error_code": "X", "message": "kaput"}\n\ndata: [DONE]\n\n',
    "an error of the platform's": events({"databricks_output": {"error": {"error_code": "X", "message": "kaput"}}}),
}


@pytest.mark.parametrize("body", FAILURES.values(), ids=FAILURES)
def test_a_failure_within_a_stream_is_raised_and_the_agent_not_asked_again(body: bytes, scripted: Make) -> None:
    server = scripted(chunked([events(HI, done=False), body]))
    stream = client_of(server).predict_stream(endpoint="a", inputs="hi")
    assert next(stream) == HI
    with pytest.raises(AgentError, match="kaput"):
        next(stream)
    assert len(server.posts) == 1


@pytest.mark.parametrize("body", [events(HI, done=False), events(HI, done=False) + b'data: {"type": "resp'])
def test_a_stream_that_is_cut_off_never_looks_complete(body: bytes, scripted: Make) -> None:
    server = scripted(chunked([body]))
    with pytest.raises(StreamInterruptedError):
        client_of(server).predict_stream(endpoint="a", inputs="hi").get_final_response()
    assert len(server.posts) == 1


def test_json_in_place_of_a_stream_is_the_answer(scripted: Make) -> None:
    stream = client_of(scripted(whole({"output": [SAID]}))).predict_stream(endpoint="a", inputs="hi")
    assert [event["output"] for event in stream] == [[SAID]]
    assert stream.get_final_response().output_text == "Hi"


BODIES: dict[str, tuple[int, Any, str]] = {
    "FastAPI's 400": (400, {"detail": "Invalid parameters for ResponsesAgent: x"}, "Invalid parameters"),
    "OpenAI's 400": (400, {"error": {"message": "no", "type": "invalid_request_error", "code": None}}, "no"),
    "408": (408, {"message": "slow"}, "slow"),
    "409": (409, {"error_code": "ABORTED", "message": "twice"}, "ABORTED: twice"),
    "413": (413, {"message": "large"}, "large"),
    "422": (422, {"detail": [{"loc": ["body", "input"], "msg": "missing"}]}, "missing"),
    "500": (500, {"detail": "kaput"}, "kaput"),
    "504": (504, b"upstream timed out", "upstream timed out"),
}


@pytest.mark.parametrize(("status", "body", "says"), BODIES.values(), ids=BODIES)
def test_an_errors_status_body_and_words_are_kept_and_it_is_not_sent_again(
    status: int, body: Any, says: str, scripted: Make
) -> None:
    server = scripted(whole(body, status, headers="x-request-id: r-9\r\n"))
    for call in (client_of(server).predict, client_of(server).predict_stream):
        with pytest.raises(AgentTargetError) as caught:
            call(endpoint="a", inputs="hi")
        assert (caught.value.status_code, caught.value.request_id) == (status, "r-9")
        assert caught.value.body == (body.decode() if isinstance(body, bytes) else body)
        assert says in str(caught.value)
    assert len(server.posts) == 2


ANSWERS: dict[str, Answer] = {
    "whole": whole({"output": [CALL, SAID], "custom_outputs": {"k": 1}, "databricks_output": TRACE}),
    "in place of a stream": whole({"output": [CALL, SAID], "custom_outputs": {"k": 1}, "databricks_output": TRACE}),
    "streamed": chunked(
        [
            events(
                {"type": "response.output_item.done", "item": CALL},
                {**DONE, "custom_outputs": {"k": 1}, "databricks_output": TRACE},
            )
        ]
    ),
}


@pytest.mark.parametrize("how", ANSWERS)
def test_tool_calls_outputs_and_traces_are_all_there(how: str, scripted: Make) -> None:
    client = client_of(scripted(ANSWERS[how]))
    if how == "whole":
        response = client.predict(endpoint="a", inputs="hi")
    else:
        response = client.predict_stream(endpoint="a", inputs="hi").get_final_response()
    assert (response.tool_calls, response.custom_outputs, response.trace) == ([CALL], {"k": 1}, TRACE["trace"])
    assert (response.request_id, response.output_text) == ("r-1", "Hi")


@pytest.mark.parametrize("platforms", [None, {}, {"trace": None, "databricks_request_id": None}])
def test_what_the_platform_adds_may_be_nothing(platforms: Any, scripted: Make) -> None:
    response = client_of(scripted(whole({"output": [SAID], "databricks_output": platforms}))).predict("a", "hi")
    assert (response.trace, response.output_text) == (None, "Hi")


def test_a_tools_turn_can_be_sent(scripted: Make) -> None:
    server = scripted(whole({"output": []}))
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        user("hi"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "4", "name": "f", "tool_call_id": "c"},
    ]
    client_of(server).predict(endpoint="a", inputs={"messages": messages})
    assert server.posts[0].json["input"][1:] == [CALL, {"type": "function_call_output", "call_id": "c", "output": "4"}]


@pytest.mark.parametrize("name", ["my agent", "ägent", "a+b", "a&b=c", "a;b"])
def test_a_name_stays_one_step_of_the_path(name: str, scripted: Make) -> None:
    from urllib.parse import unquote

    server = scripted(whole({"output": []}))
    client_of(server).predict(endpoint=name, inputs="hi")
    path = server.posts[0].path
    assert path.isascii()
    assert path.count("/") == 3
    assert unquote(path) == f"/serving-endpoints/{name}/invocations"
