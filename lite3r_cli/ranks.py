"""The rank of this process under torchrun, from the environment variables that torchrun sets."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from .errors import BackendError, UsageError

LOST = "another process of this run has ended; its own message says why"
MOST = 1 << 20  # processes; torch takes no number that 32 bits do not hold
PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Rank:
    """One of `count` cooperating processes."""

    number: int  # 0 reads and writes; the others compute only
    count: int
    local: int  # index on this machine: the number of its GPU


def launched() -> Rank | None:
    """The rank of this process; None if it runs alone. Raises UsageError."""
    place = place_of_process()
    return place if place.count > 1 else None


def place_of_process() -> Rank:
    """The rank from RANK, WORLD_SIZE and LOCAL_RANK. Raises UsageError if one of them is set without the others: the
    process would wait for ever, or compute for nothing.
    """
    values = {name: os.environ[name] for name in PLACES if os.environ.get(name)}
    if values.get("WORLD_SIZE", "1") == "1" and values.get("RANK", "0") == "0":
        return Rank(0, 1, 0)
    missing = [name for name in (*PLACES, "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    said = ", ".join(f"{name}={value}" for name, value in values.items())
    advice = f"start it with torchrun, or run `unset {' '.join(values)}` first"
    if missing:
        raise UsageError(f"the environment says {said[:200]}, but not {', '.join(missing)}: {advice}")
    try:
        rank, world, local = (int(values[name]) for name in PLACES)
    except ValueError:
        raise UsageError(f"the environment says {said[:200]}: not whole numbers: {advice}") from None
    port, host = os.environ["MASTER_PORT"], os.environ["MASTER_ADDR"]
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise UsageError(f"the environment says MASTER_PORT={port[:200]}: that is no port: {advice}")
    try:
        socket.getaddrinfo(host, int(port))
    except (OSError, UnicodeError):
        raise UsageError(f"the environment says MASTER_ADDR={host[:200]}: that host is not known: {advice}") from None
    if not (0 <= rank < world <= MOST and 0 <= local < world):
        raise UsageError(f"the environment says {said[:200]}: there is no such place: {advice}")
    return Rank(rank, world, local)


def cannot_meet(error: RuntimeError) -> BackendError:
    """The error of processes that torch could not connect."""
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    reason = " ".join(str(error).split())[:200]
    return BackendError(
        f"the processes cannot meet at {address} ({reason}); choose another MASTER_PORT, or torchrun --standalone"
    )


def lost_another(error: BaseException) -> bool:
    """Whether an error of torch means that another process has ended. gloo raises a plain RuntimeError then."""
    text = str(error)
    by_kind = type(error).__name__ in ("DistError", "DistBackendError", "DistNetworkError")
    return by_kind or (type(error) is RuntimeError and ("gloo" in text or "NCCL" in text))
