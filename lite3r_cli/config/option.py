"""How a field of a configuration stands on the command line: `field: Annotated[type, Option(panel, help)] = default`.

`commands/options.py` turns these into Typer's parameters. A field without an `Option` is not on the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError

# Headings of --help
INPUT, NETWORK, CLOUD, OUTPUT, GENERAL = "Input", "Network", "Point cloud", "Output", "General"
CAMERAS = "Cameras: what is known beforehand"
WORLD = "World: up, scale and place"
DA3_ONLY = "Network: Depth-Anything-3 only"
ATTENTION = "Network: attention across views, arithmetic"


@dataclass(frozen=True)
class Option:
    """The option of a field: where it stands in --help and what it says there."""

    panel: str | None  # heading in --help; None: the first one
    help: str
    names: tuple[str, ...] = ()  # none: the field's name, with hyphens
    metavar: str | None = None
    shown: str | None = None  # the default in words, where the value says too little
    off: str | None = None  # the flag that turns a field off which is on by default
    parse: Callable[[Any], Any] | None = None  # text of the command line → value; raises UsageError
    text: type | None = None  # the type that `parse` takes, where it is not str
    default: Any = None  # what `parse` takes if the option is not given

    def flag(self, field: str) -> str:
        """The option's long name, `--keep-ratio`."""
        long = [name for name in self.names if name.startswith("--")]
        return self.off or (long[0] if long else f"--{field.replace('_', '-')}")


@dataclass(frozen=True)
class Argument(Option):
    """A field that stands on the command line without a name."""


def from_home(value: Any) -> Any:
    """`~` at the start of a path as the user's folder, in a text, a path or several: a shell does so at the start of a
    word only, not in `--output=~/scene.ply`, and Python does not. A file that is called so is ./~.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(map(from_home, value))
    if isinstance(value, (str, Path)) and (str(value) == "~" or str(value).startswith("~/")):
        return type(value)(os.path.expanduser(value))
    return value


def require(ok: bool, message: str) -> None:
    """Raise UsageError with `message` unless `ok`."""
    if not ok:
        raise UsageError(message)
