"""The local server, driven by clients that nobody here wrote, and by this package's."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import openai
import pytest
import requests
from databricks.sdk import WorkspaceClient
from mlflow.deployments import get_deploy_client
from mlflow.entities import Trace
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import REQUEST_LIMIT_EXCEEDED, RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from mlflow.types.llm import (
    ChatChoice,
    ChatChoiceDelta,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatCompletionResponse,
    ChatMessage,
)
from mlflow.types.responses import ResponsesAgentRequest

from mlflow_agent_target import AgentError, AgentTargetClient, InvalidInputError, run_local, serve
from mlflow_agent_target.server import LocalServer
from tests.conftest import AGENTS, DEMO, user

HI = [user("one two")]
COUNTED = "You said 'one two': 2 words, by my count_words tool."
OPTIONS = {"custom_inputs": {"k": 1}, "databricks_options": {"return_trace": True}}


@pytest.fixture
def workspace(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    """The local server in place of a workspace, for clients that know only those."""
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "x")
    return server


def plain_openai(server: LocalServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/serving-endpoints", api_key="x")


def databricks_openai(_server: LocalServer) -> openai.OpenAI:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of another package's, and what users have
        return WorkspaceClient().serving_endpoints.get_open_ai_client()


@pytest.fixture(params=[plain_openai, databricks_openai])
def openai_client(request: pytest.FixtureRequest, workspace: LocalServer) -> openai.OpenAI:
    make: Callable[[LocalServer], openai.OpenAI] = request.param
    return make(workspace)


class TestOpenAIClient:
    def test_responses(self, openai_client: openai.OpenAI) -> None:
        answer = openai_client.responses.create(model="responses_agent", input=HI, extra_body=OPTIONS)
        assert answer.output_text == COUNTED
        assert [item.type for item in answer.output] == ["function_call", "function_call_output", "message"]
        assert answer.usage is not None
        assert answer.usage.total_tokens == 12
        assert answer.model_extra is not None
        assert answer.model_extra["custom_outputs"] == {"k": 1}
        assert Trace.from_dict(answer.model_extra["databricks_output"]["trace"]).info.state == "OK"

    def test_responses_streamed(self, openai_client: openai.OpenAI) -> None:
        stream = openai_client.responses.create(model="responses_agent", input=HI, stream=True, extra_body=OPTIONS)
        events = list(stream)
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == COUNTED
        assert events[-1].type == "response.completed"

    def test_chat_completions(self, openai_client: openai.OpenAI) -> None:
        answer = openai_client.chat.completions.create(model="chat_model", messages=HI, extra_body=OPTIONS)
        assert answer.choices[0].message.content == "ONE TWO"
        assert answer.usage is not None
        assert answer.usage.total_tokens == 4
        assert answer.model_extra is not None
        assert answer.model_extra["custom_outputs"] == {"k": 1}

    def test_chat_completions_streamed(self, openai_client: openai.OpenAI) -> None:
        chunks = list(
            openai_client.chat.completions.create(model="chat_model", messages=HI, stream=True, extra_body=OPTIONS)
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "ONE TWO"
        assert chunks[-1].choices[0].finish_reason == "stop"

    def test_a_chat_agent_answers_chat_completions_in_its_own_words(self, openai_client: openai.OpenAI) -> None:
        answer = openai_client.chat.completions.create(model="chat_agent", messages=HI)
        assert answer.model_extra is not None
        assert answer.model_extra["messages"][0]["content"] == "two one"
        chunks = list(openai_client.chat.completions.create(model="chat_agent", messages=HI, stream=True))
        said = [chunk.model_extra["delta"]["content"] for chunk in chunks if chunk.model_extra]
        assert "".join(said) == "two one"

    def test_errors(self, openai_client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            openai_client.responses.create(model="nope", input=HI)
        with pytest.raises(openai.BadRequestError, match="Please use 'input' field instead"):
            openai_client.chat.completions.create(model="responses_agent", messages=HI)
        with pytest.raises(openai.BadRequestError, match="messages"):
            openai_client.responses.create(model="chat_agent", input=HI)
        with pytest.raises(openai.BadRequestError, match="the agent's tool is broken"):
            openai_client.responses.create(model="failing_agent", input=HI)


class TestMLflowDatabricksClient:
    @pytest.mark.parametrize(
        ("endpoint", "inputs", "key"),
        [
            ("responses_agent", {"input": HI}, "output"),
            ("chat_agent", {"messages": HI}, "messages"),
            ("chat_model", {"messages": HI}, "choices"),
        ],
    )
    def test_predict_and_predict_stream(
        self, endpoint: str, inputs: dict[str, Any], key: str, workspace: LocalServer
    ) -> None:
        client = get_deploy_client("databricks")
        answer = client.predict(endpoint=endpoint, inputs={**inputs, **OPTIONS})
        ours = AgentTargetClient(workspace.target_uri).predict(endpoint=endpoint, inputs={**inputs, **OPTIONS})
        assert answer["custom_outputs"] == {"k": 1}
        assert len(answer[key]) == len(ours[key])
        assert Trace.from_dict(answer["databricks_output"]["trace"]).data.spans
        events = list(client.predict_stream(endpoint=endpoint, inputs={**inputs, **OPTIONS}))
        traces = [e["databricks_output"]["trace"] for e in events if "databricks_output" in e]
        assert len(traces) == 1
        assert Trace.from_dict(traces[0]).data.spans

    def test_get_endpoint_and_list_endpoints(self, workspace: LocalServer) -> None:
        client = get_deploy_client("databricks")
        endpoint = client.get_endpoint("responses_agent")
        assert endpoint["task"] == "agent/v1/responses"
        assert endpoint["state"] == {"ready": "READY", "config_update": "NOT_UPDATING"}
        assert endpoint["config"]["served_entities"][0]["state"]["deployment"] == "DEPLOYMENT_READY"
        assert "chat_agent" in [listed["name"] for listed in client.list_endpoints()]

    def test_the_sdks_own_view_of_an_endpoint(self, workspace: LocalServer) -> None:
        endpoint = WorkspaceClient().serving_endpoints.get("chat_agent")
        assert endpoint.task == "agent/v2/chat"
        assert endpoint.config is not None
        assert endpoint.config.served_entities is not None
        assert [e.name for e in WorkspaceClient().serving_endpoints.list() if e.name == "chat_agent"] == ["chat_agent"]


def frames(response: requests.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


class TestREST:
    @pytest.mark.parametrize("extras", [OPTIONS, {"extra_body": OPTIONS}], ids=["merged", "nested"])
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("responses_agent/invocations", {"input": HI}),
            ("responses", {"model": "responses_agent", "input": HI}),
            ("chat_agent/invocations", {"messages": HI}),
            ("chat/completions", {"model": "chat_agent", "messages": HI}),
            ("completions", {"model": "chat_agent", "messages": HI}),
            ("chat_model/invocations", {"messages": HI}),
            ("chat/completions", {"model": "chat_model", "messages": HI}),
        ],
    )
    def test_every_route(self, path: str, body: dict[str, Any], extras: dict[str, Any], server: LocalServer) -> None:
        url = f"{server.url}/serving-endpoints/{path}"
        answer = requests.post(url, json={**body, **extras}, timeout=30)
        assert answer.status_code == 200
        assert answer.json()["custom_outputs"] == {"k": 1}
        assert answer.json()["databricks_output"]["trace"]["info"]["state"] == "OK"
        assert answer.json()["databricks_output"]["databricks_request_id"] == answer.headers["x-request-id"]
        streamed = frames(requests.post(url, json={**body, **extras, "stream": True}, timeout=30))
        assert [bool(e["databricks_output"]["trace"]) for e in streamed if "databricks_output" in e] == [True]
        assert all(e["id"] for e in streamed)

    @pytest.mark.parametrize(
        ("path", "body", "status", "code", "says"),
        [
            ("responses_agent/invocations", b"{nope", 400, "MALFORMED_REQUEST", "Invalid JSON"),
            ("responses_agent/invocations", b"", 400, "MALFORMED_REQUEST", "Invalid JSON"),
            ("responses_agent/invocations", [1], 400, "MALFORMED_REQUEST", "JSON object"),
            ("responses_agent/invocations", {}, 400, "INVALID_PARAMETER_VALUE", "'input'"),
            ("chat_agent/invocations", {}, 400, "INVALID_PARAMETER_VALUE", "'messages'"),
            (
                "responses_agent/invocations",
                {"messages": HI},
                400,
                "INVALID_PARAMETER_VALUE",
                "'messages' field is not supported. Please use 'input' field instead.",
            ),
            (
                "chat_agent/invocations",
                {"input": HI},
                400,
                "INVALID_PARAMETER_VALUE",
                "Model is missing inputs ['messages']. Note that there were extra inputs: ['input'].",
            ),
            ("responses_agent/invocations", {"input": "hi"}, 400, "INVALID_PARAMETER_VALUE", '[{"role": "user"'),
            ("responses_agent/invocations", {"input": [{"role": "user"}]}, 400, "INVALID_PARAMETER_VALUE", "input"),
            ("chat_agent/invocations", {"messages": [{"role": "tool"}]}, 400, "INVALID_PARAMETER_VALUE", "content"),
            ("chat_model/invocations", {"messages": 5}, 400, "INVALID_PARAMETER_VALUE", "ChatModel"),
            ("chat_model/invocations", {"messages": ["x"]}, 400, "INVALID_PARAMETER_VALUE", "ChatModel"),
            ("nope/invocations", {"input": HI}, 404, "RESOURCE_DOES_NOT_EXIST", "'nope' does not exist"),
            ("responses", {"model": "nope", "input": HI}, 404, "RESOURCE_DOES_NOT_EXIST", "'nope' does not exist"),
            ("responses", {"input": HI}, 400, "INVALID_PARAMETER_VALUE", "'model'"),
            ("responses", {"model": 5, "input": HI}, 400, "INVALID_PARAMETER_VALUE", "'model'"),
            ("responses_agent/nope", {"input": HI}, 404, "ENDPOINT_NOT_FOUND", "POST /serving-endpoints"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_bad_requests_get_the_platforms_error_bodies(
        self, path: str, body: Any, status: int, code: str, says: str, stream: bool, server: LocalServer
    ) -> None:
        body = {**body, "stream": stream} if isinstance(body, dict) else body
        raw = body if isinstance(body, bytes) else json.dumps(body)
        answer = requests.post(f"{server.url}/serving-endpoints/{path}", data=raw, timeout=30)
        assert (answer.status_code, answer.json()["error_code"]) == (status, code)
        assert says in answer.json()["message"]

    def test_an_agent_that_fails_is_a_bad_request(self, server: LocalServer) -> None:
        url = f"{server.url}/serving-endpoints/failing_agent/invocations"
        answer = requests.post(url, json={"input": HI}, timeout=30)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
        assert "ValueError: the agent's tool is broken" in answer.json()["message"]

    def test_an_agent_that_fails_while_it_streams_ends_with_an_error_event(self, server: LocalServer) -> None:
        body = {"input": [user("later")], "stream": True, "databricks_options": {"return_trace": True}}
        first, last = frames(
            requests.post(f"{server.url}/serving-endpoints/failing_agent/invocations", json=body, timeout=30)
        )
        assert first["delta"] == "Let me"
        assert last["databricks_output"]["error"]["error_code"] == "BAD_REQUEST"
        assert "the agent's tool is broken" in last["databricks_output"]["error"]["message"]
        assert last["databricks_output"]["trace"]["info"]["state"] == "ERROR"

    def test_a_wrong_method_and_health(self, server: LocalServer) -> None:
        assert requests.get(f"{server.url}/health", timeout=5).json() == {"status": "healthy"}
        assert requests.get(f"{server.url}/.well-known/databricks-config", timeout=5).json() == {}
        assert requests.get(f"{server.url}/serving-endpoints/responses", timeout=5).status_code == 405
        assert requests.get(f"{server.url}/api/2.0/serving-endpoints/nope", timeout=5).status_code == 404

    def test_a_chat_model_goes_on_from_another_agents_answer(self, server: LocalServer) -> None:
        text = {"type": "output_text", "text": "one two", "annotations": []}
        inputs = [*HI, {"type": "message", "id": "m", "role": "assistant", "content": [text]}]
        assert AgentTargetClient(server.target_uri).predict("chat_model", inputs).output_text == "ONE TWO"

    @pytest.mark.parametrize(
        "inputs",
        [
            {"messages": [user([{"type": "text", "text": "one two"}])]},
            {"input": [user([{"type": "input_text", "text": "one two"}])]},
        ],
    )
    def test_a_chat_model_takes_content_parts(self, inputs: dict[str, Any], server: LocalServer) -> None:
        try:
            ChatMessage(role="user", content=[{"type": "text", "text": "one two"}])
        except ValueError:
            pytest.skip("this MLflow's ChatModel takes only text")
        assert AgentTargetClient(server.target_uri).predict("chat_model", inputs).output_text == "ONE TWO"


class Gated(mlflow.pyfunc.ResponsesAgent):
    """Answers, and goes on after a stream's first event, when the gate is opened: `was_let` tells whether it was."""

    def __init__(self, calls: int = 0) -> None:
        self.all_are_in = threading.Barrier(calls + 1)
        self.gate = threading.Event()
        self.was_let: bool | None = None

    def predict(self, request: Any) -> dict[str, Any]:
        self.all_are_in.wait(30)
        self.was_let = self.gate.wait(30)
        return {"output": [self.create_text_output_item("ho", id="m")]}

    def predict_stream(self, request: Any) -> Iterator[dict[str, Any]]:
        call = self.create_function_call_item("fc", "c", "f", "{}")
        yield {"type": "response.output_item.done", "item": call}
        self.was_let = self.gate.wait(30)
        yield {"type": "response.output_item.done", "item": self.create_text_output_item("ho", id="m")}


