"""The decoder of an image autoencoder: group normalisation, attention over places, nearest upsampling."""

import torch
from torch import nn

from networks.network import Input, Network, Subject

GROUPS = 4


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.second = nn.Sequential(nn.GroupNorm(GROUPS, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.skip(x) + self.second(self.first(x))


class Attention(nn.Module):
    """One head over all places of the map."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.query, self.key, self.value, self.leave = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        query, key, value = (part(y).flatten(2).transpose(1, 2)[:, None] for part in (self.query, self.key, self.value))
        y = nn.functional.scaled_dot_product_attention(query, key, value)
        return x + self.leave(y[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))


class Decoder(nn.Module):
    def __init__(self, latent: int = 4, widths: tuple[int, ...] = (48, 32, 16)):
        super().__init__()
        self.enter = nn.Conv2d(latent, widths[0], 3, padding=1)
        wide = widths[0]
        self.middle = nn.Sequential(Residual(wide, wide), Attention(wide), Residual(wide, wide))
        stages = []
        for inputs, outputs in zip((wide, *widths[:-1]), widths, strict=True):
            smooth = nn.Conv2d(outputs, outputs, 3, padding=1)
            stages += [Residual(inputs, outputs), nn.Upsample(scale_factor=2), smooth]
        self.stages = nn.Sequential(*stages)
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 3, 3, padding=1))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.leave(self.stages(self.middle(self.enter(latent))))


def networks() -> list[Network]:
    sizes = {"H": 6, "W": 5}, {"H": 4, "W": 8}
    return [Network("own/vae_decoder", lambda: Subject(Decoder(), (Input("latent", ("N", 4, "H", "W")),), sizes))]
