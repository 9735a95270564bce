"""The events of a run: each once, however often the connection breaks, and an answer that is the server's."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_agent_target.endpoints.following import Run, pause_after, poll_pause
from mlflow_agent_target.endpoints.invoking import stream_of
from mlflow_agent_target.errors import (
    AgentError,
    AgentTargetError,
    AuthenticationError,
    EndpointNotFoundError,
    EndpointUnavailableError,
    RequestTimeoutError,
    StreamIdleError,
    StreamInterruptedError,
)
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.formats.runs import InvocationApi, ResponsesApi, RunProtocol
from mlflow_agent_target.http.options import CallTime, RequestOptions
from mlflow_agent_target.http.replies import Reply
from mlflow_agent_target.http.steps import Steps
from mlflow_agent_target.streams.stream import AgentStream
from mlflow_agent_target.target.settings import TimeLimits

RECORDED = Path(__file__).parents[1] / "streams" / "runs"
ID = "0b6ee2c0-6f0e-4f1c-9d8a-0f4d5f6a7b8c"
BROKEN = EndpointUnavailableError("broke", may_have_run=True)
SILENT = RequestTimeoutError("silent")


def recorded(name: str) -> list[bytes]:
    """The frames of a recorded stream."""
    return [frame + b"\n\n" for frame in (RECORDED / f"{name}.txt").read_bytes().split(b"\n\n") if frame]


def data_of(frames: list[bytes]) -> list[Any]:
    lines = [line for frame in frames for line in frame.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line[6:]) for line in lines]


def completed(text: str) -> dict[str, Any]:
    return {"id": ID, "status": "completed", "output": {"output": [{"role": "assistant", "content": text}]}}


def responded(text: str) -> dict[str, Any]:
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return {"id": "resp_1", "status": "completed", "output": [item], "attempt_number": 1}


ACTIVE = {"id": ID, "status": "active"}


class Connection:
    """A connection that gives these pieces, and then breaks off, falls silent or ends."""

    def __init__(self, pieces: list[bytes], end: Exception | None = None, seconds: float = 0.0) -> None:
        self.pieces = pieces
        self.end = end
        self.seconds = seconds
        self.is_closed = False
        self.facts = Facts(status=200)

    def read(self, timeout: float) -> bytes:
        if self.is_closed:
            raise BROKEN
        if timeout < self.seconds:
            raise SILENT
        time.sleep(self.seconds)
        if self.pieces:
            return self.pieces.pop(0)
        if self.end is not None:
            raise self.end
        return b""

    def finish(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True


class Server:
    """A server that keeps a run's frames. Each time that it is asked for them, `cut` says what of them it sends."""

    def __init__(
        self,
        frames: list[bytes],
        records: list[Any],
        cut: Callable[[bytes], tuple[list[bytes], Exception | None]] = lambda rest: ([rest], None),
    ) -> None:
        self.frames = frames
        self.records = records
        self.cut = cut
        self.seconds = 0.0
        self.asked: list[str] = []
        self.connections: list[Connection] = []
        self.base_url = "http://h"

    def get(self, url: str, options: RequestOptions) -> Steps[Reply]:
        self.asked.append("record")
        record = self.records.pop(0) if len(self.records) > 1 else self.records[0]
        if isinstance(record, Exception):
            raise record
        return Reply(record, Facts(status=200))
        yield

    def open_events(self, url: str, options: RequestOptions) -> Steps[Any]:
        after = re.search(r"after=(\d+)", url)
        last = int(after[1]) if after else -1
        self.asked.append(f"after {last}")
        pieces, end = self.cut(b"".join(frame for frame in self.frames if number_of(frame) > last))
        if isinstance(end, (AuthenticationError, EndpointNotFoundError)):
            raise end
        self.connections.append(Connection([piece for piece in pieces if piece], end, self.seconds))
        return self.connections[-1]
        yield


def number_of(frame: bytes) -> int:
    found = re.search(rb"^id: (\d+)", frame) or re.search(rb'"sequence_number": (\d+)', frame)
    return int(found[1]) if found else 1 << 60


