"""The agent's own trace, below the span of the call that brought it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow.entities import Trace
from mlflow.tracing import trace_manager

from mlflow_agent_target import AgentTargetClient
from mlflow_agent_target.tracing import call_span, guard
from tests.scripted import ScriptedServer, whole
from tests.tracing.conftest import AGENT, ANSWER, V2_TRACE, remote_trace, span_named, traces, tree


class TestTheAgentsTrace:
    @pytest.fixture
    def ask(self, scripted: Callable[..., ScriptedServer]) -> Callable[[Any], Trace]:
        """Calls an agent that answers with a trace, within a span, and gives the trace of that.

        The trace has tags and metadata of its own.
        """

        def ask(sent: Any, **own: dict[str, str]) -> Trace:
            server = scripted(whole({**ANSWER, "databricks_output": {"trace": sent}}), describe=whole(AGENT))
            with mlflow.start_span("mine"):
                mlflow.update_current_trace(**own)
                answer = AgentTargetClient(server.target_uri).predict(endpoint="a", inputs="hi")
            assert answer.output_text == "Hi."
            (trace,) = traces()
            return trace

        return ask

    def test_all_of_it_is_brought_home(self, ask: Callable[[Any], Trace]) -> None:
        trace = ask(remote_trace())
        assert tree(trace) == ["/mine", "/mine/a", "/mine/a/agent", "/mine/a/agent/tool", "/mine/a/agent/tool/model"]
        tool, model = span_named(trace, "tool"), span_named(trace, "model")
        assert (tool.status.status_code, tool.status.description) == ("ERROR", "no such row")
        assert (model.span_type, model.inputs) == ("LLM", {"q": 1})
        assert model.end_time_ns - model.start_time_ns == 1_000_000_000
        assert [(event.name, event.attributes) for event in model.events] == [("retried", {"times": 2})]
        assert {span.attributes["mlflow.traceRequestId"] for span in trace.data.spans} == {trace.info.trace_id}
        assert trace.info.token_usage == {"input_tokens": 50, "output_tokens": 20, "total_tokens": 70}
        assert trace.info.tags["team"] == "blue"
        metadata = {"mlflow.trace.user": "ann", "mlflow.trace.session": "s-7", "release": "7"}
        assert metadata.items() <= trace.info.trace_metadata.items()
        (assessment,) = trace.info.assessments
        assert (assessment.name, assessment.value, assessment.span_id) == ("polite", True, model.span_id)
        assert assessment.trace_id == trace.info.trace_id
        assert assessment.assessment_id != "a-1"

    def test_what_the_caller_wrote_on_its_own_trace_stays(self, ask: Callable[..., Trace]) -> None:
        trace = ask(remote_trace(), tags={"team": "red"}, metadata={"release": "8", "mlflow.trace.session": "mine"})
        assert trace.info.tags["team"] == "red"
        assert {"release": "8", "mlflow.trace.session": "mine"}.items() <= trace.info.trace_metadata.items()

    @pytest.mark.parametrize("location", [None, {}, {"type": "INFERENCE_TABLE", "inference_table": {}}])
    def test_wherever_it_says_that_it_is_kept(self, location: Any, ask: Callable[[Any], Trace]) -> None:
        assert len(tree(ask(remote_trace(trace_location=location)))) == 5

    def test_tags_that_are_no_text_lose_nothing(self, ask: Callable[[Any], Trace]) -> None:
        trace = ask(remote_trace(tags={"n": 5}, trace_metadata={"m": {"k": 1}}))
        assert (trace.info.tags["n"], trace.info.trace_metadata["m"]) == ("5", "{'k': 1}")
        assert len(trace.info.assessments) == 1

    @pytest.mark.parametrize("said", ["text", {}, {"assessment_name": "polite"}, None], ids=repr)
    def test_assessments_that_can_not_be_read_lose_nothing_else(self, said: Any, ask: Callable[[Any], Trace]) -> None:
        good = remote_trace()["info"]["assessments"]
        trace = ask(remote_trace(assessments=[said, *good]))
        assert len(tree(trace)) == 5
        assert trace.info.token_usage == {"input_tokens": 50, "output_tokens": 20, "total_tokens": 70}
        assert [assessment.name for assessment in trace.info.assessments] == ["polite"]

    @pytest.mark.parametrize("manager", [None, object], ids=["is gone", "is another"])
    def test_without_mlflows_trace_in_memory_its_spans_are_brought_home(
        self, manager: Any, ask: Callable[[Any], Trace], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if manager is None:
            monkeypatch.delattr(trace_manager, "InMemoryTraceManager")
        else:
            monkeypatch.setattr(trace_manager, "InMemoryTraceManager", manager)
        trace = ask(remote_trace())
        assert len(tree(trace)) == 5
        assert trace.info.token_usage == {"input_tokens": 50, "output_tokens": 20, "total_tokens": 70}
        assert "team" not in trace.info.tags

    def test_mlflow_2_wrote_it(self, ask: Callable[[Any], Trace]) -> None:
        trace = ask(V2_TRACE)
        assert tree(trace) == ["/mine", "/mine/a", "/mine/a/chain", "/mine/a/chain/retriever"]
        assert trace.info.tags["team"] == "red"
        assert trace.info.trace_metadata["release"] == "2"

    @pytest.mark.parametrize(
        "broken",
        ["text", [1], {"info": {}}, {"info": {}, "data": {"spans": []}}, {"data": {"spans": [{"name": "x"}]}}],
        ids=repr,
    )
    def test_a_broken_one_fails_nothing_and_is_told_once(
        self, broken: Any, ask: Callable[[Any], Trace], caplog: pytest.LogCaptureFixture
    ) -> None:
        trace = ask(broken)
        assert tree(trace) == ["/mine", "/mine/a"]
        assert trace.info.token_usage == {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
        (warning,) = [r.getMessage() for r in caplog.records if r.name == guard.__name__]
        assert warning.startswith("The trace that Endpoint 'a' sent can't be read (")

    def test_what_the_agent_wrote_to_this_experiment_is_named_not_doubled(self, ask: Callable[[Any], Trace]) -> None:
        with mlflow.start_span("agent"):
            pass
        (own,) = traces()
        server_sent = own.to_dict()
        mine = next(t for t in self.both(ask, server_sent) if t.info.trace_id != own.info.trace_id)
        assert tree(mine) == ["/mine", "/mine/a"]
        assert span_named(mine, "a").attributes["agent_trace_id"] == own.info.trace_id

    @pytest.mark.parametrize(
        ("tracking_uri", "spans", "named"), [("databricks", 2, "tr-far"), ("sqlite:////a/m.db", 5, None)]
    )
    def test_an_experiments_id_says_where_it_is_only_in_a_workspace(
        self,
        tracking_uri: str,
        spans: int,
        named: str | None,
        experiment: str,
        ask: Callable[[Any], Trace],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        told = SimpleNamespace(**{**vars(mlflow), "get_tracking_uri": lambda: tracking_uri})
        monkeypatch.setattr(call_span, "mlflow", told)
        trace = ask(remote_trace(trace_location={"mlflow_experiment": {"experiment_id": experiment}}))
        assert len(tree(trace)) == spans
        assert span_named(trace, "a").attributes.get("agent_trace_id") == named

    def test_what_the_agent_is_still_writing_to_this_experiment_is_not_doubled(
        self, experiment: str, ask: Callable[[Any], Trace]
    ) -> None:
        agents = mlflow.start_span_no_context("agent")
        location = {"mlflow_experiment": {"experiment_id": experiment}}
        trace = ask(remote_trace(trace_id=agents.trace_id, trace_location=location))
        agents.end()
        assert tree(trace) == ["/mine", "/mine/a"]
        assert span_named(trace, "a").attributes["agent_trace_id"] == agents.trace_id

    @staticmethod
    def both(ask: Callable[[Any], Trace], sent: Any) -> list[Trace]:
        with pytest.raises(ValueError, match="unpack"):  # there are two
            ask(sent)
        return traces()
