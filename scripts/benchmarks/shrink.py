"""Exact removal on real files and on a large one, held against what it promises: docs/benchmarks/shrink.md.

    python scripts/benchmarks/shrink.py [-o runs/shrink] [--only NAME ...]

The real files are those inside rapidocr-onnxruntime and magika (`pip install --no-deps`), as they are and with 40% of
their channels zeroed at random. The large one is ResNet-50's topology with random weights, made from a seed: 100 MB.
Exit code 1 where a promise is missed, 3 where a package isn't there.
"""

import argparse
import importlib.util
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from onnxprune import pipeline
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.mask import DIVISORS
from onnxprune.graph.model import Model, load, save
from onnxprune.graph.units import trace
from onnxprune.runtime.environment import environment
from onnxprune.runtime.equivalence import TOLERANCE
from picking import legal

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks" / "shrink.md"
PACKAGES = {"rapidocr_onnxruntime": "models/*.onnx", "magika": "models/*/*.onnx"}
SHARE = 0.4
LIMIT_S = 3.0
#: (width of the bottleneck, blocks) of each stage.
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


@dataclass(frozen=True)
class Result:
    """One file's figures; `zeroed` is the number of its channels that were zeroed, 0 where it is as it was found."""

    name: str
    megabytes: float
    zeroed: int
    verdicts: dict[str, int]
    kept_dead: int
    params: tuple[int, int]
    macs: tuple[int, int]
    error_over_range: float | None
    rounding: float = 0.0
    error_in_float64: float | None = None
    proof: str = ""
    fault: str = ""


def real_files() -> Iterator[Path]:
    for package, pattern in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            print(f"{package} isn't installed: pip install --no-deps {package.replace('_', '-')}", file=sys.stderr)
            sys.exit(3)
        yield from sorted(Path(spec.origin).parent.glob(pattern))


def measure(path: Path, folder: Path, zeroed: int = 0) -> Result:
    name = path.parent.name if path.stem == "model" else path.stem.removeprefix("zeroed-")
    megabytes = path.stat().st_size / 1e6
    try:
        done = pipeline.shrink(path, folder / f"small-{path.name}")
    except OnnxPruneError as error:
        return Result(name, megabytes, zeroed, {}, 0, (0, 0), (0, 0), None, fault=str(error))
    before, after = done.before, done.after
    return Result(
        name=name,
        megabytes=megabytes,
        zeroed=zeroed,
        verdicts=dict(done.report.verdicts),
        kept_dead=len(done.report.kept_dead),
        params=(before.params, after.params),
        macs=(before.macs, after.macs),
        error_over_range=done.equivalence.error_over_range,
        rounding=done.equivalence.rounding,
        error_in_float64=done.equivalence.error_in_float64,
        proof=str(done.equivalence),
    )


def zero(path: Path, target: Path, seed: int = 0) -> int:
    """Write `path` with 40% of its channels zeroed; return how many that are."""
    model = load(path)
    channels = trace(model)
    chosen = legal(channels, range(len(channels.units)), SHARE, seed)
    deleted = channels.deleted(chosen)
    copy = model.ir.clone()
    for name, mask in channels.keep_masks(chosen).items():
        value = copy.graph.initializers[name]
        if not any(DIVISORS.get(node.op_type) == index for node, index in value.uses()):
            array = np.where(mask, value.const_value.numpy(), np.zeros((), value.const_value.dtype.numpy()))
            value.const_value = ir.tensor(array, dtype=value.const_value.dtype, name=name)
    save(Model(copy, model.name), target)
    return int(deleted.sum())


