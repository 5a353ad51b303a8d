"""Starts helper processes, each connected by a socket. They are fresh Python processes, because CUDA and threads do not
survive a fork.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

from .errors import BackendError

PROGRAM = "lite3r_cli.worker_entry"
STDERR = 2  # only results go to standard output


def start_child(kind: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that runs `worker_entry.KINDS[kind]`. Returns it and its socket. Raises BackendError."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", PROGRAM, kind, str(theirs.fileno())]
        path = os.pathsep.join(entry for entry in sys.path if entry)  # the import path of this process
        environment = {**os.environ, "PYTHONPATH": path}
        try:
            process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, stdout=STDERR
            )
        except OSError as error:
            ours.close()
            raise BackendError(f"no further process can be started: {error.strerror}; use fewer") from error
    return process, Connection(ours.detach())


def how_it_ended(code: int) -> str:
    """A return code of `subprocess` in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
