"""Configurations from the JSON in run.json: the inverse of `plain`."""

from __future__ import annotations

import sys
import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InputError, UsageError

T = TypeVar("T")


def from_stored(config: type[T], document: Any, where: str) -> T:
    """The configuration that `document` describes. Missing and unknown fields get defaults (older versions had fewer).
    Raises InputError, whose text begins with `where`, for invalid values.
    """
    try:
        return _built(config, document, where)
    except (UsageError, TypeError) as error:  # it repeats the value, which may be of any length here
        raise InputError(f"{where}: {str(error)[:300]}") from error


def _built(config: type[T], document: Any, where: str) -> T:
    if not isinstance(document, dict):
        raise InputError(f"{where}: has to be an object")
    hints = get_type_hints(config)
    known = [field.name for field in fields(config) if field.name in document]  # type: ignore[arg-type]
    return config(**{name: _value(hints[name], document[name], f"{where}.{name}") for name in known})


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _built(kind, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _value(next(each for each in inner if each is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[1:] == (...,) else list(inner)
        if len(kinds) == len(value):
            return tuple(_value(each, item, where) for each, item in zip(kinds, value))
    if kind is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    if kind is float and (type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise InputError(f"{where}: {value!r:.60} is no value for it")
