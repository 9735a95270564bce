"""Values that tables hold, in Python's own words and in JSON's. Pure."""

from __future__ import annotations

import json
import math
from ast import literal_eval
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

Nulls = Literal["keep", "drop", "drop_in_structs"]


def plain(value: Any, nulls: Nulls = "keep") -> Any:
    """Return numpy's values, Arrow's and Spark's rows, which tables hold, as Python's own.

    Args:
        value: A cell, or what is in one.
        nulls: What becomes of keys whose value is None. Where only some structs of a column have a field, Arrow and
            Spark add it to the others as null. "drop_in_structs" drops those keys where the values come from Arrow or
            Spark, as arrays and rows, and keeps them in dicts that are Python's own.
    """
    within = "drop" if nulls == "drop_in_structs" else nulls
    if hasattr(value, "asDict"):
        return plain(value.asDict(), within)
    if isinstance(value, dict):
        items = {key: plain(item, nulls) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not None} if nulls == "drop" else items
    if isinstance(value, list) and value and nulls == "drop" and all(map(_is_pair, value)):
        return {key: plain(item, nulls) for key, item in value}  # what Arrow makes of a map
    if isinstance(value, (list, tuple)):
        return [plain(item, nulls) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), within)
    if hasattr(value, "as_py"):
        return plain(value.as_py(), within)
    return value


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and not hasattr(item, "asDict")


def is_missing(cell: Any) -> bool:
    """Return whether a cell holds nothing, in whatever way a table says so."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return True
    # NaN and NaT are unlike themselves; pandas.NA is neither.
    return type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float) and math.isnan(cell))


def question(cell: Any) -> Any:
    """Return a cell as inputs: a number is a question that a reader of tables took for one."""
    return str(cell) if isinstance(cell, (int, float, Decimal)) and not isinstance(cell, bool) else cell


def messages_of(cell: Any) -> Any:
    """Return a cell as messages: text is one of the user."""
    cell = question(cell)
    return [{"role": "user", "content": cell}] if isinstance(cell, str) else cell


def identity(cell: Any, *, is_text: bool) -> Any:
    """Return a cell as an id, as any other holder of the same record has it; None where it is missing.

    Args:
        cell: A plain value.
        is_text: Whether the table can only hold text, so that digits are a number.
    """
    if is_missing(cell):
        return None
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)  # a column of whole numbers of which pandas misses one
    # A longer number than a table's 64 bits is a name.
    if is_text and isinstance(cell, str) and len(cell) < 19 and cell.isdecimal() and str(int(cell)) == cell:
        return int(cell)
    return cell


def read(text: str) -> Any:
    """Return what a text stands for: JSON, or dicts and lists as Python and pandas write them.

    Raises:
        ValueError: It is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Nothing else is tried: Python warns of many a text that is not its own.
        if not text.lstrip().startswith(("{'", '{"', "[{'", '[{"', "['", '["')):
            raise ValueError(text[:80]) from None
    try:
        return literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError(text[:80]) from None


def json_value(value: Any) -> Any:
    """Return a plain value as JSON knows it. What is missing is None, what it has no word for is text."""
    if isinstance(value, str):
        return value
    if is_missing(value):
        return None
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