def stream(
    server: Server,
    protocol: type[RunProtocol] = InvocationApi,
    *,
    after: int | None = None,
    most: float = 5.0,
) -> AgentStream:
    run = Run(protocol, server, "http://h", ID, None, RequestOptions(idle_timeout=1.0))  # type: ignore[arg-type]
    return stream_of(run, None, CallTime(TimeLimits(total_timeout=most), time.monotonic()), after=after)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are there, and take no time."""
    monkeypatch.setattr("mlflow_agent_target.endpoints.following._FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("mlflow_agent_target.endpoints.following._LONGEST_POLL_SECONDS", 0.0)


WHOLE = {
    "plain": ("You said: hi there", InvocationApi),
    "langgraph": ("That is three words.", InvocationApi),
    "openai": ("That is three words.", InvocationApi),
    "openai_interrupt": ("", InvocationApi),
    "langgraph_interrupt": ("", InvocationApi),
    "responses_first_event_again": ("hello", ResponsesApi),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_that_is_cut_at_any_byte_comes_whole_and_once(name: str) -> None:
    text, protocol = WHOLE[name]
    frames = recorded(name)
    events = data_of(frames)
    events = [event for place, event in enumerate(events) if event not in events[:place]]
    answer = completed(text) if protocol is InvocationApi else responded(text)
    for place in range(len(b"".join(frames)) + 1):
        cuts = [place]

        def cut(rest: bytes, cuts: list[int] = cuts) -> tuple[list[bytes], Exception | None]:
            if cuts:
                return [rest[: cuts.pop()]], BROKEN
            return [rest], None

        server = Server(frames, [answer], cut)
        got: list[Any] = []
        with stream(server, protocol) as answered:
            got.extend(answered)
        assert got == events
        assert answered.get_final_response().output_text == text
        assert all(connection.is_closed for connection in server.connections)
        assert "".join(stream(Server(frames, [answer], cut), protocol).text_stream) == text


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60), st.booleans()), max_size=12))
def test_a_stream_that_is_cut_often(cuts: list[tuple[int, int, bool]]) -> None:
    frames = recorded("plain")

    def cut(rest: bytes) -> tuple[list[bytes], Exception | None]:
        if not cuts:
            return [rest], None
        length, size, is_silent = cuts.pop()
        sent = rest[:length]
        pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
        return pieces, SILENT if is_silent else BROKEN

    server = Server(
        frames, [*[ACTIVE] * sum(is_silent for _, _, is_silent in cuts), completed("You said: hi there")], cut
    )
    with stream(server) as answered:
        assert list(answered) == data_of(frames)
    assert answered.get_final_response() == completed("You said: hi there")


def test_only_what_comes_after_the_last_event_is_asked_for() -> None:
    cuts = [b"".join(recorded("plain")[:3])]
    server = Server(
        recorded("plain"), [completed("x")], lambda rest: ([cuts.pop()], BROKEN) if cuts else ([rest], None)
    )
    assert len(list(stream(server))) == 7
    assert server.asked == ["after -1", "after 10", "record"]


def test_events_that_its_reader_has_are_left_out() -> None:
    server = Server(recorded("plain"), [completed("You said: hi there")])
    with stream(server, after=12) as answered:
        assert [event["type"] for event in answered] == ["message", "run.completed"]
    assert server.asked == ["after 12", "record"]


@pytest.mark.parametrize(
    ("after", "texts"),
    [
        (None, ["You", " said:", " hi", " there"]),
        (0, ["You", " said:", " hi", " there"]),
        (10, [" hi", " there"]),
        (13, []),
    ],
)
def test_the_text_of_the_rest_is_what_its_events_say(after: int | None, texts: list[str]) -> None:
    """What its reader has already, nobody here knows."""
    answered = stream(Server(recorded("plain"), [completed("You said: hi there")]), after=after)
    assert list(answered.text_stream) == texts
    assert answered.get_final_response().output_text == "You said: hi there"


@pytest.mark.parametrize("after", [1, 2])
def test_the_rest_of_a_run_that_was_started_again_is_no_beginning(after: int) -> None:
    answered = stream(Server(KILLED, [completed("part onepart two")]), after=after)
    with pytest.raises(StreamInterruptedError, match="started the agent again"):
        list(answered.text_stream)
    assert answered.get_final_response().output_text == "part onepart two"


def test_a_stream_that_ends_while_the_run_goes_on_is_asked_for_again() -> None:
    first = [b"".join(recorded("plain")[:2])]
    server = Server(
        recorded("plain"),
        [ACTIVE, completed("You said: hi there")],
        lambda rest: ([first.pop()], None) if first else ([rest], None),
    )
    assert "".join(stream(server).text_stream) == "You said: hi there"
    assert server.asked == ["after -1", "record", "after 9", "record"]


KILLED = recorded("killed_1") + recorded("killed_2")


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        # It began anew, and the answer goes on from what was said: that comes, once.
        ("part onepart two", ["part one", "part two"]),
        # As LangGraph does: it went on from where it was.
        ("part one, and more", ["part one", ", and more"]),
        # What was said is not of the answer.
        ("another", ["part one"]),
    ],
)
def test_a_run_that_was_started_again_never_doubles_its_text(answer: str, texts: list[str]) -> None:
    answered = stream(Server(KILLED, [completed(answer)]))
    got: list[str] = []
    if not answer.startswith("part one"):
        with pytest.raises(StreamInterruptedError, match="started the agent again") as caught:
            got.extend(answered.text_stream)
        assert caught.value.partial == completed(answer)
        assert caught.value.invocation_id == ID
    else:
        got.extend(answered.text_stream)
    assert got == texts
    # Whoever wants the answer has it either way, and all events.
    assert answered.get_final_response() == completed(answer)
    assert len(list(stream(Server(KILLED, [completed(answer)])))) == len(KILLED)


def test_a_response_that_was_resumed_never_doubles_its_text() -> None:
    answered = stream(Server(recorded("responses_killed_2"), [responded("hello")]), ResponsesApi)
    assert list(answered.text_stream) == ["hel", "lo"]
    assert answered.get_final_response() == responded("hello")


@pytest.mark.parametrize(
    ("events", "answer", "texts"),
    [
        ([], "all of it", ["all of it"]),
        ([{"type": "delta", "content": "all"}], "all of it", ["all", " of it"]),
        ([{"type": "delta", "content": "thinking"}], "something else", ["thinking"]),
        ([{"type": "error", "error": "the agent's own"}, {"type": "run.completed"}], "all", ["all"]),
        ([{"error": {"message": "its own"}, "databricks_output": {"error": 1}}], "all", ["all"]),
        ([{"type": "ping"}, {"type": "done"}, {"type": None}], "all", ["all"]),
    ],
)
def test_the_text_is_the_answers_as_far_as_events_have_not_said_it(
    events: list[Any], answer: str, texts: list[str]
) -> None:
    frames = [
        f"id: {n}\nevent: {event.get('type')}\ndata: {json.dumps(event)}\n\n".encode() for n, event in enumerate(events)
    ]
    answered = stream(Server(frames, [completed(answer)]))
    assert list(answered.text_stream) == texts
    assert list(stream(Server(frames, [completed(answer)]))) == events


@pytest.mark.parametrize("kind", ["a\nb", "a\n\nb", "a\ndata: x", "\n\n", "data: {}"])
def test_a_type_that_breaks_the_name_of_its_event_breaks_nothing_else(kind: str) -> None:
    events = [{"type": kind, "n": 1}, {"type": "delta", "content": "x"}]
    frames = [f"id: {n}\nevent: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for n, e in enumerate(events)]
    whole = b"".join(frames)
    for place in range(len(whole)):
        cuts = [place]
        server = Server(
            frames,
            [completed("x")],
            lambda rest, cuts=cuts: ([rest[: cuts.pop()]], BROKEN) if cuts else ([rest], None),  # type: ignore[misc]
        )
        assert list(stream(server)) == events


FAILED = {"id": ID, "status": "failed", "error": "agent invocation failed"}
HALF = {"id": ID, "status": "active", "output": {"output": [{"role": "assistant", "content": "half"}]}}


def test_a_run_that_fails_ends_in_its_error_with_what_had_come() -> None:
    answered = stream(Server(recorded("failed_midway"), [FAILED]))
    got: list[Any] = []
    with pytest.raises(AgentError, match="the app's log has it") as caught:
        got.extend(answered)
    assert [event["type"] for event in got] == ["run.started", "delta", "run.failed"]
    assert caught.value.partial == HALF
    assert (caught.value.invocation_id, caught.value.may_have_run, caught.value.retryable) == (ID, True, False)
    assert not caught.value.args[0].count("None")


def test_a_response_that_fails_ends_in_its_error() -> None:
    with pytest.raises(AgentError, match="boom secret") as caught:
        stream(Server(recorded("responses_failed"), [None]), ResponsesApi).get_final_response()
    assert caught.value.partial is not None
    assert caught.value.invocation_id == ID


@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (
            EndpointNotFoundError("404", status_code=404, body={"detail": "invocation not found"}),
            AgentError,
            "forgotten",
        ),
        (EndpointNotFoundError("a proxy's 404", status_code=404, body="<html>"), EndpointNotFoundError, "a proxy's"),
        (AuthenticationError("401", status_code=401), AuthenticationError, "401"),
    ],
)
def test_what_does_not_pass_ends_a_stream(failure: AgentTargetError, kind: type[AgentTargetError], said: str) -> None:
    opened: list[int] = []

    def cut(rest: bytes) -> tuple[list[bytes], Exception | None]:
        opened.append(1)
        return ([recorded("failed_midway")[1]], BROKEN) if len(opened) == 1 else ([], failure)

    with pytest.raises(kind, match=said) as caught:
        stream(Server(recorded("failed_midway"), [ACTIVE], cut)).get_final_response()
    assert (caught.value.invocation_id, caught.value.may_have_run) == (ID, True)
    assert f"client.get_run(id='{ID}')" in caught.value.message or kind is AgentError


def test_a_run_that_says_nothing_more_is_given_up_in_time() -> None:
    """Its worker may have died: the server itself will never say so."""
    server = Server(recorded("failed_midway")[:2], [ACTIVE], lambda rest: ([rest], SILENT))
    with pytest.raises(StreamIdleError, match=r"said nothing for 0.3 s, and goes on.*get_run") as caught:
        stream(server, most=0.3).get_final_response()
    assert caught.value.partial == HALF
    assert caught.value.retryable
    assert "record" in server.asked


def test_a_stream_that_flows_may_take_longer_than_its_silence() -> None:
    server = Server(recorded("plain"), [completed("You said: hi there")])
    server.cut = lambda rest: ([b"id: " + part for part in rest.split(b"id: ") if part], None)
    server.seconds = 0.1
    assert stream(server, most=0.4).get_final_response() == completed("You said: hi there")


def test_a_connection_that_is_made_while_its_reader_leaves_is_closed() -> None:
    server = Server(recorded("plain"), [ACTIVE])
    answered = stream(server)

    def cut(rest: bytes) -> tuple[list[bytes], Exception | None]:
        answered.close()
        return [rest], None

    server.cut = cut
    with pytest.raises(StreamInterruptedError, match="closed by its reader"):
        answered.get_final_response()
    assert [connection.is_closed for connection in server.connections] == [True]


def test_a_stream_that_was_closed_stays_closed() -> None:
    server = Server(recorded("plain"), [ACTIVE], lambda rest: ([rest[:90]], BROKEN))
    answered = stream(server)
    next(answered)
    answered.close()
    with pytest.raises(StreamInterruptedError, match="closed by its reader") as caught:
        answered.get_final_response()
    assert caught.value.invocation_id == ID
    assert len(server.asked) == 1


def test_closing_wakes_a_reader_that_waits_for_a_server_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_agent_target.endpoints.following._FIRST_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr("mlflow_agent_target.endpoints.following._LONGEST_PAUSE_SECONDS", 60.0)
    waiting = threading.Event()

    def cut(rest: bytes) -> tuple[list[bytes], Exception | None]:
        waiting.set()
        return [], BROKEN

    answered = stream(Server(recorded("plain"), [ACTIVE], cut), most=100.0)
    ended: list[BaseException] = []

    def read() -> None:
        try:
            answered.get_final_response()
        except AgentTargetError as error:
            ended.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert waiting.wait(5)
    answered.close()
    reader.join(10)
    assert not reader.is_alive()
    assert "closed by its reader" in str(ended[0])


def test_pauses_grow_with_the_time_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    asked, now = [], 0.0
    while now < 120:
        now += poll_pause(now)
        asked.append(now)
    assert len([at for at in asked if at < 0.1]) >= 3  # a run of 50 ms is found to be over in time
    assert len(asked) < 120  # and one of minutes is asked for less than once a second
    assert [pause_after(failures) for failures in (1, 2, 3, 6, 5000)] == [0.5, 1.0, 2.0, 10.0, 10.0]
