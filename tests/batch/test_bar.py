"""The bar, and where it is shown."""

from __future__ import annotations

import re
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


def test_the_bar_of_a_file_says_about_how_many_rows_there_are(
    counting: CountingServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(f'"row {n:03}"\n' for n in range(300)), encoding="utf-8")
    AgentTargetClient(counting.target_uri).predict_batch("after-100", str(path), concurrency=20, progress=True)
    shown = [(int(done), int(of)) for done, of in re.findall(r"(\d+)/(\d+) \[", capsys.readouterr().err)]
    assert [of for done, of in shown if done < 150]
    assert {of for _, of in shown} <= set(range(280, 321))
    assert shown[-1] == (300, 300)
