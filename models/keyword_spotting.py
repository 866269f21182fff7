"""A small convolutional keyword spotter on spectrograms of words that espeak-ng speaks.

Ten keywords, other words and noise alone make twelve classes, as in Speech Commands (Warden 2018, arXiv:1804.03209).
Voices, speeds and the other words of the test part are none that the network was trained on; each clip of a second has
its word at a random place, in noise. Input `sound` float32 [N,1,40,64]: the logarithm of 40 mel bands at 64 moments,
scaled to about -1..1. Output `logits` [N,12].

espeak-ng is a program of its own: `apt-get install espeak-ng` or the like.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import torch
from torch import nn

from onnxprune_models.digits_resnet import DepthwiseSeparable
from onnxprune_models.task import Split, Task

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHER, NOISE = len(KEYWORDS), len(KEYWORDS) + 1
#: Each part's variants of a voice, accents, speeds in words a minute, and words that aren't keywords.
PARTS = {
    "train": (
        "Alex Andy Denis Gene Henrique Hugo Lee Mario Mike Storm adam anika aunty belinda boris croak david edward f1 "
        "grandpa iven iven3 john klatt klatt3 klatt5 linda m1 m4 m6 m8 max michel norbert pedro rob".split(),
        ("en-us", "en-gb"),
        (120, 150, 180, 210),
        "bed bird cat dog happy house tree".split(),
    ),
    "validation": (
        "Andrea Gene2 Jacky antonio caleb edward2 iven2 klatt4 m5 paul".split(),
        ("en-us", "en-gb"),
        (135, 195),
        "seven marvin wow".split(),
    ),
    "test": (
        "Annie Diogo Michael benjamin ed gustave iven4 klatt2 klatt6 m3 m7 marcelo quincy sandro steph victor".split(),
        ("en-us", "en-gb", "en-029"),
        (110, 165, 230),
        "sheila three forward learn zero".split(),
    ),
}
RATE_HZ, WINDOW, HOP, BANDS, MOMENTS = 22050, 512, 340, 40, 64
#: How loud noise is below the word, in dB.
NOISE_DB = (5.0, 20.0)
#: The spoken words are told apart by the silence that was asked for between them.
PAUSE_MS, SILENCE_S = 600, 0.25


class KeywordSpotter(nn.Module):
    """A strided convolution, three depthwise-separable ones, one more convolution, the mean, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.layer1 = DepthwiseSeparable(32, 64, stride=2)
        self.layer2 = DepthwiseSeparable(64, 64)
        self.layer3 = DepthwiseSeparable(64, 96, stride=2)
        self.last = nn.Sequential(nn.Conv2d(96, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.head = nn.Linear(64, len(KEYWORDS) + 2)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(sound))))
        return self.head(self.last(x).mean((2, 3)))


def build() -> nn.Module:
    """The untrained network; its random initialisation follows torch's global generator."""
    return KeywordSpotter()


def task() -> Task:
    """Spoken words: 3,456 clips to train, 480 to validate, 1,728 to test; every class alike in each part.

    Raises FileNotFoundError where espeak-ng isn't installed.
    """
    train, validation, test = (_part(name, seed) for seed, name in enumerate(PARTS))
    example = (torch.zeros(2, 1, BANDS, MOMENTS),)
    return Task("keyword_spotting", train, validation, test, example, augment=vary, input_name="sound")


def vary(sounds: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A few bands and a few moments silenced: SpecAugment, Park et al. 2019, arXiv:1904.08779, without its warping."""
    sounds = sounds.clone()
    for axis, most in ((2, BANDS // 6), (3, MOMENTS // 6)):
        size = sounds.shape[axis]
        width = torch.randint(0, most + 1, (len(sounds), 1), generator=generator)
        start = torch.randint(0, size - most, (len(sounds), 1), generator=generator)
        places = torch.arange(size)[None]
        hidden = (places >= start) & (places < start + width)
        sounds.masked_fill_(hidden[:, None, :, None] if axis == 2 else hidden[:, None, None, :], 0.0)
    return sounds


def _part(name: str, seed: int) -> Split:
    variants, accents, speeds, others = PARTS[name]
    rng = np.random.default_rng(seed)
    calls = list(product(variants, accents, speeds))
    words = [(*KEYWORDS, str(rng.choice(others))) for _ in calls]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        spoken = list(pool.map(lambda call, words: speak(words, f"{call[1]}+{call[0]}", call[2]), calls, words))
    clips = [(_clip(word, rng), label) for said in spoken for label, word in enumerate([*said, None])]
    clips = [clips[index] for index in rng.permutation(len(clips))]
    images = np.concatenate([spectrograms(np.stack(some)) for some in _in_batches([clip for clip, _ in clips], 64)])
    return Split(images[:, None], np.array([label for _, label in clips]))


def _in_batches(clips: list[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    yield from (clips[start : start + size] for start in range(0, len(clips), size))


def speak(words: Sequence[str], voice: str, speed: int) -> list[np.ndarray]:
    """Each word as samples in -1..1 at RATE_HZ, spoken at `speed` words a minute."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError("espeak-ng isn't installed; get it with apt-get install espeak-ng or the like")
    pause = f'<break time="{PAUSE_MS}ms"/>'
    text = f"<speak>{pause.join(words)}</speak>"
    command = [program, "-m", "-v", voice, "-s", str(speed), "--stdout", text]
    header = 44  # of a WAV file
    sound = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout[header:], np.int16)
    heard = np.flatnonzero(sound)
    gaps = np.flatnonzero(np.diff(heard) > SILENCE_S * RATE_HZ)
    starts, ends = np.r_[heard[:1], heard[gaps + 1]], np.r_[heard[gaps], heard[-1:]]
    if len(starts) != len(words):
        raise ValueError(f"espeak-ng's voice {voice} spoke {len(starts)} words where {len(words)} were asked for")
    return [sound[start : end + 1] / 32768.0 for start, end in zip(starts, ends, strict=True)]


def _clip(word: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """A second of noise, with the word somewhere in it."""
    clip = rng.standard_normal(RATE_HZ)
    if word is None:
        return clip * 10 ** rng.uniform(-3, -1)
    word = word[:RATE_HZ] * rng.uniform(0.3, 1.0)
    loudness = np.sqrt(np.mean(np.square(word)))
    clip *= loudness / 10 ** (rng.uniform(*NOISE_DB) / 20)
    start = rng.integers(0, RATE_HZ - len(word) + 1)
    clip[start : start + len(word)] += word
    return clip


def spectrograms(clips: np.ndarray) -> np.ndarray:
    """float32 [n, BANDS, MOMENTS] of clips [n, RATE_HZ]: the logarithm of the energy in mel bands, WINDOW by WINDOW."""
    windows = np.lib.stride_tricks.sliding_window_view(clips, WINDOW, axis=1)[:, ::HOP][:, :MOMENTS]
    energy = np.square(np.abs(np.fft.rfft(windows * np.hanning(WINDOW))))
    return ((np.log((energy @ _mel_bands().T).swapaxes(1, 2) + 1e-6) + 2) / 8).astype(np.float32)


def _mel_bands() -> np.ndarray:
    """[BANDS, frequencies]: triangles, evenly spaced in mel = 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    edges_mel = np.linspace(0, 2595 * np.log10(1 + RATE_HZ / 2 / 700), BANDS + 2)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    frequencies = np.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)
    rising = (frequencies - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - frequencies) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))
