"""How much a file may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What `load` refuses to go beyond, so that a stranger's file can't take the machine.

    file_bytes: the .onnx file itself; total_bytes: all tensors together, those in a file beside the model too;
    tensor_elements: one tensor; nodes: all nodes, those of subgraphs and of every call of a function too; depth:
    subgraphs inside subgraphs, and functions that call functions; finite: refuse NaN, and weights that are infinite.
    """

    file_bytes: int = 2**31
    total_bytes: int = 32 * 2**30
    tensor_elements: int = 2**33
    nodes: int = 500_000
    depth: int = 24
    finite: bool = True
