"""One endpoint: what is sent of what a caller gives, and how often it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_agent_target import AgentTargetClient, InvalidInputError
from tests.scripted import ScriptedServer, chunked, events, whole

Make = Callable[..., ScriptedServer]
ANSWER = {"output": []}


class Counted:
    """A value that is written as JSON, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def tolist(self) -> int:
        self.times += 1
        return 7


@pytest.mark.parametrize("interface", [None, "ResponsesAgent"])
@pytest.mark.parametrize("described", [{"task": "agent/v1/responses"}, {}])
def test_a_payload_is_written_once(interface: str | None, described: dict[str, Any], scripted: Make) -> None:
    server = scripted(whole(ANSWER), describe=whole(described))
    client = AgentTargetClient(server.target_uri).with_options(interface=interface)
    for _ in range(2):  # the endpoint is asked what it serves, and then it is known
        value = Counted()
        client.predict(endpoint="a", inputs={"input": [], "custom_inputs": {"value": value}})
        assert value.times == 1
    assert [post.json["custom_inputs"] for post in server.posts] == [{"value": 7}] * 2


def test_a_streams_payload_is_written_once(scripted: Make) -> None:
    server = scripted(chunked([events(ANSWER)]), describe=whole({"task": "agent/v1/responses"}))
    for _ in range(2):
        value = Counted()
        inputs = {"input": [], "custom_inputs": {"value": value}}
        AgentTargetClient(server.target_uri).predict_stream(endpoint="a", inputs=inputs).close()
        assert value.times == 1
    assert [post.json["stream"] for post in server.posts] == [True, True]


@pytest.mark.parametrize(
    "inputs", [{"input": [], "custom_inputs": {"value": object()}}, {"input": [], "stream": True}, {"input": 3}]
)
def test_what_cannot_be_sent_is_refused_before_anything_is_asked(inputs: Any, scripted: Make) -> None:
    server = scripted(whole(ANSWER))
    with pytest.raises(InvalidInputError):
        AgentTargetClient(server.target_uri).predict(endpoint="a", inputs=inputs)
    assert server.received == []
