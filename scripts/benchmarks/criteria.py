"""Every criterion, ranking, schedule, adjustment and way to zeros on one network: docs/benchmarks/criteria.md.

    python scripts/benchmarks/criteria.py [--network digits] [-o FOLDER] [--seeds 0 1 2] [--only NAME ...] [--table]

Criteria are compared under the cubic schedule, everything else under Taylor; all have the same dense network, budget,
epochs, pruning epochs and learning rate. `random` is the floor, Torch-Pruning's group L2 and Taylor are the bar. Each
run leaves one JSON file, and what is finished is only read, so the whole can be interrupted. `--table` prints what is
there without running anything.
"""

import argparse
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from criteria_networks import NETWORKS, DigitsNet, Network, fit_norms
from criteria_table import page
from onnxprune.errors import BudgetUnreachable, RecipeError
from onnxprune.graph.model import Model, save
from onnxprune.prune import criteria
from onnxprune.prune.cost import count
from onnxprune.prune.schedule import CONTROLS, SCHEDULES, Planned, cubic
from onnxprune.runtime.latency import compare_latency
from onnxprune.training.adjusting import ADJUSTMENTS
from onnxprune.training.batches import in_order, shuffled_batches, top1
from onnxprune.training.checkpoint import seed_everything
from onnxprune.training.export import deployed
from onnxprune.training.finetune import train
from onnxprune.training.pruner import Pruner
from onnxprune.training.settings import TrainingSettings
from onnxprune_models.task import Task

DOCUMENTS = Path(__file__).parents[2] / "docs" / "benchmarks"
BATCH, CALIBRATION = 128, 256
LATENCY_SECONDS, LATENCY_SEED = 180.0, 0


