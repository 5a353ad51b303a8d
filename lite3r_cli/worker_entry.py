"""The process of a worker of `lite3r batch --workers N`: `python -m lite3r_cli.worker_entry DESCRIPTOR`."""

from __future__ import annotations

import os
import signal
import sys

from .entry import leave  # signals have their default effect from here on


def main() -> int:
    """Serve the foreman at the other end of the socket; returns the exit code."""
    from .batch.local_crew import serve
    from .cli import BY_SIGNAL, SPINS
    from .stopping import Terminated, signals_as_exceptions

    os.environ.setdefault(*SPINS)
    try:
        with signals_as_exceptions():
            serve(int(sys.argv[1]))
    except KeyboardInterrupt:
        return BY_SIGNAL + signal.SIGINT
    except Terminated as error:
        return BY_SIGNAL + error.number
    return 0


if __name__ == "__main__":
    leave(main())
