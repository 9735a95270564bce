"""AgentTargetClient against real agents: MLflow's contract, detection, conversion, names."""

from __future__ import annotations

import copy
import io
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Trace
from mlflow.types.agent import ChatAgentMessage, ChatAgentRequest
from mlflow.types.llm import ChatCompletionRequest, ChatMessage
from mlflow.types.responses import ResponsesAgentRequest

from mlflow_agent_target import (
    AgentError,
    AgentResponse,
    AgentTargetClient,
    EndpointNotFoundError,
    InterfaceMismatchError,
    InvalidInputError,
)
from mlflow_agent_target.server import LocalServer
from tests.conftest import user
from tests.scripted import ScriptedServer, chunked, events, whole

Make = Callable[..., ScriptedServer]
QUESTION = "one two three"
ANSWERS = {
    "responses_agent": "You said 'one two three': 3 words, by my count_words tool.",
    "chat_agent": "three two one",
    "chat_model": "ONE TWO THREE",
}
INPUTS: dict[str, Any] = {
    "a string": QUESTION,
    "a list": [user(QUESTION)],
    "an input payload": {"input": [user(QUESTION)]},
    "OpenAI's bare string": {"input": QUESTION},
    "a messages payload": {"messages": [user(QUESTION)]},
    "ResponsesAgentRequest": ResponsesAgentRequest(input=[user(QUESTION)]),
    "ChatAgentRequest": ChatAgentRequest(messages=[ChatAgentMessage(**user(QUESTION))]),
    "ChatCompletionRequest": ChatCompletionRequest(messages=[ChatMessage(**user(QUESTION))]),
}


@pytest.mark.parametrize("endpoint", ANSWERS)
@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_every_form_of_input_is_answered_by_every_interface(
    inputs: Any, endpoint: str, client: AgentTargetClient
) -> None:
    before = copy.deepcopy(inputs)
    response = client.predict(endpoint=endpoint, inputs=inputs)
    with client.predict_stream(endpoint=endpoint, inputs=inputs) as stream:
        assert "".join(stream.text_stream) == ANSWERS[endpoint]
    assert response.output_text == stream.get_final_response().output_text == ANSWERS[endpoint]
    assert inputs == before


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
TOOL_TURNS: dict[str, list[dict[str, Any]]] = {
    "messages": [
        user("40 + 2?"),
        {"role": "assistant", "content": "", "id": "m1", "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "name": "add", "tool_call_id": "c1", "id": "m2"},
        {"role": "assistant", "content": "42.", "id": "m3"},
    ],
    "input": [
        user("40 + 2?"),
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        {
            "type": "message",
            "id": "m3",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "42.", "annotations": []}],
        },
    ],
}


@pytest.mark.parametrize("endpoint", ["responses_agent", "chat_agent"])
@pytest.mark.parametrize("key", TOOL_TURNS)
def test_a_conversation_with_tools_goes_on_with_an_agent_of_any_interface(
    key: str, endpoint: str, client: AgentTargetClient
) -> None:
    response = client.predict(endpoint=endpoint, inputs={key: [*TOOL_TURNS[key], user("thanks")]})
    assert "thanks" in response.output_text
    assert "40 + 2?" in response.output_text or "2? + 40" in response.output_text


@pytest.mark.parametrize("endpoint", [*ANSWERS, "tool_chat_agent"])
def test_a_stream_adds_up_to_what_predict_gives(endpoint: str, client: AgentTargetClient) -> None:
    inputs = {"messages": [user(QUESTION)], "custom_inputs": {"k": [1]}}
    whole_answer = client.predict(endpoint=endpoint, inputs=inputs)
    streamed = client.predict_stream(endpoint=endpoint, inputs=inputs).get_final_response()
    assert isinstance(streamed, AgentResponse)
    for read in ("output_text", "tool_calls", "custom_outputs"):
        assert getattr(streamed, read) == getattr(whole_answer, read)
    if endpoint != "chat_model":  # a ChatModel's chunks have no place for usage in MLflow's schema
        assert streamed.usage == whole_answer.usage