class TestConcurrency:
    @pytest.fixture
    def untraced(self) -> Iterator[None]:
        """The oldest MLflow writes traces one after the other, within the calls."""
        mlflow.tracing.disable()
        yield
        mlflow.tracing.enable()

    def test_a_slow_agent_blocks_neither_itself_nor_others(self, untraced: None) -> None:
        slow = Gated(calls=60)
        with serve({"slow": slow, "chat_agent": DEMO / "chat_agent.py"}) as server, ThreadPoolExecutor(60) as threads:
            client = AgentTargetClient(server.target_uri)
            calls = [threads.submit(client.predict, "slow", "hi") for _ in range(60)]
            slow.all_are_in.wait(30)  # or BrokenBarrierError
            try:
                assert client.predict(endpoint="chat_agent", inputs="b a").output_text == "a b"
                assert requests.get(f"{server.url}/health", timeout=5).ok
                assert not any(call.done() for call in calls)
            finally:
                slow.gate.set()
            assert [call.result().output_text for call in calls] == ["ho"] * 60
        assert slow.was_let

    @pytest.mark.parametrize("return_trace", [False, True])
    def test_a_stream_is_sent_as_the_agent_makes_it(self, return_trace: bool) -> None:
        gated = Gated()
        inputs = {"input": HI, "databricks_options": {"return_trace": return_trace}}
        with serve({"gated": gated}) as server:
            stream = AgentTargetClient(server.target_uri).predict_stream(endpoint="gated", inputs=inputs)
            # A tool call is not held back for the trace, which comes beside the last message.
            assert next(stream)["item"]["type"] == "function_call"
            gated.gate.set()
            final = stream.get_final_response()
        assert gated.was_let
        assert (final.trace is not None) is return_trace

    def test_a_caller_who_leaves_stops_the_agent(self, server: LocalServer) -> None:
        client = AgentTargetClient(server.target_uri)
        before = int(client.predict(endpoint="slow_agent", inputs="closed?").output_text)
        with client.predict_stream(endpoint="slow_agent", inputs="0.05") as stream:
            next(stream)
        deadline = time.monotonic() + 10
        while int(client.predict(endpoint="slow_agent", inputs="closed?").output_text) == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


