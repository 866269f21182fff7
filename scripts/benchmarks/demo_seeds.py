"""The demo over three seeds, held against what it promises: docs/benchmarks/demo_seeds.md.

    python scripts/benchmarks/demo_seeds.py [-o runs/demo_seeds] [--seeds 0 1 2] [--recipe digits]

Each run resumes where it was interrupted; finished ones are only read. Exit code 1 where a promise is missed.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from onnxprune import pipeline
from onnxprune.compress import CompressedRun
from onnxprune.display import ProgressBars

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks" / "demo_seeds.md"
POINTS = 100


@dataclass(frozen=True)
class Result:
    """One seed's figures: accuracies and ratios as fractions, minutes of wall clock for the whole run."""

    seed: int
    dense: float
    pruned: float
    macs: float
    params: float
    latency: float
    low: float
    high: float
    error_over_range: float
    exit_code: int
    minutes: float

    @property
    def drop(self) -> float:
        """Accuracy lost, in points."""
        return (self.dense - self.pruned) * POINTS


def measure(seed: int, folder: Path, recipe: str) -> Result:
    """Run the recipe with `seed`, and note how long it took beside the run."""
    clock = folder.with_suffix(".minutes.json")
    spent = json.loads(clock.read_text()) if clock.exists() else 0.0
    finished = (folder / "report.html").exists()
    started = time.monotonic()
    try:
        with ProgressBars() as progress:
            run = pipeline.compress(recipe, folder, resume=True, progress=progress, seed=seed)
    finally:
        if not finished:
            spent += (time.monotonic() - started) / 60
            clock.write_text(json.dumps(spent))
    return figures(seed, run, spent)


def figures(seed: int, run: CompressedRun, minutes: float) -> Result:
    """What the document shows of a run: the CPU's accuracy, and its latency at batch 1 on one thread."""
    found = run.validation
    (accuracy,) = (row for row in found.accuracy if row.provider == "cpu")
    latency = next(c for c in found.latency if (c.provider, c.batch, c.threads) == ("cpu", 1, 1))
    (ratio,) = latency.ratios
    return Result(
        seed=seed,
        dense=accuracy.reference,
        pruned=accuracy.candidate,
        macs=found.candidate.macs / found.reference.macs,
        params=found.candidate.params / found.reference.params,
        latency=ratio.ratio,
        low=ratio.low,
        high=ratio.high,
        error_over_range=found.equivalence.error_over_range,
        exit_code=run.exit_code,
        minutes=minutes,
    )


def promises(results: list[Result]) -> list[tuple[str, str, bool]]:
    """(what is promised, what was found, kept?) for everything that the demo promises."""

    def spread(values: list[float], form: str) -> str:
        return ", ".join(format(value, form) for value in values)

    drops = [r.drop for r in results]
    return [
        (
            "dense at least 97.8% in each",
            spread([r.dense for r in results], ".1%"),
            all(r.dense >= 0.978 for r in results),
        ),
        ("at most 20% of the MACs", spread([r.macs for r in results], ".1%"), all(r.macs <= 0.2 for r in results)),
        (
            "at most 20% of the parameters",
            spread([r.params for r in results], ".1%"),
            all(r.params <= 0.2 for r in results),
        ),
        (
            "at most 0.5 points below dense in the mean",
            f"{statistics.mean(drops):+.2f}",
            statistics.mean(drops) <= 0.5 + 1e-9,
        ),
        ("at most 1.0 points below dense in any", spread(drops, "+.1f"), all(drop <= 1.0 + 1e-9 for drop in drops)),
        (
            "CPU latency at batch 1 at most half",
            spread([r.latency for r in results], ".3f"),
            all(r.latency <= 0.5 for r in results),
        ),
        (
            "equivalent within 1e-5 of the range",
            spread([r.error_over_range for r in results], ".0e"),
            all(r.error_over_range <= 1e-5 for r in results),
        ),
        ("exit code 0", spread([r.exit_code for r in results], "d"), all(r.exit_code == 0 for r in results)),
        (
            "at most 8 minutes on 2 cores",
            spread([r.minutes for r in results], ".1f"),
            all(r.minutes <= 8 for r in results),
        ),
    ]


def document(results: list[Result], recipe: str, machine: dict) -> str:
    """The Markdown page: one row a seed, then the promises."""
    lines = [
        f"# The demo over {len(results)} seeds",
        "",
        f"Printed by `python scripts/benchmarks/demo_seeds.py`: recipe `{recipe}`, ONNX Runtime "
        f"{machine['onnxruntime']}, {machine['processor']}, {machine['cores_available']} cores. Accuracy is on the "
        "test digits, seen once. Latency is the pruned network's time over the dense one's at batch 1 on one thread, "
        "with its 95% interval. The error is over the output range, against the trained module.",
        "",
        "| seed | dense | pruned | MACs | parameters | latency | error | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.seed} | {r.dense:.1%} | {r.pruned:.1%} | {r.macs:.1%} | {r.params:.1%} | "
        f"{r.latency:.3f} [{r.low:.3f}, {r.high:.3f}] | {r.error_over_range:.0e} | {r.minutes:.1f} |"
        for r in results
    ]
    lines += ["", "| promised | found | kept |", "|---|---|---|"]
    lines += [f"| {what} | {found} | {'yes' if kept else '**no**'} |" for what, found, kept in promises(results)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/demo_seeds"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="digits")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    results, machine = [], {}
    for seed in arguments.seeds:
        folder = arguments.out / f"{arguments.recipe}-{seed}"
        results.append(measure(seed, folder, arguments.recipe))
        machine = json.loads((folder / "validation.json").read_text())["environment"]
    page = document(results, arguments.recipe, machine)
    print(page, end="")
    if (arguments.recipe, arguments.seeds) == ("digits", [0, 1, 2]):
        DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
        DOCUMENT.write_text(page)
    return 0 if all(kept for _, _, kept in promises(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
