"""Loads torch's libraries and initialises the CUDA driver in a thread, while Python looks for the images and imports
torch. Each takes a noticeable part of a second.

The loader of shared libraries serves one thread at a time, so this begins when Python has imported its other ones.
torch uses the primary context of the device, which the driver creates once per process. If anything is missing, nothing
happens here and torch reports the error.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from pathlib import Path

# Seconds that a thread may keep Python's lock while others wait; Python's own value is 50 times as long. A thread that
# launches kernels gives the lock away at each of thousands of launches, and the GPU is idle until it gets it back.
TURN = 1e-4
# In the order and with the visibility of torch's own import; neither of the two needs Python.
LIBRARIES = {"libtorch_global_deps.so": ctypes.RTLD_GLOBAL, "libtorch.so": ctypes.RTLD_LOCAL}


def begin(device: str) -> None:
    """Load the libraries, create the context of a device ("auto", "cuda", "cuda:N") if the installed torch can use it,
    and let the threads of this process take turns more often.
    """
    if "torch" not in sys.modules:
        # no daemon: a process must not end while a library is being loaded (`entry.leave` may)
        threading.Thread(target=_load_libraries, name="load libraries").start()
    if device != "cpu" and _torch_file("libtorch_cuda.so") is not None:
        sys.setswitchinterval(TURN)
        _, _, number = device.partition(":")
        threading.Thread(target=_retain, args=(int(number or 0),), name="start CUDA", daemon=True).start()


def _torch_file(name: str) -> Path | None:
    """A library of the installed torch, which is not imported for it, because that would take too long."""
    found = importlib.util.find_spec("torch")
    places = [] if found is None else found.submodule_search_locations or []
    return next((path for place in places if (path := Path(place, "lib", name)).exists()), None)


def _load_libraries() -> None:
    try:
        load = ctypes.CDLL(None).dlopen  # ctypes.CDLL of a library would keep Python's lock meanwhile
    except (OSError, AttributeError):
        return
    load.restype, load.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    for name, visibility in LIBRARIES.items():
        path = _torch_file(name)
        if path is None or load(os.fsencode(path), os.RTLD_NOW | visibility) is None:
            return


def _retain(number: int) -> None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(handle), number) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle)
