"""Builds configurations from keyword arguments: the fields of the command line, without nesting."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from .option import from_home

T = TypeVar("T")


def from_keywords(config: type[T], options: Mapping[str, Any], **given: Any) -> T:
    """A configuration whose fields, including those of nested configurations, have the values of `options`.

    `given` are fields of the outermost configuration. Lists become tuples. Raises TypeError for an unknown name, and
    whatever the configurations raise for invalid values.
    """
    known = dict(_names(config))
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"no option is called {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return _build(config, options, given)


def _names(config: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of fields with the path of fields that leads to each."""
    hints = get_type_hints(config)
    for field in fields(config):
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
            value = from_home(options[field.name])
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return config(**values)
