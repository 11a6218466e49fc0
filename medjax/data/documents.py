"""JSON documents behind the boundary: parsed strictly, and given back their types.

Python's parser takes NaN, Infinity and 1e999 for numbers, and a document that parses
may still hold text where a number was written. What is read here is strict JSON, and
:func:`revive` makes a dataclass of it only if every field has the type it declares.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from etils import epath

from medjax.data.boundary import DataError, reading


def read_json(path: str | Path | epath.Path, what: str) -> dict[str, Any]:
    """Reads a document that is one JSON object.

    Args:
        path: The file, in UTF-8; an `epath.Path` on an object store.
        what: What it is, as a message says it: ``"shard index"``.

    Raises:
        FileNotFoundError: If the file is missing.
        DataError: If it is not JSON, holds a number that is none, or is no object.
    """
    file = Path(path) if isinstance(path, str) else path
    with reading(path, what):
        content = parse_json(file.read_text("utf-8"))
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DataError(f"{path}: expected a JSON object as {what}, got {kind}")
    return content


def parse_json(text: str) -> Any:
    """Parses strict JSON.

    Raises:
        ValueError: If it is not JSON, or a number is NaN, infinite, or out of range.
        RecursionError: If it is nested too deeply.
    """
    return json.loads(text, parse_constant=_no_number, parse_float=_finite)


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a finite number")


Parsers = Mapping[Any, Callable[[Any], Any]]
"""Types that JSON holds as text, and what reads them."""
NO_PARSERS: Parsers = types.MappingProxyType({})


def revive(kind: type, values: Any, parsers: Parsers = NO_PARSERS) -> Any:
    """Makes a dataclass of what ``dataclasses.asdict`` and JSON left of it.

    Args:
        kind: The dataclass.
        values: Its fields; those that are absent keep their defaults, and dataclasses
            among them that are made already stay.
        parsers: For fields of a type that JSON does not have.

    Raises:
        ValueError: If a field is unknown or its value is not of the declared type.
        TypeError: If a field without default is absent.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"expected the fields of {kind.__name__}, got {_say(values)}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}")
    fields = {
        name: _revived(f"{kind.__name__}.{name}", value, hints[name], parsers)
        for name, value in values.items()
    }
    return kind(**fields)


def _revived(name: str, value: Any, hint: Any, parsers: Parsers) -> Any:
    """One field, or what is inside of one: lists are tuples again, to any depth."""
    if hint in parsers:
        return parsers[hint](value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        made = isinstance(value, hint)
        return value if made else revive(hint, value, parsers)
    if not fits(value, hint, parsers):
        wanted = hint.__name__ if isinstance(hint, type) else hint
        raise ValueError(f"{name}: expected {wanted}, got {_say(value)}")
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        chosen = next(one for one in inner if fits(value, one, parsers))
        return _revived(name, value, chosen, parsers)
    if not isinstance(value, list):
        return value
    if origin is tuple and inner:
        kinds = inner[:1] * len(value) if inner[-1:] == (...,) else inner
    else:
        kinds = inner[:1] * len(value) or (Any,) * len(value)
    parts = zip(value, kinds, strict=True)
    return tuple(_revived(name, one, kind, parsers) for one, kind in parts)


def fits(value: Any, hint: Any, parsers: Parsers = NO_PARSERS) -> bool:
    """Whether a value from JSON can stand for a type; a list may stand for a tuple.

    Args:
        value: What was parsed.
        hint: A type, a union, a ``Literal``, or a tuple, sequence or mapping of them.
            What JSON cannot hold (an array, a function) fits nothing; ``Any`` fits all.
        parsers: Types that JSON holds as text.
    """
    if hint in parsers:
        return isinstance(value, str)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one, parsers) for one in inner)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        # Its fields are looked at when it is made, if it is not yet.
        return isinstance(value, Mapping | hint)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = inner[:1] * len(value) if inner[-1:] == (...,) else inner
        return len(kinds) == len(value) and all(
            fits(one, kind, parsers) for one, kind in zip(value, kinds, strict=True)
        )
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return all(
            fits(k, inner[0], parsers) and fits(v, inner[1], parsers)
            for k, v in value.items()
        )
    if origin in (list, Sequence) and isinstance(value, list):
        return all(fits(one, inner[0], parsers) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (None, types.NoneType):
        return value is None
    return hint is Any or (isinstance(hint, type) and isinstance(value, hint))


def _say(value: Any) -> str:
    """A value in a message, cut short."""
    return repr(value)[:60]
