"""Threads that each run torch single-threaded: threads that wait for each other are slow on a busy machine."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


@lru_cache(maxsize=1)  # a pool with another number of threads replaces the previous one
def lone_threads(threads: int) -> ThreadPoolExecutor:
    """A pool of this many threads."""
    pool, together = ThreadPoolExecutor(threads, "lone"), threading.Barrier(threads)

    def settle(_: int) -> None:
        torch.get_num_threads()  # reads the global setting once; it must not be read after the next line
        torch.set_num_threads(1)
        together.wait()  # so that each thread of the pool runs this function exactly once

    list(pool.map(settle, range(threads)))
    torch.set_num_threads(threads)  # for this thread, and the default of later threads
    return pool


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=lone_threads.cache_clear)
