"""What PyTorch's exporter notes of each node: which modules were running when it was called."""

from ast import literal_eval

import onnx_ir as ir

#: Where it stands, from the outside in: "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']".
SCOPES = "pkg.torch.onnx.name_scopes"


def calling_module(node: ir.Node) -> str | None:
    """The dotted path of the innermost module around `node`, "" for the network itself; None where nobody noted it."""
    try:
        scopes = literal_eval(node.metadata_props.get(SCOPES, ""))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    is_path = isinstance(scopes, list) and len(scopes) > 1 and isinstance(scopes[-2], str)
    return scopes[-2] if is_path else None
