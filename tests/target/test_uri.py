"""Target URIs, and what the environment says."""

from __future__ import annotations

import pytest

from mlflow_agent_target import AgentTargetClient, InvalidInputError
from mlflow_agent_target.errors import AuthenticationError
from mlflow_agent_target.target.uri import Target


@pytest.mark.parametrize(
    ("uri", "base_url", "profile"),
    [
        ("agent-target", None, None),
        ("Agent-Target://dev", None, "dev"),
        ("agent-target://my-profile_2.x", None, "my-profile_2.x"),
        ("agent-target:http://127.0.0.1:8080", "http://127.0.0.1:8080", None),
        ("agent-target:http://127.0.0.1:8080/", "http://127.0.0.1:8080", None),
        ("agent-target:https://gw.example/pre/fix/", "https://gw.example/pre/fix", None),
        ("agent-target:http://[::1]:8080", "http://[::1]:8080", None),
        ("agent-target:HTTP://h", "HTTP://h", None),
    ],
)
def test_reads(uri: str, base_url: str | None, profile: str | None) -> None:
    target = Target.parse(uri, {})
    assert (target.base_url, target.profile) == (base_url, profile)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "agent-target://PROFILE"),
        ("databricks", "agent-target://PROFILE"),
        ("agent-target:", "agent-target://PROFILE"),
        ("agent-target:/x", "agent-target://PROFILE"),
        ("agent-target://", "agent-target://PROFILE"),
        ("agent-target://a/b", "agent-target://PROFILE"),
        ("agent-target://p?timeout=5", "agent-target://PROFILE"),
        ("agent-target://127.0.0.1:8000", "agent-target:http://127.0.0.1:8000"),
        ("agent-target:ftp://h", "agent-target:http://HOST:PORT"),
        ("agent-target:http:/h", "names no host"),
        ("agent-target:http://", "names no host"),
        ("agent-target:http://:80", "names no host"),
        ("agent-target:http://h:99999", "port"),
        ("agent-target:http://h:x", "port"),
        ("agent-target:http://h:0", "port"),
        ("agent-target:http://h?x=1", "query"),
        ("agent-target:http://h#x", "fragment"),
        ("agent-target:http://h /x", "space"),
        ("agent-target:http://h\\@evil", "AGENT_TARGET_TOKEN"),
        ("agent-target:http://user:hunter2@h", "AGENT_TARGET_TOKEN"),
        ("agent-target:http://[::1:8080", "Write it like"),
        ("agent-target:http://[zz]:80", "Write it like"),
        ("agent-target:http://*.x:80", "a host that can't be one"),
        ("agent-target:http://a..b", "a host that can't be one"),
        (None, "must be a string"),
    ],
)
def test_refuses_and_says_what_to_write(uri: str, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        AgentTargetClient(uri)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_token_that_no_header_can_carry_is_refused() -> None:
    for token in ("a\nb", "ключ"):
        with pytest.raises(InvalidInputError, match="AGENT_TARGET_TOKEN") as caught:
            Target.parse("agent-target:http://h", {"AGENT_TARGET_TOKEN": token})
        assert token not in str(caught.value)


def test_a_token_goes_only_to_the_base_url_it_was_given_for() -> None:
    environment = {"AGENT_TARGET_TOKEN": "hunter2", "DATABRICKS_TOKEN": "hunter3", "DATABRICKS_HOST": "https://w"}
    local = Target.parse("agent-target:http://127.0.0.1:1", environment)
    assert local.log_in().headers() == {"Authorization": "Bearer hunter2"}
    assert "hunter3" not in str(vars(local))
    assert Target.parse("agent-target", environment).token is None
    for shown in (repr(local), repr(local.log_in()), repr(Target.parse("agent-target", environment))):
        assert "hunter" not in shown


def test_another_login_is_another_target() -> None:
    one, other = ({"DATABRICKS_TOKEN": token} for token in "ab")
    assert Target.parse("agent-target", one) != Target.parse("agent-target", other)
    assert Target.parse("agent-target", one) == Target.parse("agent-target", dict(one, PATH="x"))


@pytest.mark.parametrize("uri", ["agent-target", "agent-target://nobody"])
def test_no_login_is_an_error_with_the_next_step(uri: str) -> None:
    with pytest.raises(AuthenticationError, match="databricks auth login"):
        AgentTargetClient(uri).predict(endpoint="e", inputs="hi")
