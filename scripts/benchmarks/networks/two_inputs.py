"""An image and a sequence that meet: a gate from one on the other, two outputs, one of them in the middle."""

import torch
from torch import nn

from networks.network import Input, Network, Subject


class TwoInputs(nn.Module):
    def __init__(self, width: int = 32, classes: int = 7):
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1),
            nn.BatchNorm2d(24),
            nn.Hardswish(),
            nn.Conv2d(24, 24, 3, 1, 1, groups=24),
            nn.Conv2d(24, width, 1),
            nn.PReLU(width),
        )
        self.hear = nn.Sequential(nn.Conv1d(10, 20, 5, padding=2), nn.ReLU(), nn.Conv1d(20, width, 3, padding=1))
        self.gate = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width), nn.Sigmoid())
        self.place = nn.Linear(width, 2)
        self.classify = nn.Sequential(nn.Linear(2 * width, 40), nn.LayerNorm(40), nn.ReLU(), nn.Linear(40, classes))

    def forward(self, image: torch.Tensor, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heard = self.hear(sound).mean(2)
        seen = self.see(image) * self.gate(heard)[:, :, None, None]
        pooled = torch.cat([seen.mean((2, 3)), heard], 1)
        return self.classify(pooled), self.place(seen.mean((2, 3)))


def networks() -> list[Network]:
    inputs = Input("image", ("N", 3, "H", "W")), Input("sound", ("N", 10, "T"))
    sizes = {"H": 24, "W": 32, "T": 30}, {"H": 40, "W": 24, "T": 55}
    return [Network("own/two_inputs", lambda: Subject(TwoInputs(), inputs, sizes))]
