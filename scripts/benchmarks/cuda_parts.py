"""The parts of the measurement on CUDA, each short enough to be run by itself: what it is called, how long it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_networks

from onnxprune.runtime.children import run_in_child
from onnxprune.runtime.equivalence import prove
from onnxprune.runtime.latency import compare_latency
from onnxprune.runtime.results import as_plain
from onnxprune.runtime.validation import validate

PRECISIONS = ("fp32", "fp16")
ARMS = ("reference", "candidate")
#: Of the output's range; decisions count beside it. cuDNN may choose another algorithm for each of the two files.
TOLERANCES = {"fp32": 1e-3, "fp16": 5e-2}
PART_TIMEOUT_S = 500.0


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured: all of it, or just enough to see that it works."""

    side: int = 224
    narrower: int = 1
    samples: int = 256
    batches: tuple[int, ...] = (1, 8, 32)
    seconds: float = 20.0
    stair_seconds: float = 60.0
    stair_widths: tuple[int, ...] = cuda_networks.STAIRCASE_WIDTHS
    stair_batches: tuple[int, ...] = (1, 32)


FULL = Scale()
QUICK = Scale(64, 8, 32, (1, 2), 1.0, 1.0, (32, 46, 48), (1,))


@dataclasses.dataclass(frozen=True)
class Part:
    """One step: its name, about how long it takes at most, and what does it. It returns plain JSON values."""

    name: str
    seconds: float
    run: Callable[[], Any]


def parts(folder: Path, provider: str, scale: Scale, with_demo: bool) -> list[Part]:
    """All parts in order; a later one needs the networks that the first makes."""
    pairs = ("demo", "large") if with_demo else ("large",)
    found = [Part("networks", 120, lambda: make_networks(folder, scale, pairs))]
    for pair in pairs:
        for precision in PRECISIONS:
            found.append(
                Part(f"accuracy {pair} {precision}", 120, lambda p=pair, k=precision: accuracy(folder, p, k, provider))
            )
    for pair in pairs:
        for precision in PRECISIONS:
            for batch in scale.batches:
                for graph in (False, True) if provider == "cuda" else (False,):
                    name = f"latency {pair} {precision} batch {batch}{' graph' if graph else ''}"
                    setting = (folder, pair, precision, provider, batch, graph, scale.seconds)
                    found.append(Part(name, 3 * scale.seconds + 60, lambda s=setting: latency(*s)))
    for precision in PRECISIONS:
        for batch in scale.stair_batches:
            setting = (folder, precision, provider, batch, scale)
            found.append(
                Part(
                    f"staircase {precision} batch {batch}",
                    2 * scale.stair_seconds + 15 * len(scale.stair_widths),
                    lambda s=setting: staircase(*s),
                )
            )
    return found


def make_networks(folder: Path, scale: Scale, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Both pairs in both precisions, and the staircase."""
    cuda_networks.make_large_pair(folder, side=scale.side, narrower=scale.narrower, samples=scale.samples)
    for pair in pairs:
        cuda_networks.make_halves(folder, pair)
    cuda_networks.make_staircase(folder, scale.stair_widths)
    return {"pairs": list(pairs), "side": scale.side, "samples": scale.samples}


def accuracy(folder: Path, pair: str, precision: str, provider: str) -> dict[str, Any]:
    """Top-1 of both files in pairs, on the CPU and on `provider`, each file's outputs on one against the other; and
    where both are to be the same function, how far apart they are on `provider`."""
    reference, candidate = files(folder, pair, precision)
    found = validate(
        reference,
        candidate,
        dataset=folder / f"{pair}.npz",
        max_drop=0.02,
        providers=tuple(dict.fromkeys(("cpu", provider))),
        asked=(provider,),
        latency=False,
    )
    same = None
    if pair == "large":
        same = run_in_child(
            prove,
            str(reference),
            str(candidate),
            tolerance=TOLERANCES[precision],
            provider=provider,
            timeout_s=PART_TIMEOUT_S,
        )
    return {"validation": found.as_dict(), "equivalence": as_plain(same), "tolerance": TOLERANCES[precision]}


def latency(
    folder: Path, pair: str, precision: str, provider: str, batch: int, graph: bool, seconds: float
) -> dict[str, Any]:
    """Both files in turn."""
    paths = dict(zip(ARMS, files(folder, pair, precision), strict=True))
    return as_plain(compare_latency(paths, provider=provider, batch=batch, seconds=seconds, cuda_graph=graph))


def staircase(folder: Path, precision: str, provider: str, batch: int, scale: Scale) -> dict[str, Any]:
    """All widths in turn; the first is what ratios are taken to."""
    ending = "-fp16" if precision == "fp16" else ""
    paths = {str(width): folder / f"stairs-{width}{ending}.onnx" for width in scale.stair_widths}
    return as_plain(compare_latency(paths, provider=provider, batch=batch, seconds=scale.stair_seconds))


def files(folder: Path, pair: str, precision: str) -> tuple[Path, Path]:
    """Reference and candidate of a pair."""
    ending = "-fp16" if precision == "fp16" else ""
    reference, candidate = (folder / f"{pair}-{arm}{ending}.onnx" for arm in ARMS)
    return reference, candidate
