"""Spans of calls: real agents, a real tracking store."""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
from mlflow.entities import Trace
from mlflow.entities.span import LiveSpan
from mlflow.genai.scorers import scorer
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentResponse, ResponsesAgentStreamEvent
from packaging.version import Version

import mlflow_agent_target
from mlflow_agent_target import (
    AgentError,
    AgentStream,
    AgentTargetClient,
    EndpointNotFoundError,
    StreamInterruptedError,
    autolog,
    serve,
)
from mlflow_agent_target.endpoints.endpoint import Endpoint
from mlflow_agent_target.server import LocalServer, runs
from mlflow_agent_target.tracing import call_span, context, guard
from mlflow_agent_target.tracing import spans as tracing
from tests.scripted import CLOSE, ScriptedServer, chunked, events, whole
from tests.tracing.conftest import AGENT, ANSWER, mine, remote_trace, span_named, traces, tree

can_log_feedback = pytest.mark.skipif(
    Version(mlflow.__version__) < Version("3.6"), reason="feedback on a trace in memory"
)
can_join = pytest.mark.skipif(runs.get_context_api is None, reason="this MLflow knows no distributed tracing")


@contextlib.contextmanager
def autologging() -> Iterator[None]:
    autolog()
    try:
        yield
    finally:
        autolog(disable=True)


def call_of(span: Any) -> call_span.CallSpan:
    call = call_span.CallSpan("a")
    call._has(span)
    return call


class TestWhenCallsAreTraced:
    def test_nothing_is_outside_of_a_span(self, client: AgentTargetClient) -> None:
        client.predict(endpoint="tool_chat_agent", inputs="hi")
        client.predict_stream(endpoint="tool_chat_agent", inputs="hi").get_final_response()
        # What is there is the agents' own, who run in this process.
        assert [tree(trace) for trace in traces()] == [["/tool_chat_agent"]] * 2
        assert not any("endpoint" in span.attributes for trace in traces() for span in trace.data.spans)

    def test_everything_is_with_autolog(self, scripted: Callable[..., ScriptedServer]) -> None:
        client = AgentTargetClient(scripted(whole(ANSWER), describe=whole(AGENT)).target_uri)
        mlflow_agent_target.autolog()
        try:
            client.predict(endpoint="a", inputs="hi")
        finally:
            mlflow_agent_target.autolog(disable=True)
        client.predict(endpoint="a", inputs="hi")
        assert [tree(trace) for trace in traces()] == [["/a"]]

    def test_rows_are_with_autolog(self, scripted: Callable[..., ScriptedServer]) -> None:
        sent = {**ANSWER, "databricks_output": {"trace": remote_trace(), "databricks_request_id": "r"}}
        client = AgentTargetClient(scripted(whole(sent), describe=whole(AGENT)).target_uri)
        client.predict_batch("a", ["hi"], progress=False)
        asked = {"input": [{"role": "user", "content": "hi"}], "databricks_options": {"return_trace": True}}
        mlflow_agent_target.autolog()
        try:
            plain, asking = client.predict_batch("a", ["hi", asked], progress=False)
            frame = client.predict(endpoint="a", inputs=pd.DataFrame({"question": ["hi"]}))
        finally:
            mlflow_agent_target.autolog(disable=True)
        assert [tree(trace) for trace in traces()] == [["/a", "/a/agent", "/a/agent/tool", "/a/agent/tool/model"]] * 3
        assert {span_named(trace, "a").attributes["request_id"] for trace in traces()} == {"r"}
        assert (plain.response, plain.request_id, list(frame["response"])) == (ANSWER, "r", [ANSWER])
        assert asking.response == sent

    def test_rows_within_a_span_have_traces_of_their_own(self, scripted: Callable[..., ScriptedServer]) -> None:
        """Within the caller's, a million rows would be too many."""
        client = AgentTargetClient(scripted(whole(ANSWER), describe=whole(AGENT)).target_uri)
        mlflow_agent_target.autolog()
        try:
            with mlflow.start_span("caller"):
                client.predict_batch("a", ["hi", "ho"], progress=False)
        finally:
            mlflow_agent_target.autolog(disable=True)
        assert sorted(tree(trace) for trace in traces()) == [["/a"], ["/a"], ["/caller"]]

    def test_one_span_says_all_where_no_trace_comes(
        self, scripted: Callable[..., ScriptedServer], caplog: pytest.LogCaptureFixture
    ) -> None:
        client = AgentTargetClient(scripted(whole(ANSWER), describe=whole(AGENT)).target_uri)
        with mlflow.start_span("mine"):
            for _ in range(2):
                client.predict(endpoint="a", inputs="hi")
        (trace,) = traces()
        assert tree(trace) == ["/mine", "/mine/a", "/mine/a"]
        span = span_named(trace, "a")
        assert (span.span_type, span.inputs, span.outputs) == ("AGENT", "hi", ANSWER)
        assert span.attributes["endpoint"] == "a"
        assert span.attributes["latency_seconds"] > 0
        assert trace.info.token_usage == {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14}
        assert [r.getMessage() for r in caplog.records if r.name == guard.__name__] == [
            "Endpoint 'a' sent no trace of its agent. The calls themselves are traced, with inputs and outputs."
        ]

    def test_a_failed_call_leaves_its_error(self, client: AgentTargetClient) -> None:
        with mlflow.start_span("mine"), pytest.raises(EndpointNotFoundError):
            client.predict(endpoint="nope", inputs="hi")
        (trace,) = traces()
        span = span_named(trace, "nope")
        assert span.status.status_code == "ERROR"
        assert "nope" in span.events[0].attributes["exception.message"]

    def test_a_span_that_is_not_recorded_changes_nothing(self, scripted: Callable[..., ScriptedServer]) -> None:
        server = scripted(whole({**ANSWER, "databricks_output": {"trace": remote_trace()}}), describe=whole(AGENT))
        client = AgentTargetClient(server.target_uri)
        mlflow_agent_target.autolog()
        try:
            mlflow.tracing.disable()
            assert client.predict(endpoint="a", inputs="hi").output_text == "Hi."
            stream = client.predict_stream(endpoint="a", inputs="hi")
            assert stream.get_final_response().output_text == "Hi."
        finally:
            mlflow.tracing.enable()
            mlflow_agent_target.autolog(disable=True)
        assert "traceparent" not in server.posts[0].headers
        assert traces() == []

    @pytest.mark.parametrize(
        "context",
        [SimpleNamespace(), SimpleNamespace(get_prediction_context=object)],
        ids=["its function is gone", "what that gives is another"],
    )
    def test_an_mlflow_that_does_not_say_whether_it_evaluates_fails_no_call(
        self, context: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "mlflow.pyfunc.context", context)
        assert not tracing.is_wanted()


