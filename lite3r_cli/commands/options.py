"""Makes the options of a command from the fields of a configuration.

`@command(ReconstructConfig)` on `def reconstruct(config, skip_existing)` builds a function for Typer. Its parameters
are the fields with an `Option` (config/option.py), also those of nested configurations, the function's other
parameters, and the general options. The values that Typer reads become a configuration, which validates itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import wraps
from pathlib import Path
from types import GenericAlias, MappingProxyType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from .. import console
from ..config.option import GENERAL, Argument, Option, from_home, require_countable


def _flag(*names: str, help: str, set: Callable[[bool], bool]) -> object:
    return Annotated[
        bool,
        typer.Option(*names, help=help, callback=set, rich_help_panel=GENERAL, metavar="", show_default=False),
    ]


GENERAL_OPTIONS = {
    "json": _flag(
        "--json", set=console.set_json, help="Print one JSON document on standard output instead of the table."
    ),
    "quiet": _flag("--quiet", "-q", set=console.set_quiet, help="Print warnings and errors only."),
    "verbose": _flag("--verbose", "-v", set=console.set_verbose, help="Also print what was chosen and why."),
    "debug": _flag("--debug", set=console.set_debug, help="Show the traceback of an error."),
}


def path(text: str) -> Path:
    """A path. Raises BadParameter for an empty text: an unset shell variable must not mean the current folder."""
    if not text:
        raise typer.BadParameter("the path is empty; use . for the current folder")
    return Path(text)


def _is_path(kind: Any) -> bool:
    return kind is Path or Path in get_args(kind)


@dataclass(frozen=True)
class _Leaf:
    """A field that is an option, and its place in the configuration."""

    path: tuple[str, ...]  # of field names, from the root
    type: Any
    option: Option
    default: Any  # MISSING: the option is required

    @property
    def flag(self) -> str:
        """`--keep-ratio`; for an argument the name of the field."""
        return self.path[-1] if isinstance(self.option, Argument) else self.option.flag(self.path[-1])

    @property
    def parameter(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    def typer_parameter(self) -> inspect.Parameter:
        kind, default = self._as_typer_reads()
        says_nothing = default is None or default is False or default is inspect.Parameter.empty or default == []
        shown: bool | str = self.option.shown or not says_nothing
        common: dict[str, Any] = {
            "help": self.option.help,
            "rich_help_panel": self.option.panel,
            "metavar": "" if kind is bool else self.option.metavar,
            "show_default": shown,
        }
        if _is_path(kind):
            common["parser"] = path  # older versions of Typer show its name in the help
        if isinstance(self.option, Argument):
            info = typer.Argument(**common)
        else:
            short = [name for name in self.option.names if not name.startswith("--")]
            both = f"{self.flag}/--no-{self.flag[2:]}" if kind == bool | None else self.flag
            info = typer.Option(both, *short, **common)
        return inspect.Parameter(
            self.parameter, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
        )

    def _as_typer_reads(self) -> tuple[Any, Any]:
        """Type and default for Typer: list for a tuple, str for a parsed value, the inverse for an `off` flag."""
        empty = inspect.Parameter.empty
        if self.option.parse is not None:
            kind = self.option.text or (str if self.option.default is not None else str | None)
            return kind, self.option.default
        if self.option.off is not None:
            return bool, False
        if get_origin(self.type) is tuple and get_args(self.type)[1:] == (...,):
            item = get_args(self.type)[0]
            return GenericAlias(list, (item,)), empty if self.default is MISSING else list(self.default)
        return self.type, empty if self.default is MISSING else self.default

    def value(self, given: Any) -> Any:
        """The value of the field for the value that Typer read."""
        given = from_home(given)
        if self.option.off is not None:
            return not given
        if self.option.parse is not None:
            given = self.option.parse(given)
        require_countable(self.flag, given)
        return tuple(given) if isinstance(given, list) else given


def command(
    *configs: type,
    without: tuple[str, ...] = (),
    instead: Mapping[str, Option] = MappingProxyType({}),
    required: tuple[str, ...] = (),
    general: tuple[str, ...] = tuple(GENERAL_OPTIONS),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that builds the function's first parameters, the configurations, from the command line.

    without: fields that the command does not offer. instead: options that replace those of fields. required: fields
    without a default here. general: names of the general options.
    """

    def here(leaf: _Leaf) -> _Leaf:
        name = leaf.path[-1]
        return replace(
            leaf, option=instead.get(name, leaf.option), default=MISSING if name in required else leaf.default
        )

    leaves = [[here(leaf) for leaf in _leaves(config) if leaf.path[-1] not in without] for config in configs]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[len(configs) :]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

        @wraps(function)
        def run(**given: Any) -> None:
            built = [_build(config, mine, given) for config, mine in zip(configs, leaves)]
            function(*built, **{parameter.name: given[parameter.name] for parameter in own})

        parameters = [leaf.typer_parameter() for mine in leaves for leaf in mine] + own
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=GENERAL_OPTIONS[name])
            for name in general
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[_Leaf]:
    """The options of a configuration: its own fields, then those of nested configurations."""
    hints = get_type_hints(config, include_extras=True)
    nested = []
    for field in fields(config):
        kind = hints[field.name]
        if is_dataclass(kind):
            nested.append((kind, (*path, field.name)))
        elif get_origin(kind) is Annotated:
            kind, *notes = get_args(kind)
            options = [note for note in notes if isinstance(note, Option)]
            if options:
                yield _Leaf((*path, field.name), kind, options[-1], field.default)
    for kind, inner in nested:
        yield from _leaves(kind, inner)


def _build(config: type, leaves: list[_Leaf], given: Mapping[str, Any]) -> Any:
    """The configuration with the given values; other fields keep their defaults."""
    values: dict[str, Any] = {}
    inner: dict[str, list[_Leaf]] = {}
    for leaf in leaves:
        if len(leaf.path) == 1:
            values[leaf.path[0]] = leaf.value(given[leaf.parameter])
        else:
            inner.setdefault(leaf.path[0], []).append(_Leaf(leaf.path[1:], leaf.type, leaf.option, leaf.default))
    hints = get_type_hints(config)
    for name, below in inner.items():
        values[name] = _build(hints[name], below, given)
    return config(**values)