def test_a_responses_agents_tool_use_is_all_there(client: AgentTargetClient) -> None:
    inputs = {"input": [user("first"), user("and second")], "custom_inputs": {"session": 7}}
    response = client.predict(endpoint="responses_agent", inputs=inputs)
    assert [item["type"] for item in response.output] == ["function_call", "function_call_output", "message"]
    assert [(call["name"], json.loads(call["arguments"])) for call in response.tool_calls] == [
        ("count_words", {"text": "and second"})
    ]
    assert "Before that you said 'first'" in response.output_text
    assert response.custom_outputs == {"session": 7}
    assert response.usage == {"input_tokens": 3, "output_tokens": 15, "total_tokens": 18}
    assert (
        client.predict_stream(endpoint="responses_agent", inputs=inputs).get_final_response().output == response.output
    )


def test_context_and_custom_inputs_arrive_through_a_conversion(client: AgentTargetClient) -> None:
    context = {"conversation_id": "c1", "user_id": "u1"}
    inputs = {"input": [user("hi")], "context": context, "custom_inputs": {"k": 1}}
    assert client.predict(endpoint="tool_chat_agent", inputs=inputs).custom_outputs == {
        "context": context,
        "custom_inputs": {"k": 1},
    }


@pytest.mark.parametrize("endpoint", ANSWERS)
def test_the_trace_of_the_run_comes_back(endpoint: str, client: AgentTargetClient) -> None:
    inputs = {"messages": [user("hi")], "databricks_options": {"return_trace": True}}
    streamed = client.predict_stream(endpoint=endpoint, inputs=inputs).get_final_response()
    for response in (client.predict(endpoint=endpoint, inputs=inputs), streamed):
        assert response.trace is not None
        trace = Trace.from_dict(response.trace)
        assert trace.info.state == "OK"
        names = [span.name for span in trace.data.spans]
        assert names[0] == endpoint
        if endpoint == "responses_agent":
            assert "count_words" in names
        assert response.request_id == response["databricks_output"]["databricks_request_id"]
    assert client.predict(endpoint=endpoint, inputs="hi").trace is None


def test_the_trace_comes_beside_the_last_item(client: AgentTargetClient) -> None:
    inputs = {"input": [user("hi")], "databricks_options": {"return_trace": True}}
    with_trace = [
        e for e in client.predict_stream(endpoint="responses_agent", inputs=inputs) if "databricks_output" in e
    ]
    assert len(with_trace) == 1
    assert with_trace[0]["databricks_output"]["trace"]["data"]["spans"]


@pytest.mark.parametrize("inputs", ["now", "later"])
def test_an_agent_that_fails_is_an_agent_error(inputs: str, client: AgentTargetClient) -> None:
    with pytest.raises(AgentError, match="the agent's tool is broken") as caught:
        client.predict(endpoint="failing_agent", inputs=inputs)
    assert (caught.value.status_code, caught.value.may_have_run) == (400, True)
    stream = client.predict_stream(endpoint="failing_agent", inputs=inputs)
    with pytest.raises(AgentError, match="the agent's tool is broken") as caught:
        stream.get_final_response()
    if inputs == "later":
        assert caught.value.partial is not None
        assert caught.value.partial["output"][0]["content"][0]["text"] == "Let me"


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a?b", "a#b", "a%2fb", "a\\b", "..", ".", " a", "a\n", "endpoints:/", 5]
)
def test_a_name_that_could_change_the_url_is_refused(name: Any, scripted: Make) -> None:
    server = scripted(whole({"output": []}))
    for call in (AgentTargetClient(server.target_uri).predict, AgentTargetClient(server.target_uri).predict_stream):
        with pytest.raises(InvalidInputError, match="name"):
            call(endpoint=name, inputs="hi")
        with pytest.raises(InvalidInputError, match="name"):
            call(name, "hi")
    assert server.received == []


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        {},
        {"input": [], "messages": []},
        5,
        {"input": 5},
        {"input": [5]},
        {"input": [user("hi")], "temperature": float("nan")},
        {"messages": [user("hi")], "custom_inputs": {"a": b"x"}},
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(inputs: Any, scripted: Make) -> None:
    server = scripted(whole({"output": []}))
    for call in (AgentTargetClient(server.target_uri).predict, AgentTargetClient(server.target_uri).predict_stream):
        with pytest.raises(InvalidInputError):
            call(endpoint="a", inputs=inputs)
    assert server.received == []


