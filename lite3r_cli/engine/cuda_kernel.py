"""CUDA C++ kernels, compiled on first use with the NVRTC library that ships with torch. No compiler or other package is
needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import torch

from lite3r_cli.errors import BackendError

MAX_DYNAMIC_SHARED, CARVEOUT = (
    8,
    9,
)  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, …_PREFERRED_SHARED_MEMORY_CARVEOUT


@cache
def _nvrtc() -> ctypes.CDLL:
    """The NVRTC library of torch. Raises BackendError if there is none."""
    major = (torch.version.cuda or "0").split(".")[0]
    name, site = f"libnvrtc.so.{major}", Path(torch.__file__).parents[1]
    found = [*site.glob(f"nvidia/*/lib/{name}"), *site.glob(f"torch/lib/{name}"), Path("/usr/local/cuda/lib64", name)]
    for path in [name, *found]:
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    raise BackendError(f"{name}, a part of CUDA builds of torch, was not found; use --engine ordinary")


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _checked(status: int, what: str) -> None:
    if status:
        raise BackendError(f"{what} failed with CUDA error {status}; use --engine ordinary")


def compiled(source: str, name: str, architecture: str, defined: Mapping[str, int] = MappingProxyType({})) -> bytes:
    """Compile CUDA C++ for an architecture such as sm_90a, with these macros, to machine code (CUBIN). Raises
    BackendError with the compiler's message.
    """
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    _checked(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None), "NVRTC")
    options = [b"--std=c++17", f"--gpu-architecture={architecture}".encode()]
    options += [f"-D{macro}={value}".encode() for macro, value in defined.items()]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    if status:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise BackendError(f"{name} does not compile for {architecture}: {log.value.decode()[:500]}")
    size = ctypes.c_size_t()
    _checked(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), "NVRTC")
    code = ctypes.create_string_buffer(size.value)
    _checked(nvrtc.nvrtcGetCUBIN(program, code), "NVRTC")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw


class Kernel:
    """A kernel from a .cu file in this folder, loaded into the current device. `threads` per block; `shared`: upper
    limit of the dynamic shared memory in bytes. Raises BackendError if it cannot be compiled or loaded.
    """

    def __init__(
        self,
        file: str,
        name: str,
        architecture: str,
        threads: int,
        shared: int,
        defined: Mapping[str, int] = MappingProxyType({}),
    ):
        source = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
        self.code, self.threads, self.shared = compiled(source, file, architecture, defined), threads, shared
        torch.cuda.current_stream()  # makes torch create the CUDA context
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        cuda = _driver()
        _checked(cuda.cuModuleLoadData(ctypes.byref(module), self.code), f"loading {file}")
        _checked(cuda.cuModuleGetFunction(ctypes.byref(self.function), module, name.encode()), f"finding {name}")
        _checked(cuda.cuFuncSetAttribute(self.function, MAX_DYNAMIC_SHARED, shared), f"shared memory for {name}")
        _checked(cuda.cuFuncSetAttribute(self.function, CARVEOUT, 100), f"shared memory for {name}")

    def __call__(self, blocks: int, *arguments: torch.Tensor | int | float | None, shared: int | None = None) -> None:
        """Launch on torch's current stream. Tensors are passed as pointers, numbers as 32-bit values. `shared` in
        bytes; None: the upper limit.
        """
        values = [_argument(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        given = self.threads, 1, 1, self.shared if shared is None else shared, stream, pointers, None
        status = _driver().cuLaunchKernel(self.function, blocks, 1, 1, *given)
        _checked(status, "a kernel's launch")


def _argument(value: torch.Tensor | int | float | None):
    if value is None:
        return ctypes.c_void_p(0)
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_float(value)
