"""`--gpus N`: starts the other processes of a divided prediction."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from .. import runtime
from ..children import how_it_ended, start_child
from ..config import PredictConfig
from ..cores import divide_cores, keep_to, own_cores
from ..errors import BackendError, Lite3RError
from ..ranks import Rank
from .team import FOREVER, JOINED, LOOK, Team, for_rank

HERE = "127.0.0.1"


class Helpers:
    """`with Helpers(config, 4) as helpers: helpers.start(); ...; team = helpers.join()`. They end with the block."""

    def __init__(self, config: PredictConfig, count: int) -> None:
        """`config` is that of the whole run. Raises UsageError, and BackendError if there are fewer GPUs."""
        self.rank, self._asked = Rank(0, count, 0), config
        self.config = for_rank(config, self.rank)
        for_rank(config, Rank(count - 1, count, count - 1))  # raises if there are too few GPUs
        self._processes: list[tuple[subprocess.Popen[bytes], Connection]] = []

    def __enter__(self) -> Helpers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def start(self) -> None:
        """Start the processes: they load the network while this one reads pictures. Raises BackendError."""
        from torch.distributed import TCPStore

        _stay_on_this_machine()
        self._store = TCPStore(HERE, 0, self.rank.count, True, timeout=FOREVER, wait_for_workers=False)
        cores = divide_cores(own_cores(), self.rank.count)
        for number in range(1, self.rank.count):
            rank = replace(self.rank, number=number, local=number)
            child = start_child("views")
            self._processes.append(child)
            with suppress(OSError):  # it is dead, which `join` finds
                child[1].send((for_rank(self._asked, rank), rank, self._store.port, cores[number]))

    def join(self) -> Team:
        """The place of this process in the team, once all have joined. Raises BackendError if one has died."""
        while self._store.add(JOINED, 0) < self.rank.count - 1:
            self._alive()
            threading.Event().wait(LOOK)
        device = runtime.choose(self.config.device, self.config.dtype).torch_device
        return Team(self.rank, device, self._store, self._alive)

    def _alive(self) -> None:
        for number, (process, pipe) in enumerate(self._processes, start=2):
            if pipe.poll():
                try:
                    raise pipe.recv()
                except (EOFError, OSError):
                    pass  # it ends or has ended; a reset tells of an order that it did not read
            code = process.poll()
            if code is not None:
                raise BackendError(f"process {number} of {self.rank.count} died ({how_it_ended(code)}); memory?")

    def _end(self) -> None:
        for process, pipe in self._processes:
            pipe.close()
            process.terminate()
        for process, _ in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


def _stay_on_this_machine() -> None:
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine may not be able to resolve its own name


def serve(descriptor: int) -> None:
    """The main function of a helper process."""
    pipe = Connection(descriptor)
    try:
        config, rank, port, cores = pipe.recv()
    except (OSError, EOFError):
        return
    if not config.device.startswith("cuda"):
        keep_to(cores)
        torch.set_num_threads(len(cores))
    _stay_on_this_machine()
    threading.Thread(target=_end_with, args=(pipe,), name="rank 0", daemon=True).start()
    try:
        _help(config, rank, port)
    except Lite3RError as error:
        pipe.send(error)


def _help(config: PredictConfig, rank: Rank, port: int) -> None:
    from torch.distributed import TCPStore

    from .team import help_out

    def join(config: PredictConfig) -> Team:
        store = TCPStore(HERE, port, rank.count, False, timeout=FOREVER)
        device = runtime.choose(config.device, config.dtype).torch_device
        store.add(JOINED, 1)
        return Team(rank, device, store)

    help_out(config, join)


def _end_with(pipe: Any) -> None:
    """End when the parent process ends. A helper only computes, so there is nothing to clean up."""
    try:
        pipe.recv()
    except (OSError, EOFError):
        os._exit(1)
