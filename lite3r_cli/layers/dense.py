"""Dense attention with the fastest back end of the device. This file chooses the back end for all networks.

On a GPU: FlashAttention-4 where it runs (`fa4_backend.py`), else torch's fused attention. Torch tries cuDNN's kernel
first if the caller asks for it, or on a Hopper GPU if the call is so long that cuDNN's speed pays for building a kernel
for each new shape.

On a CPU: on processors with AVX512-BF16 but without AMX, torch's fused kernel multiplies bfloat16 no faster than
float32, while their matrix product is four times as fast. `dense_by_products` computes a few query rows at a time
against all keys (product, softmax, product), small enough to stay in the cache. It subtracts an estimate of each row's
maximum, taken over a sample of the keys, before the logits are rounded to bfloat16, so that large weights keep their
precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.layers import fa4_backend
from lite3r_cli.layers.lone_threads import lone_threads
from lite3r_cli.runtime import Choice

TORCH, CUDNN, PRODUCTS, FA4 = "torch", "cudnn", "products", fa4_backend.NAME
CUDNN_WORK = 2e13  # FLOP per call (16 heads: 70,000 tokens) from which cuDNN pays; it saves 1 s per 1e15
LOGITS = 2**19  # per chunk: two copies fit a core's cache
SAMPLED = 4  # every 4th key is used to estimate the maximum logit of a row
_left_out: ContextVar[tuple[str, ...]] = ContextVar("left_out", default=())
_account: ContextVar[dict[Choice, float] | None] = ContextVar("account", default=None)


@contextmanager
def leaving_out(*backends: str) -> Iterator[None]:
    """Inside this context `dense` does not choose these back ends. For comparisons."""
    token = _left_out.set(backends)
    try:
        yield
    finally:
        _left_out.reset(token)


def fused_only() -> AbstractContextManager[None]:
    """Inside this context `dense` is torch's fused attention on every device. For comparisons."""
    return leaving_out(CUDNN, PRODUCTS, FA4)


@contextmanager
def accounted() -> Iterator[dict[Choice, float]]:
    """Collects which back ends `dense` used inside this context: choice → FLOP. Calls from compiled code or replayed
    CUDA graphs are not counted.
    """
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
    """Whether the device is a GPU of compute capability 9.0 (Hopper) or higher."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= fa4_backend.CAPABILITY


@cache
def has_amx() -> bool:
    """Whether this processor has AMX matrix units, which torch's fused attention uses."""
    return _has("amx_tile")


@cache
def bfloat16_by_products() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than torch's fused attention does."""
    return _has("avx512_bf16") and not has_amx()


def choose_dense(q: Tensor, k: Tensor, v: Tensor, cudnn: bool = False) -> Choice:
    """The back end of `dense` for these operands (see `dense`), and the reason."""
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
    """softmax(q kᵀ / √D) v for q (B, H, N, D) and k, v (B, H, M, D) → (B, H, N, D).

    `cudnn`: torch tries cuDNN's kernel first. Some back ends return a transposed view of a (B, N, H, D) tensor.
    """
    if torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v)
    choice = choose_dense(q, k, v, cudnn)
    account = _account.get()
    if account is not None:
        account[choice] = account.get(choice, 0.0) + fa4_backend.operations(q, k)
    return WAYS[choice.chosen](q, k, v)


def dense_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of q (B, H, N, D) over k and v (B, H, M, D) without gradients → (B, H, N, D), and the logarithm of the
    softmax's denominator (B, H, N) float32.
    """
    if q.is_cuda and q.dtype != torch.float32:
        if choose_dense(q, k, v, cudnn=True).chosen == FA4:
            return fa4_backend.attend_with_lse(q, k, v)
        return _fused_with_lse(q.device, q.dtype, q.shape[-1])(q, k, v)
    logits = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    return (logits.softmax(-1) @ v.float()).to(q.dtype), logits.logsumexp(-1)


def _cudnn_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, False, False)
    return out, lse.reshape(q.shape[:3])


def _flash_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False)
    return out, lse[..., : q.shape[2]].reshape(q.shape[:3])


@cache
def _fused_with_lse(
    device: torch.device, dtype: torch.dtype, dim: int
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """torch's kernel for `dense_with_lse`: cuDNN's if it works here, from one small call."""
    q, k, v = (torch.randn(1, 2, n, dim, device=device, dtype=dtype) for n in (65, 129, 129))
    expected = (q.float() @ k.float().transpose(-1, -2) * dim**-0.5).logsumexp(-1)
    try:
        _, lse = _cudnn_with_lse(q, k, v)
    except RuntimeError:  # this torch or GPU has no such kernel
        return _flash_with_lse
    return _cudnn_with_lse if torch.allclose(lse.float(), expected, rtol=0, atol=0.05) else _flash_with_lse


def _cudnn_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v)


def dense_by_products(q: Tensor, k: Tensor, v: Tensor, logits: int = LOGITS) -> Tensor:
    """`dense` without gradients; each of torch's threads computes about `logits` logits at a time."""
    batch, heads, queries, dim = q.shape
    q, k, v = (t.flatten(0, 1) for t in (q * dim**-0.5, k, v))  # the scaling is exact if D is a power of 4
    out = q.new_empty(len(q), queries, dim)
    pieces = -(-queries * k.shape[1] // logits)
    step = -(-queries // pieces)
    jobs = [(head, slice(first, first + step)) for head in range(len(q)) for first in range(0, queries, step)]
    threads = torch.get_num_threads()

    def work(i: int) -> None:
        with torch.inference_mode(out.is_inference()), torch.no_grad():
            _some_rows(q, k, v, out, jobs[i * len(jobs) // threads : (i + 1) * len(jobs) // threads])

    list(lone_threads(threads).map(work, range(threads)) if threads > 1 else map(work, range(1)))
    return out.view(batch, heads, queries, dim)


def _some_rows(q: Tensor, k: Tensor, v: Tensor, out: Tensor, jobs: list[tuple[int, slice]]) -> None:
    """Attention of q, k, v (heads, N, D) for `jobs`, pairs of a head and a range of queries. Writes into `out`.

    One product computes q · k − maximum: [q, −maximum] · [k, 1].
    """
    buffers: tuple[Tensor, ...] = ()
    previous_head = -1
    for head, rows in jobs:
        if head != previous_head:
            keys = torch.cat([k[head], torch.ones_like(k[head, :, :1])], dim=-1).T
            sample = k[head, ::SAMPLED].T
            previous_head = head
        queries = q[head, rows]
        maximum = torch.mm(queries, sample).amax(-1, keepdim=True)
        queries = torch.cat([queries, -maximum], dim=-1)
        if not buffers or buffers[0].shape[0] != len(queries):  # allocating each time would cost more than the product
            buffers = tuple(queries.new_empty(len(queries), keys.shape[1]) for _ in range(2))
        logits, weights = buffers
        torch.softmax(torch.mm(queries, keys, out=logits), -1, out=weights)
        torch.mm(weights, v[head], out=out[head, rows])


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    FA4: fa4_backend.attend,
    CUDNN: _cudnn_first,
    PRODUCTS: dense_by_products,
    TORCH: F.scaled_dot_product_attention,
}