def test_streaming_is_said_by_the_method(client: AgentTargetClient) -> None:
    with pytest.raises(InvalidInputError, match="predict_stream"):
        client.predict(endpoint="chat_agent", inputs={"messages": [user("hi")], "stream": True})
    for value in (True, False):
        inputs = {"messages": [user("hi")], "stream": value}
        assert client.predict_stream(endpoint="chat_agent", inputs=inputs).get_final_response().output_text == "hi"
    assert client.predict(endpoint="chat_agent", inputs={"messages": [user("hi")], "stream": False}).output_text == "hi"


def test_an_endpoint_can_be_named_in_any_of_mlflows_ways(client: AgentTargetClient) -> None:
    for response in (
        client.predict(endpoint="chat_agent", inputs="hi"),
        client.predict(endpoint="endpoints:/chat_agent", inputs="hi"),
        client.predict("chat_agent", "hi"),
        client.predict(deployment_name="chat_agent", endpoint="endpoints:/chat_agent", inputs="hi"),
    ):
        assert response.output_text == "hi"
    with pytest.raises(InvalidInputError, match="'a' and 'b'"):
        client.predict("a", "hi", endpoint="b")


def test_a_workspace_needs_an_endpoints_name() -> None:
    with pytest.raises(InvalidInputError, match="No endpoint was named"):
        AgentTargetClient("agent-target").predict(inputs="hi")


def test_an_endpoint_that_is_not_there(client: AgentTargetClient) -> None:
    with pytest.raises(
        EndpointNotFoundError, match="RESOURCE_DOES_NOT_EXIST: The endpoint 'nope' does not exist"
    ) as caught:
        client.predict(endpoint="nope", inputs="hi")
    assert caught.value.body == {
        "error_code": "RESOURCE_DOES_NOT_EXIST",
        "message": "The endpoint 'nope' does not exist.",
    }


def test_a_bare_agent_server_is_called_without_a_name(scripted: Make) -> None:
    server = scripted(whole({"output": []}))
    AgentTargetClient(f"{server.target_uri}/prefix").predict(inputs="hi")
    assert [request.path for request in server.received] == ["/prefix/invocations"]


def described(task: Any) -> Any:
    return whole({"name": "a", "task": task})


def test_an_endpoints_interface_is_asked_once_for_all_clients(scripted: Make) -> None:
    server = scripted(whole({"messages": []}), describe=described("agent/v2/chat"))
    for _ in range(3):
        AgentTargetClient(server.target_uri).predict(endpoint="a", inputs="hi")
    assert [request.method for request in server.received] == ["GET", "POST", "POST", "POST"]
    assert server.received[0].path == "/api/2.0/serving-endpoints/a"
    assert server.posts[0].json == {"messages": [user("hi")]}


