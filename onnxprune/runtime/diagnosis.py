"""Why a model is, or isn't, as fast as its multiply-adds suggest: read off its optimised graph, without a stopwatch.

ONNX Runtime's CPU provider computes float32 convolutions in a blocked layout (NCHWc, 16 channels on AVX-512, 8 on
AVX2), if their widths allow it. One odd width costs more than what was pruned brings; and weights below the smallest
normal number cost a hundred times what others do.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune.graph.model import Model, load
from onnxprune.runtime.environment import instruction_sets
from onnxprune.runtime.session import SessionSettings, open_session, run_session

BLOCKED = "com.microsoft.nchwc"
REORDERS = ("ReorderInput", "ReorderOutput")
CONVOLUTIONS = ("Conv", "FusedConv")
#: float32 and wider: a float16 is computed as float32, in which its subnormals are normal numbers.
SMALLEST_NORMAL = {ir.DataType.FLOAT: 2.0**-126, ir.DataType.BFLOAT16: 2.0**-126, ir.DataType.DOUBLE: 2.0**-1022}
PROFILED_RUNS = 20
NAMED = 3  # layers that a sentence names before it says how many more there are


@dataclasses.dataclass(frozen=True)
class PlainConv:
    """A convolution that ONNX Runtime computes in the plain layout: its name, widths, why, and what would change it.

    round: {name of the layer that makes the width: width to round it to}, empty where no width would help.
    """

    name: str
    in_channels: int
    out_channels: int
    group: int
    reason: str
    round: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What a model's optimised graph and weights say about its speed on this CPU.

    convolutions: all of them; blocked: those in the blocked layout; reorders: nodes that change between layouts; block:
    channels of a block here, None where this processor has no blocked layout; subnormal_weights: elements below the
    smallest normal number, subnormal_tensors: the initializers that hold them.
    """

    convolutions: int
    blocked: int
    reorders: int
    block: int | None
    plain: tuple[PlainConv, ...]
    subnormal_weights: int
    subnormal_tensors: tuple[str, ...]

    def sentences(self, reference: Diagnosis | None = None) -> list[str]:
        """What is worth knowing; with a reference, only layouts that it has and this model hasn't."""
        found = []
        before = None if reference is None else {conv.name for conv in reference.plain}
        lost = [conv for conv in self.plain if conv.round and (before is None or conv.name not in before)]
        if lost:
            verb = "lost the blocked layout" if reference else "can't use the blocked layout"
            found.append(f"{_count(len(lost), 'convolution')} {verb}: {_advice(lost)}.")
        if reference is not None and self.reorders > reference.reorders:
            found.append(
                f"{_count(self.reorders, 'layout change')} where the reference has {reference.reorders}: "
                "look for a Concat with an odd width, PRelu, Gather or Gelu between convolutions."
            )
        if self.subnormal_weights:
            found.append(
                f"{_count(self.subnormal_weights, 'weight')} in {_list(self.subnormal_tensors)} lie below the smallest "
                "normal number (denormals), which many processors compute a hundred times slower: set them to 0, as "
                "`onnxprune shrink` does."
            )
        return found


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """One operator's share of an inference in ms, in the reference and in the candidate; None where it has none."""

    name: str
    operator: str
    reference_ms: float | None
    candidate_ms: float | None


def diagnose(path: str | Path) -> Diagnosis:
    """Optimise the model as ONNX Runtime's CPU provider does, and count. Nothing is run. Raises: ModelError."""
    model = load(path)
    optimised = optimised_graph(str(path))
    plain_names = {_key(node) for node in optimised.node if node.op_type in CONVOLUTIONS and node.domain != BLOCKED}
    blocked = sum(node.op_type == "Conv" and node.domain == BLOCKED for node in optimised.node)
    subnormal = _subnormal(model)
    block = block_size()
    convolutions = [node for node in model.ir.graph if node.op_type == "Conv" and not node.domain]
    plain = [_explain(node, block) for node in convolutions if plain_names & _names(node)]
    return Diagnosis(
        convolutions=blocked + sum(node.op_type in CONVOLUTIONS and node.domain != BLOCKED for node in optimised.node),
        blocked=blocked,
        reorders=sum(node.op_type in REORDERS for node in optimised.node),
        block=block,
        plain=tuple(plain),
        subnormal_weights=sum(subnormal.values()),
        subnormal_tensors=tuple(subnormal),
    )


def block_size() -> int | None:
    """Channels of a block in ONNX Runtime's blocked layout on this processor, None where it has none."""
    found = instruction_sets()
    if "avx512f" in found:
        return 16
    return 8 if "avx2" in found or "avx" in found else None


def optimised_graph(model: str) -> onnx.GraphProto:
    """The graph that ONNX Runtime really computes on the CPU at optimisation level all, without its weights' data."""
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder) / "optimised.onnx"
        open_session(model, SessionSettings(), optimised_to=str(path))
        return onnx.load(str(path), load_external_data=False).graph


