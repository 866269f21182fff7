"""The data of a run in its three parts, taken from whatever object a recipe's `data` gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.errors import DataError, OnnxPruneError
from onnxprune.runtime.data import Dataset, resolve, sample_hashes

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskData:
    """Samples to train on, to steer by, and to judge with once at the end, and the names of the network's ends.

    `augment(batch, generator)` varies a batch of training inputs (torch tensors), or is None.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    input_name: str
    output_name: str
    augment: Callable | None

    def arrays(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """(inputs [n, ...], targets [n, ...]) of `part`."""
        dataset: Dataset = getattr(self, part)
        return dataset.inputs[self.input_name], dataset.targets


def load_task(reference: str) -> TaskData:
    """The data that `package.module:object` gives.

    The object, called if it can be, has (or is a dict of) `train`, `validation` and `test`, each a pair of arrays
    (inputs, targets); optional are `augment`, `input_name` and `output_name`.

    Raises DataError for anything else, and where validation and test data share a sample.
    """
    found = resolve(reference)
    if callable(found):
        found = _call(found, reference)
    input_name = str(_member(found, "input_name", "input"))
    parts = {}
    for part in PARTS:
        pair = _member(found, part, None)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(
                f"'{reference}' gives {type(found).__name__} without a pair (inputs, targets) named '{part}'. "
                "Return an object or a dict with train, validation and test."
            )
        inputs, targets = (np.asarray(array) for array in pair)
        parts[part] = Dataset({input_name: inputs}, targets, f"the {part} data of {reference}")
    _refuse_leak(reference, parts["validation"], parts["test"])
    return TaskData(
        **parts,
        input_name=input_name,
        output_name=str(_member(found, "output_name", "output")),
        augment=_member(found, "augment", None),
    )


def _call(give: Callable[[], Any], reference: str) -> Any:
    try:
        return give()
    except OnnxPruneError:
        raise
    except ModuleNotFoundError as error:
        raise DataError(
            f"The data '{reference}' need {error.name}, which isn't installed. Install it; the built-in data come with "
            "pip install 'onnxprune[demo]'."
        ) from error
    except Exception as error:
        raise DataError(f"'{reference}' fails to give the data: {type(error).__name__}: {error}.") from error


def _member(found: Any, name: str, default: Any) -> Any:
    return found.get(name, default) if isinstance(found, Mapping) else getattr(found, name, default)


def _refuse_leak(reference: str, validation: Dataset, test: Dataset) -> None:
    """Steering by a sample that judges later would flatter the result."""
    shared = sample_hashes(validation) & sample_hashes(test)
    if shared:
        raise DataError(
            f"The validation and the test data of '{reference}' share {len(shared)} of {len(test)} test samples. "
            "Take them out of one of the two: the test data may be seen only once, at the end."
        )
