"""What a DurableAgentServer is asked: a caller's payload as the input of a run, with an id and a session. Pure.

https://docs.databricks.com/aws/en/agents/deploy/agent-server: `{"id", "input", "session_id"}`. The input is the agent's
own; the official templates take `{"messages": [...], "actor"?}` and `{"resume": {...}}`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.formats.conversion import encode, one_text
from mlflow_agent_target.formats.durable_agent import DurableAgentServer
from mlflow_agent_target.formats.inputs import Request, as_plain, read_inputs
from mlflow_agent_target.text import encode_json

_ENVELOPE = ("id", "input", "session_id")
# How a run is asked for, which is not the caller's choice here: any way gives the same answer.
_MODES = ("stream", "background")
# PostgreSQL, in which deployed servers keep their runs, has no text with it.
_NUL = "\0"
# Larger ones may come back from PostgreSQL as others, and then the server takes a request for another one.
_EXACT_FLOATS = 2.0**53
# A header's value that chooses an instance has so many bytes at most.
_LONGEST_ROUTING_KEY = 128


@dataclass(frozen=True)
class Invocation:
    """What a DurableAgentServer is asked.

    Attributes:
        id: The run's id: the same id never starts a second run.
        input: What its agent is given: any JSON.
        session_id: The session that the agent remembers; None for none.
        is_callers: Whether the caller made the id.
    """

    id: str
    input: Any
    session_id: str | None
    is_callers: bool = False

    @property
    def routing_key(self) -> str | None:
        """The header's value that keeps a session on one instance; None where the session is no such value."""
        key = self.session_id or ""
        fits = len(key) <= _LONGEST_ROUTING_KEY and key.isascii() and key.isprintable() and key == key.strip()
        return key if key and fits else None

    def envelope(self, is_old: bool = False, **mode: bool) -> bytes:
        """Return the JSON that is sent.

        Args:
            is_old: Whether the server is of version 0.2 or 0.3, whose agents find the session in their input.
            mode: How the run is asked for.

        Raises:
            InvalidInputError: The input can't be sent, or stored there.
            InterfaceMismatchError: An old server has no place for the session.
        """
        envelope: dict[str, Any] = {"id": self.id, "input": self.input}
        if self.session_id is not None and not is_old:
            envelope["session_id"] = self.session_id
        elif self.session_id is not None and isinstance(self.input, dict):
            envelope["input"] = {"session_id": self.session_id, **self.input}
        elif self.session_id not in (None, self.id):
            raise DurableAgentServer.mismatch("'session_id' beside an input that is no dict")
        body = encode_json({**envelope, **mode})
        if b"\\u0000" in body and (where := _place_of_nul(envelope)):
            raise InvalidInputError(
                f"The payload can't be sent: {where} holds U+0000, a character that a DurableAgentServer can't store."
            )
        return body

    def may_change_in_store(self) -> bool:
        """Return whether the input holds a number that may come back from the server's store as another one."""
        return _has_large_float(self.input)


def read_invocation(
    inputs: Any, default_id: uuid.UUID | None = None, id_: Any = None, session_id: str | None = None
) -> Invocation:
    """Return what a DurableAgentServer is asked for what a caller gave. Not modified.

    Args:
        inputs: What `predict` takes; or any dict, or `{"input": DICT}`, which the agent is given as it is; or a whole
            envelope, with `id` and `input`.
        default_id: The run's id where the caller gave none; None for a new one.
        id_: The run's id that the caller gave beside the inputs; None for none.
        session_id: The session that the caller gave beside the inputs; None for none.

    Raises:
        InvalidInputError: It is none of these, or an id is none.
        InterfaceMismatchError: Something in it has no counterpart there; the error names it.
    """
    given = _as_set(inputs)
    keys = given.keys() if isinstance(given, dict) else ()
    ids = [] if id_ is None else [_uuid(id_)]
    sessions = [] if session_id is None else [_session(session_id, "session_id")]
    if "id" in keys and "input" in keys:
        _refuse({key: value for key, value in given.items() if key not in _ENVELOPE})
        ids.append(_uuid(given["id"]))
        if given.get("session_id") is not None:
            sessions.append(_session(given["session_id"], "session_id"))
        return Invocation(_same(ids, "ids"), given["input"], _same(sessions, "sessions"), is_callers=True)
    own: dict[str, Any] = {key: given[key] for key in ("session_id", "context") if key in keys}
    if "input" in keys and _is_agents_own(given["input"]):
        _refuse({key: value for key, value in given.items() if key not in ("input", *own)})
        value = dict(given["input"])
        _take_context(own, value, sessions)
    elif keys and not keys & {"input", "messages", "extra_body"}:
        own = own if "resume" in keys else {}  # else they are the agent's, too
        value = {key: item for key, item in given.items() if key not in own}
        _take_context(own, value, sessions)
    else:
        value = _input_of(read_inputs(given), sessions)
    run_id = _same(ids, "ids") or str(default_id or uuid.uuid4())
    # An agent that keeps no sessions is asked in one all the same: the templates fail without.
    return Invocation(run_id, value, _same(sessions, "sessions") or run_id, is_callers=bool(ids))


