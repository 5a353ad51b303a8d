"""Networks of other installed packages. A package names a module under the entry point GROUP; the module calls
`networks.family.register`.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lite3r_cli.errors import BackendError

GROUP = "lite3r.networks"

_loaded: set[str] = set()


def load_installed() -> None:
    """Import the networks of installed packages, each once. Raises BackendError if one cannot be imported."""
    for entry in _entries(tuple(sys.path)):
        if entry.value in _loaded:
            continue
        _loaded.add(entry.value)  # before the import, because the module may call `families`
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
    """The entry points of the packages on a search path. Cached, because the search takes some
    hundredths of a second.
    """
    return tuple(entry_points(group=GROUP))
