"""Check one network of the zoo: delete at random, and hold what is left against three independent answers."""

import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from networks.exporting import Exported, build
from networks.network import BATCHES, Network, feeds
from onnxprune.deploy import cutting
from onnxprune.graph.mask import mask
from onnxprune.graph.model import Model, load, save, to_bytes
from onnxprune.graph.remove import remove
from onnxprune.graph.units import Channels, trace
from picking import SEED, legal
from zoo_table import ALL, ENOUGH, TOLERANCE

SHARE = 0.3
PINS_LISTED = 20
Feed = Mapping[str, np.ndarray]
Outputs = Sequence[np.ndarray]
#: Operands that can't be zeroed; what is divided by them is, if it goes.
READ_WITHOUT_ZEROS = {("BatchNormalization", 4), ("Div", 1), ("Reciprocal", 0), ("Sqrt", 0), ("Pow", 0), ("Log", 0)}


@dataclass
class Deletion:
    """One random deletion: how many units of `kind` there are and went, and the errors over the range, worst feed.

    `rounding` is how far the module is from itself in float64, where the error is above the tolerance.
    """

    kind: str
    units: int
    deleted: int
    weights_left: float = 1.0
    error: float = float("inf")
    effect: float = 0.0
    backend_error: float | None = None
    rounding: float | None = None
    failure: str = ""
    backend_failure: str = ""


@dataclass
class Result:
    """What is known of one network; times in seconds, memory in bytes beyond what the process held before."""

    name: str
    remark: str = ""
    nodes: int = 0
    weights: int = 0
    prunable: float = 0.0
    deletions: list[Deletion] = field(default_factory=list)
    torch_deletions: list[Deletion] = field(default_factory=list)
    pins: list[tuple[str, int]] = field(default_factory=list)
    pinned_tensors: list[tuple[str, list[int], float, str]] = field(default_factory=list)
    operators: dict[str, int] = field(default_factory=dict)
    sensitivity: float = 0.0
    trace_seconds: float = 0.0
    remove_seconds: float = 0.0
    peak_bytes: int = 0
    notes: list[str] = field(default_factory=list)


def check(network: Network, exported: Exported, *, backend: bool = True, module: bool = True) -> Result:
    """Delete at random from the exported network, each kind of unit apart and then all, and compare."""
    result = Result(network.name, exported.remark)
    with peak_memory() as peak:
        model = load(exported.optimized)
        started = time.process_time()
        channels = trace(model)
        units = channels.units
        result.trace_seconds = time.process_time() - started
        describe(result, model, channels)
        chosen = legal(channels, [unit.index for unit in units], SHARE)
        started = time.process_time()
        with suppress(Exception):  # it fails again below, where it is written down
            to_bytes(remove(model, channels, chosen))
        result.remove_seconds = time.process_time() - started
    result.peak_bytes = peak[0]
    drawn = all_feeds(exported)
    result.sensitivity = sensitivity(model, exported)
    dense = run(model, drawn)
    for kind, candidates in by_kind(channels):
        result.deletions.append(deletion(model, channels, kind, candidates, drawn, dense, backend))
    if module and exported.plain:
        against_module(result, network, exported, drawn)
    return result


def describe(result: Result, model: Model, channels: Channels) -> None:
    result.nodes = model.ir.graph.num_nodes()
    result.weights = parameters(model)
    result.prunable = channels.prunable
    result.pins = list(channels.pinned.items())[:PINS_LISTED]
    result.operators = dict(Counter(node.op_type for node in model.ir.graph).most_common())
    if result.prunable < ENOUGH:
        result.pinned_tensors = pinned_tensors(channels)


