"""A request from one schema to the other. Nothing is dropped: what has no counterpart there is an error. Pure.

A ResponsesAgent's `input` is a flat list of items, in which a tool call and its result are items of their own. In a
ChatAgent's or ChatModel's `messages`, the calls hang on the assistant's message, and the result is a message of the
role `tool`. What both can say is the same again after a conversion there and back.
"""

from __future__ import annotations

import warnings
from typing import Any

from mlflow_agent_target.formats.inputs import Request
from mlflow_agent_target.formats.interface import Interface
from mlflow_agent_target.formats.pieces import without
from mlflow_agent_target.formats.request_settings import convert_settings

_Dict = dict[str, Any]

# The keys that have a counterpart, or are refused. All others are sent as they are.
_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "type", "attachments", "refusal")
_CALL_KEYS = ("id", "type", "function")
_CALL_ITEM_KEYS = ("type", "id", "call_id", "name", "arguments", "item_id")
_RESULT_ITEM_KEYS = ("type", "call_id", "output", "name")
_TEXT_TYPES = ("input_text", "output_text", "text")

# Keys of OpenAI's API that MLflow's request models don't know, and what to do instead.
_EARLIER = "send the earlier items before the new ones, as 'input'"
_DROPPED = {
    "previous_response_id": _EARLIER,
    "conversation": _EARLIER,
    "instructions": "send them as the first message, of role 'system'",
    "prompt": "send its text as messages",
}
_warned: set[str] = set()


def encode(request: Request, interface: type[Interface] | None) -> _Dict:
    """Return a request's payload in the schema that the endpoint takes. Nothing given is modified.

    Args:
        request: A checked request.
        interface: What the endpoint serves; None when that is not known, and nothing is converted.

    Raises:
        InterfaceMismatchError: Something in it has no counterpart there; the error names it.
    """
    key = request.key if interface is None else interface.request_key
    payload = dict(request.payload)
    _warn_of_dropped(payload)
    if key == "messages" and "context" in payload and payload["context"] is None:
        del payload["context"]  # it says nothing, and a ChatAgent fails on it
    if interface is None or key == request.key:
        return payload
    if key == "input":
        return {"input": _Items(interface).of(payload.pop("messages")), **convert_settings(payload, interface)}
    return {"messages": _Messages(interface).of(payload.pop("input")), **convert_settings(payload, interface)}


def _warn_of_dropped(payload: _Dict) -> None:
    """Warn once in a process of each key that MLflow's agents drop without a word. It is sent all the same."""
    for key in _DROPPED.keys() & payload.keys() - _warned:
        if payload[key] is not None:
            _warned.add(key)
            warnings.warn(f"Agents authored with MLflow drop '{key}' without a word: {_DROPPED[key]}.", stacklevel=2)


def _with_rest(made: _Dict, rest: _Dict, where: str, interface: type[Interface]) -> _Dict:
    """Return what was made of a message or item, with those of its keys that have no counterpart.

    Raises:
        InterfaceMismatchError: One of these has the name of a key that says something else in the other schema.
    """
    if taken := [key for key in rest if key in made]:
        raise interface.mismatch(f"{where}.{taken[0]}")
    return {**made, **rest}


def one_text(parts: Any) -> str | None:
    """Return the text of content parts that are only text, or None where they are something else."""
    if not isinstance(parts, list) or not parts:
        return None
    texts = [part.get("text") for part in parts if isinstance(part, dict) and _is_only_text(part)]
    return "".join(text for text in texts if isinstance(text, str)) if len(texts) == len(parts) else None


def _is_only_text(part: _Dict) -> bool:
    said = {key for key, value in part.items() if value or key not in ("annotations", "logprobs")}
    return part.get("type") in _TEXT_TYPES and said == {"type", "text"} and isinstance(part["text"], str)


