"""From a PyTorch module to an ONNX graph: unoptimised for tracing, optimised for deployment."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import nn

from onnxprune.errors import ExportError
from onnxprune.graph.model import Model, load

#: The newest opset that ONNX Runtime and torch's exporter agree on without conversion.
OPSET = 20


def export_module(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("output",),
    dynamic_batch: bool = True,
    optimize: bool = False,
) -> ir.Model:
    """Export `module` in evaluation mode; every submodule's own mode is restored afterwards.

    `example_inputs` are tensors [N, ...]. Unoptimised, every parameter keeps its name; optimised, BatchNorm is folded.
    The tensors of the result still share memory with the module's. Raises ExportError with what the exporter said.
    """
    if len(input_names) != len(example_inputs):
        raise ExportError(f"There are {len(example_inputs)} example inputs and {len(input_names)} names. Give as many.")
    # A batch of one would be exported as a constant.
    examples = tuple(torch.cat([x, x]) if dynamic_batch and x.ndim and len(x) == 1 else x for x in example_inputs)
    axes = tuple({0: "N"} if x.ndim else None for x in examples) if dynamic_batch else None
    with evaluation_mode(module), _quiet():
        try:
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                optimize=optimize,
                verbose=False,
                opset_version=OPSET,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=axes,
            )
        except Exception as error:  # the exporter raises whatever its stages raise
            raise ExportError(
                f"torch can't export {type(module).__name__} to ONNX: {_reason(error)}. "
                "See torch.onnx.export(module, inputs, dynamo=True, report=True) for the whole story."
            ) from error
    return program.model


def deployed(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> Model:
    """The module as it would be deployed: exported, BatchNorm folded, with its own copy of the weights."""
    program = export_module(module, example_inputs, input_names=input_names, output_names=output_names)
    return optimized(load(program))


def optimized(model: Model) -> Model:
    """Fold BatchNorm and constants with torch's own optimiser, so that dense and pruned get the same treatment."""
    copy = model.ir.clone()
    for value in copy.graph.initializers.values():
        if value.const_value is not None:
            array = np.array(value.const_value.numpy())
            value.const_value = ir.tensor(array, dtype=value.const_value.dtype, name=value.name)
    onnxscript.optimizer.optimize(copy)
    return load(copy)


def _reason(error: BaseException) -> str:
    """The first line of what went wrong first; the exporter wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns of its internals and prints whole graphs where it fails; the error says what matters."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and all its parts in evaluation mode; give each its own mode back afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
