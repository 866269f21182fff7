"""How long tracing and deleting take, beside Torch-Pruning; how that grows; how much memory a large file takes.

    python scripts/benchmarks/trace.py [-o runs/trace] [--cache runs/zoo-exports] [--only 'timm/*'] [--part peers ...]

Parts: `peers` (each network of the zoo that Torch-Pruning prunes and that still runs, side by side in one process, one
thread), `growth` (ResNet-50's blocks once, four and sixteen times over), `memory` (a model of 3 GB with external data).
Run again, it goes on where it was stopped. All parts together write docs/benchmarks/trace.md. Exit code 1 where a
promise is missed. Needs the extra `zoo` and `pip install --no-deps torch-pruning==1.6.1`.
"""

import argparse
import copy
import fnmatch
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxprune.graph.model import Model, load, save
from onnxprune.graph.remove import remove
from onnxprune.graph.units import trace
from picking import legal

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks" / "trace.md"
SHARE = 0.3
#: Rounds of both tools in turn: as many as take no more than these CPU seconds, within these bounds.
LEAST_ROUNDS, MOST_ROUNDS, ROUNDS_SECONDS = 3, 15, 4.0
#: A network that takes longer or more memory, all rounds of both tools together, isn't compared.
LONGEST_SECONDS, MOST_BYTES = 120, 10**10
PARTS = ("peers", "growth", "memory")
EVERY = "timm/*,transformers/*,own/*"
#: Promises: half of the peer's time in the median, and never slower by more than a tenth or 30 ms.
MEDIAN_RATIO, WORST_RATIO, WORST_SECONDS = 0.5, 1.1, 0.03
#: Seconds below 100 million weights, and for each 100 million above.
SECONDS_PER_100M = 2.0
DEPTHS = (1, 4, 16)
#: (width of the bottleneck, blocks) of each stage.
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
LARGE_BYTES, LARGEST_MEMORY = 3 * 10**9, 1.3


# ---- ours -----------------------------------------------------------------------------------------------------------


def delete(model: Model) -> Model:
    """From a loaded model to the smaller one, every weight of it in memory."""
    channels = trace(model)
    smaller = remove(model, channels, legal(channels, range(len(channels.units)), SHARE))
    for value in smaller.ir.graph.initializers.values():
        value.const_value.numpy()
    return smaller


