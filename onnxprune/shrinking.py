"""Shrink a file and prove it: what is written computes what was read, or nothing is written and the fault is named."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.errors import ModelError, NotEquivalentError
from onnxprune.graph.exact.bound import Bound, bound
from onnxprune.graph.exact.subnormals import SMALLEST, flush
from onnxprune.graph.model import Model, load, save
from onnxprune.graph.shrink import ShrinkReport
from onnxprune.graph.shrink import shrink as shrink_graph
from onnxprune.graph.tensors import stored_bytes
from onnxprune.progress import Progress, tell
from onnxprune.prune.cost import Cost, count

if TYPE_CHECKING:
    from onnxprune.runtime.equivalence import Equivalence

PROOF_TIMEOUT_S = 1800.0
WHAT = "shrinking"


@dataclass(frozen=True)
class ShrunkModel:
    """What `shrink` did: the file it wrote, cost before and after, a verdict for every channel, and the proof.

    `equivalence` is None where no proof was asked for. With weights rounded to 0 on request it compares with the
    rounded model; `bound` then says how far outputs may have moved, `change` how far they did.
    """

    path: Path
    before: Cost
    after: Cost
    report: ShrinkReport
    equivalence: "Equivalence | None"
    seconds: float
    bound: Bound | None = None
    change: float | None = None

    exit_code = 0

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON types."""
        report, proof = self.report.as_dict(), self.equivalence
        found = {
            "path": str(self.path),
            "before": _cost(self.before),
            "after": _cost(self.after),
            "verdicts": report["verdicts"],
            "kept_dead": report["kept_dead"],
            "gone": report["gone"],
            "kept": list(self.report.kept),
            "subnormals": self.report.subnormals,
            "max_error": None if proof is None else proof.max_error,
            "range": None if proof is None else proof.range,
            "max_error_over_range": None if proof is None else proof.error_over_range,
            "max_error_in_float64": None if proof is None else proof.error_in_float64,
            "seconds": self.seconds,
            "proof": "left out (--no-verify)" if proof is None else str(proof),
        }
        if self.bound is not None:
            found["zero_below"] = {"limit": self.report.zero_below, **asdict(self.bound), "measured": self.change}
        return found


def _cost(cost: Cost) -> Mapping[str, int]:
    figures = cost.as_dict()
    return {"params": figures["params"], "macs": figures["macs"], "bytes": figures["size_bytes"], "nodes": cost.nodes}


def shrink_into(
    path: Path,
    target: Path,
    *,
    verify: bool = True,
    keep_denormals: bool = False,
    zero_below: float | None = None,
    progress: Progress | None = None,
) -> ShrunkModel:
    """Write the shrunk `path` to `target`, and prove it unless not `verify`.

    Raises ModelError, OutputError, and NotEquivalentError, which names the first unit at fault.
    """
    started = time.perf_counter()
    steps = 3 if verify else 2
    tell(progress, 0, steps, WHAT)
    model = load(path)

    def shrunk(at_most: int | None = None) -> tuple[Model, ShrinkReport]:
        limit = {} if at_most is None else {"at_most": at_most}
        return shrink_graph(model, keep_denormals=keep_denormals, zero_below=zero_below, **limit)

    smaller, report = shrunk()
    tell(progress, 1, steps, WHAT)
    save(smaller, target)
    seconds = time.perf_counter() - started
    before = replace(count(model), size_bytes=stored_bytes(path))
    done = ShrunkModel(target, before, count(smaller), report, None, seconds)
    reference = path
    if zero_below is not None:
        rounded, _ = flush(model, zero_below)
        reference = target.with_name(f"rounded.{target.name}")
        save(rounded, reference)
        done = replace(done, bound=bound(model, rounded))
    if verify:
        tell(progress, 2, steps, WHAT)
        try:
            equivalence = _in_child("prove_files", path, reference, target)
            if not equivalence.passed:
                fault = _first_fault(path, reference, target, report, lambda k: shrunk(k)[0])
                raise NotEquivalentError(
                    f"Without what was removed the model differs by {_difference(equivalence)}. {fault} Nothing was "
                    "written; please report it with the file."
                )
            if done.bound is not None:
                done = replace(done, change=_measured_change(path, target, done.bound))
        finally:
            if reference is not path:
                reference.unlink(missing_ok=True)
        done = replace(done, equivalence=equivalence, seconds=time.perf_counter() - started)
    elif reference is not path:
        reference.unlink(missing_ok=True)
    tell(progress, steps, steps, WHAT)
    return done


