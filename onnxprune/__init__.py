"""onnxprune: physically smaller ONNX networks that compute what the pruned ones computed, with the proof.

Names are loaded when they are first used: importing this package imports neither torch nor ONNX Runtime.
"""

import importlib

_HOME = {
    "average": "onnxprune.prune.saliency",
    "Channels": "onnxprune.graph.units",
    "Limits": "onnxprune.graph.limits",
    "Model": "onnxprune.graph.model",
    "Mended": "onnxprune.graph.rules",
    "Unit": "onnxprune.graph.unit",
    "load": "onnxprune.graph.model",
    "mask": "onnxprune.graph.mask",
    "mend": "onnxprune.graph.rules",
    "remove": "onnxprune.pipeline",
    "rule": "onnxprune.graph.rules",
    "save": "onnxprune.graph.model",
    "shrink": "onnxprune.graph.shrink",
    "ShrinkReport": "onnxprune.graph.shrink",
    "trace": "onnxprune.graph.units",
    "Pruner": "onnxprune.training.pruner",
    "Saliency": "onnxprune.prune.saliency",
    "OnnxPruneError": "onnxprune.errors",
    "EmptyAxisError": "onnxprune.errors",
    "RaggedError": "onnxprune.errors",
    "Validation": "onnxprune.runtime.validation",
}

__version__ = "0.1.0"
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'onnxprune' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