def test_threads_that_start_together_ask_once(scripted: Make) -> None:
    server = scripted(whole({"messages": []}), describe=[0.2, *described("agent/v2/chat")])
    uri = server.target_uri
    threads = [threading.Thread(target=lambda: AgentTargetClient(uri).predict("a", "hi")) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [request.method for request in server.received] == ["GET"] + ["POST"] * 16
    assert all(request.json == {"messages": [user("hi")]} for request in server.posts)


def test_an_endpoint_that_cannot_be_described_now_is_asked_again(scripted: Make) -> None:
    server = scripted(whole({"output": []}), describe=whole({"message": "not now"}, 503))
    client = AgentTargetClient(server.target_uri)
    client.predict("a", "hi")
    server.describe = described("agent/v2/chat")
    client.predict("a", "hi")
    assert [request.json for request in server.posts] == [{"input": [user("hi")]}, {"messages": [user("hi")]}]


def test_an_endpoint_that_was_gone_may_come_back_as_another(scripted: Make) -> None:
    gone = whole({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}, 404)
    server = scripted(gone, whole({"messages": []}), describe=described("agent/v1/responses"))
    client = AgentTargetClient(server.target_uri)
    with pytest.raises(EndpointNotFoundError):
        client.predict("a", "hi")
    server.describe = described("agent/v2/chat")
    client.predict("a", "hi")
    assert server.posts[1].json == {"messages": [user("hi")]}


@pytest.mark.parametrize(
    "describe",
    [
        pytest.param(whole({"error_code": "PERMISSION_DENIED", "message": "no"}, 403), id="forbidden"),
        pytest.param(whole({"error_code": "ENDPOINT_NOT_FOUND", "message": "no"}, 404), id="missing"),
        pytest.param(whole(b"<html>", content_type="text/html"), id="nonsense"),
        pytest.param(whole({"message": "no"}, 503), id="not now"),
        pytest.param(described(None), id="null"),
        pytest.param(described("custom/v1"), id="unknown"),
        pytest.param(described(["agent/v2/chat"]), id="of another type"),
        pytest.param(whole([1]), id="a list"),
    ],
)
@pytest.mark.parametrize("payload", [{"input": [user("hi")]}, {"messages": [user("hi")]}])
def test_where_the_interface_cannot_be_known_the_payload_goes_as_it_is(
    describe: Any, payload: dict[str, Any], scripted: Make
) -> None:
    server = scripted(whole({"output": []}), describe=describe)
    AgentTargetClient(server.target_uri).predict(endpoint="a", inputs=payload)
    assert [request.json for request in server.posts] == [payload]


def test_what_an_endpoint_serves_can_be_said(scripted: Make) -> None:
    server = scripted(whole({"messages": []}), describe=described("agent/v1/responses"))
    for name in ("ChatAgent", "agent/v2/chat"):
        AgentTargetClient(server.target_uri).with_options(interface=name).predict(endpoint="a", inputs="hi")
    assert [request.method for request in server.received] == ["POST", "POST"]
    assert server.posts[0].json == {"messages": [user("hi")]}


_USE_INPUT = "'messages' field is not supported. Please use 'input' field instead."
_NO_INPUT = (
    "Invalid parameters for ResponsesAgent: 1 validation error for ResponsesAgentRequest\ninput\n  Field required"
)
_NO_MESSAGES = "Model is missing inputs ['messages']. Note that there were extra inputs: ['input']."
REFUSALS: list[tuple[str, dict[str, Any]]] = [
    ("input", {"error_code": "INVALID_PARAMETER_VALUE", "message": _USE_INPUT}),
    ("input", {"detail": _NO_INPUT}),
    ("messages", {"error_code": "BAD_REQUEST", "message": _NO_MESSAGES}),
    ("messages", {"error_code": "BAD_REQUEST", "message": "Missing required Chat parameter: 'messages'"}),
]


@pytest.mark.parametrize(("wanted", "refusal"), REFUSALS)
@pytest.mark.parametrize("name", ["a", None])
def test_an_endpoint_that_names_the_key_it_takes_is_given_that(
    wanted: str, refusal: dict[str, Any], name: str | None, scripted: Make
) -> None:
    """It has said so before its agent ran, so that the agent runs once."""
    server = scripted(whole(refusal, 400), whole({"output": []}))
    other = "input" if wanted == "messages" else "messages"
    client = AgentTargetClient(server.target_uri)
    for _ in range(2):
        client.predict(endpoint=name, inputs={other: [user("hi")], "custom_inputs": {"k": 1}})
    assert [sorted(request.json) for request in server.posts] == [
        ["custom_inputs", other],
        ["custom_inputs", wanted],
        ["custom_inputs", wanted],
    ]


def test_an_endpoint_is_asked_in_the_other_schema_once(scripted: Make) -> None:
    server = scripted(whole(REFUSALS[0][1], 400))
    with pytest.raises(AgentError, match="use 'input' field instead") as caught:
        AgentTargetClient(server.target_uri).predict(endpoint="a", inputs={"messages": [user("hi")]})
    assert len(server.posts) == 2
    assert caught.value.status_code == 400


def test_an_agent_that_quotes_such_a_refusal_has_run(scripted: Make) -> None:
    said = f"Encountered an unexpected error while evaluating the model. Error: ValueError: {_USE_INPUT}"
    for describe in (None, described("agent/v2/chat")):
        server = scripted(whole({"error_code": "BAD_REQUEST", "message": said}, 400), describe=describe)
        with pytest.raises(AgentError, match="ValueError") as caught:
            AgentTargetClient(server.target_uri).predict(endpoint="a", inputs={"messages": [user("hi")]})
        assert (caught.value.may_have_run, len(server.posts)) == (True, 1)


def test_an_endpoint_that_is_no_longer_what_it_was_is_asked_anew(scripted: Make) -> None:
    server = scripted(whole(REFUSALS[0][1], 400), whole({"output": []}), describe=described("agent/v2/chat"))
    client = AgentTargetClient(server.target_uri)
    with pytest.raises(AgentError, match="use 'input' field instead") as caught:
        client.predict(endpoint="a", inputs="hi")
    assert caught.value.may_have_run is False
    server.describe = described("agent/v1/responses")
    client.predict(endpoint="a", inputs="hi")
    assert server.posts[-1].json == {"input": [user("hi")]}


def test_what_a_chat_agent_cannot_be_told_a_chat_model_may(scripted: Make) -> None:
    server = scripted(whole(REFUSALS[2][1], 400), whole({"choices": []}))
    image = {"type": "input_image", "image_url": "https://x/y.png"}
    AgentTargetClient(server.target_uri).predict(endpoint="a", inputs=[user([image])])
    part = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    assert server.posts[-1].json == {"messages": [user([part])]}


@pytest.mark.parametrize("describe", [whole({"message": "no"}, 405), [1.5]], ids=["refused", "silent"])
def test_a_gateway_that_does_not_describe_is_asked_once(describe: Any, scripted: Make) -> None:
    server = scripted(whole({"output": []}), describe=describe)
    client = AgentTargetClient(server.target_uri).with_options(timeout=0.3)
    for _ in range(3):
        client.predict(endpoint="a", inputs="hi")
    assert [request.method for request in server.received] == ["GET", "POST", "POST", "POST"]


def test_a_refused_key_means_that_the_agent_has_not_run(scripted: Make) -> None:
    server = scripted(whole(REFUSALS[0][1], 400))
    client = AgentTargetClient(server.target_uri).with_options(interface="ChatAgent")
    with pytest.raises(AgentError) as caught:
        client.predict_stream(endpoint="a", inputs={"messages": [user("hi")]})
    assert (caught.value.may_have_run, len(server.posts)) == (False, 1)


def test_a_mismatch_is_found_before_anything_is_sent(scripted: Make) -> None:
    server = scripted(whole({"messages": []}), describe=described("agent/v2/chat"))
    with pytest.raises(InterfaceMismatchError, match=r"input\[0\] of type 'reasoning'"):
        AgentTargetClient(server.target_uri).predict(endpoint="a", inputs=[{"type": "reasoning", "summary": []}])
    assert server.posts == []


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"total_timeout": "5"},
        {"idle_timeout": True},
        {"timeout": float("inf")},
        {"interface": "x"},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], client: AgentTargetClient) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        client.with_options(**options)


