"""A batch against the real DurableAgentServer, whose client is killed again and again: each agent runs once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from mlflow_agent_target import AgentTargetClient
from tests.batch.test_run import Children, questions, states_of
from tests.durable_server import DurableServer


def test_a_client_that_is_killed_at_any_moment_lets_each_agent_run_exactly_once(tmp_path: Path) -> None:
    pytest.importorskip("databricks_agentkit", reason="needs databricks-agentbricks")
    path, count, concurrency = tmp_path / "j.db", 2000, 16
    randomly = random.Random(7)
    with DurableServer() as server:
        with Children(server, path, count, "", concurrency) as children:
            in_doubt = 0
            for _ in range(20):
                runs = len(server.started())
                child = children.start()
                server.wait_for_runs(runs + 1)
                time.sleep(randomly.uniform(0.0, 0.1))
                with contextlib.suppress(ProcessLookupError):  # it was quicker
                    os.kill(child, signal.SIGKILL)
                children.wait()
                in_doubt += list(states_of(path).values()).count("claimed")
            children.start(rerun_in_doubt=False)  # which makes no difference here
            said = children.wait() or {}
        assert (said["ok"], said["rows"]) == (count, count)
        assert server.runs() == Counter(dict.fromkeys(questions(count), 1))
        assert in_doubt > 100  # else it was never killed with rows in flight, and this tests nothing
        results = AgentTargetClient(server.target_uri).predict_batch(inputs=questions(count), journal=path)
        assert [row.output_text for row in results] == [f"You said: {question}" for question in questions(count)]
        assert sum(server.runs().values()) == count
