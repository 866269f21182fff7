"""Latency that was measured on another device, by the runner inside a package: `run.py --benchmark --json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime.latency import Arm, LatencyComparison, Ratio, latency_verdict
from onnxprune.runtime.statistics import unpaired_log_ratio_interval

FORMAT, VERSION = "onnxprune-benchmark", 1
NAMES = ("reference", "candidate")
#: Timings are compared only where all of these are the same.
SAME = ("provider", "threads", "shapes")
SAME_DEVICE = ("processor", "machine", "cores", "system", "gpus", "onnxruntime")


def read_timings(path: str | Path) -> dict[str, Any]:
    """What `run.py --benchmark --json` wrote. Raises: DataError."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if (found["format"], found["format_version"]) != (FORMAT, VERSION):
            raise ValueError(f"its format is {found['format']} {found['format_version']}")
        for key in ("model_sha256", "samples", "median_ms", "p90_ms", "p99_ms", "first_run_ms", "session_ms", *SAME):
            found[key]
        if not all(len(session["runs_ms"]) for session in found["sessions"]) or not found["sessions"]:
            raise ValueError("a session has no runs")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise DataError(
            f"'{path}' isn't what a package's run.py --benchmark --json writes ({why}). Measure again."
        ) from error


def compare_elsewhere(paths: Sequence[str | Path], sha256: Sequence[str]) -> list[LatencyComparison]:
    """One comparison for each setting (provider, batch, threads) that the files hold timings of.

    sha256: of the reference's and the candidate's file, by which timings find their model. Where only one of the two
    was timed there is a row without a ratio, and `refused` says so.
    Raises: DataError (timings of another model, or of two devices).
    """
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    devices: dict[str, str] = {}
    for path in paths:
        found = read_timings(path)
        if found["model_sha256"] not in sha256:
            raise DataError(
                f"'{path}' holds timings of another model ({found['model_sha256'][:12]}). Take its own file."
            )
        name = NAMES[list(sha256).index(found["model_sha256"])]
        device = found.get("device", {})
        devices[str(path)] = json.dumps([device.get(key) for key in SAME_DEVICE])
        setting = tuple(json.dumps(found[key], sort_keys=True) for key in SAME)
        if name in groups.setdefault(setting, {}):
            raise DataError(f"'{path}' holds timings of the {name} that another file holds too. Give one of them.")
        groups[setting][name] = found
    if len(set(devices.values())) > 1:
        raise DataError(f"{' and '.join(devices)} were measured on different devices. Measure both on one.")
    return [_comparison(arms) for arms in groups.values()]


def _comparison(arms: dict[str, dict[str, Any]]) -> LatencyComparison:
    some = next(iter(arms.values()))
    device = some.get("device", {})
    shapes = [shape for shape in some["shapes"].values() if shape]
    missing = [name for name in NAMES if name not in arms]
    ratios: tuple[Ratio, ...] = ()
    if not missing:
        sessions = [[np.array(session["runs_ms"]) for session in arms[name]["sessions"]] for name in NAMES]
        ratio, low, high = unpaired_log_ratio_interval(*sessions)
        ratios = (Ratio("candidate", ratio, low, high, latency_verdict(low, high)),)
    return LatencyComparison(
        provider=some["provider"],
        batch=shapes[0][0] if shapes else 1,
        threads=some["threads"],
        arms=tuple(_arm(name, arms[name]) for name in NAMES if name in arms),
        ratios=ratios,
        refused=f"Only the {NAMES[1 - NAMES.index(missing[0])]} was timed there. Package the {missing[0]} too "
        "(onnxprune package), and run its run.py --benchmark --json there."
        if missing
        else None,
        rounds=min(len(found["sessions"]) for found in arms.values()),
        seconds=sum(sum(session["runs_ms"]) for found in arms.values() for session in found["sessions"]) / 1e3,
        load_before=device.get("load_before"),
        load_after=device.get("load_after"),
        settings={"measured": "one after the other, elsewhere"},
        device=f"{device.get('processor', 'unknown processor')}, {device.get('cores', '?')} cores, "
        f"{device.get('system', 'unknown system')}",
    )


def _arm(name: str, found: dict[str, Any]) -> Arm:
    return Arm(
        name=name,
        median_ms=found["median_ms"],
        p90_ms=found["p90_ms"],
        p99_ms=found["p99_ms"],
        first_run_ms=found["first_run_ms"],
        session_ms=found["session_ms"],
        peak_memory_mb=None,
        samples=found["samples"],
        nodes_per_provider=found.get("nodes_per_provider", {}),
    )
