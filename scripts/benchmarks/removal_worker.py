"""Run cases through one tool, in that tool's environment: one JSON line a case. Started by removal.py.

python scripts/benchmarks/removal_worker.py TOOL CASE ...
"""

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from tests.conformance import evaluation
from tests.conformance.case import Case, build, kernels
from tests.conformance.cases import CASES

TOLERANCE = 1e-5
#: How far a tool's own run of the unpruned model may be from ONNX Runtime's.
OWN_TOLERANCE = 1e-3
Run = Callable[[evaluation.Feed], list[np.ndarray]]


#: Declarations of torchvision's operators, which live as long as this.
_VISION: list = []


class Refused(Exception):
    """The tool doesn't read the case at all, pruned or not."""


class NoOriginal(Exception):
    """The case has no PyTorch module."""


def feeds(case: Case) -> Iterator[evaluation.Feed]:
    return evaluation.feeds(build(case))


# each tool: (run before, kernels before, a function that prunes and gives run and kernels after)


def onnx_tool(case: Case, prune: Callable[[onnx.ModelProto], onnx.ModelProto]):
    original = build(case)

    def after():
        smaller = prune(original)
        return _onnx_runner(smaller), kernels(smaller)

    return _onnx_runner(original), kernels(original), after


def _onnx_runner(model: onnx.ModelProto) -> Run:
    run = evaluation.runner(evaluation.widen(model))
    return lambda feed: list(run(feed).values())


def onnxprune(case: Case):
    from onnxprune.graph.model import load, to_proto
    from onnxprune.graph.shrink import shrink

    return onnx_tool(case, lambda model: to_proto(shrink(load(model))[0]))


def onnxifier(case: Case):
    import onnxifier as tool

    def prune(model: onnx.ModelProto) -> onnx.ModelProto:
        passes = ["infer_shape", "remove_zero_channels"]
        return tool.convert(model, passes=passes, print_passes=False, strict=True)

    return onnx_tool(case, prune)


def openvino(case: Case):
    import openvino as ov
    from openvino._offline_transformations import apply_moc_transformations, apply_pruning_transformation

    core = ov.Core()
    content = build(case).SerializeToString()

    def read():
        model = core.read_model(content)
        apply_moc_transformations(model, cf=True)
        return model

    def runner(model) -> Run:
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        types = {value.any_name: value.element_type.to_dtype() for value in compiled.inputs}

        def run(feed):
            found = compiled({name: np.asarray(array, types[name]) for name, array in feed.items()})
            return [found[output] for output in compiled.outputs]

        return run

    try:
        plain = read()
        before = runner(plain)
    except Exception as error:
        raise Refused(_line(error)) from error

    def after():
        pruned = read()
        apply_pruning_transformation(pruned)
        return runner(pruned), _openvino_kernels(pruned)

    return before, _openvino_kernels(plain), after


def _openvino_kernels(model) -> int:
    weighed = {
        **dict.fromkeys(("Convolution", "GroupConvolution", "ConvolutionBackpropData"), (1,)),
        "GroupConvolutionBackpropData": (1,),
        "MatMul": (0, 1),
        "LSTMSequence": (4, 5),
        "GRUSequence": (3, 4),
    }
    found = {}
    for node in model.get_ops():
        for index in weighed.get(node.get_type_name(), ()):
            source = node.input_value(index)
            if _is_constant(source.get_node()):
                found[source.get_node().get_name()] = int(np.prod(list(source.get_shape())))
    return sum(found.values())


def _is_constant(node) -> bool:
    inputs = [node.input_value(index).get_node() for index in range(node.get_input_size())]
    return node.get_type_name() == "Constant" or (bool(inputs) and all(_is_constant(other) for other in inputs))


def torch_tool(case: Case, prune):
    """`prune` takes a module and an example, and gives a module."""
    import torch

    from tests.conformance import originals

    if case.name not in originals.MODULES:
        raise NoOriginal

    def runner(module) -> Run:
        def run(feed):
            with torch.no_grad():
                return [module(torch.from_numpy(feed["x"])).numpy()]

        return run

    made = originals.module(case.name)

    def after():
        example = torch.from_numpy(next(feeds(case))["x"])
        pruned = prune(originals.module(case.name), example)
        return runner(pruned.eval()), originals.kernels(pruned)

    return runner(made), originals.kernels(made), after


def torch_simplify(case: Case):
    import torch

    _declare_vision()
    from simplify import simplify

    return torch_tool(case, lambda module, example: simplify(module, torch.zeros_like(example)))


