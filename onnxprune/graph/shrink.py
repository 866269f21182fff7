"""Remove what provably changes nothing, and say of every channel what became of it and why."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import onnx_ir as ir

from onnxprune.graph import known
from onnxprune.graph.labels import spans
from onnxprune.graph.model import Model, load, normalise
from onnxprune.graph.remove import remove
from onnxprune.graph.trace import walk
from onnxprune.graph.units import Channels


@dataclass(frozen=True)
class KeptDead:
    """A channel that holds a constant and yet stays: where, and which node is in the way."""

    tensor: str
    axis: int
    index: int
    node: str
    reason: str


@dataclass(frozen=True)
class ShrinkReport:
    """What `shrink` did. `verdicts` counts channels; `kept_dead` lists those that hold a constant and had to stay."""

    verdicts: Mapping[str, int] = field(default_factory=dict)
    kept_dead: tuple[KeptDead, ...] = ()
    rounds: int = 0

    def as_dict(self) -> dict:
        return {
            "verdicts": dict(self.verdicts),
            "kept_dead": [asdict(entry) for entry in self.kept_dead],
            "rounds": self.rounds,
        }


def shrink(model) -> tuple[Model, ShrinkReport]:
    """Remove every unit that no output depends on; the function stays the same.

    `model` is anything `load` takes. Values inside the network are assumed finite. Returns the smaller model, and the
    report. Where nothing is dead the model comes back as it was.
    """
    result = model = load(model)
    removed = rounds = 0
    while True:
        channels = Channels(walk(model))
        facts = known.forward(channels.trace)
        lives, readers = known.alive(channels, facts)
        channels, units = channels.covering(~lives)
        dead = _without_emptying(channels, units)
        if not dead:
            break
        removed += len({c for u in dead for c in channels.units[u].channels})
        result = remove(model, channels, dead)
        model = normalise(result.ir.clone(), result.name)  # what was merged again may tie layers again
        rounds += 1
    if not rounds:
        result = remove(model, channels, ())
    left = len({c for u in channels.units for c in u.channels})
    return result, ShrinkReport({"removed": removed, "kept": left}, tuple(_kept_dead(channels, facts, readers)), rounds)


def _without_emptying(channels: Channels, units: tuple[int, ...]) -> list[int]:
    """The units, but for one where an axis would be left empty."""
    deleted = np.zeros(channels.count, bool)
    for index in units:
        deleted[list(channels.units[index].channels)] = True
    if channels.emptied(deleted) is None:
        return list(units)
    axes_of: dict[int, list[int]] = defaultdict(list)
    left = []
    for number, named in enumerate(channels.axes):
        left.append(len(named))
        for c in named.tolist():
            axes_of[c].append(number)
    deleted[:] = False
    chosen = []
    for index in units:
        new = [c for c in channels.units[index].channels if not deleted[c]]
        loses = Counter(axis for c in new for axis in axes_of[c])
        if all(left[axis] > count for axis, count in loses.items()):
            for axis, count in loses.items():
                left[axis] -= count
            deleted[new] = True
            chosen.append(index)
    return chosen


def _kept_dead(channels: Channels, facts: Mapping[ir.Value, known.Known], readers: Mapping[int, str]):
    """Constant outputs of Conv, Gemm and MatMul that stayed."""
    for node in channels.model.ir.graph:
        pair = facts.get(node.outputs[0]) if node.outputs else None
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or pair is None:
            continue
        for facet in channels.facets(node.outputs[0]):
            axes = spans(facet)
            if len(axes) != 1 or pair.is_known.size != facet.size:
                continue
            for index in np.flatnonzero(pair.is_known.ravel()).tolist():
                c = int(channels.channel[facet].ravel()[index])
                value = float(pair.value.ravel()[index])
                reason = channels.pin_reasons.get(c) or f"holds {value:.6g} here, and what it is added to is read"
                yield KeptDead(node.outputs[0].name or "", axes[0], index, readers.get(c, ""), reason)