class Odd(mlflow.pyfunc.ResponsesAgent):
    """Answers with, or raises, what it is given."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def predict(self, request: Any) -> dict[str, Any]:
        if isinstance(self.value, BaseException):
            raise self.value
        item = self.create_text_output_item("ho", id="m")
        return {"output": [item], "custom_outputs": {"value": self.value}}

    def predict_stream(self, request: Any) -> Iterator[dict[str, Any]]:
        yield self.create_text_delta("h", item_id="m")
        answer = self.predict(request)
        yield {
            "type": "response.output_item.done",
            "item": answer["output"][0],
            "custom_outputs": answer["custom_outputs"],
        }


class TestOddAgents:
    @pytest.mark.parametrize(
        ("value", "read"),
        [
            (datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), "2026-01-02T00:00:00Z"),
            (ResponsesAgentRequest(input=[]), {"input": []}),
            ("\ud83d", "\ud83d"),
            ("\u2028", "\u2028"),
            ((1, 2), [1, 2]),
        ],
    )
    def test_what_can_be_said_in_json_is(self, value: Any, read: Any) -> None:
        with serve({"odd": Odd(value)}) as server:
            client = AgentTargetClient(server.target_uri)
            answers = [client.predict("odd", "hi"), client.predict_stream("odd", "hi").get_final_response()]
        for answer in answers:
            given = answer.custom_outputs["value"] if answer.custom_outputs else None
            assert (given if not isinstance(read, dict) else {key: given[key] for key in read}) == read

    @pytest.mark.parametrize(
        "value",
        [float("nan"), object(), SystemExit(3), KeyboardInterrupt(), RuntimeError("x"), asyncio.CancelledError()],
    )
    def test_what_cannot_is_the_agents_failure_and_no_ones_else(self, value: Any) -> None:
        with serve({"odd": Odd(value), "fine": DEMO / "chat_agent.py"}) as server:
            client = AgentTargetClient(server.target_uri)
            with pytest.raises(AgentError) as caught:
                client.predict("odd", "hi")
            assert isinstance(caught.value.body, dict)
            assert caught.value.body["error_code"] == "BAD_REQUEST"
            with pytest.raises(AgentError) as caught:
                client.predict_stream("odd", "hi").get_final_response()
            assert caught.value.partial is not None
            assert client.predict("fine", "b a").output_text == "a b"

    @pytest.mark.parametrize(
        ("code", "status"),
        [(REQUEST_LIMIT_EXCEEDED, 400), (RESOURCE_DOES_NOT_EXIST, 400), (TEMPORARILY_UNAVAILABLE, 500)],
    )
    def test_an_agent_is_run_once_whatever_it_raises(self, code: int, status: int) -> None:
        class Limited(Odd):
            runs = 0

            def predict(self, request: Any) -> Any:
                Limited.runs += 1
                raise MlflowException("the model behind me is busy", error_code=code)

        with serve({"odd": Limited(None)}) as server, pytest.raises(AgentError, match="busy") as caught:
            AgentTargetClient(server.target_uri).predict("odd", "hi")
        assert (Limited.runs, caught.value.status_code, caught.value.may_have_run) == (1, status, True)

    def test_an_agent_that_cannot_stream_says_so(self) -> None:
        class Whole(mlflow.pyfunc.ChatAgent):
            def predict(self, messages: Any, context: Any = None, custom_inputs: Any = None) -> Any:
                return {"messages": [{"role": "assistant", "content": "ho", "id": "1"}]}

        with serve({"whole": Whole()}) as server:
            client = AgentTargetClient(server.target_uri)
            assert client.predict("whole", "hi").output_text == "ho"
            with pytest.raises(AgentError, match="predict_stream"):
                client.predict_stream("whole", "hi").get_final_response()

    def test_a_chat_models_methods_may_leave_the_context_out(self) -> None:
        class Mixed(mlflow.pyfunc.ChatModel):
            def predict(self, messages: Any, params: Any) -> Any:
                answer = ChatMessage(role="assistant", content=messages[-1].content)
                return ChatCompletionResponse(choices=[ChatChoice(message=answer)])

            def predict_stream(self, context: Any, messages: Any, params: Any, extra: Any = None) -> Any:
                delta = ChatChoiceDelta(role="assistant", content=messages[-1].content)
                yield ChatCompletionChunk(choices=[ChatChunkChoice(delta=delta, finish_reason="stop")])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ChatModel is deprecated, and what some people have
            agent = Mixed()
        with serve({"mixed": agent}) as server:
            client = AgentTargetClient(server.target_uri)
            assert client.predict("mixed", "hi").output_text == "hi"
            assert "".join(client.predict_stream("mixed", "hi").text_stream) == "hi"

    def test_a_files_agent_is_loaded_as_a_logged_one_is(self, tmp_path: Path) -> None:
        source = (DEMO / "chat_agent.py").read_text()
        loads = "    def load_context(self, context):\n        self.loaded = context.model_config\n\n    def predict("
        source = source.replace("    def predict(", loads, 1).replace(
            'finish_reason="stop"', "finish_reason=str(self.loaded)"
        )
        (tmp_path / "loading_agent.py").write_text(source)
        with serve({"a": tmp_path / "loading_agent.py"}) as server:
            assert AgentTargetClient(server.target_uri).predict("a", "hi")["finish_reason"] == "{}"

    def test_mlflows_own_client_reads_every_character(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve({"odd": Odd("a\u2028b\x85c")}) as server:
            monkeypatch.setenv("DATABRICKS_HOST", server.url)
            monkeypatch.setenv("DATABRICKS_TOKEN", "x")
            events = list(get_deploy_client("databricks").predict_stream(endpoint="odd", inputs={"input": HI}))
        assert events[-1]["custom_outputs"]["value"] == "a\u2028b\x85c"

    def test_a_name_in_any_script(self) -> None:
        with serve({"агент": DEMO / "chat_agent.py"}) as server:
            assert AgentTargetClient(server.target_uri).predict("агент", "b a").output_text == "a b"


class TestServe:
    def test_logged_models_of_every_kind(self, tmp_path: Path) -> None:
        for name in ("responses_agent", "chat_agent", "chat_model"):
            mlflow.pyfunc.save_model(tmp_path / name, python_model=str(DEMO / f"{name}.py"), pip_requirements=[])
        with mlflow.start_run():
            logged = mlflow.pyfunc.log_model(
                name="agent",
                python_model=str(DEMO / "chat_agent.py"),
                pip_requirements=[],
                registered_model_name="reverser",
            )
        sources: dict[str, Any] = {name: tmp_path / name for name in ("responses_agent", "chat_agent", "chat_model")}
        sources |= {"logged": logged.model_uri, "registered": "models:/reverser/1"}
        with serve(sources) as server:
            client = AgentTargetClient(server.target_uri)
            answers = {name: client.predict(endpoint=name, inputs="one two").output_text for name in sources}
        assert answers == {
            "responses_agent": COUNTED,
            "chat_agent": "two one",
            "chat_model": "ONE TWO",
            "logged": "two one",
            "registered": "two one",
        }

    def test_an_agent_object_is_served_as_it_is(self) -> None:
        class Counting(mlflow.pyfunc.ChatAgent):
            calls = 0

            def predict(self, messages: Any, context: Any = None, custom_inputs: Any = None) -> dict[str, Any]:
                self.calls += 1
                return {"messages": [{"role": "assistant", "content": str(self.calls), "id": "1"}]}

        agent = Counting()
        with serve({"counting": agent}) as server:
            assert AgentTargetClient(server.target_uri).predict(endpoint="counting", inputs="hi").output_text == "1"
        assert agent.calls == 1

    def test_a_file_may_import_what_lies_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "words_beside_it.py").write_text("WORD = 'beside'\n")
        source = (DEMO / "chat_agent.py").read_text().replace("list(reversed(said))", "[words_beside_it.WORD]")
        (tmp_path / "my_agent.py").write_text(f"import words_beside_it\n{source}")
        with serve({"a": tmp_path / "my_agent.py"}) as server:
            assert AgentTargetClient(server.target_uri).predict(endpoint="a", inputs="x").output_text == "beside"

    def test_each_file_has_the_modules_beside_it(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "words_of_its_own.py").write_text(f"WORD = '{name}'\n")
            source = (DEMO / "chat_agent.py").read_text().replace("list(reversed(said))", "[words_of_its_own.WORD]")
            (tmp_path / name / "agent.py").write_text(f"import words_of_its_own\n{source}")
        with serve({name: tmp_path / name / "agent.py" for name in ("a", "b")}) as server:
            client = AgentTargetClient(server.target_uri)
            assert [client.predict(name, "x").output_text for name in ("a", "b", "a")] == ["a", "b", "a"]

    def test_the_programs_own_logging_is_left_alone(self, tmp_path: Path) -> None:
        handler = logging.FileHandler(tmp_path / "log.txt", mode="w")
        logger = logging.getLogger("a-programs-own")
        logger.addHandler(handler)
        with serve({"a": DEMO / "chat_agent.py"}):
            logger.warning("still here")
        logger.removeHandler(handler)
        handler.close()
        assert (tmp_path / "log.txt").read_text() == "still here\n"

    def test_a_token_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve({"a": DEMO / "chat_agent.py"}, token="hunter2") as server:
            url = f"{server.url}/serving-endpoints/a/invocations"
            for headers in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "hunter2"}):
                answer = requests.post(url, json={"messages": HI}, headers=headers, timeout=5)
                assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
            assert requests.get(f"{server.url}/api/2.0/serving-endpoints", timeout=5).status_code == 401
            assert requests.get(f"{server.url}/health", timeout=5).ok
            monkeypatch.setenv("AGENT_TARGET_TOKEN", "hunter2")
            assert AgentTargetClient(server.target_uri).predict(endpoint="a", inputs="b a").output_text == "a b"

    def test_a_stopped_server_is_gone_and_can_be_stopped_again(self) -> None:
        server = serve({"a": DEMO / "chat_agent.py"})
        assert requests.get(f"{server.url}/health", timeout=5).ok
        server.stop()
        server.stop()
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}/health", timeout=5)

    @pytest.mark.parametrize(
        ("agents", "says"),
        [
            ({}, "at least one agent"),
            ({"a/b": DEMO / "chat_agent.py"}, "a/b"),
            ({"a": "nowhere.py"}, "no file 'nowhere.py'"),
            ({"a": "nowhere"}, "'nowhere' can't be loaded"),
            ({"a": "models:/nobody/1"}, "can't be loaded"),
            ({"a": 5}, "no agent but a int"),
            ({"a": AGENTS / "sets_no_model.py"}, "mlflow.models.set_model"),
            ({"a": AGENTS / "raises.py"}, "ZeroDivisionError"),
        ],
    )
    def test_what_is_no_agent_is_refused(self, agents: Any, says: str) -> None:
        with pytest.raises(InvalidInputError) as caught:
            serve(agents)
        assert says in str(caught.value)

    def test_a_plain_pyfunc_model_is_no_agent(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.pyfunc.save_model(tmp_path / "m", python_model=lambda model_input: model_input, pip_requirements=[])
        with pytest.raises(InvalidInputError, match="is no agent"):
            serve({"a": tmp_path / "m"})


class TestRunLocal:
    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ({"port": "x"}, "port must be a number"),
            ({"port": "70000"}, "port must be a number"),
            ({"prot": "80"}, "no option prot"),
            ({"host": "0.0.0.0"}, "token"),  # noqa: S104
            ({"host": "example.com"}, "token"),
        ],
    )
    def test_bad_configuration_is_refused(self, config: dict[str, str], says: str) -> None:
        with pytest.raises(InvalidInputError) as caught:
            run_local("a", str(DEMO / "chat_agent.py"), config=config)
        assert says in str(caught.value)

    def test_a_port_in_use_is_refused(self, server: LocalServer) -> None:
        with pytest.raises(InvalidInputError, match="0 for a free one"):
            run_local("a", str(DEMO / "chat_agent.py"), config={"port": server.url.rpartition(":")[2]})

    def test_another_flavor_is_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="python_function"):
            run_local("a", str(DEMO / "chat_agent.py"), flavor="sklearn")

    @pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
    def test_it_says_its_target_and_stops_cleanly(self, stop: int, tmp_path: Path) -> None:
        agent = tmp_path / "agent.py"
        at_exit = "\nimport atexit, pathlib\natexit.register(lambda: pathlib.Path('at_exit').touch())\n"
        agent.write_text((DEMO / "chat_agent.py").read_text() + at_exit)
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "deployments",
            "run-local",
            "-t",
            "agent-target",
            "--name",
            "mine",
        ]
        process = subprocess.Popen(
            [*command, "-m", str(agent), "-C", "port=0", "-C", "token=hunter2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
                "MLFLOW_EXPERIMENT_ID": "0",
                "AGENT_TARGET_TOKEN": "hunter2",
            },
        )
        try:
            assert process.stdout is not None
            said = [line for line in iter(process.stdout.readline, "Stop with Ctrl-C.\n") if line]
            target = next(line.split()[1] for line in said if "Target:" in line)
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("AGENT_TARGET_TOKEN", "hunter2")
                assert AgentTargetClient(target).predict(endpoint="mine", inputs="b a").output_text == "a b"
            process.send_signal(stop)
            rest, errors = process.communicate(timeout=30)
        finally:
            process.kill()
        assert (process.returncode, rest) == (0, "Stopped.\n")
        assert "Traceback" not in errors
        assert "hunter2" not in "".join(said) + errors
        assert (tmp_path / "at_exit").exists()
        store = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        assert len(store.search_traces(["0"])) == 1


class TestMLflowsOwnServers:
    """Our client against servers that are not ours."""

    @pytest.fixture(scope="class")
    @classmethod
    def agent_server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        pytest.importorskip("mlflow.genai.agent_server", reason="this MLflow has no AgentServer yet")
        script = AGENTS / "on_agent_server.py"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path_factory.mktemp('s')}/mlflow.db"}
        process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None
            yield f"agent-target:{process.stdout.readline().strip()}"
        finally:
            process.kill()
            process.wait()

    @pytest.mark.parametrize(
        "inputs", ["one two", HI, {"input": HI, "custom_inputs": {"k": 1}}, {"messages": HI, "custom_inputs": {"k": 1}}]
    )
    def test_agent_server(self, inputs: Any, agent_server: str) -> None:
        client = AgentTargetClient(agent_server)
        response = client.predict(inputs=inputs)
        with client.predict_stream(inputs=inputs) as stream:
            assert "".join(stream.text_stream) == COUNTED
        final = stream.get_final_response()
        assert response.output_text == final.output_text == COUNTED
        assert response.output == final.output
        assert (
            response.custom_outputs
            == final.custom_outputs
            == (inputs["custom_inputs"] if isinstance(inputs, dict) else None)
        )

    def test_agent_server_failing(self, agent_server: str) -> None:
        client = AgentTargetClient(agent_server)
        with pytest.raises(AgentError, match="asked to fail") as caught:
            client.predict(inputs="fail")
        assert caught.value.status_code == 500
        with pytest.raises(AgentError, match="asked to fail"):
            client.predict_stream(inputs="fail").get_final_response()
