"""Dataclasses as plain data, as JSON has them: whether data are what one says, and one of data.

Whole numbers stay below 2³¹, as JAX counts.
"""

import collections.abc
import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union


T = TypeVar("T")


def read(cls: type[T], data: object) -> T:
    """The dataclass that the data are of, checked; with the dataclasses and tuples inside of it."""
    check(cls, data)
    return _made(data, cls)


def as_text(record: Any) -> str:
    """A dataclass as JSON; of equal ones it is the same."""
    return json.dumps(dataclasses.asdict(record), sort_keys=True)


def from_text(cls: type[T], found: str) -> T:
    """What `as_text` was given."""
    return _made(json.loads(found), cls)


def check(cls: type, data: object, *, among: str = "") -> None:
    """Raise a ValueError, which names the field, unless `cls(**data)` gets what it declares."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{among or 'it'} must be an object, but is {_shown(data)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    prefix = f"{among}." if among else ""
    for name in data:
        if name not in fields:
            raise ValueError(f"{prefix}{name} is no field")
    hints = typing.get_type_hints(cls)
    for name, field in fields.items():
        if name not in data:
            if field.default is field.default_factory is dataclasses.MISSING:
                raise ValueError(f"{prefix}{name} is missing")
            continue
        hint, value = hints[name], data[name]
        if _is_record(hint):
            check(hint, value, among=f"{prefix}{name}")
        elif not fits(value, hint):
            raise ValueError(f"{prefix}{name} can't be {_shown(value)}")


def fits(value: object, hint: Any) -> bool:
    """Whether a value that JSON has read is of this type."""
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in of)
    if origin is Literal:
        return value in of
    if hint is type(None):
        return value is None
    if hint is int or hint is float and isinstance(value, int):  # a float may lack its fraction
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
    if hint is float:
        return isinstance(value, float) and math.isfinite(value)
    if _is_record(hint):
        try:
            check(hint, value)
        except ValueError:
            return False
        return True
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping) and all(
            fits(name, of[0]) and fits(each, of[1]) for name, each in value.items()
        )
    if origin in (tuple, collections.abc.Sequence):
        return isinstance(value, list | tuple) and all(fits(each, of[0]) for each in value)
    return isinstance(hint, type) and isinstance(value, hint)


def _made(value: Any, hint: Any) -> Any:
    """The value of this type that data stand for."""
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        kind = next((each for each in of if fits(value, each)), Any)
        return _made(value, kind)
    if _is_record(hint):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _made(each, hints[name]) for name, each in value.items()})
    if origin in (tuple, collections.abc.Sequence):
        return tuple(_made(each, of[0]) for each in value)
    return value


def _is_record(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) and isinstance(hint, type)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
