"""JSON out: what is sent as what, and what can't be sent."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy
import pandas  # type: ignore[import-untyped]
import pytest
from mlflow.utils import AttrDict
from pydantic import BaseModel

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.formats.conversion import encode
from mlflow_agent_target.formats.inputs import read_inputs
from mlflow_agent_target.formats.responses import ResponsesAgent
from mlflow_agent_target.text import encode_json
from tests.conftest import user
from tests.formats.payloads import (
    HI,
    cycle,
    deep,
    sent,
)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [1, {"b": float("nan")}]}, "a[1].b is nan"),
        ({"a": float("-inf")}, "a is -inf"),
        ({"a": b"x"}, "a is a bytes"),
        ({"a": {1, 2}}, "a is a set"),
        ({"a": "\ud800"}, "a holds half of a surrogate pair"),
        ({"a": {"\ud800": 1}}, "holds half of a surrogate pair"),
        ({"a": {(1, 2): 1}}, "a key in a is tuple"),
        (cycle(), "again contains itself"),
        (deep(), "nested too deeply"),
    ],
)
def test_what_json_cannot_say_is_refused_by_its_path(value: Any, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_json(value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (numpy.int64(5), 5),
        (numpy.bool_(True), True),
        (numpy.float32(0.5), 0.5),
        (numpy.array([[1, 2]]), [[1, 2]]),
        (numpy.array([{"a": numpy.int8(1)}], dtype=object), [{"a": 1}]),
        (pandas.Series([1, 2]), [1, 2]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ((1, 2), [1, 2]),
    ],
)
def test_numpys_values_and_mappings_are_sent_as_pythons(value: Any, sent: Any) -> None:
    assert json.loads(encode_json({"a": value})) == {"a": sent}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (numpy.float64("nan"), "a is nan"),
        (numpy.array([1.0, float("nan")]), r"a[1] is nan"),
        (numpy.datetime64("2024-01-01"), "a is a date, which JSON has no word for: send text"),
        (pandas.Timestamp("2024-01-01"), "a is a Timestamp, which JSON has no word for: send text"),
        (pandas.NaT, "a is a NaTType"),
        (pandas.NA, "a is a NAType"),
        (numpy.complex64(1j), "a is a complex"),
        (memoryview(b"x"), "a is a memoryview"),
        (Decimal("1.1"), "a is a Decimal"),
        pytest.param(10**5000, "a is an integer of too many digits", id="huge"),
    ],
)
def test_what_numpy_and_pandas_hold_and_json_cannot_say_is_refused(value: Any, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_json({"a": value})
    assert says in str(caught.value)


class Colour(Enum):
    RED = "red"


class Shade(str, Enum):
    DARK = "dark"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int


class Model(BaseModel):
    x: int


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (Shade.DARK, "dark"),
        (Level.HIGH, 3),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        (AttrDict({"a": {"b": 1}}), {"a": {"b": 1}}),
        ({Shade.DARK: 1}, {"dark": 1}),
        ({"": {"": ""}}, {"": {"": ""}}),
        (10**400, 10**400),
        ("\x00\n\U0001f600", "\x00\n\U0001f600"),
        pytest.param("x" * 10_000_000, "x" * 10_000_000, id="10 MB of text"),
        pytest.param([{"a": [0.5]}] * 500_000, [{"a": [0.5]}] * 500_000, id="10 MB of values"),
    ],
)
def test_what_json_can_say_is_sent(value: Any, sent: Any) -> None:
    request = read_inputs({"input": HI, "custom_inputs": {"a": value}})
    assert json.loads(encode_json(encode(request, ResponsesAgent)))["custom_inputs"] == {"a": sent}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Colour.RED, "is a Colour, which JSON has no word for: send its .value"),
        (Point(1), "is a Point, which JSON has no word for: send its dataclasses.asdict()"),
        (Model(x=1), "is a Model, which JSON has no word for: send its .model_dump()"),
        (UUID(int=1), "is a UUID, which JSON has no word for: send text"),
        (PurePosixPath("a"), "is a PurePosixPath, which JSON has no word for: send text"),
        (Decimal("1.1"), "is a Decimal, which JSON has no word for: send a float, or text"),
        (date(2024, 1, 1), "is a date, which JSON has no word for: send text, such as its .isoformat()"),
        (time(1), "is a time, which JSON has no word for: send text, such as its .isoformat()"),
        (timedelta(1), "is a timedelta, which JSON has no word for: send its .total_seconds()"),
        (object(), "is a object, which JSON has no word for"),
    ],
)
def test_what_json_cannot_say_is_refused_with_advice(value: Any, says: str) -> None:
    for at, inputs in (
        ("custom_inputs.a", {"input": HI, "custom_inputs": {"a": value}}),
        ("messages[0].content[0].x[0]", {"messages": [user([{"type": "text", "text": "a", "x": [value]}])]}),
    ):
        with pytest.raises(InvalidInputError) as caught:
            encode_json(sent(inputs))
        assert f"{at} {says}" in str(caught.value)


def test_text_is_sent_as_utf8() -> None:
    assert encode_json({"a": "é✓\u2028"}) == '{"a":"é✓\u2028"}'.encode()
