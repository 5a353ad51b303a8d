"""The CUDA driver made ready in a thread, while Python imports torch: both take a part of a second or more.

torch uses the device's primary context, which the driver makes once for a process and hands to all who ask. Where
anything is missing nothing happens here: torch then says what is wrong.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from pathlib import Path


def begin(device: str) -> None:
    """Make the context of a device ("auto", "cuda", "cuda:N") if this torch could use it."""
    if device != "cpu" and _torch_has_cuda():
        _, _, number = device.partition(":")
        threading.Thread(target=_retain, args=(int(number or 0),), name="start CUDA", daemon=True).start()


def _torch_has_cuda() -> bool:
    """By its files: importing it is what there is no time for."""
    found = importlib.util.find_spec("torch")
    places = [] if found is None else found.submodule_search_locations or []
    return any(Path(place, "lib", "libtorch_cuda.so").exists() for place in places)


def _retain(number: int) -> None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(handle), number) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle)