def _declare_vision() -> None:
    """Beside a CPU build of PyTorch torchvision's own operators don't load; to be imported it wants them declared."""
    import torch

    if _VISION:
        return
    _VISION.append(torch.library.Library("torchvision", "DEF"))
    folder = Path(find_spec("torchvision").origin).parent
    text = "".join((folder / name).read_text() for name in ("_meta_registrations.py", "ops/_register_onnx_ops.py"))
    for name in sorted(set(re.findall(r"torchvision::(\w+)", text))):
        _VISION[0].define(f"{name}(Tensor x) -> Tensor")


def torch_pruning(case: Case):
    """The group of every filter that is 0 with its bias, as its documentation deletes groups."""
    import torch
    import torch_pruning as tp

    def prune(module, example):
        graph = tp.DependencyGraph().build_dependency(module, example_inputs=example)
        deleters = {
            torch.nn.Conv2d: (tp.prune_conv_out_channels, lambda w: w.flatten(1).abs().sum(1)),
            torch.nn.BatchNorm2d: (tp.prune_batchnorm_out_channels, torch.abs),
            torch.nn.LSTM: (None, None),
        }
        for layer in list(module.modules()):
            delete, size = deleters.get(type(layer), (None, None))
            if delete is None:
                continue
            dead = torch.nonzero(size(layer.weight) == 0).ravel().tolist()
            if dead and len(dead) == len(layer.weight):
                dead = dead[1:]  # it refuses to delete a whole layer
            group = graph.get_pruning_group(layer, delete, idxs=dead) if dead else None
            if group is not None and graph.check_pruning_group(group):
                group.prune()
        return module

    return torch_tool(case, prune)


TOOLS = {
    "onnxprune": onnxprune,
    "onnxifier": onnxifier,
    "openvino": openvino,
    "torch-simplify": torch_simplify,
    "torch-pruning": torch_pruning,
}
PACKAGES = {"openvino": "openvino", "onnxifier": "onnxifier", "torch-simplify": "torch-simplify"} | {
    "torch-pruning": "torch-pruning"
}


def judge(tool: str, case: Case) -> tuple[str, str]:
    """(outcome, detail) of one case."""
    try:
        before, kernels_before, after = TOOLS[tool](case)
        expected = [before(feed) for feed in feeds(case)]
        reference = _onnx_runner(build(case))
        shape, error = _difference([reference(feed) for feed in feeds(case)], expected)
        if shape or not error <= OWN_TOLERANCE:
            return "refused", f"its run of the unpruned model is off already: {shape or f'{error:.1e}'}"
    except NoOriginal:
        return "", ""
    except Exception as error:  # noqa: BLE001 - whatever a tool raises is its result
        return "refused", _line(error)
    try:
        run, kernels_after = after()
        found = [run(feed) for feed in feeds(case)]
    except Exception as error:  # noqa: BLE001
        return "invalid", _line(error)
    shape, error = _difference(expected, found)
    if shape:
        return "WRONG", shape
    removed = kernels_before - kernels_after
    detail = f"{removed} of {case.removable_kernels} removed, error {error:.1e}"
    if not error <= TOLERANCE:
        return "WRONG", detail
    return "full" if removed >= case.removable_kernels else "less", detail


def _difference(expected: list[list[np.ndarray]], found: list[list[np.ndarray]]) -> tuple[str, float]:
    """(what is wrong with the shapes, largest error over the range of an output)."""
    worst = 0.0
    for left, right in zip(expected, found, strict=True):
        if [a.shape for a in left] != [a.shape for a in right]:
            return f"outputs of {[a.shape for a in right]} for {[a.shape for a in left]}", 0.0
        for a, b in zip(left, right, strict=True):
            wide, other = a.astype(np.float64), b.astype(np.float64)
            error = float(np.abs(wide - other).max() / max(np.ptp(wide), 1e-6))
            worst = max(worst, error if np.isfinite(error) else np.inf)
    return "", worst


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def main() -> None:
    tool, *names = sys.argv[1:]
    number = version(PACKAGES[tool]) if tool in PACKAGES else ""
    for name in names:
        with contextlib.redirect_stdout(io.StringIO()):  # tools print what they do
            outcome, detail = judge(tool, CASES[name])
        print(json.dumps({"case": name, "outcome": outcome, "detail": detail, "version": number}), flush=True)


if __name__ == "__main__":
    main()