def large(path: Path, seed: int = 0, dead: float = SHARE) -> None:
    """ResNet-50's topology, BatchNorm folded as exporters do: of each bottleneck's channels 40% have filters of 0."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []

    def conv(x: str, inputs: int, outputs: int, size: int, stride: int = 1, *, inner: bool = True) -> str:
        name = f"conv{len(tensors) // 2}"
        weight = rng.standard_normal((outputs, inputs, size, size), np.float32) * np.float32(
            (2 / (inputs * size * size)) ** 0.5
        )
        if inner:
            weight[rng.permutation(outputs)[: int(dead * outputs)]] = 0
        bias = 0.1 * rng.standard_normal(outputs, np.float32)
        tensors.extend((numpy_helper.from_array(weight, f"{name}.w"), numpy_helper.from_array(bias, f"{name}.b")))
        pads = [size // 2] * 4
        inputs_of = [x, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", inputs_of, [name], name, pads=pads, strides=[stride] * 2))
        return relu(name) if inner else name

    def relu(x: str) -> str:
        nodes.append(helper.make_node("Relu", [x], [f"{x}.relu"], f"{x}.relu"))
        return f"{x}.relu"

    x = relu(conv("x", 3, 64, 7, 2, inner=False))
    nodes.append(helper.make_node("MaxPool", [x], ["pool"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    x, channels = "pool", 64
    for stage, (width, blocks) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = conv(conv(conv(x, channels, width, 1), width, width, 3, stride), width, 4 * width, 1, inner=False)
            skip = x if block else conv(x, channels, 4 * width, 1, stride, inner=False)
            name = f"add{stage}.{block}"
            nodes.append(helper.make_node("Add", [y, skip], [name], name))
            x, channels = relu(name), 4 * width
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["means"], "means"))
    nodes.append(helper.make_node("Flatten", ["means"], ["row"], "row"))
    tensors.append(numpy_helper.from_array(0.02 * rng.standard_normal((1000, channels), np.float32), "head.w"))
    tensors.append(numpy_helper.from_array(np.zeros(1000, np.float32), "head.b"))
    nodes.append(helper.make_node("Gemm", ["row", "head.w", "head.b"], ["y"], "head", transB=1))
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 224, 224])
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1000])
    graph = helper.make_graph(nodes, "large", [image], [scores], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def seconds_without_proof(path: Path, target: Path, repeats: int = 5) -> list[tuple[float, float]]:
    """Of reading, shrinking, tidying and writing: seconds by the clock, and seconds of all processors."""
    found = []
    for _ in range(repeats):
        clock, processors = time.perf_counter(), time.process_time()
        pipeline.shrink(path, target, verify=False)
        found.append((time.perf_counter() - clock, time.process_time() - processors))
    return found


def document(real: list[Result], big: Result, seconds: list[tuple[float, float]]) -> str:
    machine = environment()
    clock, processors = zip(*seconds, strict=True)
    lines = [
        "# Exact removal on real files",
        "",
        f"Printed by `python scripts/benchmarks/shrink.py`: ONNX Runtime {machine['onnxruntime']}, "
        f"{machine.get('processor') or platform.processor()}, {machine['cores_available']} cores. Verdicts count "
        "channels; those that are dead and kept had a node in the way. The error is the largest over the output range, "
        "on random, border and large inputs at optimisation levels none and all, in float32. Where that is above "
        f"{TOLERANCE:.0e}, both files are computed in float64 on the same inputs, and their error there decides. Own "
        "is how far the original in float32 is from itself in float64: the error in float32 may be three times that.",
        "",
        "| file | MB | zeroed | removed | folded | merged | kept | dead, kept | parameters | MACs | error | own "
        "| float64 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in [*real, big]:
        if r.fault:
            lines.append(f"| {r.name} | {r.megabytes:.1f} | {r.zeroed or ''} | {r.fault} |" + " |" * 9)
            continue
        shares = [f"{after / before:.1%}" if before else "" for before, after in (r.params, r.macs)]
        numbers = [f"{r.verdicts[v]:,}" for v in ("removed", "folded", "merged", "kept")]
        zeroed = f"{r.zeroed:,}" if r.zeroed else "as it is"
        cells = [
            r.name,
            f"{r.megabytes:.1f}",
            zeroed,
            *numbers,
            f"{r.kept_dead:,}",
            *shares,
            f"{r.error_over_range:.0e}",
            *(("", "") if r.error_in_float64 is None else (f"{r.rounding:.0e}", f"{r.error_in_float64:.0e}")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"The large file without the proof, {len(seconds)} times: {min(clock):.2f} to {max(clock):.2f} s by the clock, "
        f"other work running beside it; {min(processors):.2f} to {max(processors):.2f} s of the processors.",
        "",
        "| promised | found | kept |",
        "|---|---|---|",
    ]
    lines += [
        f"| {what} | {found} | {'yes' if kept else '**no**'} |" for what, found, kept in promises(real, big, seconds)
    ]
    return "\n".join(lines) + "\n"


def promises(real: list[Result], big: Result, seconds: list[tuple[float, float]]) -> list[tuple[str, str, bool]]:
    """(what is promised, what was found, kept?)."""
    everything = [*real, big]
    median_s = float(np.median([processors for _, processors in seconds]))
    close = sum(not r.fault and r.error_in_float64 is None for r in everything)
    proved = sum(not r.fault for r in everything)
    return [
        (
            f"every file is proved within {TOLERANCE:.0e} of the range",
            f"{close} in float32, {proved - close} in float64, of {len(everything)}",
            proved == len(everything),
        ),
        (f"100 MB in under {LIMIT_S:g} s of a processor apart from the proof", f"{median_s:.2f} s", median_s < LIMIT_S),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/shrink"), help="folder for the files it makes")
    parser.add_argument("--only", nargs="+", default=[], help="real files whose names hold one of these")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    real = []
    for path in real_files():
        if arguments.only and not any(word in path.name for word in arguments.only):
            continue
        zeroed = arguments.out / f"zeroed-{path.parent.name if path.stem == 'model' else path.stem}.onnx"
        real.append(measure(path, arguments.out))
        real.append(measure(zeroed, arguments.out, zero(path, zeroed)))
        print(real[-2], real[-1], sep="\n", file=sys.stderr)
    net = arguments.out / "large.onnx"
    large(net)
    seconds = seconds_without_proof(net, arguments.out / "small-large.onnx")
    big = measure(net, arguments.out, sum(int(SHARE * w) * 2 * n for w, n in STAGES))
    page = document(real, big, seconds)
    print(page, end="")
    if not arguments.only:
        DOCUMENT.write_text(page)
    return 0 if all(kept for _, _, kept in promises(real, big, seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