def _is_agents_own(value: Any) -> bool:
    """Return whether an `input` is no list of items, but what the agent itself is to read."""
    return isinstance(value, Mapping) and not value.keys() & {"role", "type"}


def _as_set(inputs: Any) -> Any:
    """Return inputs as plain values: of a dataclass, such as MLflow's `ChatCompletionRequest`, those that were set."""
    given = as_plain(inputs)
    fields = getattr(type(inputs), "__dataclass_fields__", {})
    if not fields or not isinstance(given, dict):
        return given
    return {key: value for key, value in given.items() if key not in fields or value != fields[key].default}


def _input_of(request: Request, sessions: list[str]) -> dict[str, Any]:
    """Return a request of one of the two schemas as the templates' input; add the session that it names."""
    payload = dict(request.payload)
    extra = payload.pop("custom_inputs", None) or {}
    own: dict[str, Any] = {key: payload.pop(key) for key in ("session_id", "context", "actor") if key in payload}
    messages: dict[str, Any] = {request.key: payload.pop(request.key)}
    _refuse(payload)
    value = encode(Request(request.key, messages), DurableAgentServer)
    value["messages"] = [_with_plain_text(message) for message in value["messages"]]
    if own.get("actor") is not None:
        value["actor"] = own["actor"]
    _take_context(own, value, sessions)
    if taken := [key for key in extra if key in value]:
        raise DurableAgentServer.mismatch(f"custom_inputs.{taken[0]} beside the input's own '{taken[0]}'")
    return {**value, **extra}


def _take_context(own: dict[str, Any], value: dict[str, Any], sessions: list[str]) -> None:
    """Take the session and the user out of what a request says of its conversation."""
    if own.get("session_id") is not None:
        sessions.append(_session(own["session_id"], "session_id"))
    context = own.get("context") or {}
    for key, said in context.items() if isinstance(context, dict) else ():
        if said is None:
            continue
        if key == "conversation_id":
            sessions.append(_session(said, "context.conversation_id"))
        elif key != "user_id" or value.get("actor", said) != said:
            raise DurableAgentServer.mismatch(f"context.{key}")
        else:
            value["actor"] = said


def _refuse(rest: dict[str, Any]) -> None:
    for key, value in rest.items():
        if value is not None and not (key in _MODES and isinstance(value, bool)):
            raise DurableAgentServer.mismatch(f"'{key}'")


def _with_plain_text(message: dict[str, Any]) -> dict[str, Any]:
    text = one_text(message.get("content"))
    return message if text is None else {**message, "content": text}


def as_uuid(value: Any) -> str | None:
    """Return an id in its usual form, however it is written; None where it is none."""
    try:
        return str(value if isinstance(value, uuid.UUID) else uuid.UUID(value))
    except (ValueError, AttributeError, TypeError):
        return None


def _uuid(value: Any) -> str:
    if (known := as_uuid(value)) is None:
        raise InvalidInputError(
            f"The id of a run must be a UUID, such as str(uuid.uuid4()), not {value!r:.60}. Nothing was sent."
        )
    return known


def _session(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{where} must be a string that is not empty, not {value!r:.60}. Nothing was sent.")
    return value


def _same(values: list[str], what: str) -> Any:
    if len(set(values)) > 1:
        raise InvalidInputError(f"Two {what} of a run were given, {values[0]!r} and {values[1]!r}. Nothing was sent.")
    return values[0] if values else None


def _place_of_nul(value: Any, path: str = "") -> str:
    """Return where a value holds U+0000; "" where it holds none, but the text that says it in JSON."""
    if isinstance(value, str):
        return path if _NUL in value else ""
    if isinstance(value, dict):
        places = [(key, f"a key in {path or 'the payload'}") for key in value]
        places += [(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        places = [(item, f"{path}[{index}]") for index, item in enumerate(value)]
    else:
        return ""
    return next(filter(None, (_place_of_nul(item, where) for item, where in places)), "")


def _has_large_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_large_float, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_large_float, value))
    return isinstance(value, float) and abs(value) >= _EXACT_FLOATS
