"""Python values as JSON values: the `json` and `data` fields of a result, and the numbers of a chart."""

import datetime
import decimal
import math
import numbers

# Values in one structure, and how deep it may be.
MAX_NODES = 200_000
MAX_DEPTH = 64


class NotJSON(Exception):
    """The value has no JSON form, or is too large for one."""


def to_json(value):
    """`value` as JSON: keys as strings, numpy as numbers and lists, not-a-number as null. Raises NotJSON."""
    budget = [MAX_NODES]
    return _convert(value, 0, budget)


def _convert(value, depth, budget):
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        raise NotJSON("too large")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key): _convert(item, depth + 1, budget) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_convert(item, depth + 1, budget) for item in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return None if value != value else value.isoformat()
    return _convert_foreign(value, depth, budget)


def _convert_foreign(value, depth, budget):
    module = type(value).__module__.partition(".")[0]
    if module == "numpy":
        name = type(value).__name__
        if name == "datetime64":
            text = str(value)
            return None if text == "NaT" else text
        if name == "timedelta64":
            return str(value)
        if hasattr(value, "tolist"):
            if getattr(value, "size", 1) > budget[0]:
                raise NotJSON("too large")
            plain = value.tolist()
            if type(plain).__module__.partition(".")[0] == "numpy":
                raise NotJSON(name)
            return _convert(plain, depth + 1, budget)
    if module == "pandas":
        text = str(value)
        if text in ("NaT", "<NA>"):
            return None
        if type(value).__name__ in ("Timedelta", "Period", "Interval"):
            return text
    if isinstance(value, (decimal.Decimal, numbers.Real)):
        number = float(value)
        return number if math.isfinite(number) else None
    raise NotJSON(type(value).__name__)


def _key(key):
    if isinstance(key, str):
        return key
    if key is True:
        return "true"
    if key is False:
        return "false"
    if key is None:
        return "null"
    if hasattr(key, "isoformat"):
        return key.isoformat()
    return str(key)


def json_of_container(value):
    """application/json of a list or dict; None when it has none."""
    try:
        return to_json(value)
    except (NotJSON, RecursionError, OverflowError):
        return None


def data_of_frame(frame):
    """`e2b/data` of a pandas DataFrame: column -> list, times in ISO 8601; cells without a JSON form as text."""
    if frame.shape[0] * max(frame.shape[1], 1) > MAX_NODES:
        return None
    result = {}
    for index, name in enumerate(frame.columns):
        column = []
        for value in frame.iloc[:, index].tolist():
            try:
                column.append(_convert(value, 0, [10_000]))
            except NotJSON:
                column.append(str(value))
        result[_key(name)] = column
    return result