def methods() -> dict[str, tuple[str, dict[str, Any]]]:
    """{name: (section, what the pruner is given)}; the bars are pruned by Torch-Pruning instead."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in ("random", "taylor", *sorted(criteria.CRITERIA), "0.5*taylor + 0.5*magnitude"):
        found.setdefault(name, ("criterion", {"criterion": name}))
    for name in ("layer", "isomorphic"):
        found[f"ranking {name}"] = ("ranking", {"ranking": name})
    for name in (*SCHEDULES, "fixed", *CONTROLS):
        if name not in ("cubic", "hierarchical"):  # the latter has no budget in multiply-adds
            found[f"schedule {name}"] = ("schedule", {"schedule": name})
    for name in ADJUSTMENTS[1:]:
        found[f"adjust {name}"] = ("adjustment", {"adjust": name})
    for kind, weight in (("l1", 1e-5), ("group", 1e-4), ("batchnorm", 1e-3), ("growing", 1e-3)):
        found[f"penalty {kind}"] = ("sparsity", {"penalty": weight, "penalty_kind": kind})
    for kind, weight in (("l1", 0.1), ("group", 0.03)):
        found[f"proximal {kind}"] = ("sparsity", {"penalty": weight, "penalty_kind": kind, "proximal": True})
    for name, limit in (("l1", 0.5), ("units", 0.5)):
        found[f"constraint {name}"] = ("sparsity", {"constraints": {name: limit}})
    found["soft masks"] = ("sparsity", {"soft": True})
    # Put together after the others were seen.
    mended = {"adjust": "least_squares"}
    found["fisher, least_squares"] = ("together", {"criterion": "fisher", **mended})
    found["taylor, ranking layer, least_squares"] = ("together", {"ranking": "layer", **mended})
    # Torch-Pruning goes beyond its target; here is the default with as little.
    found["taylor, at 13% of the MACs"] = ("less", {"budget": {"macs": 0.13}})
    for name in ("group L2", "Taylor"):
        found[f"Torch-Pruning {name}"] = ("bar", {})
    return found


class Bench:
    """The data and the dense network of one seed."""

    def __init__(self, folder: Path, seed: int, network: Network, data: Task) -> None:
        self.folder, self.seed, self.network, self.data = folder, seed, network, data
        self.names = {"input_names": (network.input_name,), "output_names": ("logits",)}
        self.budget = {"macs": network.macs}
        self.example = (torch.from_numpy(self.data.train.images[:2]),)
        self.evaluate = top1(*self.data.validation)
        self.dense = self._dense()
        self.traced = Pruner(self.dense, self.example, budget=self.budget, criterion="magnitude", **self.names).channels

    def batches(self, seed: int) -> Callable:
        """Training batches, the same for every method."""
        return shuffled_batches(*self.data.train, batch_size=BATCH, seed=seed, augment=self.data.augment)

    def calibration(self) -> list:
        """The first training digits, as they are."""
        images, labels = self.data.train
        return list(in_order(images[:CALIBRATION], labels[:CALIBRATION], batch_size=BATCH))

    def result(self, name: str) -> Path:
        """Where the figures of a method lie."""
        return self.folder / f"{_plain(name)}-{self.seed}.json"

    def _dense(self) -> nn.Module:
        seed_everything(self.seed)
        module, weights = self.network.build(), self.folder / f"dense-{self.seed}.pt"
        if weights.exists():
            module.load_state_dict(torch.load(weights, weights_only=True))
        else:
            train(module, self.batches(self.seed), settings=self.network.dense, evaluate=self.evaluate, seed=self.seed)
            torch.save(module.state_dict(), weights)
        module.eval()
        if not self.result("dense").exists():
            self.write("dense", module, "dense", 0.0, 1.0, None)
        return module

    def run(self, name: str, section: str, how: dict[str, Any]) -> None:
        """Prune a copy of the dense network and fine-tune it."""
        started = time.process_time()
        module = copy.deepcopy(self.dense)
        if section == "bar":
            progress, pruner = self.torch_pruning(name, module), None
        else:
            progress, pruner = self.ours(module, how)
        self.write(name, module, section, time.process_time() - started, progress, pruner)

    def write(
        self, name: str, module: nn.Module, section: str, seconds: float, progress: float, pruner: Pruner | None
    ) -> None:
        """Note what the method reached on the test digits, and leave one file for each choice of widths."""
        module.eval()
        images, labels = self.data.test
        with torch.no_grad():
            answers = module(torch.from_numpy(images)).argmax(1).numpy()
        widths, cost = self.size(module, pruner, section)
        found = {
            "name": name,
            "section": section,
            "seed": self.seed,
            "right": "".join("1" if right else "0" for right in answers == labels),
            "widths": widths,
            **cost,
            "progress": progress,
            "cpu_seconds": round(seconds, 1),
            "load": round(os.getloadavg()[0], 1),
        }
        self.result(name).write_text(json.dumps(found) + "\n")

    def size(self, module: nn.Module, pruner: Pruner | None, section: str) -> tuple[str, dict[str, int]]:
        """(the outputs that are left of each layer, multiply-adds and parameters); leaves a file of each choice."""
        # Zeros that aren't whole channels stay in the file.
        by_kernels = isinstance(module, DigitsNet) and section != "sparsity"
        if by_kernels:
            widths, cost = size_of(module)
            if self.seed != LATENCY_SEED or (self.folder / f"net-{widths}.onnx").exists():
                return widths, cost
        model = deployed(module, self.example, **self.names) if pruner is None else pruner.export().model
        counted = count(model)
        if by_kernels:
            assert counted.macs == cost["macs"], f"{counted} isn't {cost}"
        else:
            widths, cost = outputs_of(model), {"macs": counted.macs, "params": counted.params}
            if isinstance(module, DigitsNet):
                widths = widths.rpartition("-")[0]  # without the head, as above
        if self.seed == LATENCY_SEED:
            save(model, self.folder / f"net-{widths}.onnx")
        return widths, cost

    def ours(self, module: nn.Module, how: dict[str, Any]) -> tuple[float, Pruner]:
        """Prune with this project's loop."""
        network = self.network
        pruner = Pruner(
            module,
            self.example,
            round_to=network.grain,
            pruning_steps=network.pruning.prune_steps,
            calibration=self.calibration,
            seed=self.seed,
            channels=self.traced,
            **{"budget": self.budget, **how},
            **self.names,
        )
        follows = how.get("schedule") in CONTROLS
        history = train(
            module,
            self.batches(100 + self.seed),
            settings=network.free if follows else network.pruning,
            evaluate=self.evaluate,
            pruner=pruner,
            # Planned steps are never undone, so that every method takes all of them.
            control=CONTROLS[how["schedule"]]() if follows else Planned(guard=1.0),
            seed=self.seed,
        )
        return history.progress, pruner

    def torch_pruning(self, name: str, module: nn.Module) -> float:
        """The bar: the same cubic targets before the same epochs, the same optimizer, rate and choice of a point."""
        import torch_pruning as tp

        seed_everything(self.seed)
        importance = (
            tp.importance.GroupMagnitudeImportance(p=2) if "L2" in name else tp.importance.GroupTaylorImportance()
        )
        pruner = tp.pruner.BasePruner(
            module,
            self.example[0],
            importance,
            global_pruning=True,
            pruning_ratio=1.0,
            max_pruning_ratio=0.95,
            iterative_steps=self.network.bar_steps,
            ignored_layers=[module.head],
            round_to=self.network.grain,
            **self.network.bar(module),
        )
        pruning = self.network.pruning
        whole = tp.utils.count_ops_and_params(module, self.example[0][:1])[0]
        epochs, batches = pruning.pruning_epochs(), self.batches(100 + self.seed)
        best: tuple[float, dict, nn.Module] | None = None
        optimizer = _optimizer(module, pruning)
        for epoch in range(pruning.epochs):
            if epoch in epochs:
                target = cubic((epochs.index(epoch) + 1) / len(epochs), self.network.macs)
                for _ in range(self.network.bar_steps):
                    if tp.utils.count_ops_and_params(module, self.example[0][:1])[0] <= target * whole:
                        break
                    if "Taylor" in name:
                        self._gradients(module)
                    pruner.step()
                    fit_norms(module)
                optimizer = _optimizer(module, pruning)
            module.train()
            for group in optimizer.param_groups:
                group["lr"] = pruning.learning_rate_at(epoch, pruning=True)
            for x, y in batches(epoch):
                optimizer.zero_grad()
                functional.cross_entropy(module(x), y).backward()
                optimizer.step()
            module.eval()
            with torch.no_grad():
                metric, _ = self.evaluate(module)
            if epoch >= epochs[-1] and (best is None or metric >= best[0] - pruning.noise):
                ceiling = metric if best is None else max(metric, best[0])
                best = (ceiling, copy.deepcopy(module.state_dict()), module)
        assert best is not None
        module.load_state_dict(best[1])
        return 1.0

    def _gradients(self, module: nn.Module) -> None:
        """Torch-Pruning's Taylor reads the gradients that lie there: those of the calibration digits."""
        module.zero_grad()
        module.eval()
        for x, y in self.calibration():
            functional.cross_entropy(module(x), y).backward()


