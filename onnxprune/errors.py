"""Everything onnxprune raises on purpose.

    OnnxPruneError                 base; `exit_code` is what the command line returns
    ├── InputError            2    what was given can't be used
    │   ├── ModelError             not an ONNX file, an empty graph, a broken tensor
    │   ├── RecipeError            an unknown key, a value out of range
    │   ├── DataError              a data set that can't be read or doesn't fit the model
    │   ├── OutputError            an unwritable folder, a full disk
    │   ├── ExportError            a module that the exporter refuses
    │   ├── EmptyAxisError         a set of units that would leave an axis without elements
    │   └── RaggedError            a set of units that share channels and would leave rows of different lengths
    ├── GateError             1    measured, and not good enough
    │   └── NotEquivalentError     two models that should agree don't
    └── RefusedError          3    what was asked can't be measured or done here
        ├── ProviderRefused        an execution provider that isn't really there
        └── BudgetUnreachable      a budget below the smallest legal network

What was measured and can't be settled is a verdict, not an error; the command line returns 4 for it.

A message is one or two sentences: what was found, where, and what to do about it.
"""


class OnnxPruneError(Exception):
    """Base of every error that onnxprune raises on purpose."""

    exit_code = 2


class InputError(OnnxPruneError):
    """What was given can't be used."""


class ModelError(InputError):
    """The model can't be read, or breaks the ONNX specification."""


class RecipeError(InputError):
    """The recipe has an unknown key or a value out of range."""


class DataError(InputError):
    """The data can't be read, or doesn't fit the model."""


class OutputError(InputError):
    """A file can't be written."""


class ExportError(InputError):
    """The module can't be exported to ONNX."""


class EmptyAxisError(InputError):
    """The units to delete would leave an axis without elements."""


class RaggedError(InputError):
    """The units to delete share channels, and would leave rows of different lengths together."""


class GateError(OnnxPruneError):
    """A measured figure misses what was asked for."""

    exit_code = 1


class NotEquivalentError(GateError):
    """Two models that should compute the same function don't."""


class RefusedError(OnnxPruneError):
    """What was asked can't be measured or done on this machine."""

    exit_code = 3


class ProviderRefused(RefusedError):
    """The execution provider asked for isn't the one that would run."""


class BudgetUnreachable(RefusedError):
    """The budget is below the smallest network that keeps every axis."""
