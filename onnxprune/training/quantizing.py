"""Quantisation-aware training: a module that computes as its int8 graph will, with gradients that pass through.

    quantizer = Quantizer(module, pruner.channels)      # after pruning; BatchNorm is frozen, and folded as it will be
    quantizer.calibrate(batches)                        # ranges of activations
    ...train on...                                      # ranges follow, weights learn to live on the grid
    with quantizer.paused():
        result = pruner.export()                        # without what is masked, still in floating point
    model = quantizer.insert(result.model)              # QuantizeLinear and DequantizeLinear at the scales found

Weights are rounded to symmetric int8, one scale for each channel that a layer gives, activations to uint8 with a zero
point; rounding has the gradient of the identity (Bengio et al. 2013; Jacob et al. 2018, arXiv:1712.05877, section 3).
torchao, which carries on PyTorch's quantisation, has such training for linear layers alone, and ONNX Runtime's own
quantiser finds ranges of its own: what is trained here wouldn't be what is deployed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import RecipeError
from onnxprune.graph import quantize as stored
from onnxprune.graph.model import Model, to_bytes
from onnxprune.graph.origin import calling_module
from onnxprune.graph.quantize import CLAMPS, LARGEST_BIAS, LAYERS, SMALLEST_SCALE, TOP, Activation
from onnxprune.graph.units import Channels
from onnxprune.runtime.equivalence import Equivalence, Tally, runs_of
from onnxprune.training import layers
from onnxprune.training.export import evaluation_mode
from onnxprune.training.masks import Masks

#: How far the range of an activation moves towards that of a batch while training.
MOMENTUM = 0.01
#: How far the int8 graph's outputs may be from the module's, in 255ths of their range. ONNX Runtime rounds sums of
#: integers where the module rounds floats: here and there a value falls on the next step, and later layers pass it on.
STEPS = 4
#: What moves values or picks some of them, and so keeps them on their grid.
MOVES = ("Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FORWARDS = {kind.forward for kind in (nn.Linear, *_CONVOLUTIONS)}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Quantizer:
    """Fake quantisation of every convolution and linear layer of `module` that `channels`' graph has once.

    A layer whose BatchNorm can't be folded, or that isn't called as the module it is, stays as it was. `bits` are those
    of weights; with `reduce_range` one less is used, which x86 processors without VNNI need. Raises RecipeError where
    there is no layer to quantise.
    """

    def __init__(
        self,
        module: nn.Module,
        channels: Channels,
        *,
        bits: int = 8,
        per_channel: bool = True,
        reduce_range: bool = True,
    ):
        self.module, self.per_channel = module, per_channel
        self.largest = stored.largest(bits, reduce_range)
        self.layers: dict[str, _Layer] = {}
        parts = dict(module.named_modules())
        found = _find(channels, parts)
        if not found:
            raise RecipeError(
                f"{type(module).__name__} has no convolution or linear layer to quantise. Leave quantize out."
            )
        given = {site.given: path for path, site in found.items() if site.is_convolution}
        for path, site in found.items():
            source = given.get(_on_grid(site.node.inputs[0]))
            norm = parts[site.norm] if site.norm is not None else None
            self.layers[path] = _Layer(parts[path], norm, site, source, self.largest, per_channel)
        for layer in self.layers.values():
            if layer.source is not None:
                layer.reads = self.layers[layer.source].gives
        self._switch_on()

    def __repr__(self) -> str:
        return f"Quantizer({type(self.module).__name__}: {len(self.layers)} layers)"

    def calibrate(self, batches: Iterable) -> None:
        """Set the ranges of activations to all that they reach on `batches` of (inputs, targets)."""
        ranges = self._ranges()
        for found in ranges:
            found.widens = True
        try:
            with evaluation_mode(self.module), torch.no_grad():
                for x, _ in batches:
                    layers.call(self.module, x)
        finally:
            for found in ranges:
                found.widens = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The module in floating point, to be exported."""
        self._switch_off()
        try:
            yield
        finally:
            self._switch_on()

    @contextmanager
    def holding(self, masks: Masks) -> Iterator[None]:
        """Within, what is masked has no gradient, so that an optimizer that starts here leaves it at zero."""
        hooks = [masks.parameters[name].register_hook(partial(torch.mul, mask)) for name, mask in masks.held.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def insert(self, model: Model) -> Model:
        """The module's graph with the layers quantised as they are here.

        A convolution that a BatchNorm was folded into may have the BatchNorm's path.
        """
        how: dict[str, stored.Layer] = {}
        for path, layer in self.layers.items():
            grids = stored.Layer(layer.reads.stored(), None if layer.gives is None else layer.gives.stored())
            how |= dict.fromkeys([path, *([layer.norm_path] if layer.norm_path else [])], grids)
        return stored.quantize(model, how, largest=self.largest, per_channel=self.per_channel)

    def prove(self, model: Model, feeds: Sequence[Mapping[str, np.ndarray]]) -> Equivalence:
        """Compare the int8 graph with the module on `feeds`, computed as it is written and fused to integers.

        Differences up to STEPS steps of the outputs' range in 255 pass.
        """
        tally = Tally(STEPS / TOP)
        expected: list[Any] = []
        with evaluation_mode(self.module), torch.no_grad():
            for feed in feeds:
                outputs = layers.call(self.module, tuple(torch.from_numpy(array) for array in feed.values()))
                outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
                expected.append([y.float().cpu().numpy() for y in outputs])
        for number, (where, run, feed) in enumerate(runs_of(to_bytes(model), feeds)):
            tally.add(where, expected[number % len(feeds)], run(feed))
        return tally.result()

    def _ranges(self) -> list["Range"]:
        return [part for part in self.module.modules() if isinstance(part, Range)]

    def _switch_on(self) -> None:
        for layer in self.layers.values():
            layer.part.forward = layer.forward
            if layer.norm is not None:
                layer.norm.forward = _as_it_is

    def _switch_off(self) -> None:
        for layer in self.layers.values():
            for part in (layer.part, layer.norm):
                if part is not None:
                    part.__dict__.pop("forward", None)


class Range(nn.Module):
    """The range of an activation, which follows what it sees while training, and rounds to 256 steps of it.

    `clamp` is what the Relu or Clip behind it does anyway.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, clamp: tuple[float | None, float | None] = (None, None)):
        super().__init__()
        self.clamp, self.widens = clamp, False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        if self.widens or self.training:
            self._see(x.detach())
        if self.widens:
            return x
        scale, zero = self.grid()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, TOP)

    def grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale, zero point): 0 is always on the grid."""
        scale = ((self.high - self.low) / TOP).clamp(min=SMALLEST_SCALE)
        return scale, (-self.low / scale).round().clamp(0, TOP).int()

    def stored(self) -> Activation:
        """The same as plain numbers."""
        scale, zero = self.grid()
        return Activation(scale.item(), int(zero))

    def _see(self, x: torch.Tensor) -> None:
        if any(bound is not None for bound in self.clamp):
            x = x.clamp(*self.clamp)
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        if self.widens:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        else:
            self.low.lerp_(low, MOMENTUM)
            self.high.lerp_(high, MOMENTUM)


class _Layer:
    """One layer with its BatchNorm, where it has one: what it reads and gives is rounded, and its weights are."""

    def __init__(
        self,
        part: nn.Module,
        norm: nn.Module | None,
        site: "_Site",
        source: str | None,
        largest: int,
        per_channel: bool,
    ):
        self.part, self.norm, self.norm_path, self.source = part, norm, site.norm, source
        self.largest, self.per_channel = largest, per_channel
        self.has_bias = site.node.op_type != "MatMul"
        self.gives = _like(part, Range(site.clamp)) if site.is_convolution else None
        self.reads: Any = None
        if self.gives is not None:
            part.add_module("gives", self.gives)
        if source is None:
            self.reads = _like(part, Range())
            part.add_module("reads", self.reads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.source is None:
            x = self.reads(x)
        weight, bias = self._folded()
        if not self.reads.widens:
            weight, bias = self._rounded(weight, bias)
        if self.gives is None:
            return functional.linear(x, weight, bias)
        return self.gives(self.part._conv_forward(x, weight, bias))

    def _folded(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias with the BatchNorm behind them, by its recorded statistics."""
        weight, bias, norm = self.part.weight, self.part.bias, self.norm
        if norm is None:
            return weight, bias
        factor, shift = torch.rsqrt(norm.running_var + norm.eps), (0 if bias is None else bias) - norm.running_mean
        if norm.affine:
            factor = norm.weight * factor
        bias = shift * factor + norm.bias if norm.affine else shift * factor
        return weight * factor.reshape(-1, *(1 for _ in weight.shape[1:])), bias

    def _rounded(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """On the same grids as `onnxprune.graph.quantize` puts them: the bias of a MatMul isn't part of the layer."""
        with torch.no_grad():
            step = self.reads.grid()[0]
            scale = weight.abs().flatten(1).amax(1) / self.largest
            if bias is not None:
                scale = torch.maximum(scale, bias.abs() / (step * LARGEST_BIAS))
            scale = (scale if self.per_channel else scale.amax().expand_as(scale)).clamp(min=SMALLEST_SCALE)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        if bias is not None and self.has_bias:
            bias = bias + ((bias / (step * scale)).round() * (step * scale) - bias).detach()
        return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -self.largest, self.largest), bias


def _like(part: nn.Module, found: Range) -> Range:
    """On the device of `part`, and in its mode."""
    return found.to(part.weight.device).train(part.training)


def _as_it_is(x: torch.Tensor) -> torch.Tensor:
    return x


class _Site:
    """Where a layer is in the graph: its node, its BatchNorm's path, and what it gives behind that and a clamp."""

    def __init__(self, node: ir.Node, value_of: Callable[[ir.Value], np.ndarray | None]):
        self.node = node
        self.is_convolution = node.op_type == "Conv"
        self.norm: str | None = None
        self.clamp: tuple[float | None, float | None] = (None, None)
        self.given = node.outputs[0]
        self.batch_norm = None
        reader = _only_reader(self.given)
        if reader is not None and reader.op_type == "BatchNormalization":
            self.batch_norm, self.norm = reader, calling_module(reader)
            self.given = reader.outputs[0]
            reader = _only_reader(self.given)
        if reader is not None and reader.op_type in CLAMPS:
            bounds = [None if value is None else value_of(value) for value in reader.inputs[1:]]
            low, high = (None if bound is None else float(bound) for bound in (*bounds, None, None)[:2])
            self.clamp = (0.0, None) if reader.op_type == "Relu" else (low, high)
            self.given = reader.outputs[0]


def _find(channels: Channels, parts: Mapping[str, nn.Module]) -> dict[str, _Site]:
    """{path: where} of every layer that can be quantised."""
    nodes: dict[str, list[ir.Node]] = {}
    for node in channels.model.ir.graph:
        path = calling_module(node)
        if path is not None and not node.domain and (node.op_type in LAYERS or node.op_type == "BatchNormalization"):
            nodes.setdefault(path, []).append(node)
    found = {}
    for path, several in nodes.items():
        part = parts.get(path)
        if len(several) == 1 and type(part).forward in _FORWARDS and several[0].op_type in LAYERS:
            site = _Site(several[0], channels.trace.static)
            if _can_fold(site, nodes, parts):
                found[path] = site
    return found


def _can_fold(site: _Site, nodes: Mapping[str, list], parts: Mapping[str, nn.Module]) -> bool:
    if site.batch_norm is None:
        return True
    norm = parts.get(site.norm or "")
    if type(norm) not in _NORMS or not norm.track_running_stats:
        return False
    return site.node.op_type != "MatMul" and nodes[site.norm] == [site.batch_norm]


def _only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads the values: a BatchNorm without scale and shift is exported with a Shape beside it."""
    readers = [reader for reader, _ in value.uses() if reader.op_type != "Shape"]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() and not readers[0].domain else None


def _on_grid(value: ir.Value) -> ir.Value:
    """Back to what was only moved to become this value."""
    producer = value.producer()
    while producer is not None and producer.op_type in MOVES and not producer.domain:
        value = producer.inputs[0]
        producer = value.producer()
    return value