def operator_times(models: Sequence[str], feed: Mapping[str, np.ndarray]) -> tuple[OperatorTime, ...]:
    """Where reference and candidate spend their time, operator by operator, the largest change first.

    Medians over profiled runs on one thread. Operators are matched by the tensor they give, which a pruned model names
    like its original.
    """
    reference, candidate = (_profile(model, feed) for model in models)
    rows = []
    for name in dict.fromkeys([*reference, *candidate]):
        before, after = reference.get(name), candidate.get(name)
        rows.append(
            OperatorTime(name, (after or before)[0], before and round(before[1], 6), after and round(after[1], 6))
        )
    return tuple(sorted(rows, key=lambda row: -abs((row.candidate_ms or 0) - (row.reference_ms or 0))))


def _profile(model: str, feed: Mapping[str, np.ndarray]) -> dict[str, tuple[str, float]]:
    """{tensor that the operator gives: (operator, median ms)}."""
    names = {node.name: _key(node) for node in optimised_graph(model).node}
    times: dict[str, list[float]] = defaultdict(list)
    operators: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        session = open_session(model, SessionSettings(), profile_prefix=str(Path(folder) / "profile"))
        for _ in range(PROFILED_RUNS):
            run_session(session, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node = event["name"].removesuffix("_kernel_time")
            key = names.get(node, node)
            times[key].append(event["dur"] / 1e3)
            operators[key] = event["args"]["op_name"]
    # Nodes without a name share one: their times of a run belong together.
    return {
        key: (operators[key], float(np.median(found)) * max(1, len(found) // PROFILED_RUNS))
        for key, found in times.items()
    }


def _key(node: onnx.NodeProto) -> str:
    """The tensor of the original graph that an optimised node gives; blocked ones are named after it."""
    if node.domain == BLOCKED and node.name.endswith("_nchwc"):
        return node.name.removesuffix("_nchwc")
    return node.output[0] if node.output else node.name


def _names(node: ir.Node) -> set[str]:
    """What a convolution's result may be called once activations, sums and scales are fused into it."""
    names, value = set(), node.outputs[0]
    while True:
        names.add(value.name or "")
        uses = list(value.uses())
        if len(uses) != 1 or uses[0][0].op_type in (*CONVOLUTIONS, "Gemm", "MatMul") or len(names) > 4:
            return names
        value = uses[0][0].outputs[0]


def _explain(node: ir.Node, block: int | None) -> PlainConv:
    """Which width keeps this convolution out of the blocked layout. Source: ONNX Runtime's nchwc_transformer.cc."""
    weight = node.inputs[1].shape
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    sizes = [size if isinstance(size, int) else 0 for size in (weight or ())]
    name = node.name or node.outputs[0].name or ""
    out, per_group = (*sizes, 0, 0)[:2]
    for applies, reason in (
        (block is None, "this processor has no blocked layout"),
        (len(sizes) != 4, "it isn't two-dimensional"),
        (node.inputs[1].const_value is None, "its weights aren't constant"),
    ):
        if applies:
            return PlainConv(name, per_group * group, out, group, reason)
    inputs = per_group * group
    maker = producer(node.inputs[0])
    if group == 1 and inputs >= block and inputs % 4:
        reason = f"{inputs} input channels aren't a multiple of 4"
        return PlainConv(name, inputs, out, group, reason, {maker: _nearest(inputs, block)} if maker else {})
    if group > 1 and per_group == 1 and out == group and inputs % 4:
        reason = f"{inputs} depthwise channels aren't a multiple of 4"
        return PlainConv(name, inputs, out, group, reason, {maker or name: _nearest(inputs, block)})
    if group > 1 and (per_group % block or out // group % block):
        reason = f"{per_group} input and {out // group} output channels a group aren't both multiples of {block}"
        return PlainConv(name, inputs, out, group, reason)
    return PlainConv(name, inputs, out, group, "ONNX Runtime keeps it in the plain layout")


def producer(value: ir.Value | None) -> str | None:
    """Name of the layer that decides how many channels `value` has."""
    for _ in range(100):
        node = value.producer() if value is not None else None
        if node is None:
            return None
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            depthwise = "group" in node.attributes and node.attributes["group"].as_int() > 1
            if not depthwise or node.inputs[1].shape is None or node.inputs[1].shape[1] != 1:
                return node.name or node.outputs[0].name
        if node.op_type in ("Concat", "Split", "Reshape", "Transpose"):
            return node.name or node.outputs[0].name
        value = node.inputs[0]
    return None


def _nearest(width: int, block: int) -> int:
    """The nearest multiple of the block; the larger where both are as near."""
    return max(block, (width + block // 2) // block * block)


def _subnormal(model: Model) -> dict[str, int]:
    """{initializer: how many of its elements are subnormal}."""
    found = {}
    for name, value in model.ir.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or name in model.copies or tensor.dtype not in SMALLEST_NORMAL:
            continue
        size = np.abs(tensor.numpy().astype(np.float64))
        many = int(((size > 0) & (size < SMALLEST_NORMAL[tensor.dtype])).sum())
        if many:
            found[name] = many
    return found


def _advice(lost: Sequence[PlainConv]) -> str:
    """What to round, each layer once."""
    by_width: dict[int, list[str]] = {}
    for name, width in dict.fromkeys((name, width) for conv in lost for name, width in conv.round.items()):
        by_width.setdefault(width, []).append(name)
    return "; ".join(f"round {_list(names)} to {width}" for width, names in sorted(by_width.items()))


def _list(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
