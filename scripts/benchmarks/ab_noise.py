"""Does the comparison of latencies see what is there, and nothing else? docs/benchmarks/ab_noise.md.

    python scripts/benchmarks/ab_noise.py [-o runs/ab_noise] [--trials 60] [--slow-trials 20] [--beside runs/earlier]

A network is measured against a copy of itself, and against a copy with one more layer that costs 5% of its time. Each
trial is a file in the folder: what is there is only read, so that the run goes on where it was interrupted. Exit code 1
where more was seen than is there, or less.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.runtime.environment import environment
from onnxprune.runtime.latency import compare_latency
from onnxprune.runtime.session import SessionSettings, open_session
from onnxprune.runtime.stopwatch import runner, warm_up

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks" / "ab_noise.md"
SIZE, CHANNELS, TARGET_MS, SLOWDOWN = 28, 32, 1.0, 0.05
ALONE = "alone_ms.json"
FALSE_AT_MOST, FOUND_AT_LEAST, HALF_WIDTH_AT_MOST = 3, 18, 0.02


@dataclass(frozen=True)
class Trial:
    """One comparison: the ratio with its interval, its verdict, and the load while it ran."""

    ratio: float
    low: float
    high: float
    verdict: str
    rounds: int
    seconds: float
    load: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def network(layers: int, extra_channels: int = 0, seed: int = 0) -> onnx.ModelProto:
    """3x3 convolutions over 28x28 pictures; a last one of stride 2 to `extra_channels` channels if that isn't 0."""
    generator = np.random.default_rng(seed)
    nodes, weights, source = [], [], "image"
    widths = [CHANNELS] * layers + ([extra_channels] if extra_channels else [])
    for k, width in enumerate(widths):
        before = 3 if k == 0 else CHANNELS
        value = generator.standard_normal((width, before, 3, 3)) * (2 / (9 * before)) ** 0.5
        weights.append(numpy_helper.from_array(value.astype(np.float32), f"w{k}"))
        stride = 2 if k == layers else 1
        nodes.append(helper.make_node("Conv", [source, f"w{k}"], [f"c{k}"], pads=[1] * 4, strides=[stride] * 2))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"]))
        source = f"r{k}"
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["features"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", widths[-1], 1, 1])
    graph = helper.make_graph(nodes, "net", [image], [features], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run_ms(path: Path) -> float:
    """Fastest of several warm medians: the model's own time, whatever else runs here."""
    settings = SessionSettings()
    feed = {"image": np.ones((1, 3, SIZE, SIZE), np.float32)}
    return min(warm_up(runner(open_session(path, settings), settings, feed)) for _ in range(15)) * 1e3


def make_networks(folder: Path) -> dict[str, Path]:
    """net.onnx of about 1 ms, copy.onnx of the same bytes, slow.onnx that takes about 5% longer."""
    paths = {name: folder / f"{name}.onnx" for name in ("net", "copy", "slow")}
    if (folder / ALONE).exists():
        return paths
    # The first layer is cheap and a call has its own cost: a straight line through two sizes gives the third.
    few, many = 4, 12
    times = []
    for layers in (few, many):
        onnx.save(network(layers), paths["net"])
        times.append(run_ms(paths["net"]))
    layer_ms = (times[1] - times[0]) / (many - few)
    layers = max(2, round(few + (TARGET_MS - times[0]) / layer_ms))
    onnx.save(network(layers), paths["net"])
    paths["copy"].write_bytes(paths["net"].read_bytes())
    # As many channels of one more layer as make 5%, in blocks of 16; with stride 2 it takes a quarter of the time.
    extra = max(1, round(4 * CHANNELS * SLOWDOWN * run_ms(paths["net"]) / layer_ms / 16)) * 16
    onnx.save(network(layers, extra_channels=extra), paths["slow"])
    (folder / ALONE).write_text(json.dumps(run_ms(paths["net"])))
    return paths


def trial(paths: dict[str, Path], other: str, seconds: float, seed: int) -> Trial:
    """Measure net against `other` at the default settings."""
    found = compare_latency({"net": paths["net"], other: paths[other]}, seconds=seconds, seed=seed)
    if found.refused:
        raise SystemExit(f"trial {seed} was refused: {found.refused}")
    (ratio,) = found.ratios
    return Trial(
        ratio.ratio, ratio.low, ratio.high, ratio.verdict, found.rounds, found.seconds, found.load_after or 0.0
    )


def trials(folder: Path, paths: dict[str, Path], other: str, count: int, seconds: float) -> None:
    """All trials against `other`, those that are there already only read."""
    for seed in range(count):
        file = folder / f"{other}-{seconds:g}s-{seed:03}.json"
        if not file.exists():
            measured = trial(paths, other, seconds, seed)
            beside = file.with_suffix(".part")
            beside.write_text(json.dumps(vars(measured)))
            beside.replace(file)
        latest = Trial(**json.loads(file.read_text()))
        print(f"{other} {seed + 1}/{count}: {latest.ratio:.4f} [{latest.low:.4f}, {latest.high:.4f}] {latest.verdict}")


def promises(same: list[Trial], slow: list[Trial]) -> list[tuple[str, str, bool]]:
    """(what is promised, what was found, kept?)."""
    false = sum(t.verdict in ("faster", "slower") for t in same)
    seen = sum(t.verdict == "slower" for t in slow)
    widths = sorted(t.half_width for t in same)
    within = sum(width <= HALF_WIDTH_AT_MOST for width in widths)
    return [
        (
            f"at most {FALSE_AT_MOST * len(same) // 60} of {len(same)} measurements of a network against itself say "
            "faster or slower",
            str(false),
            false <= FALSE_AT_MOST * len(same) / 60,
        ),
        (
            "half-width at most 2%",
            f"median {statistics.median(widths):.2%}, largest {widths[-1]:.2%}, {within} of {len(widths)} within",
            widths[-1] <= HALF_WIDTH_AT_MOST,
        ),
        (
            f"the slower one is called slower in at least {FOUND_AT_LEAST * len(slow) // 20} of {len(slow)}",
            str(seen),
            seen >= FOUND_AT_LEAST * len(slow) / 20,
        ),
    ]


@dataclass(frozen=True)
class Series:
    """All trials of one folder, and what its network takes alone in ms."""

    alone_ms: float
    same: list[Trial]
    slow: list[Trial]

    @classmethod
    def read(cls, folder: Path, seconds: float) -> "Series":
        """What is there already."""

        def there(other: str) -> list[Trial]:
            return [Trial(**json.loads(f.read_text())) for f in sorted(folder.glob(f"{other}-{seconds:g}s-*.json"))]

        return cls(json.loads((folder / ALONE).read_text()), there("copy"), there("slow"))


def document(series: list[Series], seconds: float, machine: dict) -> str:
    """The Markdown page."""

    def row(one: Series, what: str, found: list[Trial]) -> str:
        verdicts = [t.verdict for t in found]
        counts = " | ".join(str(verdicts.count(word)) for word in ("same", "inconclusive", "faster", "slower"))
        ratios, widths, loads = ([getattr(t, name) for t in found] for name in ("ratio", "half_width", "load"))
        return (
            f"| {one.alone_ms:.2f} ms | {what} | {len(found)} | {counts} | {min(ratios):.3f} to {max(ratios):.3f} | "
            f"{statistics.median(widths):.2%} | {max(widths):.2%} | {min(loads):.1f} to {max(loads):.1f} |"
        )

    def slower(one: Series) -> str:
        return f"itself and {statistics.median(t.ratio for t in one.slow) - 1:.1%} more"

    lines = [
        "# A network against itself",
        "",
        f"Printed by `python scripts/benchmarks/ab_noise.py`: ONNX Runtime {machine['onnxruntime']}, "
        f"{machine['processor']}, {machine['cores_available']} cores, one thread, {seconds:g} s a measurement, all "
        "else at its default. Other work ran beside it, as the load says. A network's time is the fastest of several "
        "medians; how much the slower one takes more is the median of its trials.",
        "",
        "| network | against | trials | same | inconclusive | faster | slower | ratio | half-width, median | largest "
        "| load |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in series:
        lines += [row(one, "itself", one.same), row(one, slower(one), one.slow)]
    lines += ["", "| promised | found | kept |", "|---|---|---|"]
    lines += [f"| {what} | {found} | {'yes' if kept else '**no**'} |" for what, found, kept in kept_promises(series)]
    return "\n".join(lines) + "\n"


def kept_promises(series: list[Series]) -> list[tuple[str, str, bool]]:
    """Over all trials of all folders."""
    return promises([t for one in series for t in one.same], [t for one in series for t in one.slow])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/ab_noise"), help="folder of the trials")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="folders of other times, only read")
    parser.add_argument("--trials", type=int, default=60, help="of the network against itself")
    parser.add_argument("--slow-trials", type=int, default=20, help="against a copy that is 5%% slower")
    parser.add_argument("--for", dest="seconds", type=float, default=30.0, help="seconds of each measurement")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    paths = make_networks(arguments.out)
    trials(arguments.out, paths, "copy", arguments.trials, arguments.seconds)
    trials(arguments.out, paths, "slow", arguments.slow_trials, arguments.seconds)
    series = [Series.read(folder, arguments.seconds) for folder in (arguments.out, *arguments.beside)]
    page = document(series, arguments.seconds, environment())
    print(page, end="")
    if (arguments.trials, arguments.slow_trials) == (60, 20):
        DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
        DOCUMENT.write_text(page)
    return 0 if all(kept for _, _, kept in kept_promises(series)) else 1


if __name__ == "__main__":
    sys.exit(main())
