"""The request schemas, which a caller's payload is checked against. Pure.

The two request schemas are MLflow's (`mlflow.types.responses`, `mlflow.types.agent`, `mlflow.types.llm`) in a tolerant
form: MLflow's own refuse items they don't know, drop keys they don't know, and need numpy. They are only ever checked
against; what is sent is the caller's own payload, with every key it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.text import not_json

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
    """Check that all keys are strings, at any depth. `json.dumps` would turn numbers into strings without a warning.

    Only values under keys that no schema names are searched, and common requests have few of them.

    Raises:
        TypeError: One is not.
    """
    if isinstance(value, (dict, Mapping)):
        "".join(value)  # the fastest way to check: it raises TypeError
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
        raise not_json(payload) from None
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
