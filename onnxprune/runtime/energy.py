"""Joules of an inference: counted where the machine counts them, else estimated, and then called an estimate.

Sources: Linux powercap sysfs (RAPL); NVML API Reference; Horowitz, Computing's energy problem (ISSCC 2014), figure
1.1.9, 45 nm at 0.9 V: what the estimate's constants are taken from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from onnxprune.runtime import nvml

RAPL = Path("/sys/class/powercap")

#: Picojoules of one multiply and one add, and of one byte from DRAM (64 bits cost 1.3 to 2.6 nJ: 2 nJ).
MULTIPLY_ADD_PJ = {"float32": 3.7 + 0.9, "float16": 1.1 + 0.4, "int8": 0.2 + 0.03}
DRAM_BYTE_PJ = 2000 / 8
CONSTANTS = "Horowitz, ISSCC 2014 (45 nm): float32 multiply 3.7 pJ and add 0.9 pJ, DRAM 2 nJ for 64 bits"


@dataclasses.dataclass(frozen=True)
class Counter:
    """A counter of energy: its name, and a function that reads it in millijoules."""

    name: str
    read_mj: Callable[[], float]


@dataclasses.dataclass(frozen=True)
class EnergyEstimate:
    """What an inference would take by published constants: millijoules for arithmetic and for memory traffic.

    bytes: every weight once. Absolute figures are those of a 45 nm chip; ratios between two networks mean more.
    """

    compute_mj: float
    memory_mj: float
    macs: int
    bytes: int
    constants: str = CONSTANTS

    @property
    def total_mj(self) -> float:
        """Arithmetic and memory together."""
        return self.compute_mj + self.memory_mj


def counter(provider: str) -> Counter | None:
    """What counts energy here: the GPU's own counter for CUDA, RAPL's packages for the CPU, None where neither does."""
    if provider == "cuda":
        return None if nvml.energy_mj() is None else Counter("NVML, GPU 0", lambda: nvml.energy_mj() or 0.0)
    files = [zone / "energy_uj" for zone in sorted(RAPL.glob("intel-rapl:[0-9]*")) if ":" not in zone.name[11:]]
    try:
        for file in files:
            file.read_text()
    except OSError:
        return None  # root's only, on most systems
    if not files:
        return None
    return Counter("RAPL, all packages", lambda: sum(int(file.read_text()) for file in files) / 1e3)


def estimate(macs: int, weight_bytes: int, dtype: str = "float32") -> EnergyEstimate:
    """The estimate for one sample: every multiply-add once, every weight read once from DRAM."""
    return EnergyEstimate(
        compute_mj=macs * MULTIPLY_ADD_PJ.get(dtype, MULTIPLY_ADD_PJ["float32"]) * 1e-9,
        memory_mj=weight_bytes * DRAM_BYTE_PJ * 1e-9,
        macs=macs,
        bytes=weight_bytes,
    )