class _Items:
    """Makes a ResponsesAgent's items of messages."""

    def __init__(self, interface: type[Interface]) -> None:
        self._interface = interface
        self._tool_names: dict[Any, Any] = {}

    def of(self, messages: list[_Dict]) -> list[_Dict]:
        items: list[_Dict] = []
        for index, message in enumerate(messages):
            items += self._of(message, f"messages[{index}]", follows=items[-1] if items else {})
        return items

    def _of(self, message: _Dict, where: str, follows: _Dict) -> list[_Dict]:
        is_result = message["role"] == "tool"
        for key in ("attachments", "refusal", "tool_calls" if is_result else "tool_call_id"):
            if message.get(key):
                raise self._interface.mismatch(f"{where}.{key}")
        if message.get("type") not in (None, "message"):
            raise self._interface.mismatch(f"{where}.type")
        if is_result:
            return [self._result(message, where)]
        calls = _calls(message, where, self._interface)
        rest = {k: v for k, v in without(message, _MESSAGE_KEYS).items() if v is not None or k not in ("id", "name")}
        items = []
        # A message that holds nothing but calls needs no item of its own, unless it has other keys, or its calls would
        # be taken for those of the message before it.
        runs_in = follows.get("role") == "assistant" or follows.get("type") == "function_call"
        has_other_id = "id" in rest and isinstance(calls[0], dict) and "item_id" in calls[0] if calls else False
        if message.get("content") or not calls or runs_in or has_other_id or set(rest) - {"id"}:
            content = self._content(message.get("content") or "", message["role"], where)
            items.append({"role": message["role"], "content": content, **rest})
            rest = {}
        for index, call in enumerate(calls):
            items.append(_with_rest(self._call(call, f"{where}.tool_calls[{index}]"), rest, where, self._interface))
            rest = {}
        return items

    def _call(self, call: Any, where: str) -> _Dict:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            raise self._interface.mismatch(f"{where} (not a function call)")
        if lost := set(function) - {"name", "arguments"}:
            raise self._interface.mismatch(f"{where}.function.{min(lost)}")
        for key, value in (
            ("id", call.get("id")),
            *((f"function.{k}", function.get(k)) for k in ("name", "arguments")),
        ):
            if not isinstance(value, str):
                raise self._interface.mismatch(f"{where}.{key} (not a string)")
        self._tool_names[call["id"]] = function["name"]
        own_id = {"id": call["item_id"]} if "item_id" in call else {}
        item = {"type": "function_call", **own_id, "call_id": call["id"], **function}
        return _with_rest(item, without(call, (*_CALL_KEYS, "item_id")), where, self._interface)

    def _result(self, message: _Dict, where: str) -> _Dict:
        output = message.get("content")
        output = output if isinstance(output, str) else one_text(output)
        if output is None:
            raise self._interface.mismatch(f"{where}.content (a tool's result that is not text)")
        call_id = message.get("tool_call_id")
        if not isinstance(call_id, str) or not call_id:
            raise self._interface.mismatch(f"{where} without 'tool_call_id'")
        rest = without(message, _MESSAGE_KEYS)
        if rest.get("name") == self._tool_names.get(call_id):
            rest.pop("name", None)  # the item of the call says it
        item = {"type": "function_call_output", "call_id": call_id, "output": output}
        return _with_rest(item, rest, where, self._interface)

    def _content(self, content: Any, role: str, where: str) -> Any:
        if not isinstance(content, list):
            return content
        parts = []
        for index, part in enumerate(content):
            image = part.get("image_url")
            if part["type"] == "text":
                parts.append({**part, "type": "output_text" if role == "assistant" else "input_text"})
            elif part["type"] == "image_url" and isinstance(image, dict) and "url" in image:
                made = {"type": "input_image", "image_url": image["url"]}
                for rest in (without(image, ("url",)), without(part, ("type", "image_url"))):
                    made = _with_rest(made, rest, f"{where}.content[{index}]", self._interface)
                parts.append(made)
            else:
                raise self._interface.mismatch(f"{where}.content[{index}] of type '{part['type']}'")
        return parts


