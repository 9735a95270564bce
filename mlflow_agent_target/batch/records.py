"""What comes of a row, as it is recorded: its answer or its failure. Pure."""

from __future__ import annotations

import json
from typing import Any

from mlflow_agent_target.batch.journal import FAILED, OK, Claim, Outcome
from mlflow_agent_target.formats.answers import AgentResponse


def answer_outcome(claim: Claim, answer: AgentResponse, attempts: int) -> Outcome:
    """Return what is recorded of an answer; its time is not known here."""
    response = json.dumps(answer, ensure_ascii=False)
    request_id = answer.request_id
    tokens = _tokens(answer)
    return Outcome(
        *claim,
        OK,
        response=response if _is_storable(response) else json.dumps(answer),
        output_text=_storable(answer.output_text),
        attempts=attempts,
        input_tokens=tokens.get("input_tokens"),
        output_tokens=tokens.get("output_tokens"),
        total_tokens=tokens.get("total_tokens"),
        request_id=None if request_id is None else _storable(str(request_id)),
    )


def error_outcome(claim: Claim, error: BaseException, attempts: int, seconds: float | None) -> Outcome:
    """Return what is recorded of a failure."""
    request_id = getattr(error, "request_id", None)
    return Outcome(
        *claim,
        FAILED,
        error=type(error).__name__,
        error_message=_storable(str(error)),
        attempts=attempts,
        seconds=seconds,
        request_id=None if request_id is None else _storable(str(request_id)),
    )


def _tokens(answer: AgentResponse) -> dict[str, Any]:
    """Return the tokens that an answer counts, as far as they are numbers that can be stored."""
    try:
        usage = answer.usage or {}
    except TypeError:  # the endpoint counts in something else
        return {}
    return {key: count for key, count in usage.items() if isinstance(count, int) and abs(count) < 1 << 63}


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _storable(text: str) -> str:
    """Return text without halves of surrogate pairs, which JSON can say and a database can't hold."""
    return text if _is_storable(text) else text.encode("utf-8", "replace").decode()
