"""Threads that each run torch single-threaded: threads that wait for each other are slow on a busy machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


def start_alone(work: Callable[[], None], name: str) -> threading.Thread:
    """Start `work` in a thread of its own. A process that ends does not wait for it."""
    threads, settled = torch.get_num_threads(), threading.Event()

    def run() -> None:
        torch.get_num_threads()  # as above
        torch.set_num_threads(1)
        settled.set()
        work()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    settled.wait()
    torch.set_num_threads(threads)
    return thread


@contextmanager
def one_thread_less() -> Iterator[None]:
    """Inside the block torch leaves a core to a thread beside this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=lone_threads.cache_clear)