def test_options_add_up(client: AgentTargetClient) -> None:
    options = client.with_options(idle_timeout=600).with_options(timeout=30)._access.options
    assert (options.timeout, options.idle_timeout) == (30, 600)


def test_a_response_is_a_dict_with_attributes_that_can_be_stored(client: AgentTargetClient, tmp_path: Path) -> None:
    response = client.predict(endpoint="responses_agent", inputs="hi")
    assert response["output"] is response.output
    assert json.loads(response.to_json() or "") == response
    assert response.to_json(tmp_path / "a.json") is None
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == response
    buffer = io.StringIO()
    response.to_json(buffer)
    assert json.loads(buffer.getvalue()) == response
    for other in (pickle.loads(pickle.dumps(response)), copy.copy(response), copy.deepcopy(response)):
        assert type(other) is AgentResponse
        assert other == response
        assert other.request_id == response.request_id
    with pytest.raises(AttributeError, match="'nope'"):
        _ = response.nope


def test_endpoints_are_described_as_dicts_with_attributes(client: AgentTargetClient, server: LocalServer) -> None:
    endpoint = client.get_endpoint("endpoints:/chat_agent")
    assert (endpoint.name, endpoint["task"], endpoint.state["ready"]) == ("chat_agent", "agent/v2/chat", "READY")
    assert client.get_deployment("chat_agent") == endpoint
    names = {described.name for described in client.list_endpoints()}
    assert {"responses_agent", "chat_agent", "chat_model"} <= names
    assert client.list_deployments() == client.list_endpoints()


