"""Evaluation runs, as MLflow makes them, against agents that are served here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.entities import Trace
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentResponse

from mlflow_agent_target import (
    AgentError,
    AgentResponse,
    AgentTargetClient,
    InvalidInputError,
    RateLimitError,
    evaluation,
    serve,
)
from mlflow_agent_target.batch.cells import request_of_fields
from mlflow_agent_target.evaluation import as_chat_completion, is_answer
from mlflow_agent_target.server import LocalServer, runs
from mlflow_agent_target.tracing import guard
from tests.conftest import AGENTS, user
from tests.counting_server import CountingServer
from tests.scripted import ScriptedServer, whole
from tests.tracing.conftest import AGENT, ANSWER, V2_TRACE, span_named, tree

harness = pytest.mark.skipif(
    importlib.util.find_spec("mlflow.genai.evaluation.harness") is None,
    reason="this MLflow's mlflow.genai.evaluate needs the package databricks-agents",
)
simulators = pytest.mark.skipif(
    importlib.util.find_spec("mlflow.genai.simulators") is None, reason="this MLflow simulates no conversations"
)
QUESTIONS = [f"question number {number}" for number in range(8)]


@contextmanager
def own_experiment() -> Iterator[None]:
    """An experiment of its own, so that its traces can be counted."""
    before = mlflow.MlflowClient().get_experiment_by_name("tests")
    own = mlflow.create_experiment(uuid.uuid4().hex, artifact_location=before.artifact_location)
    mlflow.set_experiment(experiment_id=own)
    try:
        yield
    finally:
        mlflow.set_experiment(experiment_id=before.experiment_id)


def traces() -> list[Trace]:
    """The experiment's traces."""
    mlflow.flush_trace_async_logging()
    found: list[Trace] = mlflow.search_traces(return_type="list", max_results=500)
    return found


class Evaluated:
    """What an evaluation run left behind."""

    def __init__(self, data: list[dict[str, Any]], predict_fn: Callable[..., Any]) -> None:
        from mlflow.genai.scorers import scorer

        @scorer
        def answered(outputs: Any) -> bool:
            return bool(outputs and outputs.output_text)

        with own_experiment():
            self.result = mlflow.genai.evaluate(data=data, predict_fn=predict_fn, scorers=[answered])
            self.run = mlflow.get_run(self.result.run_id)
            self.all_traces = traces()
        self.rows = [t for t in self.all_traces if t.info.trace_metadata.get("mlflow.sourceRun") == self.result.run_id]


