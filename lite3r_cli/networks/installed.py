"""Networks of other installed packages: they name a module under the entry point GROUP, which calls `register`."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lite3r_cli.errors import BackendError

GROUP = "lite3r.networks"

_loaded: set[str] = set()


def load_installed() -> None:
    """Import them, each once. Raises BackendError for one that cannot be imported."""
    for entry in _entries(tuple(sys.path)):
        if entry.value in _loaded:
            continue
        _loaded.add(entry.value)  # first: the module may ask for families while it is imported
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.value
            raise BackendError(
                f"the network {entry.name} of the installed package {package} cannot be imported "
                f"({type(error).__name__}: {error}); repair the package or uninstall it"
            ) from error


@cache
def _entries(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Those of the packages on a search path, looked for once: it takes some hundredths of a second, and families are
    asked for often.
    """
    return tuple(entry_points(group=GROUP))