def test_a_workspace_without_endpoints_has_an_empty_list(scripted: Make) -> None:
    server = scripted(whole({}), describe=whole({}))
    assert AgentTargetClient(server.target_uri).list_endpoints() == []


def test_a_workspace_is_reached_with_its_own_login(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "x")
    assert AgentTargetClient("agent-target").predict(endpoint="chat_agent", inputs="b a").output_text == "a b"


def test_a_profile_is_another_workspace(scripted: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = scripted(
        chunked([events({"delta": {"role": "assistant", "content": "ho", "id": "1"}})]), describe=whole({})
    )
    (tmp_path / "cfg").write_text(f"[dev]\nhost = {server.url}\ntoken = from-the-profile\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "cfg"))
    client = AgentTargetClient("agent-target://dev")
    assert client.predict_stream(endpoint="a", inputs="hi").get_final_response().output_text == "ho"
    assert server.posts[0].headers["authorization"] == "Bearer from-the-profile"


def test_a_workspace_client_of_the_callers_own_is_used(server: LocalServer) -> None:
    from databricks.sdk import WorkspaceClient

    own = WorkspaceClient(host=server.url, token="x")
    assert AgentTargetClient(workspace_client=own).predict(endpoint="chat_agent", inputs="b a").output_text == "a b"


def foundation_model(**more: Any) -> Any:
    return whole({"name": "a", "endpoint_type": "FOUNDATION_MODEL_API", **more})


def test_a_foundation_model_is_not_sent_what_it_refuses(scripted: Make) -> None:
    server = scripted(whole({"choices": []}), describe=foundation_model(task="llm/v1/chat"))
    client = AgentTargetClient(server.target_uri)
    inputs = {"input": [user("hi")], "max_output_tokens": 5, "databricks_options": {"return_trace": True}}
    with pytest.warns(UserWarning, match="'databricks_options' is left out: the foundation model 'a' refuses it"):
        client.predict(endpoint="a", inputs=inputs)
    assert server.posts[0].json == {"messages": [user("hi")], "max_tokens": 5}


@pytest.mark.parametrize(
    ("task", "inputs"),
    [
        ("llm/v1/completions", {"prompt": "Once upon", "max_tokens": 5}),
        ("llm/v1/embeddings", {"input": ["a", "b"]}),
        ("llm/v1/embeddings", {"input": "a"}),
    ],
)
def test_what_is_no_agent_is_sent_its_own_payload(task: str, inputs: dict[str, Any], scripted: Make) -> None:
    server = scripted(whole({"choices": [{"text": " a time"}]}), describe=foundation_model(task=task))
    response = AgentTargetClient(server.target_uri).predict(endpoint="a", inputs=inputs)
    assert server.posts[0].json == inputs
    assert response == {"choices": [{"text": " a time"}]}


def test_an_agent_is_not_sent_a_prompt(scripted: Make) -> None:
    server = scripted(whole({"output": []}), describe=described("agent/v1/responses"))
    with pytest.raises(InvalidInputError, match="neither 'input' nor 'messages'"):
        AgentTargetClient(server.target_uri).predict(endpoint="a", inputs={"prompt": "hi"})
    assert server.posts == []
