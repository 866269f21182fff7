"""Normalisations that take their statistics over the kept channels, as they will when the others are gone.

LayerNorm over 64 channels, 16 of which are masked, isn't LayerNorm over the other 48: the zeros count in its mean and
variance. Once something of a normalised axis is deleted, `layer_norm` and `group_norm` are therefore computed over what
is kept wherever the module calls them, so that what trains is what is deployed.

Which call is which node is told by the path of the module that makes it, and by its number among the calls there. A
normalisation that is written out by hand, or whose calls can't be told apart, can't be restated: its channels stay.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from onnxprune.graph.labels import spans
from onnxprune.graph.mask import NORMALISATIONS
from onnxprune.graph.origin import calling_module
from onnxprune.graph.units import Channels
from onnxprune.training.export import evaluation_mode

#: The functions whose calls are followed, and what the exporter calls them.
LAYER_NORM, GROUP_NORM = "aten.layer_norm.default", "aten.group_norm.default"


class Restating:
    """The normalisations of `module` that were exported to `channels`' graph.

    `stays`, bool [channels], are those over which a normalisation can't be restated. The module runs once on the
    example inputs, which tells how often each call comes.
    """

    def __init__(self, module: nn.Module, channels: Channels, example_inputs: Sequence[torch.Tensor]):
        self._parts = dict(module.named_modules())
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._masked: dict[str, list[torch.Tensor | None]] = {}
        self._calls: dict[str, list[ir.Value]] = {}
        self.stays = np.zeros(channels.count, bool)
        restated = np.zeros(channels.count, bool)
        for labels in channels.trace.ledger.restated:
            restated[channels.channel[labels]] = True
        if not restated.any():
            return
        nodes, called = _normalisations(channels), _calls(channels)
        if any(node in called for node in nodes):
            runs = self._count(module, {path for path, _ in called.values()}, example_inputs)
            by_path: dict[str, list[tuple[ir.Node, ir.Value]]] = defaultdict(list)
            for node, (path, value) in called.items():
                by_path[path].append((node, value))
            for path, found in by_path.items():
                if _is_understood(channels, [value for _, value in found], runs.get(path, [])):
                    self._calls[path] = [value for _, value in found][: runs[path][0]]
        known = {node for node, (path, _) in called.items() if path in self._calls}
        for node, facets in nodes.items():
            if node not in known:
                for facet in facets:
                    self.stays[channels.named(facet)] = True
        self.stays &= restated

    def mask(self, channels: Channels, deleted: np.ndarray) -> None:
        """From now on statistics are over what isn't `deleted`, bool [channels]."""
        self._masked = {}
        for path, values in self._calls.items():
            keeps = [channels.keep_mask(value, deleted) for value in values]
            self._masked[path] = [None if keep.all() else torch.from_numpy(keep.copy()) for keep in keeps]
        self._remove_hooks()
        self._add_hooks()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The module as it was written, to be exported."""
        self._remove_hooks()
        try:
            yield
        finally:
            self._add_hooks()

    def _add_hooks(self) -> None:
        if any(keep is not None for keeps in self._masked.values() for keep in keeps):
            for path, keeps in self._masked.items():
                self._hooks += _during(self._parts[path], _OverKept(keeps))

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _count(self, module: nn.Module, paths: set[str], inputs: Sequence[torch.Tensor]) -> dict[str, list[int]]:
        """{path: how many calls each run of that module makes}."""
        counters = {path: _Counting() for path in paths if path in self._parts}
        hooks = [hook for path, counter in counters.items() for hook in _during(self._parts[path], counter)]
        try:
            with evaluation_mode(module), torch.no_grad():
                module(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return {path: counter.runs for path, counter in counters.items()}


class _OverKept(TorchFunctionMode):
    """While a module runs, its n-th normalisation is over what the n-th mask keeps; without a mask it is as it was."""

    def __init__(self, keeps: Sequence[torch.Tensor | None]):
        super().__init__()
        self.keeps, self.number = keeps, 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.layer_norm and func is not functional.group_norm:
            return func(*args, **kwargs)
        keep = self.keeps[self.number] if self.number < len(self.keeps) else None
        self.number += 1
        with torch._C.DisableTorchFunction():  # modules around this one don't count its calls
            if keep is None:
                return func(*args, **kwargs)
            return (_layer_norm if func is functional.layer_norm else _group_norm)(keep, *args, **kwargs)

    def start(self, *_: Any) -> None:
        self.number = 0
        self.__enter__()

    def stop(self, *_: Any) -> None:
        self.__exit__(None, None, None)


class _Counting(_OverKept):
    """How many calls each run makes; all stay as they were."""

    def __init__(self) -> None:
        super().__init__(())
        self.runs: list[int] = []

    def stop(self, *_: Any) -> None:
        super().stop()
        self.runs.append(self.number)


def _during(part: nn.Module, mode: _OverKept) -> list[torch.utils.hooks.RemovableHandle]:
    return [part.register_forward_pre_hook(mode.start), part.register_forward_hook(mode.stop, always_call=True)]


def _normalisations(channels: Channels) -> dict[ir.Node, list]:
    """{node: the facets of what it normalises that speak of the axes of its statistics}."""
    trace, found = channels.trace, {}
    for node in channels.model.ir.graph:
        if not node.domain and (node.op_type in NORMALISATIONS or node in trace.moments):
            x = node.inputs[0]
            rank = len(trace.shape_of.get(x, ()))
            first = 2 if node.op_type == "InstanceNormalization" else 0
            if node.op_type == "LayerNormalization":
                first = (node.attributes["axis"].as_int() if "axis" in node.attributes else -1) % max(rank, 1)
            facets = [facet for facet in channels.facets(x) if any(axis >= first for axis in spans(facet))]
            if facets:
                found[node] = facets
    return found


def _calls(channels: Channels) -> dict[ir.Node, tuple[str, ir.Value]]:
    """{node: the path of the module that called the function it comes from, what it called it with}, in order."""
    found = {}
    for node in channels.model.ir.graph:
        if node.op_type in NORMALISATIONS and not node.domain:
            text = node.metadata_props.get("pkg.torch.onnx.fx_node", "")
            path = calling_module(node)
            is_group_norm = GROUP_NORM in text
            if path is not None and (is_group_norm or LAYER_NORM in text):
                value = node.inputs[0]
                producer = value.producer()
                if is_group_norm and producer is not None and producer.op_type == "Reshape":
                    value = producer.inputs[0]
                found[node] = (path, value)
    return found


def _is_understood(channels: Channels, values: Sequence[ir.Value], runs: Sequence[int]) -> bool:
    """Whether a module's calls are those of the graph: as many in each of its runs, and each time of the same labels.

    A module that runs several times can't tell which time it is.
    """
    each = runs[0] if runs else 0
    if not each or set(runs) != {each} or each * len(runs) != len(values):
        return False
    labels = [[channels.named(facet) for facet in channels.facets(value)] for value in values]
    return all(
        len(labels[n]) == len(labels[n % each])
        and all(np.array_equal(one, other) for one, other in zip(labels[n], labels[n % each], strict=True))
        for n in range(each, len(labels))
    )


def _layer_norm(
    keep: torch.Tensor,
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    y = _normalised(x, keep.to(x.device), tuple(range(-len(normalized_shape), 0)), eps)
    return _scaled(x, y, weight, bias)


def _group_norm(
    keep: torch.Tensor,
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    count, width, *positions = x.shape
    whole = keep.to(x.device).expand(1, width, *positions).reshape(1, num_groups, -1)
    y = _normalised(x.reshape(count, num_groups, -1), whole, (-1,), eps).reshape(x.shape)
    column = (-1, *(1 for _ in positions))
    return _scaled(x, y, *(None if part is None else part.reshape(column) for part in (weight, bias)))


def _normalised(x: torch.Tensor, keep: torch.Tensor, axes: tuple[int, ...], eps: float) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps), both over what is kept; 0 elsewhere. In float32 at least."""
    x = x if x.dtype == torch.float64 else x.float()
    kept = keep.to(x.dtype)
    fraction = kept.mean(axes, keepdim=True).clamp(min=1e-9)
    mean = (x * kept).mean(axes, keepdim=True) / fraction
    centred = (x - mean) * kept
    variance = centred.square().mean(axes, keepdim=True) / fraction
    return centred * torch.rsqrt(variance + eps)


def _scaled(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return y if torch.is_autocast_enabled(x.device.type) else y.to(x.dtype)