def _difference(found: "Equivalence") -> str:
    """How far apart the files are, in words that follow "differs by"."""
    said = f"{found.error_over_range:.2e} of the output range at {found.worst}, more than {found.tolerance:.2g}"
    from onnxprune.runtime.proof import MOST_ROUNDING

    if found.error_in_float64 is None:
        return said
    if found.error_in_float64 > found.tolerance:
        return f"{said}, and by {found.error_in_float64:.2e} computed in float64"
    if found.rounding > MOST_ROUNDING:
        return f"{said}; in float64 they agree, but float32 moves the original itself by {found.rounding:.2e}"
    return f"{said}, where rounding moves the original itself by {found.rounding:.2e} only"


def _measured_change(path: Path, target: Path, allowed: Bound) -> float:
    """How far outputs moved for inputs as large as the bound allows; more than the bound is a fault of ours."""
    change = _in_child("largest_change", path, path, target, inputs=allowed.inputs)
    if allowed.change is not None and change > allowed.change * (1 + 1e-3) + 1e-6:
        raise NotEquivalentError(
            f"Rounding weights to 0 moved an output by {change:.3g}, more than the bound of {allowed.change:.3g}. "
            "Nothing was written; please report it with the file."
        )
    return change


def _first_fault(
    path: Path, reference: Path, target: Path, report: ShrinkReport, partial: Callable[[int], Model]
) -> str:
    """Shrink less and less far, halving: the first step after which the models differ is at fault."""
    low, high = 0, len(report.steps)  # after `low` steps they agree, after `high` they don't
    trial = target.with_name(f"trial.{target.name}")
    try:
        if not _agrees(path, reference, trial, partial(0)):
            if report.subnormals and report.zero_below == SMALLEST:
                return (
                    f"They differ with nothing removed at all, once weights below 2^-126 are 0 ({report.subnormals:,} "
                    "are): --keep-denormals leaves those as they are."
                )
            return "They differ with nothing removed at all: the model gives other outputs each time it is rewritten."
        while high - low > 1:
            middle = (low + high) // 2
            if _agrees(path, reference, trial, partial(middle)):
                low = middle
            else:
                high = middle
    finally:
        trial.unlink(missing_ok=True)
    return f"The first step at fault is number {high} of {len(report.steps)}: {report.steps[high - 1]}."


def _agrees(path: Path, reference: Path, trial: Path, model: Model) -> bool:
    save(model, trial)
    return _in_child("prove_files", path, reference, trial).passed


def _in_child(function: str, path: Path, *files: Path, **options: Any) -> Any:
    """Files run in a child process, since they may be a stranger's."""
    from onnxprune.runtime import proof
    from onnxprune.runtime.children import RuntimeFailure, memory_for, patience_s, run_in_child

    limits = {"memory_mb": memory_for(path), "timeout_s": patience_s(PROOF_TIMEOUT_S)}
    names = [str(file.resolve()) for file in files]
    try:
        return run_in_child(getattr(proof, function), *names, **limits, **options)
    except RuntimeFailure as error:
        raise RuntimeFailure(
            f"The proof for '{path}' {error}. Nothing was written; --no-verify does without the proof."
        ) from error
    except ModelError as error:
        raise ModelError(
            f"The proof for '{path}' can't be given: {error} Nothing was written; --no-verify does without the proof."
        ) from error