def seconds_of(function: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    function()
    return time.process_time() - started


# ---- peers ----------------------------------------------------------------------------------------------------------


def compare(name: str, cache: Path) -> dict:
    """Both tools on one network, in turn; the least of several rounds counts for each."""
    import torch
    import torch_pruning

    from networks import catalogue
    from networks.exporting import build, examples, export

    torch.set_num_threads(1)
    network = next(network for network in catalogue() if network.name == name)
    exported = export(network, cache)
    subject = build(network)
    inputs = tuple(tensor[:1] for tensor in examples(subject))

    def prune(module: torch.nn.Module) -> torch.nn.Module:
        pruner = torch_pruning.pruner.BasePruner(
            module,
            inputs,
            importance=torch_pruning.importance.MagnitudeImportance(),
            pruning_ratio=SHARE,
            ignored_layers=[m for n, m in module.named_modules() if n and n == _classifier(module)],
        )
        pruner.step()
        return module

    ours, theirs = [], []
    while len(ours) < LEAST_ROUNDS or (len(ours) < MOST_ROUNDS and sum(ours) + sum(theirs) < ROUNDS_SECONDS):
        model = load(exported.optimized)
        ours.append(seconds_of(lambda model=model: delete(model)))
        module = copy.deepcopy(subject.network)
        theirs.append(seconds_of(lambda module=module: prune(module)))
    with torch.no_grad():
        module(*inputs)
    weights = sum(value.const_value.size for value in load(exported.optimized).ir.graph.initializers.values())
    before = sum(p.numel() for p in subject.network.parameters())
    left = sum(p.numel() for p in module.parameters())
    if left >= before:
        raise RuntimeError("Torch-Pruning deletes nothing")
    return {"weights": weights, "ours": min(ours), "theirs": min(theirs), "they_leave": left / before}


def _classifier(module) -> str:
    configuration = getattr(module, "default_cfg", None) or {}
    found = configuration.get("classifier")
    return found if isinstance(found, str) else ""


# ---- growth ---------------------------------------------------------------------------------------------------------


def resnet(times: int, scale: float = 1.0) -> ir.Model:
    """ResNet-50's topology, each stage `times` as many blocks long, with weights that take no memory until read."""
    nodes: list[ir.Node] = []
    initializers: list[ir.Value] = []

    def weight(name: str, *shape: int) -> ir.Value:
        def draw() -> ir.TensorProtocol:
            generator = np.random.default_rng(len(name) + shape[0])
            return ir.tensor(generator.standard_normal(shape, np.float32) * 0.02, name=name)

        tensor = ir.LazyTensor(draw, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(shape), const_value=tensor)
        initializers.append(value)
        return value

    def node(operator: str, inputs: list[ir.Value], **attributes: int | list[int]) -> ir.Value:
        listed = [ir.AttrInt64s(k, v) if isinstance(v, list) else ir.AttrInt64(k, v) for k, v in attributes.items()]
        made = ir.Node("", operator, inputs, listed, name=f"{operator}_{len(nodes)}")
        made.outputs[0].name = f"v{len(nodes)}"
        nodes.append(made)
        return made.outputs[0]

    def convolution(x: ir.Value, into: int, out: int, kernel: int, stride: int = 1) -> ir.Value:
        name = f"w{len(nodes)}"
        pads = [kernel // 2] * 4
        operands = [x, weight(name, out, into, kernel, kernel), weight(f"{name}.bias", out)]
        return node("Conv", operands, strides=[stride, stride], pads=pads)

    image = ir.Value(
        name="image", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([ir.SymbolicDim("N"), 3, 224, 224])
    )
    width = round(64 * scale)
    x = node("Relu", [convolution(image, 3, width, 7, 2)])
    for number, (narrow, count) in enumerate(STAGES):
        narrow = round(narrow * scale)
        for block in range(count * times):
            stride = 2 if block == 0 and number else 1
            y = node("Relu", [convolution(x, width, narrow, 1)])
            y = node("Relu", [convolution(y, narrow, narrow, 3, stride)])
            y = convolution(y, narrow, 4 * narrow, 1)
            if block == 0:
                x = convolution(x, width, 4 * narrow, 1, stride)
            x, width = node("Relu", [node("Add", [x, y])]), 4 * narrow
    x = node("Flatten", [node("GlobalAveragePool", [x])], axis=1)
    x = node("Gemm", [x, weight("head", width, 1000), weight("head.bias", 1000)])
    x.type, x.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([ir.SymbolicDim("N"), 1000])
    graph = ir.Graph([image], [x], nodes=nodes, initializers=initializers, opset_imports={"": 20}, name="resnet")
    return ir.Model(graph, ir_version=10)


def grow(times: int) -> dict:
    seconds = []
    for _ in range(LEAST_ROUNDS):
        model = load(resnet(times, scale=0.25))
        seconds.append(seconds_of(lambda model=model: delete(model)))
    return {"nodes": model.ir.graph.num_nodes(), "seconds": min(seconds)}


# ---- memory ---------------------------------------------------------------------------------------------------------


def write_large(folder: Path) -> Path:
    """A model of 3 GB, its tensors in a file beside it."""
    path = folder / "large.onnx"
    if not path.exists():
        once, twice = (sum(v.const_value.nbytes for v in resnet(n).graph.initializers.values()) for n in (1, 2))
        times = 1 + math.ceil((LARGE_BYTES - once) / (twice - once))
        ir.save(resnet(times), path, external_data="large.onnx.data")
    return path


def measure_memory(path: Path, out: Path) -> dict:
    """Peak resident size, mapped pages included, of loading, tracing, deleting and saving."""
    model = load(path)
    channels = trace(model)
    save(remove(model, channels, legal(channels, range(len(channels.units)), SHARE)), out)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    left = sum(file.stat().st_size for file in out.parent.glob(f"{out.name}*"))
    return {"file_bytes": size, "written_bytes": left, "peak_bytes": int(peak.split()[1]) * 1024}


# ---- running --------------------------------------------------------------------------------------------------------


def in_child(function: Callable[..., dict], *arguments: object, path: Path) -> None:
    """Call `function` in a process of its own and leave at `path` what it gives, or why it gave nothing."""
    if path.exists():
        return
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_child, args=(function, arguments, path))
    process.start()
    process.join(LONGEST_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        path.write_text(json.dumps({"failure": f"took more than {LONGEST_SECONDS} seconds"}))
    if not path.exists():
        path.write_text(json.dumps({"failure": f"the process ended with exit code {process.exitcode}"}))


def _child(function: Callable[..., dict], arguments: tuple, path: Path) -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))  # a peer may ask for all that there is
    try:
        found = function(*arguments)
    except Exception as error:  # noqa: BLE001 one network's failure is one row
        found = {"failure": f"{type(error).__name__}: {error}"[:300], "traceback": traceback.format_exc()}
    path.write_text(json.dumps(found, indent=1))


def read(folder: Path, part: str) -> dict[str, dict]:
    """{what, a network as timm/resnet: its result} of one part, in order of name."""
    return {
        path.stem.removeprefix(f"{part}-").replace("-", "/", 1): json.loads(path.read_text())
        for path in sorted(folder.glob(f"{part}-*"))
    }


# ---- the table ------------------------------------------------------------------------------------------------------