def size_of(module: nn.Module) -> tuple[str, dict[str, int]]:
    """(the outputs that are left of each convolution, the multiply-adds and parameters once BatchNorm is folded).

    Counted by the kernels that aren't zero: masked or removed, a network has the same.
    """
    widths, macs, params, positions = [], 0, 0, 14 * 14
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            positions = ((int(positions**0.5) - 1) // part.stride[0] + 1) ** 2
            kernels = int(part.weight.flatten(2).any(dim=2).sum())
            widths.append(int(part.weight.flatten(1).any(dim=1).sum()))
            macs, params = macs + positions * 9 * kernels, params + 9 * kernels + widths[-1]
        elif isinstance(part, nn.Linear):
            weights = int((part.weight != 0).sum())
            macs, params = macs + weights, params + weights + len(part.weight)
    return "-".join(map(str, widths)), {"macs": macs, "params": params}


def outputs_of(model: Model) -> str:
    """The outputs of each convolution and matrix, in the order of the graph."""
    found = []
    for node in model.ir.graph:
        weight = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
        if weight is not None and node.op_type in ("Conv", "Gemm", "MatMul"):
            transposed = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int()
            found.append(weight.shape[0 if node.op_type == "Conv" or transposed else -1])
    return "-".join(map(str, found))


def measure_latencies(folder: Path, results: list[dict]) -> None:
    """Measure every choice of widths of the first seed side by side: CPU provider, batch 1, one thread."""
    path = folder / "latency.json"
    dense = next(r["widths"] for r in results if r["name"] == "dense")
    wanted = [dense, *sorted({r["widths"] for r in results if r["seed"] == LATENCY_SEED} - {dense})]
    if path.exists() and set(json.loads(path.read_text())["ratios"]) >= set(wanted[1:]):
        return
    found = compare_latency({w: folder / f"net-{w}.onnx" for w in wanted}, seconds=LATENCY_SECONDS)
    ratios = {r.name: [r.ratio, r.low, r.high] for r in found.ratios}
    for name, why in found.failures.items():
        print(f"{name} wasn't measured: {why}")
    told = {"ratios": ratios, "rounds": found.rounds, "load": [found.load_before, found.load_after]}
    path.write_text(json.dumps(told) + "\n")


def _optimizer(module: nn.Module, pruning: TrainingSettings) -> torch.optim.Optimizer:
    """What `train` uses."""
    groups = [
        {"params": [p for p in module.parameters() if p.ndim > 1], "weight_decay": pruning.weight_decay},
        {"params": [p for p in module.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, pruning.learning_rate)


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "-" for c in name)


def read(folder: Path, seeds: list[int]) -> list[dict]:
    """All results that are there."""
    known = {"dense", *methods()}
    results = [json.loads(path.read_text()) for seed in seeds for path in sorted(folder.glob(f"*-{seed}.json"))]
    return [r for r in results if r.get("name") in known]


def machine() -> str:
    """What it was measured on, in words."""
    import onnxruntime

    return (
        f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, NumPy {np.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} cores"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="digits")
    parser.add_argument("-o", "--out", type=Path, help="folder of the runs: runs/criteria-NETWORK")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="names of methods, as in the table")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    network = NETWORKS[arguments.network]
    folder = arguments.out or Path(f"runs/criteria-{arguments.network}")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    chosen = {name: how for name, how in methods().items() if not arguments.only or name in arguments.only}
    if not arguments.table:
        data = network.task()
        for seed in arguments.seeds:
            bench = Bench(folder, seed, network, data)
            for name, (section, how) in chosen.items():
                if not bench.result(name).exists():
                    print(f"seed {seed}: {name}", flush=True)
                    try:
                        bench.run(name, section, how)
                    except (BudgetUnreachable, RecipeError) as error:  # not for this network
                        told = {"name": name, "section": section, "seed": seed, "refused": str(error)}
                        bench.result(name).write_text(json.dumps(told) + "\n")
        if not arguments.only:
            found = read(folder, arguments.seeds)
            measure_latencies(folder, [r for r in found if "refused" not in r])
    latencies = folder / "latency.json"
    text = page(
        read(folder, arguments.seeds),
        json.loads(latencies.read_text()) if latencies.exists() else {},
        order=["dense", *methods()],
        machine=machine(),
        network=network,
        name=arguments.network,
    )
    print(text, end="")
    if arguments.seeds == [0, 1, 2]:
        name = "criteria" if arguments.network == "digits" else f"criteria_{arguments.network}"
        (DOCUMENTS / f"{name}.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
