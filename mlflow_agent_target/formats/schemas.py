"""What a caller may send: checked, then encoded. Pure.

The two request schemas are MLflow's (`mlflow.types.responses`, `mlflow.types.agent`, `mlflow.types.llm`) in a tolerant
form: MLflow's own refuse items they don't know, drop keys they don't know, and need numpy. They are only ever checked
against; what is sent is the caller's own payload, with every key it holds.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from mlflow_agent_target.errors import InvalidInputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


_SCALARS = frozenset({str, int, float, bool, type(None)})


def _check_content(content: Any) -> Any:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"must be text or a list of content parts, not {_kind(content)}")
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise ValueError(f"part {index} must be a dict with a 'type', not {_kind(part)}")
    _check_keys(content)
    return content


def _check_list(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, not {_kind(value)}")
    return value


def _check_dict(value: Any) -> Any:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"must be a dict, not {_kind(value)}")
    _check_keys(value)
    return value


def _check_keys(value: Any) -> None:
    """Check that all keys are strings, which `json.dumps` would make of numbers without a word.

    Only what a schema does not name is walked through: of a common request, next to nothing.

    Raises:
        TypeError: One is not.
    """
    if isinstance(value, (dict, Mapping)):
        "".join(value)  # the fastest way to ask
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        if type(item) not in _SCALARS:
            _check_keys(item)


def _check_role(role: str) -> str:
    if not role:
        raise ValueError("must not be empty")
    return role


Content = Annotated[Any, AfterValidator(_check_content)]
OptionalDict = Annotated[Any, AfterValidator(_check_dict)]
Role = Annotated[str, AfterValidator(_check_role)]


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class InputItem(_Tolerant):
    """One item of a ResponsesAgent's `input`: a message, or any typed item, known or not."""

    type: str | None = None
    role: Role | None = None
    content: Content = None

    @model_validator(mode="after")
    def _check_message(self) -> InputItem:
        if self.model_extra:
            _check_keys(self.model_extra)
        if self.type not in (None, "message"):
            return self
        if self.role is None:
            raise ValueError("needs a 'role' and 'content' (a message) or a 'type' (another item)")
        if self.role == "tool":
            raise ValueError(
                "has the role 'tool', which `input` does not know: send "
                "{'type': 'function_call_output', 'call_id': ..., 'output': ...}"
            )
        if self.content is None:
            raise ValueError("is a message without 'content'")
        return self


class ChatMessage(_Tolerant):
    """One message of a ChatAgent's or ChatModel's `messages`."""

    role: Role
    content: Content = None

    @model_validator(mode="after")
    def _check_content_or_calls(self) -> ChatMessage:
        extra = self.model_extra or {}
        if extra:
            _check_keys(extra)
        if self.content is None and not extra.get("tool_calls") and extra.get("refusal") is None:
            raise ValueError("needs 'content' or 'tool_calls'")
        return self


class _Request(_Tolerant):
    custom_inputs: OptionalDict = None
    context: OptionalDict = None
    databricks_options: OptionalDict = None


class ResponsesRequest(_Request):
    """A request to a ResponsesAgent."""

    input: Annotated[list[InputItem], BeforeValidator(_check_list)]


class ChatRequest(_Request):
    """A request to a ChatAgent or ChatModel."""

    messages: Annotated[list[ChatMessage], BeforeValidator(_check_list)]


def check(schema: type[_Request], payload: Mapping[str, Any]) -> None:
    """Check a payload against a schema.

    Raises:
        InvalidInputError: It does not fit; the error says where and why, for each fault.
    """
    try:
        _check_keys(schema.model_validate(payload).model_extra)
    except (TypeError, RecursionError):
        raise _not_json(payload) from None
    except ValidationError as error:
        faults = "; ".join(map(_fault, error.errors(include_url=False)[:5]))
        raise InvalidInputError(f"The payload can't be sent: {faults}.") from None


def _fault(fault: ErrorDetails) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault["loc"]).lstrip(".")
    said = {
        "missing": "is missing",
        "model_type": f"must be a dict, not {_kind(fault['input'])}",
        "string_type": f"must be a string, not {_kind(fault['input'])}",
    }
    return f"{path}: {said.get(fault['type'], fault['msg'].removeprefix('Value error, '))}"


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.60}"


def encode_json(payload: Any) -> bytes:
    """Return `payload` as JSON bytes.

    Raises:
        InvalidInputError: It holds a value that JSON can't say; the error names its path.
    """
    try:
        return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json(payload) from error


def _not_json(payload: Any) -> InvalidInputError:
    try:
        problem = _json_problem(payload)
    except RecursionError:
        problem = "it is nested too deeply"
    return InvalidInputError(f"The payload can't be sent as JSON: {problem}.")


# What has the first as an attribute is best sent as the second.
_ADVICE = {
    "isoformat": "text, such as its .isoformat()",
    "model_dump": "its .model_dump()",
    "__dataclass_fields__": "its dataclasses.asdict()",
    "_value_": "its .value",
    "as_integer_ratio": "a float, or text",
    "__fspath__": "text, such as its str()",
    "urn": "text, such as its str()",
    "total_seconds": "its .total_seconds()",
}


def _plain(value: Any) -> Any:
    """Return a mapping as a dict, and numpy's and pandas' numbers and arrays as Python's, without importing either."""
    if isinstance(value, Mapping):
        return dict(value)
    if callable(getattr(value, "tolist", None)) and not isinstance(value, memoryview):
        return value.tolist()
    raise TypeError


def _json_problem(value: Any, path: str = "", parents: tuple[int, ...] = ()) -> str:
    """Return where and why `value` is no JSON, or "" where it is."""
    where = path or "the payload"
    if id(value) in parents:
        return f"{where} contains itself"
    parents = (*parents, id(value))
    if not isinstance(value, (dict, list, tuple, str, int, float)):
        with contextlib.suppress(TypeError):
            value = _plain(value)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"a key in {where} is {type(key).__name__} {key!r:.50}, not a string"
            if problem := _json_problem(key, f"the key {key!a:.50} in {where}") or _json_problem(
                item, f"{path}.{key}" if path else key, parents
            ):
                return problem
        return ""
    if isinstance(value, (list, tuple)):
        return next(filter(None, (_json_problem(item, f"{path}[{i}]", parents) for i, item in enumerate(value))), "")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{where} holds half of a surrogate pair, which is no character"
        return ""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f"{where} is {value}, which JSON has no word for"
    if isinstance(value, int) and value.bit_length() > 14_280:  # Python writes no more than 4300 digits
        return f"{where} is an integer of too many digits"
    if value is None or isinstance(value, (bool, int, float)):
        return ""
    given = f"{where} is a {type(value).__name__}, which JSON has no word for"
    return next((f"{given}: send {advice}" for name, advice in _ADVICE.items() if hasattr(value, name)), given)
