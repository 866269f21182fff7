"""A U-Net: transposed convolutions up, skips concatenated, any image size that is a multiple of 8."""

import torch
from torch import nn

from networks.network import Input, Network, Subject


def pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.LeakyReLU(0.1),
    )


class UNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (12, 24, 40, 64), classes: int = 5):
        super().__init__()
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(pair(a, b) for a, b in zip(inputs, widths, strict=True))
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in steps)
        self.join = nn.ModuleList(pair(2 * b, b) for _, b in steps)
        self.classify = nn.Conv2d(widths[0], classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, skips = image, []
        for number, down in enumerate(self.down):
            x = down(x if number == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        return self.classify(x)


def networks() -> list[Network]:
    sizes = {"H": 32, "W": 48}, {"H": 64, "W": 40}
    return [Network("own/unet", lambda: Subject(UNet(), (Input("image", ("N", 3, "H", "W")),), sizes))]
