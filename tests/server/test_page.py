"""The page as it is served: what it may do in a browser, and what is filled in."""

from __future__ import annotations

import base64
import hashlib
import re

import mlflow
import pytest
import requests

from mlflow_agent_target.server import LocalServer, serve
from mlflow_agent_target.server.page import page
from tests.conftest import DEMO


@pytest.fixture
def answer(server: LocalServer) -> requests.Response:
    return requests.get(f"{server.url}/", timeout=30)


def test_it_is_html_that_nobody_guesses_frames_or_keeps(answer: requests.Response) -> None:
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"


def test_nothing_runs_but_its_own_script(answer: requests.Response) -> None:
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert not re.search(r"<[^>]*\s(on\w+|style)=", answer.text.partition("<script>")[0]), "blocked by the policy"


def test_nothing_is_loaded_from_elsewhere(answer: requests.Response) -> None:
    markup, _, script = answer.text.partition("<script>")
    assert re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']?([^"'\s>]*)""", markup) == ["data:,"]
    assert not re.search(r"@import|url\(", markup)
    assert not re.search(r"\bimport\s*\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script)


def test_head(server: LocalServer, answer: requests.Response) -> None:
    head = requests.head(f"{server.url}/", timeout=30)
    assert (head.status_code, head.text) == (200, "")
    assert head.headers["content-length"] == str(len(answer.content))


def test_the_page_itself_needs_no_token() -> None:
    with serve({"a": DEMO / "chat_agent.py"}, token="s3cret-token") as server:
        answer = requests.get(server.url, timeout=30)
    assert answer.status_code == 200
    assert "s3cret-token" not in answer.text + str(answer.headers)


@pytest.mark.parametrize(
    ("tracking_uri", "told"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://me:pass@word@mlflow.example.com:8443/team/?x=1#y", "https://mlflow.example.com:8443/team"),
        ('http://host/"><script>', "http://host/&quot;&gt;&lt;script&gt;"),
        ("sqlite:///mlflow.db", ""),
        ("file:///tmp/mlruns", ""),
        ("databricks", ""),
        ("", ""),
    ],
)
def test_where_mlflows_ui_is(tracking_uri: str, told: str) -> None:
    shown = page(tracking_uri)
    assert f'<meta name="mlflow-ui" content="{told}">' in shown
    assert not re.search("me:|pass|word@", shown.partition("<style>")[0])


def test_the_tracking_uri_of_the_moment_counts(server: LocalServer) -> None:
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri("http://127.0.0.1:1/mlflow")
        assert 'content="http://127.0.0.1:1/mlflow"' in requests.get(server.url, timeout=30).text
    finally:
        mlflow.set_tracking_uri(before)
    assert "127.0.0.1:1" not in requests.get(server.url, timeout=30).text
