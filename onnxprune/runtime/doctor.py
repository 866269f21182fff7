"""What this machine can measure, and what it lacks for the rest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import time
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

from onnxprune.errors import OnnxPruneError
from onnxprune.runtime import cuda, energy, nvml
from onnxprune.runtime.children import memory_limit_note, run_in_child
from onnxprune.runtime.diagnosis import block_size
from onnxprune.runtime.environment import conflicting_packages, environment
from onnxprune.runtime.session import SessionSettings, open_session, placement, why_refused

State = Literal["there", "missing", "note"]
OPTIONAL = {
    "sklearn": ("scikit-learn", "precision, recall, F1, mAP", "pip install 'onnxprune[metrics]'"),
    "jiwer": ("jiwer", "character and word error rate", "pip install 'onnxprune[metrics]'"),
    "mir_eval": ("mir_eval", "raw pitch accuracy", "pip install 'onnxprune[metrics]'"),
    "PIL": ("pillow", "image folders", "pip install 'onnxprune[metrics]'"),
    "datasets": ("datasets", "Hugging Face datasets", "pip install datasets"),
    "torch": ("torch", "training and pruning", "pip install 'onnxprune[train]'"),
}
BUSY = 0.5  # of the cores: above this, verdicts take longer
NOISE_S = 1.0


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing: what was looked for, whether it is there, what was found, and what to do where it isn't."""

    what: str
    state: State
    found: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """What was found on this machine, thing by thing."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0, or 3 where not even the CPU can be measured, or packages overwrite each other."""
        return 3 if any(check.state == "missing" and check.what in VITAL for check in self.checks) else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"exit_code": self.exit_code, "checks": [dataclasses.asdict(check) for check in self.checks]}


VITAL = ("one ONNX Runtime", "CPU provider")


def examine() -> Doctor:
    """Look at everything that a measurement may need. Takes a few seconds, as a small model is run."""
    machine = environment()
    return Doctor(
        (
            *_runtime(machine),
            *_cpu(machine),
            _noise(),
            *_cuda(),
            *(_energy(provider) for provider in ("cpu", "cuda")),
            _memory(),
            *(_package(module, *words) for module, words in OPTIONAL.items()),
        )
    )


def _runtime(machine: dict[str, Any]) -> list[Check]:
    clash = conflicting_packages()
    names = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return [
        Check("one ONNX Runtime", "missing", clash.split(". ")[0], clash.split(". ", 1)[1])
        if clash
        else Check("one ONNX Runtime", "there", names or onnxruntime.__version__),
    ]


def _cpu(machine: dict[str, Any]) -> list[Check]:
    try:
        seen = placement(open_session(_small_model(), SessionSettings()), "cpu")
        provider = Check(
            "CPU provider",
            "there",
            f"{machine['processor']}, {sum(seen.nodes_per_provider.values())} of 1 node ran there",
        )
    except OnnxPruneError as error:
        provider = Check("CPU provider", "missing", str(error), "Install onnxruntime again.")
    block = block_size()
    cores, limit, load = machine["cores_available"], machine["cores_limit_cgroup"], machine["load_average"]
    found = [
        provider,
        Check(
            "blocked layout",
            "there" if block else "note",
            f"{block} channels ({', '.join(machine['instruction_sets'][:3])})" if block else "not on this processor",
        ),
        Check("cores", "there", f"{cores}" + (f" of a limit of {limit:g}" if limit else ", no control group limit")),
    ]
    if load is not None:
        busy = load > BUSY * cores
        found.append(
            Check(
                "quiet machine",
                "note" if busy else "there",
                f"load {load:g} on {cores} cores",
                "Verdicts stay right, but take longer: stop what else runs." if busy else "",
            )
        )
    return found


def _noise() -> Check:
    """How much the median of 50 ms changes from one to the next on this machine, now."""
    try:
        medians = run_in_child(windows, timeout_s=60)
    except OnnxPruneError as error:
        return Check("steady clock", "missing", f"Timing a small model {error}", "Report it with --debug.")
    spread = float(np.ptp(np.quantile(medians, [0.1, 0.9])) / np.median(medians))
    return Check(
        "steady clock",
        "there" if spread < 0.1 else "note",
        f"a small model's time varies by {spread:.1%} from one moment to the next",
        "" if spread < 0.1 else "Measure longer (--for), or with --until 1%.",
    )


def windows() -> list[float]:
    """Medians of many windows of 50 ms of a small model."""
    session = open_session(_small_model(), SessionSettings())
    feed = {"x": np.ones((1, 64), np.float32)}
    medians, end = [], time.perf_counter() + NOISE_S
    while time.perf_counter() < end:
        times, stop = [], time.perf_counter() + 0.05
        while time.perf_counter() < stop:
            start = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - start)
        medians.append(float(np.median(times)))
    return medians


def _cuda() -> list[Check]:
    reason = why_refused("cuda")
    if reason:
        first, _, rest = reason.partition(". ")
        return [Check("CUDA provider", "missing", first, rest)]
    try:
        seen = run_in_child(_cuda_nodes, timeout_s=120)
    except OnnxPruneError as error:
        return [Check("CUDA provider", "missing", str(error), "See what onnxprune doctor --debug shows.")]
    clocks = nvml.clocks()
    return [
        Check(
            "CUDA provider",
            "there",
            f"{', '.join(cuda.device_names())}, driver {nvml.driver_version()}, {seen} of 1 node ran there",
        ),
        Check("CUDA clocks", "there" if clocks else "missing", str(clocks) if clocks else "NVML doesn't answer"),
    ]


def _cuda_nodes() -> int:
    seen = placement(open_session(_small_model(), SessionSettings("cuda")), "cuda")
    return sum(seen.nodes_per_provider.values())


def _energy(provider: str) -> Check:
    found = energy.counter(provider)
    what = f"energy, {provider}"
    if found is not None:
        return Check(what, "there", found.name)
    if provider == "cpu":
        readable = any(energy.RAPL.glob("intel-rapl:*"))
        state = "can't be read" if readable else "aren't there"
        return Check(
            what,
            "missing",
            f"RAPL's counters {state}; an estimate takes their place",
            "Run as root, or make /sys/class/powercap/intel-rapl:*/energy_uj readable." if readable else "",
        )
    return Check(what, "missing", "no GPU counts its energy here; an estimate takes its place")


def _memory() -> Check:
    note = memory_limit_note()
    if note:
        return Check("memory limit", "note", note)
    return Check("memory limit", "there", "a model that takes too much ends in its own process")


def _package(module: str, name: str, purpose: str, remedy: str) -> Check:
    if importlib.util.find_spec(module) is None:
        return Check(name, "missing", f"for {purpose}", remedy)
    return Check(name, "there", f"{importlib.metadata.version(name)}, for {purpose}")


def _small_model() -> bytes:
    text = '<ir_version: 10, opset_import: ["" : 18]> net (float[N, 64] x) => (float[N, 64] y) { y = MatMul (x, w) }'
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(64, dtype=np.float32), "w"))
    onnx.checker.check_model(model)
    return model.SerializeToString()
