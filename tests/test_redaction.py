"""Secrets are taken out of whatever a server or a library said, and nothing else is."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_target import AgentTargetClient, AgentTargetError
from mlflow_agent_target.redaction import REDACTED, redacted, secrets_of, secrets_of_environment
from tests.scripted import CLOSE, Answer, ScriptedServer, whole

Make = Callable[..., ScriptedServer]
TOKEN = "dapi0123456789abcdef"

CASES: list[tuple[str, Any, Any]] = [
    (TOKEN, f"bad token {TOKEN}", f"bad token {REDACTED}"),
    (TOKEN, f"x{TOKEN}y", f"x{REDACTED}y"),
    (TOKEN, {"a": [f"{TOKEN}", 1, None, True]}, {"a": [REDACTED, 1, None, True]}),
    (TOKEN, {TOKEN: 1}, {REDACTED: 1}),
    ("hunter2", "bad token hunter2\nno", f"bad token {REDACTED}\nno"),
    ("hunter2", "hunter2: no", f"{REDACTED}: no"),
    ("hunter2", "hunter22 and shunter2", "hunter22 and shunter2"),
    ("hunter", "shunter", "shunter"),
    ("hunter", "a hunter", f"a {REDACTED}"),
    ("hunte", "a hunte", "a hunte"),
    ("elevenchars", "elevencharsx", "elevencharsx"),
    ("twelve-chars", "twelve-charsx", f"{REDACTED}x"),
    ("any", "for any company of Germany", "for any company of Germany"),
    ("any", "Bearer any was refused", f"Bearer {REDACTED} was refused"),
    ("any", "the token any.", f"the token {REDACTED}."),
    ("any", "the token anything", "the token anything"),
    ("any", ["any", "any of"], [REDACTED, "any of"]),
    ("e", "every e", "every e"),
    ("a b", "is a b here", f"is {REDACTED} here"),
    ("1234567890", {"workspace": 1234567890, "other": 12345678901}, {"workspace": REDACTED, "other": 12345678901}),
    ("1", {"attempts": 1, "ok": True}, {"attempts": REDACTED, "ok": True}),
    ('q"u\\o', json.dumps({"said": 'q"u\\o'}), '{"said": "[redacted]"}'),
    ("p&s/w+r d", f"password={quote_plus('p&s/w+r d')}", f"password={REDACTED}"),
    ("", "nothing", "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("secret", "said", "shown"), CASES)
def test_a_secret_is_taken_out_and_nothing_else(secret: str, said: Any, shown: Any) -> None:
    assert redacted(said, [secret]) == shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=8,
)


@given(said=JSON, secret=st.text(min_size=12, max_size=20), place=st.integers(0, 50))
def test_no_secret_is_left_whatever_is_said(said: Any, secret: str, place: int) -> None:
    text = json.dumps(said)
    quoted = {"said": said, "text": text[:place] + secret + text[place:]}
    if secret.strip():
        left = str(list(redacted(quoted, [secret]).values())[1:])
        # What is left on both sides of a place is not joined: it may be the secret by chance.
        assert secret.strip() not in left.replace(REDACTED, "\uffff")


@given(said=JSON)
def test_what_holds_no_secret_stays_as_it_is(said: Any) -> None:
    assert redacted(said, [TOKEN]) == said


def test_the_secrets_of_headers() -> None:
    basic = base64.b64encode(b"id:hunter2").decode()
    assert set(secrets_of({"Authorization": f"Bearer {TOKEN}"})) == {f"Bearer {TOKEN}", TOKEN}
    assert {basic, "hunter2"} < set(secrets_of({"Authorization": f"Basic {basic}"}))
    assert set(secrets_of({"Authorization": "Basic \u0416"})) == {"Basic \u0416", "\u0416"}
    assert set(secrets_of({"X-Key": TOKEN})) == {TOKEN}


def test_the_secrets_of_the_environment() -> None:
    said = {
        "DATABRICKS_TOKEN": TOKEN,
        "DATABRICKS_CLIENT_SECRET": "s1",
        "DATABRICKS_HOST": "https://h",
        "HTTPS_PROXY": "http://me:p%40ss@proxy:8080",
        "http_proxy": "http://me:p#a/s?s@proxy:8080",
        "no_proxy": "localhost",
        "PATH": "/bin",
    }
    assert set(secrets_of_environment(said)) == {TOKEN, "s1", "p%40ss", "p@ss", "p#a/s?s"}


ANSWERS: dict[str, Answer] = {
    "a message": whole({"error_code": "X", "message": f"bad token {TOKEN}"}, 401),
    "a page": whole(f"<title>{TOKEN}</title>".encode(), content_type="text/html"),
    "a number's neighbour": whole({"message": "no", "said": [{"deep": TOKEN}]}, 400),
    "a header": whole({"message": "no"}, 400, headers=f"x-request-id: r-{TOKEN}\r\n"),
    "a redirect": whole({}, 302, headers=f"Location: https://{TOKEN}.example/x\r\n"),
    "a status line": [f"HTTP/1.1 {TOKEN}\r\n\r\n".encode(), CLOSE],
    "a length": [f"HTTP/1.1 200 OK\r\nContent-Length: {TOKEN}\r\n\r\n".encode(), CLOSE],
    "text that is no JSON": whole(f"{{{TOKEN}".encode()),
    "an answer that is none": whole([TOKEN] * 2, 200),
    "a failure with status 200": whole({"error": {"message": TOKEN}}),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_no_error_shows_a_login_wherever_the_server_quotes_it(
    answer: Answer, scripted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_TARGET_TOKEN", TOKEN)
    client = AgentTargetClient(scripted(answer).target_uri).with_options(interface="ResponsesAgent")
    try:
        client.predict(endpoint="a", inputs="hi")
    except AgentTargetError as error:
        causes = [error.__cause__, *([] if error.__suppress_context__ else [error.__context__])]
        shown = [f"{error} {error.request_id} {error.body} {pickle.dumps(error)!r}"]
        shown += [f"{cause} {vars(cause)}" for cause in causes if cause is not None]
        assert TOKEN not in "".join(shown)


def test_another_secret_of_the_environment_is_not_shown_either(scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", TOKEN)
    server = scripted(whole({"message": f"what is {TOKEN}?"}, 400))
    with pytest.raises(AgentTargetError, match=r"what is \[redacted\]\?"):
        AgentTargetClient(server.target_uri).with_options(interface="ChatAgent").predict(endpoint="a", inputs="hi")
