"""Do two models compute the same function? Outputs compared on random, border, large and real inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxprune.errors import DataError, ModelError, NotEquivalentError
from onnxprune.runtime.feeds import SIZE_PAIRS, Feed, random_feeds, read_inputs
from onnxprune.runtime.session import Provider, SessionSettings, open_session, run_session

__all__ = ["Equivalence", "compare_outputs", "prove", "random_feeds", "require"]

Outputs = Mapping[str, np.ndarray] | Sequence[np.ndarray] | np.ndarray
Runnable = Callable[[Feed], Outputs] | str | Path | bytes
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Equivalence:
    """How far a candidate's outputs are from a reference's, over all feeds and outputs.

    max_error: largest absolute difference; error_over_range: largest difference relative to the spread (largest minus
    smallest value) that the reference output has on the feed, or usually has where that is more; range: that spread;
    snr_db: lowest ratio of signal to error in dB, None when nothing differs at all; cosine: lowest cosine between two
    outputs; agreement: fraction of decisions (argmax over axis 1) that are the same, decisions within the tolerance
    counting as the same; comparisons: pairs of output arrays compared; worst: where error_over_range was found.

    Where that is more than the tolerance because float32 can't compute the reference any more closely, both may have
    been compared in float64: error_in_float64 is the largest difference there over the range, rounding how far the
    reference in float32 is from itself in float64 (None and 0 where that wasn't done).
    """

    max_error: float
    range: float
    error_over_range: float
    snr_db: float | None
    cosine: float
    agreement: float
    tolerance: float
    comparisons: int
    passed: bool
    worst: str = ""
    rounding: float = 0.0
    error_in_float64: float | None = None

    def __str__(self) -> str:
        return f"{'equal' if self.passed else 'NOT equal'}: {self._found()} ({self._figures()})"

    def _found(self) -> str:
        error = f"error {self.error_over_range:.1e} of the range"
        if self.error_in_float64 is None:
            return f"{error} {'<=' if self.passed else '>'} {self.tolerance:.2g}"
        sign = "<=" if self.error_in_float64 <= self.tolerance else ">"
        return (
            f"in float64 error {self.error_in_float64:.1e} of the range {sign} {self.tolerance:.2g}; in float32 "
            f"{self.error_over_range:.1e}, where rounding moves the reference itself by {self.rounding:.1e}"
        )

    def _figures(self) -> str:
        snr = "identical" if self.snr_db is None else f"SNR {self.snr_db:.0f} dB"
        return f"{snr}, decisions {self.agreement:.1%}, {self.comparisons} comparisons"


def compare_outputs(
    reference: Runnable, candidate: Runnable, feeds: Iterable[Feed], *, tolerance: float = TOLERANCE
) -> Equivalence:
    """Run both on every feed and compare. A model is run on the CPU without optimisation; a callable gets the feed.

    Callables return one array, a sequence or a dict of arrays; names are compared where both sides have them, else
    outputs pair up by position. Values that aren't finite must be so on both sides, in the same places.
    Raises: ModelError (can't be run, outputs of other names, number or shape), DataError (nothing was compared).
    """
    settings = SessionSettings(optimization="none")
    runs = [_runner(side, settings) for side in (reference, candidate)]
    tally = Tally(tolerance)
    for index, feed in enumerate(feeds):
        tally.add(f"feed {index}", *(run(feed) for run in runs))
    return tally.result()


def prove(
    reference: str | Path | bytes,
    candidate: str | Path | bytes,
    *,
    tolerance: float = TOLERANCE,
    batches: Sequence[int] = (1, 7),
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    ranges: Mapping[str, int] | None = None,
    provider: Provider = "cpu",
) -> Equivalence:
    """Compare two models on `provider`, at optimisation levels none and all, on the feeds of `random_feeds`.

    inputs: real samples per input name, [n, ...]. Dynamic sizes that the samples don't fix get two values each, the
    first pair that the reference runs on; integers are below their input's number in `ranges`. Nothing is raised for a
    difference (see `require`). With `own_rounding` a reference that differs from itself between the two levels by more
    than the tolerance may differ from the candidate by 3 times as much, feed by feed.
    On CUDA, TF32 is off. Raises: ModelError, DataError as `compare_outputs`; ProviderRefused.
    """
    feeds = runnable_feeds(reference, batches=batches, inputs=inputs, seed=seed, ranges=ranges)
    tally = Tally(tolerance)
    expected = {where: run(feed) for where, run, feed in runs_of(reference, feeds, provider)}
    for where, run, feed in runs_of(candidate, feeds, provider):
        tally.add(where, expected[where], run(feed))
    return tally.result()


def runs_of(
    side: Runnable, feeds: Sequence[Feed], provider: Provider = "cpu"
) -> Iterator[tuple[str, Callable[[Feed], Outputs], Feed]]:
    """(where, what runs a feed, the feed) at each optimisation level. One session at a time: a large model is there
    once."""
    for level in ("none", "all"):
        run = _runner(side, SessionSettings(provider, optimization=level))
        for index, feed in enumerate(feeds):
            yield f"feed {index} at optimisation level {level}", run, feed


def require(equivalence: Equivalence) -> Equivalence:
    """The same equivalence, or NotEquivalentError if it didn't pass."""
    if not equivalence.passed:
        raise NotEquivalentError(
            f"The models differ by {equivalence.error_over_range:.2e} of the output range at {equivalence.worst}, "
            f"more than {equivalence.tolerance:.2g}. They don't compute the same function."
        )
    return equivalence


def runnable_feeds(
    model: str | Path | bytes,
    *,
    batches: Sequence[int] = (1, 7),
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    ranges: Mapping[str, int] | None = None,
) -> list[Feed]:
    """Feeds that `model` runs on: where sizes are dynamic and unknown, the first of SIZE_PAIRS that work.

    Raises: ModelError with what ONNX Runtime said about the last try.
    """
    specs = read_inputs(model)
    names = {size for spec in specs for size in spec.dynamic_sizes}
    session = open_session(model, SessionSettings(optimization="none"))
    refusal: ModelError | None = None
    for pair in SIZE_PAIRS if names and inputs is None else SIZE_PAIRS[:1]:
        feeds = random_feeds(model, batches, seed, inputs, dict.fromkeys(names, pair), ranges)
        try:
            for feed in feeds:
                run_session(session, feed)
        except ModelError as error:
            refusal = error
            continue
        return feeds
    sizes = (
        f" No size tried for {', '.join(sorted(names))} works: give real inputs." if names and inputs is None else ""
    )
    raise ModelError(f"{refusal}{sizes}") from refusal


class Tally:
    """Gathers pairs of outputs; comparing waits for `result`, as an output of one element has no range of its own."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.pairs: list[tuple[str, str, np.ndarray, np.ndarray]] = []
        self.resolutions: dict[str, float] = {}  # of each output's type: the step from 1 to the next number

    def add(self, where: str, reference: Outputs, candidate: Outputs) -> None:
        left, right = _named(reference), _named(candidate)
        if isinstance(reference, Mapping) and isinstance(candidate, Mapping) and set(left) != set(right):
            raise ModelError(
                f"The outputs differ by name: {', '.join(left)} against {', '.join(right)}. Rename them alike."
            )
        if len(left) != len(right):
            raise ModelError(
                f"The reference has {len(left)} outputs, the candidate {len(right)}. Compare models of one task."
            )
        if not (isinstance(reference, Mapping) and isinstance(candidate, Mapping)):
            right = dict(zip(left, right.values(), strict=True))
        for name, expected in left.items():
            if expected.shape != right[name].shape:
                raise ModelError(
                    f"Output '{name}' has shape {list(expected.shape)} in the reference and "
                    f"{list(right[name].shape)} in the candidate at {where}. Compare models of one task."
                )
            self.pairs.append((name, where, _as_double(name, expected), _as_double(name, right[name])))
            self.resolutions[name] = max(_resolution(expected), _resolution(right[name]))

    def result(self) -> Equivalence:
        worst = ("", -1.0, 0.0)  # where, ratio, range
        max_error, snr_db, cosine, same, decisions, comparisons = 0.0, math.inf, 1.0, 0, 0, 0
        for name, where, expected, actual, error, spread in self._compared():
            comparisons += 1
            finite = np.isfinite(expected)
            x, y = expected[finite], actual[finite]
            if error / spread >= worst[1]:
                worst = (f"output '{name}', {where}", error / spread, spread)
            max_error = max(max_error, error)
            snr_db = min(snr_db, _snr_db(x, y))
            cosine = min(cosine, _cosine(x, y))
            counts = _decisions(expected, actual, self.tolerance * spread)
            same, decisions = same + counts[0], decisions + counts[1]
        if not comparisons:
            raise DataError("Nothing was compared: no feed gave an output with a finite value. Give real inputs.")
        return Equivalence(
            max_error=max_error,
            range=worst[2],
            error_over_range=worst[1],
            snr_db=None if snr_db == math.inf else snr_db,
            cosine=cosine,
            agreement=same / decisions if decisions else 1.0,
            tolerance=self.tolerance,
            comparisons=comparisons,
            passed=worst[1] <= self.tolerance,
            worst=worst[0],
        )

    def by_output(self) -> dict[str, float]:
        """The largest error of each output, over the range."""
        found: dict[str, float] = {}
        for name, _, _, _, error, spread in self._compared():
            found[name] = max(found.get(name, 0.0), error / spread)
        return found

    def _compared(self) -> Iterator[tuple[str, str, np.ndarray, np.ndarray, float, float]]:
        """(output, where, expected, actual, largest error, range) of each pair with anything to compare."""
        usual = self._usual_spreads()
        for name, where, expected, actual in self.pairs:
            finite = np.isfinite(expected)
            if not finite.any():
                continue  # nothing to compare: doesn't count as a comparison
            x, y, others = expected[finite], actual[finite], ~finite
            with np.errstate(invalid="ignore", over="ignore"):
                error = float(np.max(np.abs(x - y), initial=0.0))
            if not np.array_equal(expected[others], actual[others], equal_nan=True) or not math.isfinite(error):
                error = math.inf
            # An output that hardly varies on this feed (a saturated sigmoid) is judged by how it varies on the others,
            # and none more finely than four steps of its own type.
            spread = max(float(np.ptp(x)), usual[name]) or float(np.max(np.abs(x))) or 1.0
            if self.tolerance > 0:
                spread = max(spread, 4 * self.resolutions[name] * float(np.max(np.abs(x))) / self.tolerance)
            yield name, where, expected, actual, error, spread

    def _usual_spreads(self) -> dict[str, float]:
        """Each output's median spread over the feeds; its spread over all of them together where that is 0."""
        values: dict[str, list[np.ndarray]] = {}
        for name, _, expected, _ in self.pairs:
            x = expected[np.isfinite(expected)]
            if x.size:
                values.setdefault(name, []).append(x)
        return {
            name: float(np.median([np.ptp(x) for x in parts])) or float(np.ptp(np.concatenate(parts)))
            for name, parts in values.items()
        }


def _runner(side: Runnable, settings: SessionSettings) -> Callable[[Feed], Outputs]:
    if callable(side):
        return side
    session = open_session(side, settings)
    return lambda feed: run_session(session, feed)


def _named(outputs: Outputs) -> dict[str, np.ndarray]:
    """Outputs by name; outputs without names are called by their position."""
    if isinstance(outputs, np.ndarray):
        outputs = [outputs]
    items = outputs.items() if isinstance(outputs, Mapping) else ((str(k), value) for k, value in enumerate(outputs))
    return {name: np.asarray(value) for name, value in items}


def _as_double(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "OSU":
        raise ModelError(f"Output '{name}' isn't a tensor of numbers, so it can't be compared. Cut it off the graph.")
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _resolution(array: np.ndarray) -> float:
    if array.dtype.kind == "V":  # ml_dtypes: bfloat16, the only one of them that models give
        return 2.0**-7
    return float(np.finfo(array.dtype).eps) if array.dtype.kind in "fc" else 0.0


def _snr_db(x: np.ndarray, y: np.ndarray) -> float:
    noise = float(np.sum(np.abs(x - y) ** 2)) if np.isfinite(y).all() else math.inf
    signal = float(np.sum(np.abs(x) ** 2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and noise != math.inf else -math.inf


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    if not np.isfinite(y).all():
        return -1.0
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    if norms == 0:
        return 1.0 if np.array_equal(x, y) else 0.0
    return min(1.0, float(np.vdot(x, y).real) / norms)


def _decisions(expected: np.ndarray, actual: np.ndarray, slack: float) -> tuple[int, int]:
    """(same, all) decisions along axis 1; another choice is the same one if the reference rates it within `slack`."""
    if expected.ndim < 2 or expected.shape[1] < 2 or not np.isfinite(expected).all() or np.iscomplexobj(expected):
        return 0, 0
    choice = np.expand_dims(np.nan_to_num(actual).argmax(axis=1), 1)
    rated = np.take_along_axis(expected, choice, axis=1)[:, 0]
    same = rated >= expected.max(axis=1) - 2 * slack
    return int(same.sum()), same.size