def pinned_tensors(channels: Channels) -> list[tuple[str, list[int], float, str]]:
    """(name, shape, share of its weights that stay, why) of the tensors that hold most of what can't be cut."""
    deletable = channels.deletable
    found = []
    for name, facets in channels.parameters():
        value = channels.model.ir.graph.initializers[name]
        shape = channels.trace.shape_of[value]
        stays = channels.keep_mask(value, deletable).mean()
        if stays:
            named = [int(c) for f in facets for c in np.unique(channels.channel[f])]
            reasons = [channels.pin_reasons[c] for c in named if c in channels.pin_reasons]
            reason = reasons[0] if reasons else "no labelled axis"
            found.append((stays * np.prod(shape), (name, list(shape), float(stays), reason)))
    found.sort(key=lambda item: -item[0])
    return [entry for _, entry in found[:PINS_LISTED]]


def parameters(model: Model) -> int:
    """Elements of float initializers, copies not counted."""
    tensors = {n: v.const_value for n, v in model.ir.graph.initializers.items() if n not in model.copies}
    return sum(tensor.size for tensor in tensors.values() if tensor.dtype.is_floating_point())


def by_kind(channels: Channels) -> Iterator[tuple[str, list[int]]]:
    """(kind, units of it), then all kinds together."""
    units = [*channels.units, *channels.blocks]
    kinds = list(dict.fromkeys(unit.kind for unit in units))
    for kind in kinds:
        yield kind, [unit.index for unit in units if unit.kind == kind]
    if len(kinds) > 1:
        yield ALL, [unit.index for unit in units]


def deletion(
    model: Model,
    channels: Channels,
    kind: str,
    candidates: list[int],
    drawn: list[Feed],
    dense: list[Outputs],
    backend: bool,
) -> Deletion:
    """Delete a random share of the candidates, and compare with the mask and with the other backend.

    `dense` is what the network gives for the feeds `drawn` with nothing deleted.
    """
    chosen = legal(channels, candidates, SHARE)
    outcome = Deletion(kind, len(candidates), len(chosen))
    try:
        smaller = remove(model, channels, chosen)
        outcome.weights_left = parameters(smaller) / parameters(model)
        found = run(smaller, drawn)
        expected = run(mask(model, channels, chosen), drawn)
        outcome.error = error_over_range(expected, found)
        outcome.effect = error_over_range(dense, expected)
    except Exception as error:  # noqa: BLE001 whatever goes wrong is a finding
        outcome.failure = failure(error)
        return outcome
    if backend:
        try:
            outcome.backend_error = error_over_range(expected, run(cutting.remove(model, channels, chosen), drawn))
        except Exception as error:  # noqa: BLE001
            outcome.backend_failure = failure(error)
    return outcome


def against_module(result: Result, network: Network, exported: Exported, drawn: list[Feed]) -> None:
    """Zero in the PyTorch module what goes, run it, and compare with the graph that has it removed.

    Units whose deletion restates a normalisation are left out: there the zeroed module computes something else. So are
    sizes at which the exported network, whole, isn't the module: the exporter has fixed what depends on the size.
    """
    module = build(network).network
    model = load(exported.plain, unshare=False)
    faithful = []
    for number, feed in enumerate(drawn):
        difference = error_over_range(run_module(module, [feed]), run(model, [feed]))
        if difference <= TOLERANCE or number == 0:
            faithful.append(feed)
        if difference > TOLERANCE:
            result.notes.append(f"the export itself is {difference:.0e} from the module at size {number + 1}")
    channels = trace(model)
    exact = {unit.index for unit in channels.units if unit.exactness == "exact"}
    for kind, candidates in by_kind(channels):
        candidates = [index for index in candidates if index in exact]
        if not candidates:
            continue
        chosen = legal(channels, candidates, SHARE)
        outcome = Deletion(kind, len(candidates), len(chosen))
        result.torch_deletions.append(outcome)
        try:
            smaller = remove(model, channels, chosen)
            outcome.weights_left = parameters(smaller) / parameters(model)
            with zeroed(module, model, channels.keep_masks(chosen)) as unknown:
                expected = run_module(module, faithful)
                outcome.error = error_over_range(expected, run(smaller, faithful))
                if outcome.error > TOLERANCE:
                    outcome.rounding = error_over_range(run_in_float64(module, faithful), expected)
            if unknown and outcome.error > TOLERANCE:
                outcome.failure = f"not in the module: {', '.join(unknown)}"[:300]
        except Exception as error:  # noqa: BLE001
            outcome.failure = failure(error)


