"""A GPU without a framework: what these tests need of NVIDIA's driver API, by ctypes.

Functions and their meaning: the CUDA driver API reference (https://docs.nvidia.com/cuda/cuda-driver-api/). Tests pickle
this module by value (`cloudpickle.register_pickle_by_value`), so that workers need not find it.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY

# y[i] = a * x[i] + y[i] for i < n, in PTX 7.0 (the driver compiles it for the device that is there)
SAXPY = b"""
.version 7.0
.target sm_50
.address_size 64
.visible .entry saxpy(.param .u64 px, .param .u64 py, .param .f32 pa, .param .u32 pn)
{
    .reg .pred  %p<2>;
    .reg .b32   %r<6>;
    .reg .f32   %f<5>;
    .reg .b64   %rd<8>;
    ld.param.u64    %rd1, [px];
    ld.param.u64    %rd2, [py];
    ld.param.f32    %f1, [pa];
    ld.param.u32    %r1, [pn];
    mov.u32         %r2, %ctaid.x;
    mov.u32         %r3, %ntid.x;
    mov.u32         %r4, %tid.x;
    mad.lo.s32      %r5, %r2, %r3, %r4;
    setp.ge.u32     %p1, %r5, %r1;
    @%p1 bra        end;
    cvta.to.global.u64  %rd3, %rd1;
    cvta.to.global.u64  %rd4, %rd2;
    mul.wide.u32    %rd5, %r5, 4;
    add.s64         %rd6, %rd3, %rd5;
    add.s64         %rd7, %rd4, %rd5;
    ld.global.f32   %f2, [%rd6];
    ld.global.f32   %f3, [%rd7];
    fma.rn.f32      %f4, %f1, %f2, %f3;
    st.global.f32   [%rd7], %f4;
end:
    ret;
}
\x00"""


class CudaError(RuntimeError):
    def __init__(self, function: str, code: int) -> None:
        super().__init__(function, code)
        self.code = code


def is_there() -> bool:
    """Whether this machine has a device and a driver that one can call."""
    if not os.path.exists("/dev/nvidiactl"):
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


class Device:
    """The first device that this process sees, with a context that is current in this thread; memory lives until the
    process ends or `free` is called. Raises `CudaError` with the driver's code."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", ctypes.c_uint(0))
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)

    def count(self) -> int:
        """The devices that this process sees."""
        number = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(number))
        return number.value

    def uuid(self) -> str:
        """As NVML writes it: GPU-xxxxxxxx-xxxx-..."""
        raw = (ctypes.c_ubyte * 16)()
        self._call("cuDeviceGetUuid", raw, self._device)
        digits = bytes(raw).hex()
        return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def memory(self) -> tuple[int, int]:
        """Free and all bytes of the device."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> ctypes.c_uint64:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address

    def free(self, address: ctypes.c_uint64) -> None:
        self._call("cuMemFree_v2", address)

    def saxpy(self, factor: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """`factor * x + y`, all float32 of one shape (n,), computed on the device; `x` and `y` may be read-only."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), SAXPY)
        self._call("cuModuleGetFunction", ctypes.byref(function), module, b"saxpy")
        on_device = [self.allocate(x.nbytes), self.allocate(y.nbytes)]
        for address, array in zip(on_device, (x, y), strict=True):
            self._call("cuMemcpyHtoD_v2", address, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        values = [*on_device, ctypes.c_float(factor), ctypes.c_uint32(x.size)]
        arguments = (ctypes.c_void_p * 4)(*(ctypes.addressof(value) for value in values))
        blocks = (ctypes.c_uint(-(-x.size // 256)), ctypes.c_uint(1), ctypes.c_uint(1))
        threads = (ctypes.c_uint(256), ctypes.c_uint(1), ctypes.c_uint(1))
        self._call("cuLaunchKernel", function, *blocks, *threads, ctypes.c_uint(0), None, arguments, None)
        result = np.empty_like(y)
        size = ctypes.c_size_t(result.nbytes)
        self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(result.ctypes.data), on_device[1], size)
        for address in on_device:
            self.free(address)
        self._call("cuModuleUnload", module)
        return result

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code != 0:
            raise CudaError(name, code)
