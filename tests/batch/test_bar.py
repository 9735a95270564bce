"""The bar, and where it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_agent_target import AgentTargetClient
from tests.counting_server import CountingServer


def test_a_bar_is_shown_only_where_it_is_wanted(counting: CountingServer, capsys: pytest.CaptureFixture[str]) -> None:
    client = AgentTargetClient(counting.target_uri)
    client.predict_batch("instant", ["row 0"] * 5)
    assert capsys.readouterr() == ("", "")
    client.predict_batch("instant", ["row 0"] * 5, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err
    assert "failed=0" in err


def test_the_bar_of_a_file_ends_at_its_rows(
    counting: CountingServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('"row 1"\n' * 30, encoding="utf-8")
    client = AgentTargetClient(counting.target_uri)
    client.predict_batch("after-300", str(path), concurrency=10, progress=True)
    shown = capsys.readouterr().err
    assert "30/30" in shown
    assert "0/30" in shown or "10/30" in shown
