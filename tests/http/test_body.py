"""The body of an answer, which one thread reads and any other may close."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from mlflow_agent_target import AgentStream, AgentTargetClient, EndpointUnavailableError
from mlflow_agent_target.http.body import Body
from tests.scripted import ScriptedServer, chunked

Make = Callable[..., ScriptedServer]


def opened(server: ScriptedServer) -> tuple[AgentStream, Body]:
    """A stream, which closes its body when it is forgotten, and the body."""
    client = AgentTargetClient(server.target_uri).with_options(interface="ResponsesAgent")
    stream = client.predict_stream(endpoint="a", inputs="hi")
    return stream, cast("Body", stream._body)


def in_another_thread(call: Callable[[], Any]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_who_reads_closes_what_another_thread_has_closed_meanwhile(
    scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(chunked([b"data", 20.0]))
    _stream, body = opened(server)
    read = body._read1

    def read_while_another_closes(size: int) -> bytes:
        data = read(size)
        in_another_thread(body.close)
        return data

    monkeypatch.setattr(body, "_read1", read_while_another_closes)
    assert body.read(5) == b"data"
    assert body._answer is not None
    assert body._answer.is_read
    with pytest.raises(EndpointUnavailableError, match="closed before its end"):
        body.read(5)


def test_a_body_that_nobody_reads_is_closed_at_once_by_any_thread(scripted: Make) -> None:
    _stream, body = opened(scripted(chunked([b"data", 20.0])))
    assert body._answer is not None
    assert not body._answer.is_read
    in_another_thread(body.close)
    assert body._answer.is_read
    body.close()  # any number of times
