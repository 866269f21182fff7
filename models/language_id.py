"""A small Transformer encoder that tells the language of a short text, from the translations inside Django.

Django's wheel holds its messages in 98 locales. A message is in one part only, with all of its translations, so that
the network can't know a test text by its meaning. Texts are read as bytes: input `text` int64 [N,48] (UTF-8, zeros
behind the end), output `logits` [N,98]. Normalisation is RMSNorm, behind which a deleted place changes nothing else:
the width of the stream, heads, head dimensions and hidden neurons can all be deleted exactly.
"""

import gettext
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxprune_models.task import Split, Task

BYTES, LOCALES = 48, 98
#: Shorter texts, names of months for instance, are the same in many languages.
LEAST_CHARACTERS = 8


class Layer(nn.Module):
    """Attention and two linear layers, each normalised before and added to the stream (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        q, k, v = (
            part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        # The scale is given: it stays what it is when head dimensions go.
        heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=self.scale)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class LanguageId(nn.Module):
    """Bytes and their places, two layers, the mean over the bytes of the text, a linear head."""

    def __init__(self, width: int = 64, heads: int = 4, hidden: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.place = nn.Parameter(torch.randn(BYTES, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, LOCALES)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        seen = text != 0
        x = self.embed(text) + self.place
        for layer in self.layers:
            x = layer(x, seen[:, None, None, :])
        weight = seen.to(x.dtype)[:, :, None]
        return self.head((self.norm(x) * weight).sum(1) / weight.sum(1).clamp(min=1))


def build() -> nn.Module:
    """The untrained network; its random initialisation follows torch's global generator."""
    return LanguageId()


def task() -> Task:
    """Django's messages: of 936 a tenth to validate and a fifth to test, each with its translations; the rest to train.

    A text of the validation or test part that another part holds too, word for word, is left out there.
    """
    found, locales = parts(), sorted({locale for locale, _, _ in _translations()})
    rng = np.random.default_rng(1)
    split = [_arrays(found[name], locales, rng) for name in ("train", "validation", "test")]
    return Task("language_id", *split, (torch.from_numpy(split[0].images[:2]),), input_name="text")


def parts() -> dict[str, list[tuple[str, str, bytes]]]:
    """{part: (locale, message, text as it is read)}: no message and no text is in two parts."""
    texts = sorted(set(_translations()))
    messages = sorted({message for _, message, _ in texts})
    order = np.random.default_rng(0).permutation(len(messages))
    tenth = len(messages) // 10
    wanted = dict.fromkeys(messages, "train")
    wanted |= {messages[i]: "test" for i in order[: 2 * tenth]}
    wanted |= {messages[i]: "validation" for i in order[2 * tenth : 3 * tenth]}
    chosen: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "validation": [], "test": []}
    held: dict[bytes, str] = {}
    for part, found in chosen.items():
        for locale, message, text in texts:
            read = _cut(text)
            if wanted[message] == part and held.setdefault(read, part) == part:
                found.append((locale, message, read))
    return chosen


def _translations() -> Iterator[tuple[str, str, str]]:
    """(locale, message, translation), plural forms one by one."""
    import django

    for path in sorted(Path(django.__file__).parent.rglob("locale/*/LC_MESSAGES/django.mo")):
        with path.open("rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for key, text in catalog.items():
            message = key if isinstance(key, str) else key[0]
            if message and len(text.strip()) >= LEAST_CHARACTERS:
                yield path.parts[-3], message, text.strip()


def _cut(text: str) -> bytes:
    """The first bytes, whole characters only."""
    return text.encode()[:BYTES].decode(errors="ignore").encode()


def _arrays(found: list[tuple[str, str, bytes]], locales: list[str], rng: np.random.Generator) -> Split:
    """Padded bytes and the numbers of locales, shuffled."""
    images = np.zeros((len(found), BYTES), np.int64)
    for row, (_, _, read) in enumerate(found):
        images[row, : len(read)] = list(read)
    labels = np.array([locales.index(locale) for locale, _, _ in found], np.int64)
    order = rng.permutation(len(found))
    return Split(images[order], labels[order])
