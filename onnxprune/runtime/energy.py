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
    try:
        packages = [_Package(zone) for zone in sorted(RAPL.glob("intel-rapl:[0-9]*")) if ":" not in zone.name[11:]]
    except (OSError, ValueError):
        return None  # root's only, on most systems
    if not packages:
        return None
    return Counter("RAPL, all packages", lambda: sum(package.read_uj() for package in packages) / 1e3)


class _Package:
    """One package's counter, which starts again at 0 after some minutes to hours."""

    def __init__(self, zone: Path) -> None:
        self.file = zone / "energy_uj"
        self.range_uj = int((zone / "max_energy_range_uj").read_text())
        self.latest_uj, self.turns = int(self.file.read_text()), 0

    def read_uj(self) -> int:
        """Microjoules so far, over all turns."""
        now = int(self.file.read_text())
        self.turns += now < self.latest_uj
        self.latest_uj = now
        return now + self.turns * self.range_uj


def estimate(macs: int, weight_bytes: int, dtype: str = "float32") -> EnergyEstimate:
    """The estimate for one sample: every multiply-add once, every weight read once from DRAM."""
    return EnergyEstimate(
        compute_mj=macs * MULTIPLY_ADD_PJ.get(dtype, MULTIPLY_ADD_PJ["float32"]) * 1e-9,
        memory_mj=weight_bytes * DRAM_BYTE_PJ * 1e-9,
        macs=macs,
        bytes=weight_bytes,
    )
