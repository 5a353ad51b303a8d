"""Initialises the CUDA driver in a thread while Python imports torch. Both take a noticeable part of a second.

torch uses the primary context of the device, which the driver creates once per process. If anything is missing, nothing
happens here and torch reports the error.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import threading
from pathlib import Path

# Seconds that a thread may keep Python's lock while others wait; Python's own value is 50 times as long. A thread that
# launches kernels gives the lock away at each of thousands of launches, and the GPU is idle until it gets it back.
TURN = 1e-4


def begin(device: str) -> None:
    """Create the context of a device ("auto", "cuda", "cuda:N") if the installed torch can use it, and let the threads
    of this process take turns more often.
    """
    if device != "cpu" and _torch_has_cuda():
        sys.setswitchinterval(TURN)
        _, _, number = device.partition(":")
        threading.Thread(target=_retain, args=(int(number or 0),), name="start CUDA", daemon=True).start()


def _torch_has_cuda() -> bool:
    """Decided by torch's files, because importing torch would take too long."""
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