class TestStreams:
    def test_the_span_closes_with_the_stream(self, client: AgentTargetClient) -> None:
        with mlflow.start_span("mine"):
            stream = client.predict_stream(endpoint="responses_agent", inputs="one two")
            final = stream.get_final_response()
        trace = mine()
        span = span_named(trace, "responses_agent")
        assert {**span.outputs, "databricks_output": 0} == {**final, "databricks_output": 0}
        assert 0 < span.attributes["time_to_first_event_seconds"] <= span.attributes["latency_seconds"]
        assert trace.info.token_usage == {"input_tokens": 2, "output_tokens": 10, "total_tokens": 12}

    def test_it_may_be_read_elsewhere_after_the_callers_span(self, client: AgentTargetClient) -> None:
        with mlflow.start_span("mine") as outer:
            stream = client.predict_stream(endpoint="tool_chat_agent", inputs="one two")
            thread = threading.Thread(target=stream.get_final_response)
            thread.start()
            thread.join()
        trace = mine()
        assert "/mine/tool_chat_agent" in tree(trace)
        assert trace.info.trace_id == outer.trace_id

    def test_leaving_early_is_no_failure(self, client: AgentTargetClient) -> None:
        with mlflow.start_span("mine"):
            for _ in client.predict_stream(endpoint="responses_agent", inputs="one two"):
                break
        trace = mine()
        span = span_named(trace, "responses_agent")
        assert span.status.status_code == "OK"
        assert span.attributes["left_early"] is True
        assert span.outputs["output"][0]["type"] == "function_call"

    @pytest.mark.parametrize("streams", [False, True])
    def test_the_next_call_closes_the_span_of_one_that_was_dropped(
        self, streams: bool, scripted: Callable[..., ScriptedServer]
    ) -> None:
        said = {"delta": {"role": "assistant", "content": "Hi.", "id": "m"}}
        begun = [*chunked([events(said, done=False)], end=False), 30.0]
        client = AgentTargetClient(scripted(begun, whole(ANSWER), describe=whole(AGENT)).target_uri)
        with mlflow.start_span("mine"):
            stream = client.predict_stream(endpoint="a", inputs="hi")
            next(stream)
            del stream
            if streams:
                client.predict_stream(endpoint="a", inputs="hi").close()
            else:
                client.predict(endpoint="a", inputs="hi")
        trace = mine()
        assert tree(trace) == ["/mine", "/mine/a", "/mine/a"]
        dropped, called = sorted(
            (span for span in trace.data.spans if span.name != "mine"), key=lambda span: span.start_time_ns
        )
        assert (dropped.status.status_code, dropped.attributes["left_early"]) == ("OK", True)
        assert dropped.outputs["messages"][0]["content"] == "Hi."
        assert dropped.end_time_ns <= called.start_time_ns

    @pytest.mark.parametrize("left", [True, False], ids=["left early", "cut off"])
    def test_of_one_that_broke_off_no_trace_is_missed(
        self, left: bool, scripted: Callable[..., ScriptedServer], caplog: pytest.LogCaptureFixture
    ) -> None:
        said = {"delta": {"role": "assistant", "content": "Hi.", "id": "m"}}
        server = scripted([*chunked([events(said, done=False)], end=False), CLOSE], describe=whole(AGENT))
        with mlflow.start_span("mine"):
            stream = AgentTargetClient(server.target_uri).predict_stream(endpoint="a", inputs="hi")
            next(stream)
            if left:
                stream.close()
            else:
                with pytest.raises(StreamInterruptedError):
                    next(stream)
        assert not [record for record in caplog.records if record.name == guard.__name__]

    def test_a_failure_in_mid_stream_is_kept_with_what_arrived(self, client: AgentTargetClient) -> None:
        with mlflow.start_span("mine"), pytest.raises(AgentError):
            client.predict_stream(endpoint="failing_agent", inputs="later").get_final_response()
        trace = mine()
        span = span_named(trace, "failing_agent")
        assert span.status.status_code == "ERROR"
        assert "the agent's tool is broken" in span.events[0].attributes["exception.message"]
        assert span.outputs["output"][0]["content"][0]["text"] == "Let me"

    def test_a_stream_that_never_starts(self, client: AgentTargetClient) -> None:
        with mlflow.start_span("mine"), pytest.raises(EndpointNotFoundError):
            client.predict_stream(endpoint="nope", inputs="hi")
        trace = mine()
        assert span_named(trace, "nope").status.status_code == "ERROR"

    def test_the_reader_sees_no_event_that_only_brings_the_trace(self, scripted: Callable[..., ScriptedServer]) -> None:
        said = {"delta": {"role": "assistant", "content": "Hi.", "id": "m"}, "finish_reason": "stop"}
        brings = {"id": "r", "databricks_output": {"trace": remote_trace()}}
        answer = [whole(events(said, brings), content_type="text/event-stream")]
        client = AgentTargetClient(scripted(*answer, describe=whole({**AGENT, "task": "agent/v2/chat"})).target_uri)
        with mlflow.start_span("mine"):
            assert list(client.predict_stream(endpoint="a", inputs="hi")) == [said]
            asked = {"messages": [{"role": "user", "content": "hi"}], "databricks_options": {"return_trace": True}}
            assert list(client.predict_stream(endpoint="a", inputs=asked)) == [said, brings]
        trace = mine()
        assert tree(trace).count("/mine/a/agent/tool/model") == 2


