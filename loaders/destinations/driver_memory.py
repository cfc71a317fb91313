"""GPU memory straight from the driver, for what wants whole allocations: cuFile registers nothing less.

    torch's allocator    |segment: our buffer|other tensors ...|     registered, all of it would be
    the driver's         |our buffer                           |     in the context that torch works in as well

It is given back when nobody refers to it any more; the driver waits for what the device still does then.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..buffers import ALIGNMENT_BYTES
from .device import DestinationError

GPU_PAGE_BYTES = 64 << 10  # what a GPU's memory is pinned by
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_int),
    "cuCtxPushCurrent_v2": (ctypes.c_void_p,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(ctypes.c_void_p),),
    "cuMemAlloc_v2": (ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
}


class Allocation:
    """All of one allocation of the driver's; also as the CUDA array interface (version 3) has it."""

    def __init__(self, driver: Driver, address: int, size_bytes: int) -> None:
        self.address = address
        self.size_bytes = size_bytes
        weakref.finalize(self, driver.free, address).atexit = False

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        shape = (self.size_bytes,)
        return {"shape": shape, "typestr": "|u1", "data": (self.address, False), "strides": None, "version": 3}


class Driver:
    """The CUDA driver, and the context that CUDA's runtime, and so torch, has on GPU `number`."""

    def __init__(self, number: int, library: str = "libcuda.so.1") -> None:
        self._library = _loaded(library)
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), number)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device.value)

    def allocate(self, size_bytes: int) -> Allocation:
        """At least this much memory, and a page more, so that a whole page can be the first; whole GPU pages."""
        whole = -(-(size_bytes + ALIGNMENT_BYTES) // GPU_PAGE_BYTES) * GPU_PAGE_BYTES
        address = ctypes.c_uint64()
        with self._current():
            self._call("cuMemAlloc_v2", ctypes.byref(address), whole)
        return Allocation(self, address.value, whole)

    def free(self, address: int) -> None:
        """Give memory back, once the device is done with it."""
        with self._current():
            self._call("cuMemFree_v2", address)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """The context is this thread's meanwhile, whatever it was before."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _call(self, name: str, *arguments: Any) -> None:
        """Raise DestinationError where the driver's function fails."""
        if code := getattr(self._library, name)(*arguments):
            raise DestinationError(
                f"GPU memory for kvikio cannot be had ({name} answers {code}); use smaller batches or a smaller "
                f"prefetch_factor, or another engine"
            )


@cache
def driver_of(number: int) -> Driver:
    """The driver on one GPU, of whose context this process keeps hold."""
    return Driver(number)


def _loaded(library: str) -> Any:
    try:
        loaded = ctypes.CDLL(library)
    except OSError as error:
        raise DestinationError(
            f"the CUDA driver cannot be loaded ({error}); see whether `nvidia-smi` answers"
        ) from error
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    return loaded
