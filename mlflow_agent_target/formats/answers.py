"""Whole answers: what came back, and how it is read whatever the interface."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any, TextIO

from mlflow_agent_target.errors import AgentError, InvalidResponseError
from mlflow_agent_target.facts import Facts
from mlflow_agent_target.formats.durable_agent import DurableAgentServer
from mlflow_agent_target.formats.failures import failure, no_answer
from mlflow_agent_target.formats.registry import interface_of_answer
from mlflow_agent_target.text import server_reason

# Under these keys answers in no interface have their text.
_LOOSE_KEYS = ("predictions", "final_response", "content", "output")
# Halves of surrogate pairs, which UTF-8 can't say. JSON can, by their numbers.
_HALVES = re.compile("[\ud800-\udfff]")


class AgentResponse(dict[str, Any]):
    """A whole answer: exactly what the endpoint sent, as a dict whose keys are attributes too.

    Beside its keys it has properties that read the same whatever the endpoint's interface.
    """

    def __init__(self, answer: dict[str, Any], *, request_id: str | None = None, session_id: str | None = None) -> None:
        super().__init__(answer)
        self._header_request_id = request_id
        self._session_id = session_id

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"The answer has no {name!r}; it has {sorted(self)}.") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_response, (dict(self), self._header_request_id, self._session_id)

    @property
    def output_text(self) -> str:
        """All text that the assistant says, without what tools said; "" where it says none."""
        interface = interface_of_answer(self)
        return interface.text(self) if interface else _loose_text(self)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls, each as a `function_call` item (`call_id`, `name`, `arguments`) whatever the interface."""
        interface = interface_of_answer(self)
        return interface.tool_calls(self) if interface else []

    @property
    def usage(self) -> dict[str, int] | None:
        """Tokens, as `input_tokens`, `output_tokens`, `total_tokens` whatever the interface; None where not said."""
        interface = interface_of_answer(self)
        usage = interface.usage(self) if interface else self.get("usage")
        if not isinstance(usage, dict):
            return None
        # Some servers count in floats.
        counts = {k: int(v) for k, v in usage.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        given = counts.get("input_tokens", counts.get("prompt_tokens", 0))
        made = counts.get("output_tokens", counts.get("completion_tokens", 0))
        total = counts.get("total_tokens") or given + made
        return {"input_tokens": given, "output_tokens": made, "total_tokens": total}

    @property
    def trace(self) -> dict[str, Any] | None:
        """The agent's MLflow trace, as `mlflow.entities.Trace.from_dict` reads it; None unless asked for and given.

        Ask with `"databricks_options": {"return_trace": True}` in the payload.
        """
        output = self.get("databricks_output")
        return output.get("trace") if isinstance(output, dict) else None

    @property
    def custom_outputs(self) -> dict[str, Any] | None:
        """What the agent put into `custom_outputs`; None where it put nothing."""
        return self.get("custom_outputs")

    @property
    def request_id(self) -> str | None:
        """The platform's id of the request, for its logs; None where it gave none."""
        output = self.get("databricks_output")
        given = output.get("databricks_request_id") if isinstance(output, dict) else None
        return given or self._header_request_id or self.get("id")

    @property
    def pending_approvals(self) -> list[dict[str, Any]]:
        """What the agent asks a person to approve, and nobody has answered yet, each with `name` and `arguments`.

        Of a ResponsesAgent, its `mcp_approval_request` items; of a DurableAgentServer, what its `interrupt` asks.
        """
        interface = interface_of_answer(self)
        return interface.approvals(self) if interface else []

    @property
    def invocation_id(self) -> str | None:
        """The id of the run, for `client.get_run`, where a DurableAgentServer gave the answer; None elsewhere."""
        return self["id"] if interface_of_answer(self) is DurableAgentServer else None

    @property
    def session_id(self) -> str | None:
        """The session that a DurableAgentServer's run belonged to, where the agent remembers; None elsewhere."""
        return self._session_id or self.get("session_id")

    def without(self, key: str) -> AgentResponse:
        """Return the answer without one of its keys, and otherwise the same."""
        rest = {name: value for name, value in self.items() if name != key}
        return AgentResponse(rest, request_id=self.request_id, session_id=self._session_id)

    def to_json(self, path_or_buf: str | Path | TextIO | None = None) -> str | None:
        """Return the answer as JSON, or write it to a file.

        Args:
            path_or_buf: A file's path or an open text file; None to return the text.
        """
        text = _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", json.dumps(self, ensure_ascii=False))
        if path_or_buf is None:
            return text
        if isinstance(path_or_buf, (str, Path)):
            _write(Path(path_or_buf), text)
        else:
            path_or_buf.write(text)
        return None


def _write(path: Path, text: str) -> None:
    """Write a file that is whole at any time: what was there stays until the new text is written."""
    if path.exists() and not path.is_file():  # a pipe, or the terminal
        path.write_text(text, encoding="utf-8")
        return
    path = Path(os.path.realpath(path))
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _restore_response(answer: dict[str, Any], request_id: str | None, session_id: str | None = None) -> AgentResponse:
    return AgentResponse(answer, request_id=request_id, session_id=session_id)


def _loose_text(answer: Any) -> str:
    """Return the text of answers in no interface: text under one of a few keys, bare, or lists of these."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, list):
        return "".join(map(_loose_text, answer))
    if not isinstance(answer, dict):
        return ""
    if interface := interface_of_answer(answer):
        return interface.text(answer)
    return next((_loose_text(answer[key]) for key in _LOOSE_KEYS if key in answer), "")


def whole_answer(value: Any, facts: Facts) -> AgentResponse:
    """Return a whole answer's JSON value as a response.

    Args:
        value: The JSON value.
        facts: What is known of the exchange.

    Raises:
        AgentError: It says that the agent failed.
        InvalidResponseError: It is no answer.
    """
    if isinstance(value, (str, list)):
        # A custom model may answer with its bare prediction; the scoring server would call it this.
        value = {"predictions": value}
    if not isinstance(value, dict):
        message = f"{facts.server} answered {facts.redacted(value)!r:.50}, which is no agent's answer."
        raise facts.error(InvalidResponseError, message, body=value)
    response = AgentResponse(value, request_id=facts.request_id)
    if (error := failure(value)) is not None:
        facts.request_id = response.request_id
        message = f"{facts.server}: the agent failed: {server_reason(facts.redacted(error))}"
        raise facts.error(AgentError, message, body=value)
    if reason := no_answer(value):
        facts.request_id = response.request_id
        failed = value.get("status") in ("failed", "error")
        message = f"{facts.server} answered {facts.status}, but that is no answer: {facts.redacted(reason)}."
        raise facts.error(AgentError if failed else InvalidResponseError, message, body=value)
    return response
