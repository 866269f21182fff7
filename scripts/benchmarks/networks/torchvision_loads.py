"""timm and transformers import torchvision, whose wheel may be made for another build of PyTorch than the one there."""

import torch

_libraries: list[torch.library.Library] = []


def make_torchvision_load() -> None:
    """Import torchvision; where its compiled operators don't load, declare those that its Python part asks for."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)  # its definitions last as long as it does
        import torchvision  # noqa: F401
