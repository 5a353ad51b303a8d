"""Entry point of a helper process: `python -m lite3r_cli.worker_entry KIND DESCRIPTOR`."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

from .entry import leave  # from here on signals have their default effect

KINDS = {  # kind → the function that serves it, given the descriptor of the socket
    "scenes": ("lite3r_cli.batch.local_pool", "serve"),
    "views": ("lite3r_cli.pipelines.helpers", "serve"),
}


def main() -> int:
    """Serve the process at the other end of the socket. Returns the exit code."""
    from .cli import BY_SIGNAL, THREADS
    from .stopping import Terminated, signals_as_exceptions

    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
    module, function = KINDS[sys.argv[1]]
    try:
        with signals_as_exceptions():
            getattr(import_module(module), function)(int(sys.argv[2]))
    except KeyboardInterrupt:
        return BY_SIGNAL + signal.SIGINT
    except Terminated as error:
        return BY_SIGNAL + error.number
    return 0


if __name__ == "__main__":
    leave(main())
