"""What a request says beside its messages, under the names and in the forms of the other schema. Pure.

The limit on tokens, the tools and the form of the answer are said in other ways there; all else travels along as it is.
"""

from __future__ import annotations

from typing import Any

from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.pieces import without

_Dict = dict[str, Any]

# What the limit on tokens is called in one schema, and then in the other.
_LIMITS_OF_CHAT = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}
_LIMITS_OF_RESPONSES = {"max_output_tokens": "max_tokens"}


def convert_settings(payload: _Dict, interface: type[Interface]) -> _Dict:
    """Return a payload without its messages in the schema that `interface` takes.

    Raises:
        InterfaceMismatchError: A setting has no counterpart there; the error names it.
    """
    if interface.request_key == "input":
        if payload.get("stop"):
            raise interface.mismatch("'stop'")  # a ResponsesAgent would ignore it and go on
        names, declared, formatted = _LIMITS_OF_CHAT, _flat, _text
    else:
        names, declared, formatted = _LIMITS_OF_RESPONSES, _nested, _response_format
    settings = formatted(_renamed(payload, names, interface), interface)
    if isinstance(tools := settings.get("tools"), list):
        settings["tools"] = [declared(tool, f"tools[{index}]", interface) for index, tool in enumerate(tools)]
    if isinstance(settings.get("tool_choice"), dict):
        settings["tool_choice"] = declared(settings["tool_choice"], "tool_choice", interface)
    return settings


def _flat(tool: Any, where: str, interface: type[Interface]) -> _Dict:
    if isinstance(tool, dict) and tool.get("type") == "function" and "name" in tool:
        return tool
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
        raise interface.mismatch(f"{where} (not a function)")
    flat = without(tool, ("function",))
    if taken := [key for key, value in tool["function"].items() if flat.get(key, value) != value]:
        raise interface.mismatch(f"{where}.{taken[0]} beside {where}.function.{taken[0]}")
    return {**flat, **tool["function"]}


def _nested(tool: Any, where: str, interface: type[Interface]) -> _Dict:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise interface.mismatch(f"{where} (not a function)")
    return tool if "function" in tool else {"type": "function", "function": without(tool, ("type",))}


def _text(payload: _Dict, interface: type[Interface]) -> _Dict:
    """Return a chat request's settings with its `response_format` as the `text` of the other schema."""
    settings, wanted = without(payload, ("response_format",)), payload.get("response_format")
    if wanted is None:
        return settings
    if settings.get("text") is not None:
        raise interface.mismatch("'response_format' beside 'text'")
    if _format_type(wanted, "response_format", interface) == "json_schema":
        schema = wanted.get("json_schema")
        if not isinstance(schema, dict) or "type" in schema or len(wanted) > 2:
            raise interface.mismatch("response_format (not {'type': 'json_schema', 'json_schema': {...}})")
        wanted = {"type": "json_schema", **schema}
    return {**settings, "text": {"format": wanted}}


def _response_format(payload: _Dict, interface: type[Interface]) -> _Dict:
    """Return a responses request's settings with its `text` as the `response_format` of the other schema."""
    settings, text = without(payload, ("text",)), payload.get("text")
    if text is None:
        return settings
    if settings.get("response_format") is not None:
        raise interface.mismatch("'text' beside 'response_format'")
    if not isinstance(text, dict):
        raise interface.mismatch("text (not a dict)")
    if lost := [key for key, value in text.items() if key != "format" and value is not None]:
        raise interface.mismatch(f"text.{lost[0]}")
    wanted = text.get("format")
    if wanted is None:
        return settings
    if _format_type(wanted, "text.format", interface) == "json_schema":
        wanted = {"type": "json_schema", "json_schema": without(wanted, ("type",))}
    return {**settings, "response_format": wanted}


def _format_type(wanted: Any, where: str, interface: type[Interface]) -> Any:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise interface.mismatch(f"{where} (neither text, JSON nor a JSON schema)")
    return kind


def _renamed(payload: _Dict, names: dict[str, str], interface: type[Interface]) -> _Dict:
    """Return a payload with its limit on tokens under the name that this has in the other schema."""
    known = {*names, *names.values()}
    payload = {key: value for key, value in payload.items() if key not in known or value is not None}
    limits = [key for key in payload if key in known]
    if len(limits) > 1:
        raise interface.mismatch(f"'{limits[0]}' beside '{limits[1]}'")
    return {names.get(key, key): value for key, value in payload.items()}