class TestWhatIsSent:
    @pytest.mark.parametrize(
        ("described", "asked"),
        [
            (AGENT, True),
            ({**AGENT, "task": "agent/v1/chat"}, True),
            ({**AGENT, "task": "llm/v1/chat", "endpoint_type": "FOUNDATION_MODEL_API"}, False),
            ({**AGENT, "task": None}, False),
            (None, False),
        ],
    )
    def test_only_agents_are_asked_for_their_trace(
        self, described: Any, asked: bool, scripted: Callable[..., ScriptedServer]
    ) -> None:
        server = scripted(whole(ANSWER), describe=whole(described) if described else None)
        with mlflow.start_span("mine"):
            AgentTargetClient(server.target_uri).predict(endpoint="a", inputs="hi")
        assert ("databricks_options" in server.posts[0].json) is asked

    def test_the_callers_own_options_are_kept(self, scripted: Callable[..., ScriptedServer]) -> None:
        server = scripted(whole(ANSWER), describe=whole(AGENT))
        client = AgentTargetClient(server.target_uri)
        inputs = {"input": [{"role": "user", "content": "hi"}]}
        with mlflow.start_span("mine"):
            for options in ({"conversation_id": "c"}, {"return_trace": False}):
                client.predict(endpoint="a", inputs={**inputs, "databricks_options": options})
        sent = [post.json["databricks_options"] for post in server.posts]
        assert sent == [{"return_trace": True, "conversation_id": "c"}, {"return_trace": False}]

    def test_a_base_url_is_told_of_the_trace(self, scripted: Callable[..., ScriptedServer]) -> None:
        server = scripted(whole(ANSWER), describe=whole(AGENT))
        client = AgentTargetClient(server.target_uri)
        client.predict(endpoint="a", inputs="hi")
        with mlflow.start_span("mine") as outer:
            client.predict(endpoint="a", inputs="hi")
        outside, inside = server.posts
        assert "traceparent" not in outside.headers
        assert "databricks_options" not in outside.json
        (trace,) = traces()
        number = outer.trace_id.removeprefix("tr-")
        assert inside.headers["traceparent"] == f"00-{number}-{span_named(trace, 'a').span_id}-01"
        assert inside.headers["x-mlflow-return-trace-id"] == "true"

    @pytest.mark.parametrize(
        ("trace_id", "traceparent"),
        [
            (f"tr-{'a' * 32}", f"00-{'a' * 32}-{'b' * 16}-01"),
            (f"trace:/catalog.schema/{'a' * 32}", f"00-{'a' * 32}-{'b' * 16}-01"),
        ],
    )
    def test_wherever_the_trace_is_kept(self, trace_id: str, traceparent: str) -> None:
        span = SimpleNamespace(trace_id=trace_id, span_id="b" * 16)
        assert call_of(span).context().get("traceparent") == traceparent

    def test_a_workspace_is_not(self, scripted: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch) -> None:
        server = scripted(whole(ANSWER), describe=whole(AGENT))
        monkeypatch.setenv("DATABRICKS_HOST", server.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "x")
        client = AgentTargetClient("agent-target")
        with mlflow.start_span("mine"):
            client.predict(endpoint="a", inputs="hi")
            client.predict_stream(endpoint="a", inputs="hi").close()
        assert len(server.posts) == 2
        for post in server.posts:
            assert not {"traceparent", "x-mlflow-return-trace-id"} & post.headers.keys()
            assert post.json["databricks_options"] == {"return_trace": True}


