"""Dense attention by the fastest way that a device has.

torch's fused kernel multiplies bfloat16 at the speed of float32 on processors with AVX512-BF16 but without AMX; their
matrix product is four times as fast. There a few queries at a time meet all keys: product, softmax, product, each small
enough to stay in the cache. The logits are rounded to bfloat16 relative to about the largest of their row, which
the highest among a few keys tells: there the heavy weights keep their precision.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

LOGITS = 2**19  # of a chunk: two copies fit a core's cache
SAMPLED = 4  # one of so many keys tells how high a row's logits go
_fused_only: ContextVar[bool] = ContextVar("fused_only", default=False)


@contextmanager
def fused_only() -> Iterator[None]:
    """Inside, `dense` is torch's fused attention whatever the processor: to compare with."""
    token = _fused_only.set(True)
    try:
        yield
    finally:
        _fused_only.reset(token)


def _has(feature: str) -> bool:
    return getattr(torch.cpu, f"_is_{feature}_supported", bool)()


@cache
def has_amx() -> bool:
    """Whether this processor has matrix units, which torch's fused attention uses."""
    return _has("amx_tile")


@cache
def bfloat16_by_products() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than torch's fused attention does."""
    return _has("avx512_bf16") and not has_amx()


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √D) v of (B, H, N, D) each."""
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    suits = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not training and not _fused_only.get()
    if suits and bfloat16_by_products():
        return dense_by_products(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


@lru_cache(maxsize=1)  # a pool for another number of threads ends the one before
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that compute alone: teams that wait for each other after every small product lose on busy machines."""
    pool, together = ThreadPoolExecutor(threads, "attention"), threading.Barrier(threads)

    def settle(_: int) -> None:
        torch.get_num_threads()  # reads the common setting once, which must not happen after the next line
        torch.set_num_threads(1)
        together.wait()  # so that every thread is here once

    list(pool.map(settle, range(threads)))
    torch.set_num_threads(threads)  # this thread's, and what later ones start with
    return pool


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)


def dense_by_products(q: Tensor, k: Tensor, v: Tensor, logits: int = LOGITS) -> Tensor:
    """`dense` without gradients, about `logits` at a time on each of torch's threads."""
    batch, heads, queries, dim = q.shape
    q, k, v = (t.flatten(0, 1) for t in (q * dim**-0.5, k, v))  # the scale is exact where D is a power of 4
    out = q.new_empty(len(q), queries, dim)
    pieces = -(-queries * k.shape[1] // logits)
    step = -(-queries // pieces)
    jobs = [(head, slice(first, first + step)) for head in range(len(q)) for first in range(0, queries, step)]
    threads = torch.get_num_threads()

    def work(i: int) -> None:
        with torch.inference_mode(out.is_inference()), torch.no_grad():
            _some_rows(q, k, v, out, jobs[i * len(jobs) // threads : (i + 1) * len(jobs) // threads])

    list(_pool(threads).map(work, range(threads)) if threads > 1 else map(work, range(1)))
    return out.view(batch, heads, queries, dim)


def _some_rows(q: Tensor, k: Tensor, v: Tensor, out: Tensor, jobs: list[tuple[int, slice]]) -> None:
    """Attention of (heads, N, D) for pairs of a head and a run of queries, into `out`."""
    buffers: tuple[Tensor, ...] = ()
    before = -1
    for head, rows in jobs:
        if head != before:
            keys = torch.cat([k[head], torch.ones_like(k[head, :, :1])], dim=-1).T
            sample = k[head, ::SAMPLED].T
            before = head
        near = q[head, rows]
        highest = torch.mm(near, sample).amax(-1, keepdim=True)
        near = torch.cat([near, -highest], dim=-1)
        if not buffers or buffers[0].shape[0] != len(near):  # fresh memory each time would cost more than its use
            buffers = tuple(near.new_empty(len(near), keys.shape[1]) for _ in range(2))
        logits, weights = buffers
        torch.softmax(torch.mm(near, keys, out=logits), -1, out=weights)
        torch.mm(weights, v[head], out=out[head, rows])