@pytest.fixture(
    scope="module",
    params=[
        ("responses_agent", "responses_agent/predict/predict_stream/count_words"),
        ("chat_agent", "chat_agent"),
        ("chat_model", "chat_model"),
    ],
    ids=lambda param: param[0],
)
def evaluated(request: pytest.FixtureRequest, server: LocalServer) -> Iterator[tuple[Evaluated, str, str]]:
    """An agent's evaluation by eight workers, its name, and the path of its innermost span."""
    name, innermost = request.param
    client = AgentTargetClient(server.target_uri)
    data = [{"inputs": {"question": question}} for question in QUESTIONS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_GENAI_EVAL_MAX_WORKERS", "8")
        patch.setenv("MLFLOW_GENAI_EVAL_PREDICT_RATE_LIMIT", "0")
        yield Evaluated(data, client.to_predict_fn(name)), name, innermost


@harness
class TestARun:
    def test_every_row_is_answered_and_scored(self, evaluated: tuple[Evaluated, str, str]) -> None:
        run, _, _ = evaluated
        assert run.result.metrics == {"answered/mean": 1.0}
        assert len(run.rows) == len(QUESTIONS)

    def test_every_row_has_one_trace_which_holds_the_agents_spans(self, evaluated: tuple[Evaluated, str, str]) -> None:
        run, name, innermost = evaluated
        joined = f"/{name}/{innermost}" if runs.get_context_api else f"/{name}"
        for trace in run.rows:
            assert tree(trace)[-1] == joined
            assert len(tree(trace)) == joined.count("/")
        if runs.get_context_api:
            assert len(run.all_traces) == len(run.rows)

    def test_a_row_shows_what_was_asked_and_answered(self, evaluated: tuple[Evaluated, str, str]) -> None:
        run, name, _ = evaluated
        roots = [trace.data.spans[0] for trace in run.rows]
        assert sorted(root.inputs["question"] for root in roots) == QUESTIONS
        assert all(root.span_type == "AGENT" and root.attributes["endpoint"] == name for root in roots)
        assert not any("databricks_output" in root.outputs for root in roots)
        assert [trace.info.state for trace in run.rows] == ["OK"] * len(QUESTIONS)

    def test_the_run_names_the_endpoint_as_mlflows_own_does(self, evaluated: tuple[Evaluated, str, str]) -> None:
        run, name, _ = evaluated
        if importlib.util.find_spec("mlflow.genai.evaluation.lineage") is None:
            pytest.skip("this MLflow does not record what was evaluated")
        assert run.run.data.tags["mlflow.genaiEvaluate.agent.uri"] == f"endpoints:/{name}"


class Picky(ResponsesAgent):
    def predict(self, request: Any) -> ResponsesAgentResponse:
        if "bad" in str(request.input[-1].content):
            raise ValueError("no such customer")
        return ResponsesAgentResponse(output=[self.create_text_output_item("fine", id="m")])


@harness
def test_a_failing_row_shows_its_error() -> None:
    with serve({"picky": Picky()}) as server:
        rows = [{"inputs": {"q": text}} for text in ("good", "bad", "good")] + [{"inputs": {"q": 1}}]
        run = Evaluated(rows, AgentTargetClient(server.target_uri).to_predict_fn("picky"))
    assert run.result.metrics["answered/mean"] == 0.5
    refused, failed = sorted(
        (trace for trace in run.rows if trace.info.state == "ERROR"), key=lambda trace: len(tree(trace))
    )
    assert "could be the question" in refused.data.spans[0].events[0].attributes["exception.message"]
    assert "no such customer" in failed.data.spans[0].events[0].attributes["exception.message"]
    if runs.get_context_api:
        assert span_named(failed, "predict").status.status_code == "ERROR"


@harness
def test_an_agent_on_mlflows_agent_server() -> None:
    elsewhere = mlflow.create_experiment(uuid.uuid4().hex)
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "MLFLOW_EXPERIMENT_ID": elsewhere,
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    script = AGENTS / "on_agent_server.py"
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        client = AgentTargetClient(f"agent-target:{process.stdout.readline().strip()}")
        run = Evaluated([{"inputs": {"q": question}} for question in QUESTIONS[:3]], client.to_predict_fn())
    finally:
        process.terminate()
        process.wait()
    assert run.result.metrics == {"answered/mean": 1.0}
    assert len(run.all_traces) == 3
    assert {tree(trace)[-1] for trace in run.rows} == {"/agent/answer/predict/predict_stream/count_words"}


@harness
def test_a_function_of_ones_own_and_an_agent_in_this_process(client: AgentTargetClient) -> None:
    def ask(question: str) -> Any:
        return client.predict(endpoint="chat_agent", inputs=question)

    run = Evaluated([{"inputs": {"question": question}} for question in QUESTIONS[:3]], ask)
    assert run.result.metrics == {"answered/mean": 1.0}
    # MLflow took the agent's own span, in the call that it tries a function with, for one of the function's.
    assert {tree(trace)[0] for trace in run.rows} == {"/chat_agent"}
    assert all("endpoint" in trace.data.spans[0].attributes and trace.info.assessments for trace in run.rows)


@harness
def test_rows_succeed_whatever_trace_comes(
    scripted: Callable[..., ScriptedServer], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_warned", set())
    monkeypatch.setenv("MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION", "true")
    broken = {"info": {}, "data": {"spans": [{"name": "x"}]}}
    outputs = [{"databricks_output": None}, {}, *({"databricks_output": {"trace": t}} for t in (V2_TRACE, broken))]
    server = scripted(*(whole({**ANSWER, **output}) for output in outputs), describe=whole(AGENT))
    rows = [{"inputs": {"question": question}} for question in QUESTIONS[:4]]
    run = Evaluated(rows, AgentTargetClient(server.target_uri).to_predict_fn("a"))
    assert run.result.metrics == {"answered/mean": 1.0}
    assert sorted(len(tree(trace)) for trace in run.rows) == [1, 1, 1, 3]
    said = sorted(r.getMessage().partition(" (")[0] for r in caplog.records if r.name == guard.__name__)
    assert said == [
        "Endpoint 'a' sent no trace of its agent. The calls themselves are traced, with inputs and outputs.",
        "The trace that Endpoint 'a' sent can't be read",
    ]


@harness
def test_rate_limits_are_waited_out(scripted: Callable[..., ScriptedServer]) -> None:
    busy = whole({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"}, 429)
    server = scripted(whole(ANSWER), busy, busy, whole(ANSWER), busy, whole(ANSWER), describe=whole(AGENT))
    rows = [{"inputs": {"question": question}} for question in QUESTIONS[:4]]
    run = Evaluated(rows, AgentTargetClient(server.target_uri).to_predict_fn("a"))
    assert run.result.metrics == {"answered/mean": 1.0}
    assert list(run.result.result_df["state"]) == ["OK"] * 4


@harness
@pytest.mark.skipif(
    importlib.util.find_spec("mlflow.genai.evaluation.rate_limiter") is None, reason="this MLflow tries no row again"
)
class TestOneLayerOfRetries:
    @pytest.fixture(autouse=True)
    def one_retry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION", "true")
        monkeypatch.setenv("MLFLOW_GENAI_EVAL_MAX_RETRIES", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

    def asked(self, server: ScriptedServer) -> int:
        Evaluated([{"inputs": {"question": "q"}}], AgentTargetClient(server.target_uri).to_predict_fn("a"))
        return len(server.posts)

    def test_mlflow_tries_rate_limits_again(self, scripted: Callable[..., ScriptedServer]) -> None:
        assert self.asked(scripted(whole({"message": "slow down"}, 429), describe=whole(AGENT))) == 2

    def test_ours_where_it_does_not(self, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_GENAI_EVAL_MAX_RETRIES", "0")
        assert self.asked(scripted(whole({"message": "slow down"}, 429), describe=whole(AGENT))) == 4

    def test_no_try_comes_sooner_than_the_endpoint_said(self, scripted: Callable[..., ScriptedServer]) -> None:
        busy = whole({"message": "slow down"}, 429, headers="Retry-After: 2\r\n")
        server = scripted(busy, whole(ANSWER), describe=whole(AGENT))
        began = time.monotonic()
        assert self.asked(server) == 2
        assert time.monotonic() - began >= 2

    def test_other_failures_are_of_no_rate_limit(self, scripted: Callable[..., ScriptedServer]) -> None:
        """MLflow looks for the words in the text of every error."""
        failed = whole({"error_code": "BAD_REQUEST", "message": "Error code: 429, Rate limit of the model"}, 400)
        assert self.asked(scripted(failed, describe=whole(AGENT))) == 1


def test_a_spent_rate_limit_is_one_that_the_harness_knows(
    scripted: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    server = scripted(whole({"message": "slow down"}, 429), describe=whole(AGENT))
    with own_experiment(), pytest.raises(RateLimitError) as caught:
        AgentTargetClient(server.target_uri).to_predict_fn("a")(question="hi")
    assert caught.value.status_code == 429


class Thinking(ResponsesAgent):
    def predict(self, request: Any) -> ResponsesAgentResponse:
        with mlflow.start_span("tool", span_type="TOOL"):
            return ResponsesAgentResponse(output=[self.create_text_output_item("done", id="m")])


@harness
def test_two_hundred_rows_of_an_agent_in_this_process(tmp_path: Path) -> None:
    """The agent and the evaluation write to one database, whose connections MLflow needs two at a time."""
    script = f"""
import mlflow, mlflow_agent_target
from mlflow.genai.scorers import scorer
from tests.test_evaluation import Thinking
mlflow.set_tracking_uri("sqlite:///{tmp_path}/mlflow.db")
mlflow.set_experiment("own")
@scorer
def used_one_tool(outputs, trace):
    return len(trace.search_spans(span_type="TOOL")) == 1
with mlflow_agent_target.serve({{"a": Thinking()}}) as server:
    function = mlflow_agent_target.AgentTargetClient(server.target_uri).to_predict_fn("a")
    data = [{{"inputs": {{"question": f"q{{number}}"}}}} for number in range(200)]
    result = mlflow.genai.evaluate(data=data, predict_fn=function, scorers=[used_one_tool])
print("scored", len(result.result_df), result.metrics["used_one_tool/mean"])
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    ran = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, env=kept)
    assert "scored 200 1.0" in ran.stdout, ran.stderr[-2000:]
    assert "QueuePool" not in ran.stderr


@harness
@simulators
def test_a_simulated_conversation(server: LocalServer) -> None:
    from mlflow.genai.simulators import BaseSimulatedUserAgent, ConversationSimulator

    class Scripted(BaseSimulatedUserAgent):
        def generate_message(self, context: Any) -> str:
            return f"turn {context.turn}"

    class WithoutModel(ConversationSimulator):
        def _check_goal_achieved(self, *_: Any) -> bool:
            return False

    case = {"goal": "count words", "context": {"custom_inputs": {"k": 1}}}
    simulator = WithoutModel(test_cases=[case], max_turns=2, user_agent_class=Scripted)
    client = AgentTargetClient(server.target_uri)
    with own_experiment():
        (conversation,) = simulator.simulate(client.to_predict_fn("responses_agent"))
        assert len(traces()) == 2
    first, second = (trace.data.spans[0] for trace in conversation)
    assert [len(root.inputs["input"]) for root in (first, second)] == [1, 3]
    assert second.outputs["custom_outputs"] == {"k": 1}
    assert "Before that you said 'turn 0'" in str(second.outputs)
    sessions = {trace.info.trace_metadata["mlflow.trace.session"] for trace in conversation}
    assert len(sessions) == 1
    assert next(iter(sessions)).startswith("sim-")


@pytest.mark.parametrize(("session", "kept"), [("s-1", "s-1"), (7, "7")])
def test_the_session_is_not_sent_but_kept(session: Any, kept: str, scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(whole(ANSWER), describe=whole(AGENT))
    ask = AgentTargetClient(server.target_uri).to_predict_fn("a")
    with own_experiment():
        answer = ask(input=[user("hi")], mlflow_session_id=session)
        (trace,) = traces()
    assert answer == ANSWER
    assert server.posts[0].json["input"] == [user("hi")]
    assert "mlflow_session_id" not in server.posts[0].json
    assert trace.info.trace_metadata["mlflow.trace.session"] == kept
    assert trace.data.spans[0].inputs == {"input": [user("hi")]}


@pytest.mark.parametrize("lineage", [None, ModuleType("lineage")], ids=["no module", "no name in it"])
def test_an_mlflow_that_records_no_agent_evaluates_it_all_the_same(
    lineage: Any, client: AgentTargetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.genai.evaluation.lineage", lineage)
    ask = client.to_predict_fn("chat_agent")
    with own_experiment():
        assert ask(question="one two").output_text == "two one"


HI = [user("hi")]
TEXTS = dict.fromkeys(
    ("client_request_id", "model", "previous_response_id", "tool_choice", "truncation", "user"), "no question"
)


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"question": "hi"}, {"input": HI}),
        ({"messages": "hi"}, {"input": HI}),
        ({"input": "hi"}, {"input": "hi"}),
        ({"input": HI}, {"input": HI}),
        ({"messages": HI}, {"messages": HI}),
        ({"messages": HI, "note": "n"}, {"messages": HI, "note": "n"}),
        ({"q": "hi", "custom_inputs": {"k": 1}}, {"input": HI, "custom_inputs": {"k": 1}}),
        ({"q": "hi", "context": {"user_id": "u"}}, {"input": HI, "context": {"user_id": "u"}}),
        ({"q": "hi", **TEXTS}, {"input": HI, **TEXTS}),
        (
            {"q": "hi", "temperature": 0.5, "tool_choice": "none"},
            {"input": HI, "temperature": 0.5, "tool_choice": "none"},
        ),
    ],
)
def test_a_rows_fields_are_a_request(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    given = dict(fields)
    assert request_of_fields(fields) == sent
    assert fields == given


@pytest.mark.parametrize("fields", [{}, {"question": "a", "document": "b"}, {"n": 1}, {"tool_choice": "none"}])
def test_a_row_that_can_not_be_asked_is_refused(
    fields: dict[str, Any], scripted: Callable[..., ScriptedServer]
) -> None:
    server = scripted(whole(ANSWER))
    with own_experiment(), pytest.raises(InvalidInputError, match="could be the question"):
        AgentTargetClient(server.target_uri).to_predict_fn("a")(**fields)
    assert server.received == []


class TestAsAChatModel:
    """MLflow's legacy evaluation and its judges, which know chat models only and make their clients themselves."""

    @pytest.fixture
    def target(self, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", server.target_uri)
        monkeypatch.setenv("AGENT_TARGET_INTERFACE", "chat")

    @pytest.mark.parametrize(
        ("endpoint", "answer"),
        [
            ("responses_agent", "You said 'one two': 2 words, by my count_words tool."),
            ("chat_agent", "two one"),
            ("chat_model", "ONE TWO"),
        ],
    )
    def test_any_agent_answers_in_choices(self, endpoint: str, answer: str, client: AgentTargetClient) -> None:
        chat = client.with_options(interface="chat")
        inputs = {"messages": [user("one two")], "custom_inputs": {"k": 1}, "max_tokens": 5}
        completion = chat.predict(endpoint=endpoint, inputs=inputs)
        assert completion["choices"][0]["message"]["content"] == completion.output_text == answer
        assert completion["choices"][0]["finish_reason"] == "stop"
        assert completion.custom_outputs == {"k": 1}
        assert completion.usage == client.predict(endpoint=endpoint, inputs=inputs).usage
        described = chat.get_endpoint(endpoint)
        assert described["task"] == described.endpoint_type == "llm/v1/chat"
        assert client.get_endpoint(endpoint)["task"] != "llm/v1/chat"

    def test_a_completion_is_made_once(self) -> None:
        extras = {"id": "r-1", "custom_outputs": {"k": 1}, "databricks_output": {}}
        completion = as_chat_completion(AgentResponse({**ANSWER, **extras, "object": "response"}, request_id="q"), "a")
        assert extras.items() <= completion.items()
        assert (completion["object"], completion["model"], completion.request_id) == ("chat.completion", "a", "q")
        assert "output" not in completion
        assert as_chat_completion(completion, "b") is completion

    @pytest.mark.usefixtures("target")
    @pytest.mark.parametrize("endpoint", ["responses_agent", "chat_agent", "chat_model"])
    def test_legacy_evaluation_of_questions(self, endpoint: str) -> None:
        assert self.evaluate(endpoint, ["one", "two"])[0].lower().startswith(("you said 'one'", "one"))

    def test_legacy_evaluation_of_payloads_needs_no_view(
        self, server: LocalServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", server.target_uri)
        rows = [{"input": [user(text)], "custom_inputs": {"k": 1}} for text in ("one", "two")]
        first, _ = self.evaluate("responses_agent", rows)
        assert first["custom_outputs"] == {"k": 1}

    @staticmethod
    def evaluate(endpoint: str, rows: list[Any]) -> list[Any]:
        import pandas as pd

        seen: list[Any] = []

        def look(predictions: Any) -> Any:
            seen[:] = predictions  # the first row, to try the metric, and then all
            return mlflow.metrics.MetricValue(scores=[1.0] * len(predictions))

        metric = mlflow.metrics.make_metric(eval_fn=look, greater_is_better=True, name="look")
        with mlflow.start_run():
            mlflow.models.evaluate(
                model=f"endpoints:/{endpoint}", data=pd.DataFrame({"inputs": rows}), extra_metrics=[metric]
            )
        return seen

    @pytest.mark.usefixtures("target")
    def test_a_judge(self) -> None:
        from mlflow.metrics.genai.model_utils import score_model_on_payload

        said = score_model_on_payload("endpoints:/chat_agent", "one two", {"temperature": 0.0}, {}, None)
        assert said == "two one"

    def test_an_endpoint_is_described_once_a_minute(
        self, scripted: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = scripted(whole(ANSWER), describe=whole(AGENT))
        monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", server.target_uri)
        monkeypatch.setenv("AGENT_TARGET_INTERFACE", "chat")
        assert self.evaluate("a", ["one", "two", "three"]) == ["Hi."] * 3
        assert [received.method for received in server.received].count("GET") == 1

    def test_one_that_is_changing_is_asked_each_time(self, scripted: Callable[..., ScriptedServer]) -> None:
        server = scripted(whole(ANSWER), describe=whole({**AGENT, "state": {"ready": "NOT_READY"}}))
        for _ in range(3):
            AgentTargetClient(server.target_uri).get_endpoint("a")
        assert len(server.received) == 3

    def test_a_wrong_view_in_the_environment_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AGENT_TARGET_INTERFACE", "nope")
        with pytest.raises(InvalidInputError, match="AGENT_TARGET_INTERFACE must be one of 'ResponsesAgent'"):
            AgentTargetClient("agent-target:http://127.0.0.1:1")


class TestJournal:
    """Answers that are not asked for again."""

    @pytest.fixture
    def client(self, counting: CountingServer) -> AgentTargetClient:
        return AgentTargetClient(counting.target_uri)

    def test_a_stopped_evaluation_goes_on(
        self, client: AgentTargetClient, counting: CountingServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "eval.db"
        ask = client.to_predict_fn("instant", journal=path)
        for question in QUESTIONS[:3]:
            assert ask(question=question).output_text == f"answer to {question}"
        del ask
        ask = client.to_predict_fn("instant", journal=path)
        again = [ask(question=question) for question in QUESTIONS]
        assert [answer.output_text for answer in again] == [f"answer to {question}" for question in QUESTIONS]
        assert again[0].usage == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
        assert counting.counts()["asked"] == dict.fromkeys(QUESTIONS, 1)

    def test_what_failed_or_is_in_doubt_is_asked_again(self, scripted: Any, tmp_path: Path) -> None:
        server = scripted(whole({"message": "no"}, 400), whole({"output": []}), describe=whole({"name": "a"}))
        client = AgentTargetClient(server.target_uri)
        ask = client.to_predict_fn("a", journal=tmp_path / "eval.db")
        with pytest.raises(AgentError):
            ask(question="one")
        del ask
        with pytest.raises(InvalidInputError, match="belongs to another batch"):
            client.predict_batch("a", ["one"], journal=tmp_path / "eval.db")
        ask = client.to_predict_fn("a", journal=tmp_path / "eval.db")
        for _ in range(2):
            assert ask(question="one")["output"] == []
        assert len(server.posts) == 2

    def test_threads_and_functions_share_what_is_known(
        self, client: AgentTargetClient, counting: CountingServer, tmp_path: Path
    ) -> None:
        asks = [client.to_predict_fn("after-50", journal=tmp_path / "eval.db") for _ in range(2)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: asks[n % 2](question=QUESTIONS[n % 4]).output_text, range(16)))
        assert answers == [f"answer to {QUESTIONS[n % 4]}" for n in range(16)]
        assert counting.counts()["asked"] == dict.fromkeys(QUESTIONS[:4], 1)
        with pytest.raises(InvalidInputError, match=r"in use by another run|belongs to another"):
            client.to_predict_fn("instant", journal=tmp_path / "eval.db")

    @pytest.mark.parametrize(
        "values",
        [
            [np.int64(1), np.int64(2)],
            [np.array([1]), np.array([2])],
            [MappingProxyType({"n": 1}), MappingProxyType({"n": 2})],
            [1, True, 1.0],
        ],
        ids=["numbers of numpy's", "arrays", "mappings", "what Python takes for equal"],
    )
    def test_questions_that_differ_share_no_answer(self, values: list[Any], scripted: Any, tmp_path: Path) -> None:
        answers = [whole({"output": [], "n": number}) for number in range(len(values))]
        server = scripted(*answers, describe=whole({"name": "a"}))
        ask = AgentTargetClient(server.target_uri).to_predict_fn("a", journal=tmp_path / "eval.db")
        for _ in range(2):
            given = [ask(question="one", custom_inputs={"k": value})["n"] for value in values]
            assert given == list(range(len(values)))
        assert len(server.posts) == len(values)

    @harness
    def test_mlflow_asks_each_row_once_and_failing_rows_count(
        self, client: AgentTargetClient, counting: CountingServer, tmp_path: Path
    ) -> None:
        from mlflow_agent_target.evaluation import answered

        rows = [{"inputs": {"question": question}} for question in QUESTIONS]
        rows += [{"inputs": {"a": "which", "b": "one?"}}] * 8
        with own_experiment():
            for _ in range(2):
                ask = client.to_predict_fn("instant", journal=tmp_path / "eval.db")
                metrics = mlflow.genai.evaluate(data=rows, predict_fn=ask, scorers=[answered]).metrics
                assert metrics["answered/mean"] == 0.5
                del ask
            assert len([trace for trace in traces() if trace.info.state == "OK"]) >= 16
        assert counting.counts()["asked"] == dict.fromkeys(QUESTIONS, 1)


@pytest.mark.parametrize(
    ("outputs", "is_one"),
    [
        (None, False),
        ({}, False),
        ({"output": []}, False),
        (
            {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": " "}]}]},
            False,
        ),
        (
            {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}]},
            True,
        ),
        ({"output": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]}, True),
        ({"output": [{"type": "mcp_approval_request", "id": "m", "name": "f", "arguments": "{}"}]}, True),
        ({"choices": [{"message": {"role": "assistant", "content": "x"}}]}, True),
        ("text", True),
    ],
)
def test_what_an_answer_is(outputs: Any, is_one: bool) -> None:
    assert is_answer(outputs) == is_one


def test_the_module_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        evaluation.other  # noqa: B018
