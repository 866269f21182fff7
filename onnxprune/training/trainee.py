"""What stands between a recipe's plain values and torch: devices, modules, arrays, any metric."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import DataError, OnnxPruneError, ProviderRefused, RecipeError
from onnxprune.training.checkpoint import seed_everything

EVALUATION_BATCH = 250
cross_entropy = functional.cross_entropy

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: score(outputs, targets) -> one number a sample, on NumPy arrays
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pick_device(asked: str) -> torch.device:
    """The device to train on; `auto` takes CUDA where there is one. Raises ProviderRefused where there is none."""
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        why = "finds no GPU" if torch.version.cuda else "is a CPU build"
        raise ProviderRefused(
            f"The recipe trains on cuda, and PyTorch {torch.__version__} {why}. Take device: auto, or mend that."
        )
    return torch.device("cuda" if there and asked != "cpu" else "cpu")


def build_module(build: Callable[[], nn.Module], name: str, device: torch.device, seed: int) -> nn.Module:
    """The network that `build()` makes under `seed`, on `device`. `name` is what an error calls it.

    Raises RecipeError for anything that isn't a module with parameters, or a function that fails.
    """
    seed_everything(seed)
    try:
        module = build()
    except OnnxPruneError:
        raise
    except Exception as error:
        raise RecipeError(f"'{name}' fails to build the network: {type(error).__name__}: {error}.") from error
    if not isinstance(module, nn.Module) or next(module.parameters(), None) is None:
        raise RecipeError(f"'{name}' gives a {type(module).__name__}. Return a torch.nn.Module with parameters.")
    return module.to(device)


def example_of(inputs: np.ndarray, device: torch.device) -> tuple[torch.Tensor]:
    """The first two of `inputs[n,...]`, as the export wants them."""
    return (torch.from_numpy(np.ascontiguousarray(inputs[:2])).to(device),)


def evaluator(
    score: Score, inputs: np.ndarray, targets: np.ndarray, *, loss: Loss = cross_entropy, sign: float = 1.0
) -> Callable[[nn.Module], tuple[float, float]]:
    """A function of a module: (`sign` times the mean of `score`, the loss), over `inputs[n,...]` and `targets[n,...]`.

    `sign` is -1 for a metric of which less is better. Raises DataError where the module, the metric and the data don't
    fit.
    """
    x, y = (torch.from_numpy(np.ascontiguousarray(array)) for array in (inputs, targets))

    def evaluate(module: nn.Module) -> tuple[float, float]:
        outputs = run_module(module, x)
        try:
            scores = np.asarray(score(outputs.numpy(), targets), dtype=float)
            return sign * float(scores.mean()), float(loss(outputs, y))
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"The metric or the loss can't judge outputs {list(outputs.shape)} against targets "
                f"{list(targets.shape)} of type {targets.dtype}: {error}. Make network, targets and metric fit."
            ) from error

    return evaluate


def run_module(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the module says to `inputs[n,...]` in evaluation mode, on the CPU. Raises DataError where it can't."""
    device = next(module.parameters()).device
    module.eval()
    try:
        with torch.no_grad():
            return torch.cat([module(part.to(device)).cpu() for part in inputs.split(EVALUATION_BATCH)])
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"The network can't take inputs {list(inputs.shape)} of type {inputs.dtype}: {error}. Make them fit."
        ) from error