class _Messages:
    """Makes a ChatAgent's or ChatModel's messages of items."""

    def __init__(self, interface: type[Interface]) -> None:
        self._interface = interface
        self._tool_names: dict[Any, Any] = {}
        self._messages: list[_Dict] = []

    def of(self, items: list[_Dict]) -> list[_Dict]:
        for index, item in enumerate(items):
            where = f"input[{index}]"
            kind = item.get("type") or "message"
            if kind == "message":
                content = self._content(item["content"], f"{where}.content")
                calls = _calls(item, where, self._interface)
                message = {**without(item, ("type", "tool_calls")), "content": content}
                self._messages.append({**message, "tool_calls": calls} if calls else message)
            elif kind == "function_call":
                self._add_call(item, where)
            elif kind == "function_call_output":
                self._messages.append(self._result(item, where))
            else:
                raise self._interface.mismatch(f"{where} of type '{kind}'")
        return self._messages

    def _add_call(self, item: _Dict, where: str) -> None:
        """Add a call to the assistant's message right before it, or else to a new one: parallel calls stay together."""
        for key in ("call_id", "name", "arguments"):
            if not isinstance(item.get(key), str):
                raise self._interface.mismatch(f"{where}.{key} (not a string)")
        if item.get("item_id") is not None:
            raise self._interface.mismatch(f"{where}.item_id")  # in a message's call it would be the item's own id
        self._tool_names[item["call_id"]] = item["name"]
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        call = _with_rest(call, without(item, _CALL_ITEM_KEYS), where, self._interface)
        if self._messages and self._messages[-1]["role"] == "assistant":
            own_id = {"item_id": item["id"]} if item.get("id") else {}
            message = self._messages[-1]
            message["tool_calls"] = [*message.get("tool_calls", []), {**call, **own_id}]
        else:
            content = "" if self._interface.only_text else None
            own_id = {"id": item["id"]} if item.get("id") else {}
            self._messages.append({"role": "assistant", "content": content, **own_id, "tool_calls": [call]})

    def _result(self, item: _Dict, where: str) -> _Dict:
        output = item.get("output")
        output = output if isinstance(output, str) else one_text(output)
        if output is None:
            raise self._interface.mismatch(f"{where}.output (a tool's result that is not text)")
        if not isinstance(item.get("call_id"), str):
            raise self._interface.mismatch(f"{where}.call_id (not a string)")
        name = item.get("name")
        if name is None and self._interface.names_tool_results:
            name = self._tool_names.get(item.get("call_id"))
            if name is None:
                raise self._interface.mismatch(f"{where} without the call that it answers, whose name is wanted")
        named = {} if name is None else {"name": name}
        message = {"role": "tool", "content": output, **named, "tool_call_id": item.get("call_id")}
        return _with_rest(message, without(item, _RESULT_ITEM_KEYS), where, self._interface)

    def _content(self, content: Any, where: str) -> Any:
        if not isinstance(content, list):
            return content
        parts = [self._part(part, f"{where}[{index}]") for index, part in enumerate(content)]
        # Parts with `annotations` are an earlier answer of an agent. It is sent as plain text, since many ChatModels
        # read nothing else.
        is_answer = any("annotations" in part for part in content)
        if not self._interface.only_text and not is_answer:
            return parts
        text = one_text(parts)
        if text is None and self._interface.only_text:
            raise self._interface.mismatch(f"{where} (parts that are not only text)")
        return parts if text is None else text

    def _part(self, part: _Dict, where: str) -> _Dict:
        kind = part["type"]
        if kind in ("input_text", "output_text", "text"):
            # Where they are empty nothing is lost.
            if lost := [key for key in ("annotations", "logprobs") if part.get(key)]:
                raise self._interface.mismatch(f"{where}.{lost[0]}")
            return {**without(part, ("annotations", "logprobs")), "type": "text"}
        if kind == "input_image" and isinstance(part.get("image_url"), str):
            detail = {"detail": part["detail"]} if "detail" in part else {}
            image = {"url": part["image_url"], **detail}
            return {"type": "image_url", "image_url": image, **without(part, ("type", "image_url", "detail"))}
        raise self._interface.mismatch(f"{where} of type '{kind}'")


def _calls(message: _Dict, where: str, interface: type[Interface]) -> list[Any]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise interface.mismatch(f"{where}.tool_calls (not a list)")
    return calls
