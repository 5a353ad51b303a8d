"""Dense attention by the fastest way that a device has; which one that is, is decided here for all networks.

On a GPU: FlashAttention-4 where it runs (`fa4_backend.py`), else torch's fused attention, with cuDNN's kernel first if
the caller says so, or where a call is so long on a Hopper GPU that its speed pays for cuDNN's making a kernel for each
new shape.

On a CPU: torch's fused kernel multiplies bfloat16 at the speed of float32 on processors with AVX512-BF16 but without
AMX; their matrix product is four times as fast. There a few queries at a time meet all keys: product, softmax, product,
each small enough to stay in the cache. The logits are rounded to bfloat16 relative to about the largest of their row,
which the highest among a few keys tells: there the heavy weights keep their precision.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.attention import fa4_backend
from lite3r_cli.runtime import Choice

TORCH, CUDNN, PRODUCTS, FA4 = "torch", "cudnn", "products", fa4_backend.NAME
CUDNN_WORK = 2e13  # operations of one call (16 heads: 70,000 tokens) from which on cuDNN pays; it saves 1 s in 1e15
LOGITS = 2**19  # of a chunk: two copies fit a core's cache
SAMPLED = 4  # one of so many keys tells how high a row's logits go
_left_out: ContextVar[tuple[str, ...]] = ContextVar("left_out", default=())
_account: ContextVar[dict[Choice, float] | None] = ContextVar("account", default=None)


@contextmanager
def leaving_out(*backends: str) -> Iterator[None]:
    """Inside, `dense` goes none of these ways: to compare with."""
    token = _left_out.set(backends)
    try:
        yield
    finally:
        _left_out.reset(token)


def fused_only() -> AbstractContextManager[None]:
    """Inside, `dense` is torch's fused attention whatever the device: to compare with."""
    return leaving_out(CUDNN, PRODUCTS, FA4)


@contextmanager
def accounted() -> Iterator[dict[Choice, float]]:
    """What computed dense attention inside, with the operations of each; nothing of compiled or recorded code."""
    account: dict[Choice, float] = {}
    token = _account.set(account)
    try:
        yield account
    finally:
        _account.reset(token)


def _has(feature: str) -> bool:
    return getattr(torch.cpu, f"_is_{feature}_supported", bool)()


@cache
def is_hopper(device: torch.device) -> bool:
    """Whether a device is a GPU of compute capability 9.0 or more."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= fa4_backend.CAPABILITY


@cache
def has_amx() -> bool:
    """Whether this processor has matrix units, which torch's fused attention uses."""
    return _has("amx_tile")


@cache
def bfloat16_by_products() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than torch's fused attention does."""
    return _has("avx512_bf16") and not has_amx()


def choose_dense(q: Tensor, k: Tensor, v: Tensor, cudnn: bool = False) -> Choice:
    """What computes `dense` of these operands, and why."""
    left_out = _left_out.get()
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return Choice("auto", TORCH, "gradients are computed")
    halves = q.device.type == "cpu" and q.dtype == torch.bfloat16
    if halves and PRODUCTS not in left_out and bfloat16_by_products():
        return Choice("auto", PRODUCTS, "the processor multiplies bfloat16 faster in matrix products")
    reason = "left out" if FA4 in left_out else fa4_backend.reason_against(q, k)
    if reason is None:
        return Choice("auto", FA4, "it runs here, faster than torch's kernels")
    long = q.dtype != torch.float32 and fa4_backend.operations(q, k) >= CUDNN_WORK and is_hopper(q.device)
    if (cudnn or long) and CUDNN not in left_out:
        return Choice("auto", CUDNN, f"torch's kernels, cuDNN's first; no {FA4}: {reason}")
    return Choice("auto", TORCH, f"torch's kernels; no {FA4}: {reason}")


def dense(q: Tensor, k: Tensor, v: Tensor, cudnn: bool = False) -> Tensor:
    """softmax(q kᵀ / √D) v of (B, H, N, D), (B, H, M, D) and (B, H, M, D); `cudnn`: torch is to try cuDNN's kernel
    first. On some ways the result lies in memory as (B, N, H, D).
    """
    if torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v)
    choice = choose_dense(q, k, v, cudnn)
    account = _account.get()
    if account is not None:
        account[choice] = account.get(choice, 0.0) + fa4_backend.operations(q, k)
    return WAYS[choice.chosen](q, k, v)


def _cudnn_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
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


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    FA4: fa4_backend.attend,
    CUDNN: _cudnn_first,
    PRODUCTS: dense_by_products,
    TORCH: F.scaled_dot_product_attention,
}
