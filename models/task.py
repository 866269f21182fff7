"""What a task is: data in three fixed parts, the names of the network's ends, and how to vary a training batch.

A task is a plain value. Reference networks return one from `task()`; anything with the same attributes will do.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


class Split(NamedTuple):
    """One part of a task's data: `images` float32 [n,1,h,w] in 0..1 and `labels` int64 [n]."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Task:
    """A classification task that needs no network: everything comes out of an installed package.

    `augment(images, generator)`, where there is one, varies a batch of training images and keeps their shape.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    example_inputs: tuple[torch.Tensor, ...]
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None
    input_name: str = "image"
    output_name: str = "logits"
    metric: str = "top1"


def split_by_class(
    images: np.ndarray, labels: np.ndarray, *, validation: int, test: int, seed: int
) -> tuple[Split, Split, Split]:
    """Split into train, validation and test: every class in the same proportion, no image in two parts.

    Images that occur twice are kept once, so that no part holds a copy of another part's image. The result depends on
    `seed` alone. Within a part the samples are shuffled. Where a part's size is no multiple of the number of classes,
    the largest remainders get one sample more.
    """
    first = _first_occurrences(images)
    images, labels = images[first], labels[first]
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = [order[labels[order] == c] for c in np.unique(labels)]
    validation_counts = _share(validation, [len(members) for members in by_class])
    test_counts = _share(test, [len(members) for members in by_class])
    parts: tuple[list, list, list] = ([], [], [])
    for members, n_validation, n_test in zip(by_class, validation_counts, test_counts, strict=True):
        for part, chunk in zip(parts, np.split(members[::-1], [n_test, n_test + n_validation])[::-1], strict=True):
            part.append(chunk)
    rank = np.argsort(order)  # restores the shuffled order within each part
    chosen = [np.array(sorted(np.concatenate(part), key=rank.__getitem__), np.int64) for part in parts]
    train, held_back, held_out = (Split(images[index], labels[index]) for index in chosen)
    return train, held_back, held_out


def _first_occurrences(images: np.ndarray) -> np.ndarray:
    """Indices of the images whose bytes appear for the first time."""
    seen: dict[bytes, int] = {}
    for index, image in enumerate(images):
        seen.setdefault(hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest(), index)
    return np.array(sorted(seen.values()))


def _share(total: int, sizes: list[int]) -> list[int]:
    """Divide `total` in proportion to `sizes`, by largest remainder."""
    exact = np.array(sizes) * total / sum(sizes)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()


def random_affine(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    degrees: float = 12.0,
    shift: float = 0.1,
    scale: float = 0.12,
    shear: float = 0.2,
) -> torch.Tensor:
    """Turn, shift, scale and shear each image by its own small random amount, bilinearly, zeros outside.

    `images` is float32 [n,c,h,w]; `shift` is a fraction of half the image's side, `scale` and `shear` are factors.
    """
    n = len(images)

    def draw(limit: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    angle, stretch_x, stretch_y, lean = draw(np.pi / 180 * degrees), 1 + draw(scale), 1 + draw(scale), draw(shear)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([cosine * stretch_x, lean * cosine - sine * stretch_y, draw(shift)], dim=1),
            torch.stack([sine * stretch_x, lean * sine + cosine * stretch_y, draw(shift)], dim=1),
        ],
        dim=1,
    )
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)
