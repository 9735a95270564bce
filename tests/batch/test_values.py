"""Values that tables hold, in Python's own words."""

from __future__ import annotations

from typing import Any

import numpy
import pyarrow
import pytest

from mlflow_agent_target.batch.values import plain


class SparkRow(tuple[Any, ...]):
    """As pyspark.sql.Row: a tuple that knows its fields."""

    def asDict(self) -> dict[str, Any]:  # noqa: N802
        return dict(zip("ab", self, strict=True))


KEPT, DROPPED = {"a": 1, "b": None}, {"a": 1}
# What comes of a value when nulls are kept, dropped in structs, and dropped.
PLAIN: dict[str, tuple[Any, Any, Any, Any]] = {
    "Python's own": (KEPT, KEPT, KEPT, DROPPED),
    "in a list": ([KEPT], [KEPT], [KEPT], [DROPPED]),
    "in a tuple": (((KEPT,), 2), [[KEPT], 2], [[KEPT], 2], [[DROPPED], 2]),
    "in an array": (numpy.array([KEPT], dtype=object), [KEPT], [DROPPED], [DROPPED]),
    "in a list in an array": (
        numpy.array([[KEPT], None], dtype=object),
        [[KEPT], None],
        [[DROPPED], None],
        [[DROPPED], None],
    ),
    "a Spark row": (SparkRow((1, None)), KEPT, DROPPED, DROPPED),
    "in a Spark row": (
        SparkRow((1, [KEPT])),
        {"a": 1, "b": [KEPT]},
        {"a": 1, "b": [DROPPED]},
        {"a": 1, "b": [DROPPED]},
    ),
    "a Spark row in a dict": (
        {"c": SparkRow((1, None)), "d": None},
        {"c": KEPT, "d": None},
        {"c": DROPPED, "d": None},
        {"c": DROPPED},
    ),
    "an array in a dict": (
        {"c": numpy.array([1, 2]), "d": None},
        {"c": [1, 2], "d": None},
        {"c": [1, 2], "d": None},
        {"c": [1, 2]},
    ),
    "a map of Arrow's": ({"c": [("k", 1)]}, {"c": [["k", 1]]}, {"c": [["k", 1]]}, {"c": {"k": 1}}),
    "no map": ([("k", 1), ("k", 1, 2)], [["k", 1], ["k", 1, 2]], [["k", 1], ["k", 1, 2]], [["k", 1], ["k", 1, 2]]),
    "pairs of numbers": ([(1, 2)], [[1, 2]], [[1, 2]], [[1, 2]]),
    "Spark rows of two": ([SparkRow(("x", 1))], [{"a": "x", "b": 1}], [{"a": "x", "b": 1}], [{"a": "x", "b": 1}]),
    "nothing in a list": ([], [], [], []),
    "Arrow's text": (pyarrow.scalar("a"), "a", "a", "a"),
    "numpy's text": (numpy.str_("a"), "a", "a", "a"),
    "numpy's number": (numpy.float64(1.5), 1.5, 1.5, 1.5),
    "nothing": (None, None, None, None),
}


@pytest.mark.parametrize(("value", "kept", "in_structs", "dropped"), PLAIN.values(), ids=PLAIN)
def test_values_are_made_plain(value: Any, kept: Any, in_structs: Any, dropped: Any) -> None:
    assert plain(value) == kept
    assert plain(value, "drop_in_structs") == in_structs
    assert plain(value, "drop") == dropped
    assert "numpy" not in type(plain(value)).__module__
