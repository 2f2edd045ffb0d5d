"""Checks on values read from files that others may have made: the right type and within bounds, else ValueError.

Each check returns the value and takes the name under which the error speaks of it. Errors are one line.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST_CLASSES = 100_000
_LONGEST_LABEL = 1000  # characters
_LARGEST_TEXT = 64 * 2**20  # bytes of a YAML file
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character: no file can hold it
_DEEPEST = 32  # levels of lists and dictionaries
_MOST_VALUES = 1_000_000


def integer(value: Any, name: str, low: int, high: int) -> int:
    """An int, no bool, of `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected a whole number from {low:,} to {high:,}")
    return value


def number(value: Any, name: str, low: float, high: float) -> float:
    """An int or float, no bool and no NaN, of `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected a number from {low:g} to {high:g}")
    return value


def flag(value: Any, name: str) -> bool:
    """A bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected true or false")
    return value


def choice(value: Any, name: str, known: Sequence[str]) -> str:
    """One of the strings in `known`."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected one of {', '.join(known)}")
    return value


def integers(value: Any, name: str, count: int, low: int, high: int) -> list[int]:
    """A list or tuple of `count` ints of `low` to `high`."""
    if not isinstance(value, list | tuple) or len(value) != count:
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected {count} whole numbers")
    return [integer(item, name, low, high) for item in value]


def labels(value: Any, count: int | None = None) -> tuple[str, ...]:
    """Names of classes: at least one, `count` if that is given, none empty and none of absurd length."""
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MOST_CLASSES:
        raise ValueError(f"labels are {reprlib.repr(value)}, expected a list of names")
    for label in value:
        if not isinstance(label, str) or not 0 < len(label) <= _LONGEST_LABEL or _SURROGATE.search(label):
            raise ValueError(f"labels hold {reprlib.repr(label)}, expected names of 1 to {_LONGEST_LABEL} characters")
    if count is not None and len(value) != count:
        raise ValueError(f"{len(value)} labels for {count} classes")
    return tuple(value)


def plain(value: Any, name: str) -> Any:
    """What JSON can hold: dictionaries with string keys, lists, strings, numbers, booleans and None."""
    remaining = _MOST_VALUES
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        remaining -= 1
        if depth > _DEEPEST or remaining < len(pending):
            raise ValueError(f"{name}: nested too deeply or too large")
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                raise ValueError(f"{name}: has keys that are no strings")
            pending += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list | tuple):
            pending += [(inner, depth + 1) for inner in item]
        elif not (item is None or isinstance(item, str | int | float)):
            raise ValueError(f"{name}: holds a {type(item).__name__}, expected plain values")
    return value


def parse_json(text: str | bytes, name: str) -> Any:
    """The value of a JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON ({error})") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file of plain values without aliases. Raises OSError if it cannot be read."""
    import yaml  # type: ignore[import-untyped]

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # ten lines of them can stand for billions of values
                raise ValueError("has aliases")
            return super().compose_node(parent, index)

    try:
        content = yaml.load(small_text(path), Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no plain YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no names with values")
    return plain(content, path.name)


def small_text(path: Path) -> str:
    """The text of a file of 64 MB at most. Raises ValueError for others, OSError if it cannot be read."""
    with path.open("rb") as file:
        content = file.read(_LARGEST_TEXT + 1)
    if len(content) > _LARGEST_TEXT:
        raise ValueError(f"{path.name} is larger than {_LARGEST_TEXT / 2**20:g} MB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no text ({error})") from None
