"""Base URLs and workspaces' addresses, as people paste them."""

from __future__ import annotations

import pytest

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.target.addresses import base_url, is_loopback, shown, workspace_address

HOST = "https://dbc-1.cloud.databricks.com"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (HOST, (HOST, None, None)),
        (f" {HOST}/ ", (HOST, None, None)),
        ("dbc-1.cloud.databricks.com", (HOST, None, None)),
        ("dbc-1.cloud.databricks.com:443/", (f"{HOST}:443", None, None)),
        (f"{HOST}/?o=123", (HOST, "123", None)),
        (f"{HOST}?o=123#job/1", (HOST, "123", None)),
        (f"{HOST}/browse/folders/1?o=123", (HOST, "123", None)),
        (f"{HOST}/browse/folders/1", (HOST, None, None)),
        (f"{HOST}/#job/5", (HOST, None, None)),
        (f"{HOST}/?o=mine", (HOST, None, None)),
        (f"{HOST}/?workspace_id=12&account_id=acc", (HOST, "12", "acc")),
        (f"{HOST}/?w=my-place&a=acc", (HOST, "my-place", "acc")),
        (f"{HOST}/serving-endpoints", (HOST, None, None)),
        ("https://gateway.example/databricks/", ("https://gateway.example/databricks", None, None)),
        ("https://gateway.example/databricks/serving-endpoints/", ("https://gateway.example/databricks", None, None)),
        ("https://gateway.example/databricks?o=1", ("https://gateway.example", "1", None)),
        ("http://[::1]:80/?o=1", ("http://[::1]:80", "1", None)),
        ("https://b\u00fccher.example", ("https://xn--bcher-kva.example", None, None)),
    ],
)
def test_a_pasted_address_is_cut_to_the_host(given: str, expected: tuple[str, str | None, str | None]) -> None:
    assert workspace_address(given, "DATABRICKS_HOST") == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("https://user:hunter2@h", "credentials"),
        ("https://user:hun#ter2/@h", "port"),
        ("hunter2 @h", "credentials"),
        ("https://:80", "names no host"),
        ("https:/h", "names no host"),
        ("", "names no host"),
        ("ftp://h", "neither http nor https"),
        ("https://h:99999", "port"),
        ("https://h:x", "port"),
        ("https://[::1", "brackets"),
        ("https://[zz]", "Write it like"),
        ("https://a..b", "host that can't be one"),
        ('"https://h"', "host that can't be one"),
        ("https://h /x", "space"),
    ],
)
def test_what_can_be_no_address_is_refused_by_name(given: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match="DATABRICKS_HOST") as caught:
        workspace_address(given, "DATABRICKS_HOST")
    assert says in str(caught.value)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://h:1/serving-endpoints", "http://h:1"),
        ("http://h:1/pre/serving-endpoints/", "http://h:1/pre"),
        ("http://h/serving-endpoints-2", "http://h/serving-endpoints-2"),
        ("http://b\u00fccher.example/a b\u00fc".replace(" ", "%20"), "http://xn--bcher-kva.example/a%20b%C3%BC"),
    ],
)
def test_a_base_url_is_without_the_route_that_is_added_to_it(given: str, expected: str) -> None:
    assert base_url(given, "TOKEN") == expected


def test_one_agents_own_path_is_no_base_url() -> None:
    with pytest.raises(ValueError, match="name the endpoint in the call"):
        base_url("http://h/serving-endpoints/a/invocations", "TOKEN")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://h/path", "'https://h/path'"),
        ("https://h/path?key=hunter2", "'https://h/path?***'"),
        ("https://h#hunter2", "'https://h?***'"),
        ("agent-target:https:hunter2@h", "'agent-target:https:***@h'"),
        ("agent-target:https://u:hunter2?x@h", "'agent-target:https://***@h'"),
        ("hunter2@h", "'***@h'"),
    ],
)
def test_an_address_is_shown_without_what_may_be_a_password(address: str, expected: str) -> None:
    assert shown(address) == expected


def test_what_is_this_machine_itself() -> None:
    own = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST", "localhost.", "a.localhost"]
    assert all(map(is_loopback, own))
    assert not any(map(is_loopback, ["10.0.0.1", "0.0.0.0", "localhost.example", "127.0.0.1.example", ""]))  # noqa: S104
