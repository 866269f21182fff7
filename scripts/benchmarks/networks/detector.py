"""A one-stage detector of the YOLO shape: split bottlenecks, pyramid pooling, box edges as distributions, decoded."""

import torch
from torch import nn

from networks.network import Input, Network, Subject

BINS = 8
STRIDES = (8, 16, 32)


def convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    layers = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool):
        super().__init__()
        self.first, self.second = convolution(width, width, 3), convolution(width, width, 3)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class SplitBottlenecks(nn.Module):
    """Half of the channels pass a chain of bottlenecks, every stage of which is kept and concatenated (C2f)."""

    def __init__(self, inputs: int, outputs: int, count: int, shortcut: bool = True):
        super().__init__()
        half = outputs // 2
        self.enter = convolution(inputs, outputs)
        self.chain = nn.ModuleList(Bottleneck(half, shortcut) for _ in range(count))
        self.leave = convolution((2 + count) * half, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stages = list(self.enter(x).chunk(2, 1))
        for bottleneck in self.chain:
            stages.append(bottleneck(stages[-1]))
        return self.leave(torch.cat(stages, 1))


class PyramidPooling(nn.Module):
    """Three poolings one after the other, concatenated (SPPF)."""

    def __init__(self, width: int):
        super().__init__()
        self.enter, self.leave = convolution(width, width // 2), convolution(2 * width, width)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stages = [self.enter(x)]
        for _ in range(3):
            stages.append(self.pool(stages[-1]))
        return self.leave(torch.cat(stages, 1))


class Head(nn.Module):
    """Boxes [N, 4, places] in pixels and class scores [N, classes, places] from three feature maps."""

    def __init__(self, widths: tuple[int, ...], classes: int):
        super().__init__()
        self.classes = classes
        self.boxes = nn.ModuleList(self._branch(width, 4 * BINS) for width in widths)
        self.scores = nn.ModuleList(self._branch(width, classes) for width in widths)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).view(1, 1, BINS, 1))

    @staticmethod
    def _branch(width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(convolution(width, 24, 3), convolution(24, 24, 3), nn.Conv2d(24, outputs, 1))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        edges, scores, centres, strides = [], [], [], []
        for x, box, score, stride in zip(maps, self.boxes, self.scores, STRIDES, strict=True):
            edges.append(box(x).flatten(2))
            scores.append(score(x).flatten(2))
            height, width = x.shape[2:]
            y = torch.arange(height, dtype=x.dtype, device=x.device).view(-1, 1).expand(height, width) + 0.5
            x_ = torch.arange(width, dtype=x.dtype, device=x.device).view(1, -1).expand(height, width) + 0.5
            centres.append(torch.stack([x_, y]).flatten(1))
            strides.append(torch.full((1, height * width), float(stride)))
        shares = torch.cat(edges, 2).unflatten(1, (4, BINS)).softmax(2)
        near, far = (shares * self.bins).sum(2).chunk(2, 1)
        centre, stride = torch.cat(centres, 1), torch.cat(strides, 1)
        low, high = centre - near, centre + far
        boxes = torch.cat([(low + high) / 2, high - low], 1) * stride
        return torch.cat([boxes, torch.cat(scores, 2).sigmoid()], 1)


class Detector(nn.Module):
    def __init__(self, width: int = 16, classes: int = 6):
        super().__init__()
        a, b, c, d = width, 2 * width, 4 * width, 4 * width
        self.stem = nn.Sequential(convolution(3, a, 3, 2), convolution(a, a, 3, 2), SplitBottlenecks(a, a, 1))
        self.down8 = nn.Sequential(convolution(a, b, 3, 2), SplitBottlenecks(b, b, 2))
        self.down16 = nn.Sequential(convolution(b, c, 3, 2), SplitBottlenecks(c, c, 2))
        self.down32 = nn.Sequential(convolution(c, d, 3, 2), SplitBottlenecks(d, d, 1), PyramidPooling(d))
        self.up16 = SplitBottlenecks(c + d, c, 1, shortcut=False)
        self.up8 = SplitBottlenecks(b + c, b, 1, shortcut=False)
        self.again16, self.join16 = convolution(b, b, 3, 2), SplitBottlenecks(b + c, c, 1, shortcut=False)
        self.again32, self.join32 = convolution(c, c, 3, 2), SplitBottlenecks(c + d, d, 1, shortcut=False)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = Head((b, c, d), classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x8 = self.down8(self.stem(image))
        x16 = self.down16(x8)
        x32 = self.down32(x16)
        y16 = self.up16(torch.cat([self.upsample(x32), x16], 1))
        y8 = self.up8(torch.cat([self.upsample(y16), x8], 1))
        z16 = self.join16(torch.cat([self.again16(y8), y16], 1))
        z32 = self.join32(torch.cat([self.again32(z16), x32], 1))
        return self.head([y8, z16, z32])


def subject() -> Subject:
    sizes = {"H": 64, "W": 96}, {"H": 128, "W": 64}
    return Subject(Detector(), (Input("image", ("N", 3, "H", "W")),), sizes)


def networks() -> list[Network]:
    return [Network("own/detector", subject)]