def missed(folder: Path) -> list[str]:
    """The promises that the results don't keep, one sentence each."""
    found = []
    handled = {n: r for n, r in read(folder, "peers").items() if "failure" not in r}
    if handled:
        median = statistics.median(r["ours"] / r["theirs"] for r in handled.values())
        if median > MEDIAN_RATIO:
            found.append(f"The median ratio is {median:.2f}, above {MEDIAN_RATIO}.")
    for name, r in handled.items():
        if r["ours"] > max(WORST_RATIO * r["theirs"], r["theirs"] + WORST_SECONDS):
            found.append(f"{name} takes {r['ours']:.2f} s, Torch-Pruning {r['theirs']:.2f} s.")
        if r["ours"] > SECONDS_PER_100M * max(1.0, r["weights"] / 1e8):
            found.append(f"{name} takes {r['ours']:.2f} s for {r['weights']:,} weights.")
    growth = [r for r in sorted(read(folder, "growth").values(), key=lambda r: r.get("nodes", 0)) if "failure" not in r]
    if len(growth) == len(DEPTHS):
        per_node = [r["seconds"] / r["nodes"] for r in growth]
        if per_node[-1] > 1.5 * per_node[0]:
            found.append(f"A node takes {per_node[-1] / per_node[0]:.1f} times as long in the deepest network.")
    for r in read(folder, "memory").values():
        if "failure" in r or r["peak_bytes"] > LARGEST_MEMORY * r["file_bytes"]:
            found.append("The large model takes more memory than promised.")
    return found


def document(folder: Path) -> str:
    peers = read(folder, "peers")
    handled = {n: r for n, r in peers.items() if "failure" not in r}
    ratios = [r["ours"] / r["theirs"] for r in handled.values()]
    lines = [
        "# Tracing and deleting: time and memory",
        "",
        "    python scripts/benchmarks/trace.py",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. CPU seconds of one thread,",
        f"the least of {LEAST_ROUNDS} to {MOST_ROUNDS} rounds, both tools in turn in one process: from the loaded file",
        "to the smaller model in memory, and Torch-Pruning 1.6.1's building of its graph and pruning of the module,",
        "each of 30%.",
        "",
    ]
    if ratios:
        lines += [
            f"{len(handled)} of {len(peers)} networks are handled by both; ratio in the median "
            f"{statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}.",
            "",
            "| network | million weights | onnxprune, s | Torch-Pruning, s | ratio |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, r in handled.items():
            ratio = r["ours"] / r["theirs"]
            lines.append(f"| {name} | {r['weights'] / 1e6:.1f} | {r['ours']:.2f} | {r['theirs']:.2f} | {ratio:.2f} |")
        lines += ["", "Not handled by both:", ""]
        lines += [f"* {n}: {' '.join(r['failure'].split())[:120]}" for n, r in peers.items() if n not in handled]
        lines.append("")
    growth = [r for r in read(folder, "growth").values() if "failure" not in r]
    if growth:
        lines += ["| nodes | s | ms a node |", "|---:|---:|---:|"]
        for r in sorted(growth, key=lambda r: r["nodes"]):
            lines.append(f"| {r['nodes']} | {r['seconds']:.2f} | {1e3 * r['seconds'] / r['nodes']:.2f} |")
        lines.append("")
    for r in read(folder, "memory").values():
        if "failure" not in r:
            ratio = r["peak_bytes"] / r["file_bytes"]
            file, left, peak = (r[key] / 1e9 for key in ("file_bytes", "written_bytes", "peak_bytes"))
            lines += [
                f"A model of {file:.2f} GB with external data, traced, cut to {left:.2f} GB and saved: at most",
                f"{peak:.2f} GB resident, {ratio:.2f} times the file.",
                "",
            ]
    broken = missed(folder)
    lines += ["Every promise kept." if not broken else "Not kept: " + " ".join(broken)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/trace"), help="folder of the results")
    parser.add_argument("--cache", type=Path, default=Path("runs/zoo-exports"), help="folder of the exported networks")
    parser.add_argument("--only", default=EVERY, help="networks whose name matches one of these patterns, by commas")
    parser.add_argument("--part", action="append", choices=PARTS, help="run this part only")
    arguments = parser.parse_args()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    for folder in (arguments.out, arguments.cache):
        folder.mkdir(parents=True, exist_ok=True)
    parts = arguments.part or PARTS
    if "peers" in parts:
        from networks import catalogue

        patterns = arguments.only.split(",")
        for network in catalogue():
            if any(fnmatch.fnmatch(network.name, pattern) for pattern in patterns):
                path = arguments.out / f"peers-{network.name.replace('/', '-')}.json"
                in_child(compare, network.name, arguments.cache, path=path)
                print(
                    network.name,
                    {k: v for k, v in json.loads(path.read_text()).items() if k != "traceback"},
                    flush=True,
                )
    if "growth" in parts:
        for times in DEPTHS:
            in_child(grow, times, path=arguments.out / f"growth-{times:02}.json")
    if "memory" in parts:
        large = write_large(arguments.cache)
        in_child(measure_memory, large, arguments.out / "smaller.onnx", path=arguments.out / "memory-large.json")
    text = document(arguments.out)
    print(text)
    if set(parts) == set(PARTS) and arguments.only == EVERY:
        DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
        DOCUMENT.write_text(text)
    return 1 if missed(arguments.out) else 0


if __name__ == "__main__":
    sys.exit(main())
