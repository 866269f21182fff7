"""What a measurement was taken on: versions, packages, cores, limits, load, devices."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import onnxruntime

from onnxprune.runtime import cuda, nvml
from onnxprune.runtime.children import memory_limit_note

# Instruction sets that change which kernels ONNX Runtime picks, widest first; names as Linux's /proc/cpuinfo has them.
INSTRUCTION_SETS = (
    "amx_tile",
    "avx512_vnni",
    "avx512f",
    "avx_vnni",
    "avx2",
    "avx",
    "sse4_2",
    "sve",
    "asimddp",
    "asimd",
)

# Distributions that all install the same `onnxruntime` folder.
RUNTIME_PACKAGES = frozenset(
    {"onnxruntime", "ort-nightly", "ort-nightly-gpu"}
    | {
        f"onnxruntime-{kind}"
        for kind in ("gpu", "directml", "openvino", "rocm", "migraphx", "training", "qnn", "silicon")
    }
)


def environment() -> dict[str, object]:
    """What this machine is, as plain JSON values; `notes` holds sentences that belong into every report."""
    notes = [note for note in (conflicting_packages(), memory_limit_note()) if note]
    return {
        "onnxruntime": onnxruntime.__version__,
        "packages": dict(installed_packages()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "instruction_sets": instruction_sets(),
        "cores_available": cores_available(),
        "cores_limit_cgroup": _cgroup_cores(),
        "load_average": load_average(),
        "affinity": affinity(),
        "cuda_devices": cuda.device_names(),
        "cuda_driver": nvml.driver_version(),
        "notes": notes,
    }


def conflicting_packages() -> str | None:
    """The sentence with the remedy if ONNX Runtime packages that overwrite each other are installed together."""
    names = [name for name, _ in installed_packages()]
    if len(names) < 2:
        return None
    return (
        f"{' and '.join(names)} are installed together and overwrite each other's files. "
        f"Run pip uninstall -y {' '.join(names)}, then install one of them again."
    )


def installed_packages() -> list[tuple[str, str]]:
    """(name, version) of every installed distribution that ships the `onnxruntime` module."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name in RUNTIME_PACKAGES:
            found[name] = distribution.version
    return sorted(found.items())


def cores_available() -> int:
    """Cores that this process may use: its affinity mask, bounded by a cgroup's CPU quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cores()
    return max(1, min(cores, int(quota))) if quota else cores


def affinity() -> list[int] | None:
    """The cores that this process may be scheduled on, None where the system doesn't say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def load_average() -> float | None:
    """Load of the last minute, None where the system keeps none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _cgroup_cores() -> float | None:
    """Cores' worth of CPU time that this process's control group grants, None without a limit."""
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            words = Path(quota_file).read_text().split()
            if period_file:
                words.append(Path(period_file).read_text().strip())
        except OSError:
            continue
        if len(words) == 2 and words[0] not in ("max", "-1"):
            return int(words[0]) / int(words[1])
    return None


def _cpu_lines() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo, empty elsewhere."""
    if not sys.platform.startswith("linux"):
        return {}
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _processor() -> str:
    return _cpu_lines().get("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Those of INSTRUCTION_SETS that this processor has."""
    lines = _cpu_lines()
    flags = set((lines.get("flags") or lines.get("Features") or "").split())
    return [name for name in INSTRUCTION_SETS if name in flags]
