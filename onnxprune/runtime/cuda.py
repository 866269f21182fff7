"""What stands between this machine and ONNX Runtime's CUDA provider, found out before a session is asked for.

Without its libraries ONNX Runtime warns on stderr, runs on the CPU and still calls itself a GPU build; so every
condition is checked here first and the one that fails is named.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import sys
from pathlib import Path

import onnxruntime

CUDA = "CUDAExecutionProvider"
CUDA_LIBRARIES = ("libcuda", "libcublas", "libcudnn", "libonnxruntime_providers_cuda")


def why_not_cuda() -> str | None:
    """The sentence that says what this machine lacks for the CUDA provider, None if nothing."""
    if CUDA not in onnxruntime.get_available_providers():
        return (
            f"The installed ONNX Runtime {onnxruntime.__version__} has no CUDA provider. "
            "Uninstall onnxruntime, then install onnxruntime-gpu (Linux or Windows on x86-64)."
        )
    driver = _driver()
    missing = missing_libraries()
    if missing:
        missing += [] if driver else ["libcuda"]
        return (
            f"The CUDA provider of ONNX Runtime {onnxruntime.__version__} can't load {', '.join(missing)}. Install "
            f"{'the NVIDIA driver and ' if driver is None else ''}CUDA {cuda_major()} (pip install 'onnxprune[cuda]')."
        )
    if driver is None:
        return "The NVIDIA driver's library libcuda can't be loaded. Install the NVIDIA driver."
    if not device_names():
        return "The NVIDIA driver sees no device. Check nvidia-smi and CUDA_VISIBLE_DEVICES."
    return None


def cuda_major() -> str:
    """Major version of CUDA that this ONNX Runtime was built for, "" for a CPU build."""
    return (getattr(onnxruntime, "cuda_version", "") or "").split(".")[0]


@functools.cache
def preload() -> None:
    """Load the CUDA libraries that pip installed, as `onnxruntime.preload_dlls` does, without its printing."""
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


def missing_libraries() -> list[str]:
    """Names of the shared libraries that the CUDA provider is linked to and that don't load here."""
    preload()
    return [name for name in _linked_libraries() if not _loads(name)]


def mapped_libraries() -> list[str]:
    """Files of the CUDA, cuBLAS and cuDNN libraries that are really mapped into this process (Linux; else empty)."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    files = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    return sorted(file for file in files if Path(file).name.startswith(CUDA_LIBRARIES))


def device_names() -> list[str]:
    """Names of the CUDA devices that the driver sees."""
    driver = _driver()
    if driver is None or driver.cuInit(0) != 0:
        return []
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    names = []
    for index in range(count.value):
        name = ctypes.create_string_buffer(256)
        if driver.cuDeviceGetName(name, 256, index) == 0:
            names.append(name.value.decode(errors="replace"))
    return names


def _linked_libraries() -> list[str]:
    """What the CUDA provider needs of CUDA, as its dynamic section lists it; cuDNN is optional and loaded late."""
    major = cuda_major()
    if sys.platform == "win32":
        return [f"cublasLt64_{major}.dll", f"cublas64_{major}.dll", f"cudart64_{major}.dll"]
    return [f"libcublasLt.so.{major}", f"libcublas.so.{major}", f"libcudart.so.{major}", "libcurand.so.10"]


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _driver() -> ctypes.CDLL | None:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
