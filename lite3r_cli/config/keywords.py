"""Builds configurations from keyword arguments: the fields of the command line, without nesting."""

from __future__ import annotations

import difflib
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .option import from_home, require_countable

T = TypeVar("T")

# type of a field → what its keyword takes, and that in words
_TAKES: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    str: ((str, os.PathLike, Real), "a text"),
    Path: ((str, os.PathLike), "a path"),
    tuple: ((list, tuple), "a list"),
}


def from_keywords(config: type[T], options: Mapping[str, Any], **given: Any) -> T:
    """A configuration whose fields, including those of nested configurations, have the values of `options`.

    `given` are fields of the outermost configuration; a nested one that is given takes no options. Lists become tuples.
    Raises TypeError for an unknown name or a value of another type, and whatever the configurations raise for invalid
    values.
    """
    known = dict(_names(config, leave_out=given))
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"no option is called {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return _build(config, options, given)


def option_names(config: type) -> set[str]:
    """The names that `from_keywords` takes for a configuration."""
    return set(dict(_names(config)))


def _names(
    config: type, path: tuple[str, ...] = (), leave_out: Container[str] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of fields with the path of fields that leads to each."""
    hints = get_type_hints(config)
    for field in fields(config):
        if field.name in leave_out:
            continue
        if is_dataclass(hints[field.name]):
            yield from _names(hints[field.name], (*path, field.name))
        else:
            yield field.name, (*path, field.name)


def _build(config: Any, options: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    hints = get_type_hints(config)
    values = dict(given)
    for field in fields(config):
        if field.name in values:
            continue
        if is_dataclass(hints[field.name]):
            values[field.name] = _build(hints[field.name], options, {})
        elif field.name in options:
            value = from_home(_of_type(field.name, hints[field.name], options[field.name]))
            require_countable(field.name, value)
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return config(**values)


def _of_type(name: str, hint: Any, value: Any) -> Any:
    """The value of an option as its field's type `hint` wants it. Raises TypeError."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(get_origin(k) or k for k in kinds if k is not type(None))
    types, words = _TAKES[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} takes {words}, not {value!r}")
    if kind is str and isinstance(value, Real):
        return str(value)  # focal=2905, frames=60: numbers among words
    if isinstance(value, Real) and not isinstance(value, (int, float)):
        return int(str(value)) if kind is int else float(value)  # NumPy's, which JSON does not know
    return value