def failure(error: Exception) -> str:
    """The kind of error, what it said, and where it came from."""
    where = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__}: {error} [{' < '.join(where[:-5:-1])}]"


@contextmanager
def zeroed(module: torch.nn.Module, model: Model, keep_masks: Mapping[str, np.ndarray]) -> Iterator[list[str]]:
    """Zero the masked elements of parameters and buffers for a while; gives the names that the module doesn't have."""
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    divisors = {
        node.inputs[index].name
        for node in model.ir.graph
        for operator, index in READ_WITHOUT_ZEROS
        if node.op_type == operator and index < len(node.inputs) and node.inputs[index] is not None
    }
    before: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, keep in keep_masks.items():
            if name in tensors and name not in divisors:
                before[name] = tensors[name].clone()
                tensors[name].mul_(torch.from_numpy(keep))
        try:
            yield [name for name in keep_masks if name not in tensors]
        finally:
            for name, values in before.items():
                tensors[name].copy_(values)


def all_feeds(exported: Exported) -> list[Feed]:
    """Two feeds: batch 3, and batch 2 at the second dynamic size; a static batch is what it is."""
    sizes = zip(exported.sizes, BATCHES, strict=True)
    return [feeds(exported.inputs, size, batch, SEED + 1 + i) for i, (size, batch) in enumerate(sizes)]


def run(model: Model, drawn: Sequence[Feed]) -> list[Outputs]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    with tempfile.TemporaryDirectory() as folder:  # a file: one message holds no more than 2 GiB
        path = Path(folder) / "net.onnx"
        save(model, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return [session.run(None, {n: a for n, a in feed.items() if n in names}) for feed in drawn]


def run_module(module: torch.nn.Module, drawn: Sequence[Feed]) -> list[Outputs]:
    with torch.no_grad():
        outputs = [module(*(torch.from_numpy(array) for array in feed.values())) for feed in drawn]
    return [[y.numpy() for y in (out if isinstance(out, tuple | list) else (out,))] for out in outputs]


def run_in_float64(module: torch.nn.Module, drawn: Sequence[Feed]) -> list[Outputs]:
    """What the module gives in double precision; its weights are rounded to single precision, as they were."""
    wide = [{name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in feed.items()} for feed in drawn]
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        return run_module(module.double(), wide)
    finally:
        torch.set_default_dtype(default)
        module.float()


def error_over_range(expected: list[Outputs], found: list[Outputs]) -> float:
    """The largest difference over the range of its output; infinite for other shapes or anything not finite."""
    worst = 0.0
    for ours, theirs in zip(expected, found, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
                return float("inf")
            if a.size:
                difference = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
                worst = max(worst, float(difference / max(np.ptp(a), 1e-6)))
    return worst


def sensitivity(model: Model, exported: Exported) -> float:
    """How much of its range the output that differs least moves from one random sample to the next."""
    drawn = feeds(exported.inputs, exported.sizes[0], BATCHES[0], SEED)
    least = float("inf")
    for y in run(model, [drawn])[0]:
        if y.dtype.kind == "f" and y.ndim and len(y) > 1 and np.ptp(y):
            least = min(least, float(np.abs(y[0] - y[1]).max() / np.ptp(y)))
    return least


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """[bytes that the process grew by at most], once the block is left."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, peak = _resident("VmRSS"), [0]
    yield peak
    peak[0] = max(_resident("VmHWM") - before, 0)


def _resident(field_name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name):
            return int(line.split()[1]) * 1024
    return 0
