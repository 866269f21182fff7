"""What the NVIDIA driver's management library says about the device: driver, clocks, throttling, energy.

Called through ctypes, as libnvidia-ml comes with the driver and not from a package index. Everything is None or empty
where there is no such library or the device doesn't answer. Source: NVML API Reference.
"""

from __future__ import annotations

import ctypes
import functools
import sys

#: Bits of nvmlDeviceGetCurrentClocksEventReasons that mean that the clock isn't what it could be.
THROTTLE_REASONS = {
    0x2: "application clocks setting",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown by software",
    0x40: "thermal slowdown by hardware",
    0x80: "power brake",
}
SM, MEMORY = 1, 2  # nvmlClockType_t


def driver_version() -> str | None:
    """Version of the driver, such as "580.65.06"."""
    library = _library()
    if library is None:
        return None
    text = ctypes.create_string_buffer(96)
    return text.value.decode() if library.nvmlSystemGetDriverVersion(text, len(text)) == 0 else None


def clocks() -> dict[str, object]:
    """Clocks in MHz now and at most, and what holds them down, of device 0; empty where nothing is known."""
    library, device = _library(), _device()
    if library is None or device is None:
        return {}
    found: dict[str, object] = {}
    value = ctypes.c_uint(0)
    for name, kind in (("sm_mhz", SM), ("memory_mhz", MEMORY)):
        if library.nvmlDeviceGetClockInfo(device, kind, ctypes.byref(value)) == 0:
            found[name] = value.value
        if library.nvmlDeviceGetMaxClockInfo(device, kind, ctypes.byref(value)) == 0:
            found[f"{name}_at_most"] = value.value
    reasons = ctypes.c_ulonglong(0)
    if library.nvmlDeviceGetCurrentClocksThrottleReasons(device, ctypes.byref(reasons)) == 0:
        found["throttled_by"] = [words for bit, words in THROTTLE_REASONS.items() if reasons.value & bit]
    return found


def energy_mj() -> float | None:
    """Energy that device 0 has taken since its driver was loaded, in millijoules (Volta and newer)."""
    library, device = _library(), _device()
    if library is None or device is None:
        return None
    value = ctypes.c_ulonglong(0)
    done = library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value))
    return float(value.value) if done == 0 else None


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


@functools.cache
def _device() -> ctypes.c_void_p | None:
    library, device = _library(), ctypes.c_void_p()
    if library is None or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) != 0:
        return None
    return device
