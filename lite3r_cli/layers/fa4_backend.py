"""Dense attention with FlashAttention-4 (package flash-attn-4, CuTe DSL): faster than cuDNN on Hopper and newer GPUs.

Importing the library takes seconds. It is therefore imported only after a process has done so much dense attention
without it that the import would have paid, or right away if many forward passes will follow (`load_at_once`). The
library compiles a kernel (seconds) for each dtype and head dimension and stores it in the user's cache folder. The
first call of each is compared with torch's result: if the library fails or differs, it is not used, and the reason is
reported.
"""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.extras import install_line

NAME, PACKAGE, MODULE = "flash-attention-4", "flash-attn-4", "flash_attn.cute"
CAPABILITY = (9, 0)  # lowest compute capability on which it is faster
WIDEST = 128  # largest head dimension; it must be a multiple of 8
SHORTEST = 512  # fewest keys: with fewer, a call costs more than it saves
LOAD_WORK = 1.2e16  # FLOP of dense attention after which loading would have paid: 5 s, at 0.4 s saved per 1e15
ERROR = 1e-2  # largest relative error of the first call against torch in the same precision
CACHE = {"ENABLED": "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "DIR": "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR"}

_lock = threading.Lock()


class _Work:
    """FLOP of dense attention that this process has computed without the library."""

    done = 0.0


def load_at_once() -> None:
    """Load the library at the next attention call that can use it. For callers with many forward passes ahead."""
    _Work.done = float("inf")


@cache
def installed_reason() -> str | None:
    """Why the library is not available; None if it is installed. Does not import it."""
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        return f"{PACKAGE} is not installed ({install_line(MODULE)})"
    return None


@cache
def device_reason(device: torch.device) -> str | None:
    """Why the library cannot run on this device; None if it can."""
    if device.type != "cuda":
        return "it is for GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"it is for compute capability {CAPABILITY[0]}.0 and up, not {capability[0]}.{capability[1]}"
    return installed_reason()


def operations(q: Tensor, k: Tensor) -> float:
    """FLOP of attention of q (B, H, N, D) over k (B, H, M, D): two matrix products."""
    return 4.0 * q.numel() * k.shape[2]


def reason_against(q: Tensor, k: Tensor) -> str | None:
    """Why attention of q over k (B, H, tokens, D) without gradients needs another back end; None to use this one."""
    if (reason := device_reason(q.device)) is not None:
        return reason
    if q.dtype not in (torch.bfloat16, torch.float16):
        return "it computes in half precision"
    dim = q.shape[3]
    if dim % 8 or dim > WIDEST:
        return f"it has head widths that are multiples of 8 up to {WIDEST}, not {dim}"
    if k.shape[2] < SHORTEST:
        return f"it takes {SHORTEST} keys or more"
    if not _is_loaded():
        _Work.done += operations(q, k)
        if _Work.done < LOAD_WORK:
            return "it takes seconds to load, which this run has not the work for"
    return refusal(q.device, q.dtype, dim)


_refusals: dict[tuple[torch.device, torch.dtype, int], str | None] = {}


def _is_loaded() -> bool:
    return bool(_refusals)


def refusal(device: torch.device, dtype: torch.dtype, dim: int) -> str | None:
    """Why the library does not work here, from one small call that is compared with torch; None if it works. Cached."""
    key = device, dtype, dim
    if key not in _refusals:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return "it cannot be loaded while a graph is captured"
        with _lock:
            if key not in _refusals:
                _refusals[key] = _tried(device, dtype, dim)
    return _refusals[key]


def _tried(device: torch.device, dtype: torch.dtype, dim: int) -> str | None:
    draw = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(2, 2, 333, dim, device=device, dtype=dtype, generator=draw) for _ in range(3))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's compiler warns about the library's own code
            found = attend(q, k, v).float()
    except Exception as error:  # an optional library may fail in any way; torch's attention replaces it
        return f"{PACKAGE} failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    expected = F.scaled_dot_product_attention(q, k, v).float()
    away = float((found - expected).norm() / expected.norm())
    return None if away < ERROR else f"{PACKAGE} computes something else here: {away:.1e} away"


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √D) v for q (B, H, N, D) and k, v (B, H, M, D) → a (B, H, N, D) view of a (B, N, H, D) tensor."""
    result: Tensor = load_forward()(*(t.transpose(1, 2) for t in (q, k, v)))[0].transpose(1, 2)
    return result


def attend_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """`attend`, and the logarithm of the softmax's denominator (B, H, N) float32."""
    out, lse, *_ = load_forward()(*(t.transpose(1, 2) for t in (q, k, v)), return_lse=True)
    return out.transpose(1, 2), lse


@cache
def load_forward() -> Callable[..., Any]:
    """The library's forward function: q (B, N, H, D), k, v (B, M, H, D) → (out, lse or None, …). Raises ImportError."""
    with _kept_on_disk():
        from flash_attn.cute.interface import _flash_attn_fwd
    result: Callable[..., Any] = _flash_attn_fwd
    return result


@contextmanager
def _kept_on_disk() -> Iterator[None]:
    """Inside this context, two environment variables tell the library where to store compiled kernels. It reads them
    on import and has no other setting. If the folder is not usable, kernels are not stored.
    """
    before = {name: os.environ.get(name) for name in CACHE.values()}
    folder = kernel_folder()
    os.environ[CACHE["ENABLED"]] = "0" if folder is None else "1"
    if folder is not None:
        os.environ[CACHE["DIR"]] = str(folder)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def kernel_folder() -> Path | None:
    """The folder of compiled kernels, created if missing. None if other users could write to it or this user cannot:
    kernels are executable code, so only their owner may change them.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "lite3r" / NAME
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stat = folder.stat()
        if stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
            return None
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
