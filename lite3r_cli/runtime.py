"""Device and precision: what was requested, what was chosen, and why. No silent fallbacks."""

from __future__ import annotations

import errno
import platform
import random
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from . import __version__
from .errors import BackendError, UsageError
from .ranks import Rank

# Packages that affect results: distribution → module. The first ones are always reported, the others only if used.
ALWAYS_REPORTED = {"torch": "torch", "numpy": "numpy", "opencv-python-headless": "cv2", "safetensors": "safetensors"}
REPORTED_IF_USED = {
    "pillow": "PIL",
    "pillow-heif": "pillow_heif",
    "plyfile": "plyfile",
    "trimesh": "trimesh",
    "pycolmap": "pycolmap",
    "triton": "triton",
    "flash-attn-4": "flash_attn.cute",
    "transformer-engine": "transformer_engine",
    "huggingface_hub": "huggingface_hub",
}


@dataclass(frozen=True)
class Choice:
    """One decision, as stored in run.json."""

    asked: str
    chosen: str
    reason: str


@dataclass(frozen=True)
class Runtime:
    """Where and in which precision to compute."""

    device: Choice
    dtype: Choice

    @property
    def torch_device(self) -> torch.device:
        """The chosen device."""
        return torch.device(self.device.chosen)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The chosen precision."""
        return getattr(torch, self.dtype.chosen)

    def as_dict(self) -> dict[str, dict[str, str]]:
        """The entry of run.json: for each choice the request, the result, and the reason."""
        return asdict(self)


def choose(device: str = "auto", dtype: str = "auto") -> Runtime:
    """Choose device and precision. Raises BackendError if this machine cannot do what was requested."""
    chosen = _choose_device(device)
    if chosen.chosen != "cpu":
        torch.cuda.set_device(chosen.chosen)  # only for this thread; see `current`
    return Runtime(chosen, _choose_dtype(dtype, torch.device(chosen.chosen)))


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one of this thread inside the block, because Triton's and our own kernels launch on the
    current device, not on that of their tensors. A new thread starts with the first GPU.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def device_of(rank: Rank, asked: str) -> str:
    """The `--device` of one of several processes: a GPU of its own, if there are any. Raises UsageError if one GPU was
    requested by name, BackendError if there are fewer GPUs than processes.
    """
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return asked
    if asked not in ("auto", "cuda"):
        raise UsageError(f"--device {asked}: {rank.count} processes need a GPU each; leave --device out")
    _choose_device("cuda")  # says why if there is none
    there = torch.cuda.device_count()
    if rank.local >= there:
        raise BackendError(f"{rank.count} processes need a GPU each, and torch finds {there} here; start fewer")
    return f"cuda:{rank.local}"


def _choose_device(asked: str) -> Choice:
    if asked == "cpu":
        return Choice(asked, "cpu", "asked for")
    if torch.cuda.is_available():
        index = torch.device(asked).index or 0 if asked != "auto" else 0
        count = torch.cuda.device_count()
        if index >= count:
            raise BackendError(f"--device {asked}: only {count} CUDA device(s) here; use cuda:0 to cuda:{count - 1}")
        name = torch.cuda.get_device_name(index)
        return Choice(asked, f"cuda:{index}", f"{name}, {'the first GPU' if asked == 'auto' else 'asked for'}")
    why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
    if asked == "auto":
        return Choice(asked, "cpu", why)
    raise BackendError(f"--device {asked}: {why}; use --device cpu")


# Whether the hardware multiplies bfloat16, with a description. Emulated bfloat16 is slower than float32.
def _cpu_bfloat16() -> tuple[bool, str]:
    probes = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported"}
    for name, probe in probes.items():
        if getattr(torch.cpu, probe, bool)():
            return True, f"the processor has {name}"
    return False, "the processor has neither AMX nor AVX512-BF16"


def _cuda_bfloat16(device: torch.device) -> tuple[bool, str]:
    major, minor = torch.cuda.get_device_capability(device)
    return major >= 8, f"compute capability {major}.{minor}"


def _choose_dtype(asked: str, device: torch.device) -> Choice:
    native, reason = _cuda_bfloat16(device) if device.type == "cuda" else _cpu_bfloat16()
    if asked == "auto":
        return Choice(asked, "bfloat16" if native else "float32", reason)
    if asked == "bfloat16" and device.type == "cuda" and not native:
        raise BackendError(f"--dtype bfloat16: {reason} has no bfloat16 arithmetic; use --dtype float32")
    emulated = asked == "bfloat16" and not native
    return Choice(asked, asked, f"asked for; emulated, {reason}" if emulated else "asked for")


def warm_up(device: torch.device, dtype: torch.dtype) -> None:
    """Load the GPU libraries that nearly every network uses. Does nothing on a CPU.

    cuBLAS, cuDNN and the attention kernels take a second to load, which can overlap with reading weights.
    """
    if device.type != "cuda":
        return
    with torch.inference_mode():
        for kind in {dtype, torch.float32}:
            square = torch.zeros(64, 64, device=device, dtype=kind)
            torch.nn.functional.linear(square, square, square[0])
            torch.nn.functional.layer_norm(square, (64,), square[0], square[0])
            picture = torch.zeros(1, 16, 16, 16, device=device, dtype=kind)
            torch.nn.functional.conv2d(picture, picture[:, :, :3, :3].contiguous(), padding=1)
            torch.nn.functional.interpolate(picture, scale_factor=2.0, mode="bilinear", align_corners=True)
        heads = torch.zeros(1, 4, 64, 64, device=device, dtype=dtype)
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)


def warm_up_compiler() -> None:
    """Let Triton hash its own sources, which it does once per process before its first kernel to validate its disk
    cache. That takes half a second, which can overlap with reading weights.
    """
    try:
        from triton.runtime.cache import triton_key
    except ImportError:  # other versions have this elsewhere and do it on demand
        return
    triton_key()


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (torch's on every device)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# of torch's allocators, and of oneDNN, whose other reasons are excluded before it is called
_NO_MEMORY = ("DefaultCPUAllocator", "not enough memory", "CUDA out of memory", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that device or host ran out of memory. On a CPU torch says so only in the text of a
    RuntimeError.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    return any(said in text for said in _NO_MEMORY)


def peak_memory(device: torch.device | None = None) -> dict[str, int]:
    """Peak memory of this process in bytes: `host_bytes`, and `device_bytes` if `device` is a GPU."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    peak = {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device is not None and device.type == "cuda":
        peak["device_bytes"] = torch.cuda.max_memory_allocated(device)
    return peak


def processor() -> str:
    """Name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of lite3r and of the packages that affect results, and the processor, for run.json."""
    found = {
        "lite3r": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
    }
    used = [package for package, module in REPORTED_IF_USED.items() if module in sys.modules]
    for package in (*ALWAYS_REPORTED, *used):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"  # e.g. OpenCV from a system package
    return found
