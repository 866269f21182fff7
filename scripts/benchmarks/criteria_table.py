"""The page that `criteria.py` prints, from the figures it noted."""

from collections import defaultdict

import numpy as np

from criteria_networks import Network
from onnxprune.runtime.statistics import paired_mean_interval

FLOOR = "random"
CHOSEN = (
    "The default, `taylor` with the ranking `global`, was chosen by the accuracy on validation data, over other seeds "
    "(10 to 15) of this network and two of the keyword spotter. It sums w dL/dw over a channel before it squares, "
    "takes the mean of all batches that were seen, and chooses widths by the logarithm of the share of its saliency "
    "that is left of each layer, times the root of that saliency. Before, it summed |w dL/dw| over single weights, "
    "gave the first batch more than half of the mean, and chose widths by the plain sum: 90.0% here at the time, two "
    "layers cut to two channels. Tried as well, and no better on these digits: a layer's saliencies over their mean, "
    "their largest or their sum; the logarithm alone; the size or the root in the place of the square; least squares "
    "after each cut. The logarithm times the saliency itself did as well here, and narrowed a layer of the keyword "
    "spotter from 96 channels to 4. A floor of 6 channels under the plain sum did almost as well, over two seeds."
)
NOTES = {
    "adjustment": "BatchNorm's running statistics take no part in training, so that after some epochs a network whose "
    "statistics were taken anew at the cut is the one that it would have been without.",
    "sparsity": "The optimizer is AdamW, which divides a penalty's gradient by its size like any other; proximal steps "
    "and projections come after it. Weights are those in `methods()`; the constraints hold half of each layer.",
}
SECTIONS = {
    "dense": "The dense network",
    "criterion": "Criteria, under the cubic schedule",
    "ranking": "Rankings, under Taylor and the cubic schedule",
    "schedule": "Schedules, under Taylor",
    "adjustment": "Adjustments after each cut, under Taylor and the cubic schedule",
    "sparsity": "Zeros while training: penalties, proximal steps, constraints, soft masks; under Taylor",
    "together": "What did well, together: chosen after the tables above were seen",
    "less": "The default at the multiply-adds that the bar below ends with",
    "bar": "The bar: Torch-Pruning 1.6, under the cubic schedule",
}
COLUMNS = ("method", "seeds", "accuracy", "each", f"against {FLOOR}", "MACs", "parameters", "widths, seed 0", "latency")
POINTS = 100
INTRODUCTION = (
    "Printed by `python scripts/benchmarks/criteria.py{option}`: {in_words}. It is pruned to at most {macs:.0%} of the "
    "multiply-adds within {epochs} epochs, in {steps} steps, without distillation; widths are multiples "
    "of {grain}. Accuracy is on the {samples:,} test samples, the mean over the seeds; `against {floor}` is the "
    "difference to it in points and its 95% interval, the samples drawn anew (every seed's network answers each of "
    "them). Where the whole interval lies below 0 the method **loses to {floor}**; where only the difference does it "
    "is _below {floor}_. MACs and parameters are what is left; schedules that follow the metric hold the accuracy "
    "within 5% of the dense network's on the validation data, and may end before the budget. Latency is that of seed "
    "0's widths (the layers' outputs, first to last) over the dense network's, at batch 1 on one thread of ONNX "
    "Runtime's CPU provider, all networks side by side, with its 95% interval; networks of the same widths are "
    "measured once, and an empty cell was not measured."
)


def page(results: list[dict], latencies: dict, *, order: list[str], machine: str, network: Network, name: str) -> str:
    """Markdown: one row a method, sections in order; what is missing is missing."""
    refused = {r["name"]: r["refused"] for r in results if "refused" in r}
    results = [r for r in results if "refused" not in r]
    by_name: dict[str, list[dict]] = defaultdict(list)
    for result in sorted(results, key=lambda r: r["seed"]):
        by_name[result["name"]].append(result)
    loads = [r["load"] for r in results]
    state = f"the machine was shared, its load average {min(loads):.1f} to {max(loads):.1f} while networks trained"
    if latencies:
        state += f", {latencies['load'][0]:.1f} before latencies were measured and {latencies['load'][1]:.1f} after, "
        state += f"in {latencies['rounds']} rounds"
    introduction = INTRODUCTION.format(
        option="" if name == "digits" else f" --network {name}",
        in_words=network.in_words,
        macs=network.macs,
        epochs=network.pruning.epochs,
        steps=network.pruning.prune_steps,
        grain=network.grain,
        samples=len(results[0]["right"]),
        floor=FLOOR,
    )
    lines = [
        "# Criteria, rankings, schedules and adjustments side by side",
        "",
        introduction,
        "",
        f"{machine}; {state}.",
    ]
    for section, title in SECTIONS.items():
        notes = {**NOTES, "criterion": CHOSEN} if name == "digits" else NOTES
        names = [n for n in order if n in by_name and by_name[n][0]["section"] == section]
        if names:
            lines += ["", f"## {title}", "", *([notes[section], ""] if section in notes else [])]
            lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
            lines += [_row(name, by_name, latencies.get("ratios", {})) for name in names]
    if refused:
        lines += ["", "## Not for this network", "", *(f"* {name}: {why}" for name, why in refused.items())]
    return "\n".join(lines) + "\n"


def _row(name: str, by_name: dict[str, list[dict]], ratios: dict[str, list[float]]) -> str:
    runs, whole = by_name[name], by_name["dense"][0]
    accuracy = [_right(r).mean() for r in runs]
    widths = next((r["widths"] for r in runs if r["seed"] == 0), "")
    cells = [
        name,
        str(len(runs)),
        f"{np.mean(accuracy):.2%}",
        ", ".join(f"{a:.1%}" for a in accuracy),
        _against(runs, by_name.get(FLOOR, [])),
        _spread([r["macs"] / whole["macs"] for r in runs]) + _unreached(runs),
        _spread([r["params"] / whole["params"] for r in runs]),
        widths.replace("-", " "),
        "{:.3f} [{:.3f}, {:.3f}]".format(*ratios[widths]) if widths in ratios else "1" if name == "dense" else "",
    ]
    return "| " + " | ".join(cells) + " |"


def _right(run: dict) -> np.ndarray:
    return np.array([c == "1" for c in run["right"]])


def _against(runs: list[dict], floor: list[dict]) -> str:
    """The difference to the floor over the seeds that both have."""
    of = {r["seed"]: _right(r) for r in floor}
    pairs = [(_right(r), of[r["seed"]]) for r in runs if r["seed"] in of]
    if not pairs or runs[0]["name"] in (FLOOR, "dense"):
        return ""
    if any(r["progress"] < 1 for r in runs):
        return "not at the same budget"
    ours, random = (np.mean([pair[side] for pair in pairs], axis=0) for side in (0, 1))
    difference = float((ours - random).mean())
    low, high = paired_mean_interval(random, ours)
    words = f" **loses to {FLOOR}**" if high < 0 else f" _below {FLOOR}_" if difference < 0 else ""
    return f"{difference * POINTS:+.2f} [{low * POINTS:+.2f}, {high * POINTS:+.2f}]{words}"


def _spread(values: list[float]) -> str:
    low, high = f"{min(values):.1%}", f"{max(values):.1%}"
    return low if low == high else f"{low} to {high}"


def _unreached(runs: list[dict]) -> str:
    short = sum(r["progress"] < 1 for r in runs)
    return f", budget not reached in {short}" if short else ""
