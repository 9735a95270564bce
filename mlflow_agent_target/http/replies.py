"""What a success means: a JSON value, or an error where there is none. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlflow_agent_target.errors import InvalidResponseError
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.http.body import Body
from mlflow_agent_target.http.statuses import is_sign_in_page, sign_in_page
from mlflow_agent_target.text import decoded, printable

# 204 No Content, 205 Reset Content.
_EMPTY = (204, 205)


@dataclass(slots=True)
class Reply:
    """A whole answer: its JSON value, and what is known of the exchange."""

    value: Any
    facts: Facts


def check_holds_answer(body: Body) -> None:
    """Check that a success is one that holds an answer.

    Raises:
        InvalidResponseError: It is one that never does.
    """
    if body.status in _EMPTY:
        facts = body.facts
        raise facts.error(InvalidResponseError, f"{facts.server} answered {body.status}, which holds no answer.")


def json_reply(body: Body, raw: bytes) -> Reply:
    """Return the JSON value of a success.

    Args:
        body: The answer's body, which has been read.
        raw: All of its bytes.

    Raises:
        SignInPageError: It is a page that asks a person to log in.
        InvalidResponseError: It is something else that is not JSON.
    """
    facts = body.facts
    try:
        return Reply(_parsed(raw, body.charset), facts)
    except (ValueError, RecursionError) as error:
        said = decoded(raw, body.charset)
        text = facts.redacted(said)
        cause = error if text == said else None  # it holds the text
        kind = printable(body.content_type or "no content type")
        if is_sign_in_page(kind, text):
            raise sign_in_page("a page that asks for a login", facts, text) from cause
        raise facts.error(
            InvalidResponseError,
            f"{facts.server} answered {facts.status} with {kind} that is not JSON. Is {facts.url} the right address? "
            f"It starts: {printable(text, 200)!r}",
            body=text,
        ) from cause


def _parsed(raw: bytes, charset: str | None) -> Any:
    """Return the JSON value of an answer. What is no text in its charset is U+FFFD, as in streams."""
    if charset is None:
        try:
            return json.loads(raw)
        except UnicodeDecodeError:
            pass
    return json.loads(decoded(raw, charset))
