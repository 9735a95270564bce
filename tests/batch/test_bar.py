"""The bar, and where it is shown."""

from __future__ import annotations

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