TRACE = {"databricks_output": {"trace": {}}}


@pytest.mark.parametrize(
    ("event", "asked", "hidden"),
    [
        (TRACE, True, True),
        ({**TRACE, "id": "r", "delta": None, "choices": []}, True, True),
        ({**TRACE, "id": "r", "delta": {"id": "m", "role": "assistant", "content": ""}}, True, True),
        ({**TRACE, "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}, True, True),
        ({**TRACE, "type": "response.databricks_output"}, True, True),
        (TRACE, False, False),
        ({**TRACE, "delta": {"content": "Hi."}}, True, False),
        ({**TRACE, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, True, False),
        ({**TRACE, "type": "response.completed"}, True, False),
        ({"databricks_output": {"error": {"message": "broken"}}}, True, False),
        ({"id": "r"}, True, False),
        ({"trace_id": "tr-1"}, True, True),
        ({"trace_id": "tr-1"}, False, False),
        ({"trace_id": "tr-1", "delta": {"content": "Hi."}}, True, False),
    ],
)
def test_only_what_nobody_but_the_trace_asked_for_is_hidden(event: Any, asked: bool, hidden: bool) -> None:
    call = call_of(SimpleNamespace(trace_id="tr-1"))
    if asked:
        call.request = tracing.TraceRequest(headers={"x-mlflow-return-trace-id": "true"}, asked=True)
    assert call.hides(event) is hidden


class Nested(ResponsesAgent):
    """Leaves a span open when its stream is closed early, as MLflow's own wrapper does."""

    def predict(self, request: Any) -> ResponsesAgentResponse:
        with mlflow.start_span("thinks"):
            return ResponsesAgentResponse(output=[self.create_text_output_item("done", id="m")])

    def predict_stream(self, request: Any) -> Iterator[ResponsesAgentStreamEvent]:
        yield ResponsesAgentStreamEvent(**self.create_text_delta("done", item_id="m"))


# What agents do to their own traces.
TRACE_WRITER = """
import mlflow
from mlflow.pyfunc import ResponsesAgent
class Agent(ResponsesAgent):
    def predict(self, request):
        with mlflow.start_span("tool", span_type="TOOL"):
            mlflow.update_current_trace(tags={"team": "red"}, metadata={"mlflow.trace.session": "s-1"})
        mlflow.log_feedback(trace_id=mlflow.get_active_trace_id(), name="checked", value=True)
        return {"output": [self.create_text_output_item("done", "m")]}
    def predict_stream(self, request):
        yield {"type": "response.output_item.done", "item": self.predict(request)["output"][0]}
mlflow.models.set_model(Agent())
"""


@pytest.fixture(scope="module")
def elsewhere(tracking_store: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The target of an agent that another process serves. Its traces are in the same store, in another experiment."""
    agent = tmp_path_factory.mktemp("agent") / "agent.py"
    agent.write_text(TRACE_WRITER)
    code = (
        f"import sys, mlflow_agent_target\nserver = mlflow_agent_target.serve({{'agent': {str(agent)!r}}})\n"
        "print(server.target_uri, flush=True)\nsys.stdin.read()"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


@can_log_feedback
class TestServersInOtherProcesses:
    """The agent's trace is copied, with what the agent did to it."""

    @pytest.mark.parametrize("streams", [False, True])
    def test_all_of_it_is_kept_also_when_calls_run_side_by_side(self, streams: bool, elsewhere: str) -> None:
        client = AgentTargetClient(elsewhere)

        def ask() -> str:
            if streams:
                return client.predict_stream("agent", "hi").get_final_response().output_text
            return client.predict("agent", "hi").output_text

        with mlflow.start_span("mine"), ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(contextvars.copy_context().run, ask) for _ in range(4)]
            assert [call.result() for call in calls] == ["done"] * 4
        (trace,) = traces()
        assert sum(path.startswith("/mine/agent/agent/") and path.endswith("/tool") for path in tree(trace)) == 4
        assert (trace.info.tags["team"], trace.info.trace_metadata["mlflow.trace.session"]) == ("red", "s-1")
        assert [assessment.name for assessment in trace.info.assessments] == ["checked"] * 4

    def test_rows_of_an_evaluation_keep_their_traces(self, elsewhere: str) -> None:
        answers: list[str] = []

        @scorer
        def used_a_tool(outputs: Any, trace: Trace) -> bool:
            answers.append(outputs.output_text)
            return len(trace.search_spans(span_type="TOOL")) == 1

        function = AgentTargetClient(elsewhere).to_predict_fn("agent")
        result = mlflow.genai.evaluate(
            data=[{"inputs": {"question": f"q{number}"}} for number in range(3)],
            predict_fn=function,
            scorers=[used_a_tool],
        )
        assert (result.metrics["used_a_tool/mean"], len(result.result_df)) == (1, 3)
        assert answers == ["done"] * 3
        assert len(traces()) == 3


class TestSampledOut:
    """A call that is not recorded leaves no trace of its agent either, and does not ask for one."""

    @pytest.fixture(autouse=True)
    def nothing_is_recorded(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
        mlflow.tracing.reset()
        yield
        monkeypatch.undo()
        mlflow.tracing.reset()

    @can_join
    @pytest.mark.parametrize("is_within", [True, False], ids=["in a span", "with autolog"])
    @pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
    def test_it_stays_so_at_the_agent(
        self, streams: bool, is_within: bool, scripted: Callable[..., ScriptedServer]
    ) -> None:
        said = whole(events({"type": "response.completed", "response": ANSWER}), content_type="text/event-stream")
        server = scripted(said if streams else whole(ANSWER), describe=whole(AGENT))
        client = AgentTargetClient(server.target_uri)
        with mlflow.start_span("mine") if is_within else autologging():
            client.predict_stream("a", "hi").get_final_response() if streams else client.predict("a", "hi")
        (request,) = server.posts
        assert "databricks_options" not in json.loads(request.body)
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", request.headers["traceparent"])

    @can_join
    def test_the_server_records_nothing(self, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLFLOW_TRACE_SAMPLING_RATIO")
        mlflow.tracing.reset()
        headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
        body = {"messages": [{"role": "user", "content": "hi"}], "databricks_options": {"return_trace": True}}
        url = f"{server.url}/serving-endpoints/chat_agent/invocations"
        answer = requests.post(url, json=body, headers=headers, timeout=30).json()
        assert answer["databricks_output"]["trace"] is None
        assert traces() == []


@can_join
class TestLocalServersJoin:
    JOINED = ("/mine/responses_agent/responses_agent/predict/predict_stream/count_words",)

    def test_from_this_process(self, client: AgentTargetClient) -> None:
        with mlflow.start_span("mine"):
            answer = client.predict(endpoint="responses_agent", inputs="hi")
        assert answer.trace is not None
        assert Trace.from_dict(answer.trace).data.spans[0].name == "responses_agent"
        assert answer.trace["info"]["state"] == "OK"
        (trace,) = traces()
        assert tree(trace)[-1:] == list(self.JOINED)
        assert len(tree(trace)) == 6

    def test_any_caller_that_sends_a_traceparent(self, server: LocalServer) -> None:
        with mlflow.start_span("mine"):
            headers = mlflow.tracing.get_tracing_context_headers_for_http_request()
            body = {"messages": [{"role": "user", "content": "hi"}]}
            url = f"{server.url}/serving-endpoints/chat_agent/invocations"
            assert requests.post(url, json=body, headers=headers, timeout=30).status_code == 200
        (trace,) = traces()
        assert tree(trace) == ["/mine", "/mine/chat_agent"]

    @pytest.mark.parametrize(
        "headers",
        [
            {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
            {"traceparent": f"00-{'0' * 32}-{'b' * 16}-01"},
            {"traceparent": "junk"},
        ],
        ids=["of another process", "no trace", "junk"],
    )
    def test_what_can_not_be_joined(self, headers: dict[str, str], server: LocalServer) -> None:
        body = {"messages": [{"role": "user", "content": "hi"}], "databricks_options": {"return_trace": True}}
        url = f"{server.url}/serving-endpoints/chat_agent/invocations"
        answer = requests.post(url, json=body, headers=headers, timeout=30).json()
        (trace,) = traces()
        assert tree(trace) == ["/chat_agent"]
        assert answer["databricks_output"]["trace"]["info"]["trace_id"] == trace.info.trace_id

    def test_a_failing_agent_leaves_its_spans(self, client: AgentTargetClient) -> None:
        with mlflow.start_span("mine"), pytest.raises(AgentError):
            client.predict(endpoint="failing_agent", inputs="hi")
        (trace,) = traces()
        assert "/mine/failing_agent/failing_agent/predict" in tree(trace)
        assert {span.status.status_code for span in trace.data.spans if span.name != "mine"} == {"ERROR"}


@pytest.mark.parametrize("streams", [False, True])
def test_an_agents_server_names_its_trace_and_it_is_fetched(
    streams: bool, scripted: Callable[..., ScriptedServer], experiment: str
) -> None:
    other = mlflow.create_experiment(uuid.uuid4().hex)
    span = mlflow.start_span_no_context("far", experiment_id=other)
    mlflow.start_span_no_context("deep", parent_span=span).end()
    span.end()
    mlflow.flush_trace_async_logging()
    said = {"type": "response.completed", "response": ANSWER}
    stream = whole(events(said, {"trace_id": span.trace_id}), content_type="text/event-stream")
    server = scripted(stream if streams else whole({**ANSWER, "metadata": {"trace_id": span.trace_id}}))
    client = AgentTargetClient(server.target_uri)
    with mlflow.start_span("mine"):
        if streams:
            assert list(client.predict_stream(inputs="hi")) == [said]
        else:
            client.predict(inputs="hi")
    assert server.posts[0].headers["x-mlflow-return-trace-id"] == "true"
    (trace,) = traces()
    assert tree(trace) == ["/mine", "/mine/agent", "/mine/agent/far", "/mine/agent/far/deep"]
    assert span_named(trace, "agent").attributes["agent_trace_id"] == span.trace_id


@pytest.mark.parametrize(("told", "named"), [(f"tr-{'0' * 31}1", f"tr-{'0' * 31}1"), (7, None), (None, None)], ids=repr)
def test_a_trace_that_an_agents_server_keeps_elsewhere_is_only_named(
    told: Any, named: str | None, scripted: Callable[..., ScriptedServer], caplog: pytest.LogCaptureFixture
) -> None:
    client = AgentTargetClient(scripted(whole({**ANSWER, "metadata": {"trace_id": told}})).target_uri)
    with mlflow.start_span("mine"):
        client.predict(inputs="hi")
    (trace,) = traces()
    assert tree(trace) == ["/mine", "/mine/agent"]
    assert span_named(trace, "agent").attributes.get("agent_trace_id") == named
    assert trace.info.token_usage == {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    assert not [record for record in caplog.records if record.name == guard.__name__]


def test_streams_that_nobody_observes_know_of_no_tracing(client: AgentTargetClient) -> None:
    stream: AgentStream = client.predict_stream(endpoint="chat_agent", inputs="hi")
    assert stream._observer is None
    stream.close()


def test_agents_in_threads_of_one_server_keep_to_their_own_traces() -> None:
    with serve({"nested": Nested()}) as server, ThreadPoolExecutor(4) as threads:
        client = AgentTargetClient(server.target_uri)

        def call(number: int) -> str:
            with mlflow.start_span(f"mine {number}") as outer:
                client.predict(endpoint="nested", inputs="hi")
            return outer.trace_id

        own = list(threads.map(call, range(8)))
    assert len(set(own)) == 8
    if runs.get_context_api is not None:
        assert {len(tree(trace)) for trace in traces()} == {5}
        assert {trace.info.trace_id for trace in traces()} == set(own)


def boom(*_: Any, **__: Any) -> Any:
    raise RuntimeError("tracing is broken")


BROKEN: dict[str, tuple[Any, str]] = {
    "starting a span": (mlflow, "start_span"),
    "starting a stream's span": (mlflow, "start_span_no_context"),
    "the active span": (mlflow, "get_current_active_span"),
    "the store": (mlflow, "get_tracking_uri"),
    "the session": (mlflow, "update_current_trace"),
    "inputs": (LiveSpan, "set_inputs"),
    "outputs": (LiveSpan, "set_outputs"),
    "attributes": (LiveSpan, "set_attributes"),
    "an attribute": (LiveSpan, "set_attribute"),
    "an error": (LiveSpan, "record_exception"),
    "the end": (LiveSpan, "end"),
    "the trace in memory": (call_span, "trace_in_memory"),
    "the trace that was stored": (call_span, "stored_trace"),
    "the context": (context, "_context_api"),
}
STREAMED = events(
    {"type": "response.output_item.done", "item": ANSWER["output"][0]},
    {"type": "response.completed", "response": ANSWER},
)
WAYS: dict[str, Callable[[AgentTargetClient], str | None]] = {
    "predict": lambda client: client.predict(endpoint="a", inputs="hi").output_text,
    "stream": lambda client: client.predict_stream(endpoint="a", inputs="hi").get_final_response().output_text,
    "evaluation": lambda client: client.to_predict_fn("a")(question="hi", mlflow_session_id="s").output_text,
    "batch": lambda client: client.predict_batch("a", ["hi"], progress=False)[0].output_text,
}


@pytest.mark.parametrize(("where", "name"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("way", WAYS)
def test_no_call_is_failed_by_its_trace(
    way: str,
    where: Any,
    name: str,
    scripted: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = chunked([STREAMED]) if way == "stream" else whole(ANSWER)
    server = scripted(answer, describe=whole({"name": "a", "task": "agent/v1/responses"}))
    client = AgentTargetClient(server.target_uri)
    autolog()
    try:
        with monkeypatch.context() as broken:
            broken.setattr(where, name, boom)
            for asked in (1, 2):
                assert WAYS[way](client) == "Hi."
                assert len(server.posts) == asked
        ours = [record for record in caplog.records if "MLflow's tracing failed" in record.getMessage()]
        assert len(ours) <= 1
        assert mlflow.get_current_active_span() is None
    finally:
        autolog(disable=True)


@pytest.mark.parametrize("way", WAYS)
def test_its_own_failure_is_the_calls(way: str, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = scripted(whole({"message": "boom"}, 400), describe=whole({"name": "a", "task": "agent/v1/responses"}))
    client = AgentTargetClient(server.target_uri)
    for name in ("record_exception", "end"):
        monkeypatch.setattr(LiveSpan, name, boom)
    autolog()
    try:
        if way == "batch":
            assert client.predict_batch("a", ["hi"], progress=False)[0].error == "AgentError"
        else:
            with pytest.raises(AgentError, match="boom"):
                WAYS[way](client)
        assert len(server.posts) == 1
        assert mlflow.get_current_active_span() is None
    finally:
        autolog(disable=True)


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_is_nested_deep_is_an_answer(way: str, scripted: Any) -> None:
    deep: Any = "x"
    for _ in range(800):
        deep = [deep]
    nested = {**ANSWER, "custom_outputs": {"deep": deep}}
    event = events({"type": "response.completed", "response": nested})
    answer = chunked([event]) if way == "stream" else whole(nested)
    server = scripted(answer, describe=whole({"name": "a", "task": "agent/v1/responses"}))
    autolog()
    try:
        assert WAYS[way](AgentTargetClient(server.target_uri)) == "Hi."
    finally:
        autolog(disable=True)


@pytest.mark.parametrize("way", WAYS)
def test_what_can_not_be_recorded_takes_nothing_else_along(way: str, scripted: Any) -> None:
    deep: Any = "end"
    for _ in range(800):
        deep = [deep]
    sent = {**ANSWER, "custom_outputs": {"deep": deep}, "databricks_output": {"trace": remote_trace()}}
    done = {"type": "response.completed", "response": sent}
    server = scripted(chunked([events(done)]) if way == "stream" else whole(sent), describe=whole(AGENT))
    autolog()
    try:
        assert WAYS[way](AgentTargetClient(server.target_uri)) == "Hi."
    finally:
        autolog(disable=True)
    (trace,) = traces()
    span = span_named(trace, "a")
    assert span.outputs is None or "custom_outputs" in span.outputs  # an older MLflow records it
    assert span.attributes["endpoint"] == "a"
    assert tree(trace) == ["/a", "/a/agent", "/a/agent/tool", "/a/agent/tool/model"]
    assert trace.info.token_usage == {"input_tokens": 50, "output_tokens": 20, "total_tokens": 70}


@pytest.mark.parametrize("name", ["record_exception", "set_status", None])
@pytest.mark.parametrize("way", ["predict", "stream"])
def test_a_span_says_what_failed(way: str, name: str | None, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = scripted(whole({"message": "no such customer"}, 400), describe=whole(AGENT))
    with mlflow.start_span("mine"), monkeypatch.context() as broken:
        if name is not None:
            broken.setattr(LiveSpan, name, boom)
        with pytest.raises(AgentError, match="no such customer"):
            WAYS[way](AgentTargetClient(server.target_uri))
    if name is None:
        (trace,) = traces()
        status = span_named(trace, "a").status
        assert status.status_code == "ERROR"
        assert "AgentError: " in status.description
        assert "no such customer" in status.description


@pytest.mark.parametrize("way", ["predict", "stream"])
def test_ctrl_c_is_no_success(way: str, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    client = AgentTargetClient(scripted(whole(ANSWER), describe=whole(AGENT)).target_uri)
    for name in ("query", "stream"):
        monkeypatch.setattr(Endpoint, name, interrupted)
    with mlflow.start_span("mine"), pytest.raises(KeyboardInterrupt):
        WAYS[way](client)
    (trace,) = traces()
    assert span_named(trace, "a").status.status_code == "ERROR"
