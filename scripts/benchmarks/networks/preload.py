"""What every child process needs, imported once in the process that they are forked from."""

import onnxscript.optimizer  # noqa: F401
import torch.onnx  # noqa: F401

from networks.timm_families import import_timm

import_timm()
