"""Declares options in configurations: `field: Annotated[type, Option(panel, help)] = default`.

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

LARGEST = 2**32  # of whole numbers: seeds end there, and nothing that is counted comes near


@dataclass(frozen=True)
class Option:
    """The option of a field: its heading and text in --help."""

    panel: str | None  # heading in --help; None: the first one
    help: str
    names: tuple[str, ...] = ()  # empty: the field's name with hyphens
    metavar: str | None = None
    shown: str | None = None  # the default in words, if the value says too little
    off: str | None = None  # for a field that is on by default: the flag that turns it off
    parse: Callable[[Any], Any] | None = None  # text of the command line → value; raises UsageError
    text: type | None = None  # the type that `parse` takes, if not str
    default: Any = None  # the argument of `parse` if the option is not given

    def flag(self, field: str) -> str:
        """The option's long name, `--keep-ratio`."""
        long = [name for name in self.names if name.startswith("--")]
        return self.off or (long[0] if long else f"--{field.replace('_', '-')}")


@dataclass(frozen=True)
class Argument(Option):
    """A positional argument."""


def from_home(value: Any) -> Any:
    """Replaces `~` at the start of a path, or of each path in a list, by the home folder. A shell does this only at the
    start of a word, not in `--output=~/scene.ply`, and Python does not. A file with that name is ./~.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(map(from_home, value))
    if isinstance(value, (str, Path)) and (str(value) == "~" or str(value).startswith("~/")):
        return type(value)(os.path.expanduser(value))
    return value


def require_countable(name: str, value: Any) -> None:
    """Raise UsageError for whole numbers that nothing can be counted by, alone or in a list."""
    for each in value if isinstance(value, (list, tuple)) else (value,):
        require(not isinstance(each, int) or abs(each) <= LARGEST, f"{name}: {each} is too large a number")


def require(ok: bool, message: str) -> None:
    """Raise UsageError with `message` unless `ok`."""
    if not ok:
        raise UsageError(message)
