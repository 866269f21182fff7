"""What "how good" means: metrics by name, from maintained libraries where these have them.

A metric turns outputs and targets into one row of numbers per sample, and rows into a score. Where the score is the
mean of the rows (top-1, loss) samples are compared one by one; where it isn't (F1, mean IoU, word error rate) the rows
are drawn again together, so that two models are always compared on the same samples.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime.data import Dataset, resolve

Outputs = np.ndarray | dict[str, np.ndarray]
EXTRA = "pip install 'onnxprune[metrics]'"
CENTS = 20.0 * np.arange(360) + 1997.3794084376191  # of CREPE's 360 pitch bins, relative to 10 Hz
PADDING = -1  # in targets: no class here (segmentation), the end of the text (recognition)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score of a model on data.

    score(outputs, targets) -> [n] or [n, k]: numbers for each sample; outputs is the model's output array [n, ...], or
    {output name: array} where it has several. aggregate(rows) -> float makes a score of any subset of the rows; None:
    the mean of [n]. range: what the metric can give at most, None where it has no bound; share: whether it reads as a
    percentage.
    """

    name: str
    score: Callable[[Outputs, np.ndarray], np.ndarray]
    higher_is_better: bool = True
    aggregate: Callable[[np.ndarray], float] | None = None
    share: bool = False
    with_data: Callable[[Outputs, Dataset], np.ndarray] | None = None


def find_metric(metric: str | Metric | Callable) -> Metric:
    """A Metric from its name ("top3" for any k), a function, or "module:function".

    A function of the user's may carry an attribute `higher_is_better`. Raises: DataError naming the known ones.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    if isinstance(metric, str) and re.fullmatch(r"top[1-9]\d*", metric):
        return Metric(metric, _top(int(metric[3:])), share=True)
    if isinstance(metric, str):
        if ":" not in metric:
            raise DataError(
                f"Metric '{metric}' is unknown. Choose {', '.join(METRICS)}, or name a function as module:function."
            )
        function = resolve(metric)
        if isinstance(function, Metric):
            return function
    else:
        function = metric
    if not callable(function):
        raise DataError(f"The metric '{metric}' can't be called. Give a function of (outputs, targets).")
    name = metric if isinstance(metric, str) else getattr(function, "__name__", type(function).__name__)
    return Metric(name, function, bool(getattr(function, "higher_is_better", True)))


def _library(name: str, metric: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise DataError(f"The metric {metric} needs {name.split('.')[0]}, which isn't installed: {EXTRA}.") from error


def first_output(outputs: Outputs) -> np.ndarray:
    """The model's first output."""
    return next(iter(outputs.values())) if isinstance(outputs, Mapping) else outputs


def classification(outputs: Outputs, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n, classes] of the first output and integer labels [n]. Raises: ValueError."""
    logits = first_output(outputs)
    if logits.ndim != 2 or targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise ValueError("classification needs scores [n, classes] and integer labels [n]")
    if targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise ValueError(f"labels from {targets.min()} to {targets.max()} for {logits.shape[1]} classes")
    return logits, targets


def _top(k: int) -> Callable[[Outputs, np.ndarray], np.ndarray]:
    def score(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
        logits, labels = classification(outputs, targets)
        sound = np.isfinite(logits).all(axis=1)
        if k == 1:
            return (sound & (logits.argmax(axis=1) == labels)).astype(float)
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        # Ties count against the label: as many others as high mean that it may be behind them.
        return (sound & ((logits >= own).sum(axis=1) <= k)).astype(float)

    return score


def _error_rate(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    return 1.0 - _top(1)(outputs, targets)


def _decisions(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    """[n, 2]: label and decision; a decision among scores that aren't finite is no class at all."""
    logits, labels = classification(outputs, targets)
    chosen = np.where(np.isfinite(logits).all(axis=1), np.nan_to_num(logits).argmax(axis=1), -1)
    return np.stack([labels, chosen], axis=1).astype(float)


def _macro(name: str) -> Callable[[np.ndarray], float]:
    """Precision, recall or F1, averaged over the classes that the labels have (scikit-learn, macro)."""

    def aggregate(rows: np.ndarray) -> float:
        function = getattr(_library("sklearn.metrics", name), f"{name}_score")
        labels, chosen = rows[:, 0].astype(int), rows[:, 1].astype(int)
        return float(function(labels, chosen, labels=np.unique(labels), average="macro", zero_division=0.0))

    return aggregate


def _scored_labels(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    """[n, classes + classes]: scores, then 1 for each class that the sample belongs to (labels [n] or [n, classes])."""
    scores = first_output(outputs)
    if targets.ndim == 1:
        scores, labels = classification(outputs, targets)
        targets = np.eye(scores.shape[1])[labels]
    if scores.shape != targets.shape:
        raise ValueError("average precision needs scores [n, classes], and labels [n] or 0 and 1 [n, classes]")
    return np.concatenate([np.nan_to_num(scores, nan=-np.inf), targets], axis=1).astype(float)


def _mean_average_precision(rows: np.ndarray) -> float:
    """Mean over the classes that occur of the average precision of their scores (scikit-learn)."""
    average_precision = _library("sklearn.metrics", "map").average_precision_score
    scores, labels = np.split(rows, 2, axis=1)
    present = [k for k in range(labels.shape[1]) if labels[:, k].any()]
    return float(np.mean([average_precision(labels[:, k], scores[:, k]) for k in present])) if present else 0.0


def _confusions(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    """[n, classes * classes]: how often each class of a pixel was taken for each; targets of -1 don't count."""
    scores = first_output(outputs)
    classes = scores.shape[1]
    chosen = scores.argmax(axis=1)
    if chosen.shape != targets.shape or targets.dtype.kind not in "iu":
        raise ValueError("mean IoU needs scores [n, classes, *size] and integer labels [n, *size]")
    rows = []
    for label, found in zip(targets, chosen, strict=True):
        counted = (label >= 0) & (label < classes)
        rows.append(np.bincount(classes * label[counted] + found[counted], minlength=classes**2))
    return np.array(rows, float)


def _mean_iou(rows: np.ndarray) -> float:
    """Mean over the classes that occur of intersection over union."""
    classes = round(rows.shape[1] ** 0.5)
    confusion = rows.sum(axis=0).reshape(classes, classes)
    hit = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hit
    occurs = confusion.sum(axis=1) > 0
    return float((hit[occurs] / union[occurs]).mean()) if occurs.any() else 0.0


def _squared_error(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    found = first_output(outputs).reshape(len(targets), -1).astype(float)
    wanted = targets.reshape(len(targets), -1).astype(float)
    if found.shape != wanted.shape:
        raise ValueError("outputs and targets need as many numbers for each sample")
    return ((found - wanted) ** 2).mean(axis=1)[:, None]


def _root_mean(rows: np.ndarray) -> float:
    return float(np.sqrt(rows.mean()))


def _cross_entropy(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    """Cross entropy in nats; the outputs are logits."""
    logits, labels = classification(outputs, targets)
    logits = logits.astype(float)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]


def _cosine(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    found = first_output(outputs).reshape(len(targets), -1).astype(float)
    wanted = targets.reshape(len(targets), -1).astype(float)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return (found * wanted).sum(axis=1) / np.maximum(norms, np.finfo(float).tiny)


def _text_errors(unit: str, metric: str) -> Callable[[Outputs, Dataset], np.ndarray]:
    """[n, 2]: edits of each text and its length, in characters or words (jiwer).

    Outputs are scores [n, time, classes] of a CTC network whose class 0 is the blank, or classes [n, time]; the data
    set's `alphabet` gives the text of each class. Targets are strings, or classes [n, length] padded with -1.
    """

    def score(outputs: Outputs, data: Dataset) -> np.ndarray:
        process = getattr(_library("jiwer", metric), f"process_{unit}")
        found = first_output(outputs)
        paths = found.argmax(axis=2) if found.ndim == 3 else found
        texts = [_read(path, data.alphabet, collapse=found.ndim == 3) for path in paths]
        strings = data.targets.dtype.kind == "U"
        if strings and data.alphabet is None:
            raise ValueError("targets that are text need an array 'alphabet' with the text of each class")
        wanted = [str(t) if strings else _read(t, data.alphabet, collapse=False) for t in data.targets]
        rows = []
        for want, got in zip(wanted, texts, strict=True):
            length = len(want.split()) if unit == "words" else len(want)
            if not length:
                rows.append((float(bool(got)), 1.0))
                continue
            counts = process(want, got)
            rows.append((float(counts.substitutions + counts.insertions + counts.deletions), float(length)))
        return np.array(rows)

    return score


def _read(path: np.ndarray, alphabet: tuple[str, ...] | None, *, collapse: bool) -> str:
    """The text of a row of classes; without an alphabet each class is a character of its own."""
    classes = np.asarray(path).astype(int)
    if collapse:  # CTC: a repeated class counts once, class 0 is the blank
        kept = np.concatenate([[True], classes[1:] != classes[:-1]])
        classes = classes[kept]
        classes = classes[classes != 0]
    letters = (chr(0x4E00 + k) if alphabet is None else alphabet[k] for k in classes if k >= 0)
    return "".join(letters)


def _ratio_of_sums(rows: np.ndarray) -> float:
    return float(rows[:, 0].sum() / max(rows[:, 1].sum(), 1.0))


def _pitches(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    """[n, 2]: pitch of each frame in cents above 10 Hz, wanted (0: unvoiced) and found.

    Outputs are CREPE's 360 bins or a pitch in Hz; targets are Hz, 0 where there is no pitch.
    """
    melody = _library("mir_eval.melody", "raw_pitch")
    found = first_output(outputs).astype(float).reshape(len(targets), -1)
    if found.shape[1] == len(CENTS):  # the mean around the strongest bin, as CREPE reads it
        centre = found.argmax(axis=1)[:, None] + np.arange(-4, 5)
        weights = np.take_along_axis(found, centre.clip(0, len(CENTS) - 1), axis=1)
        weights = np.where((centre >= 0) & (centre < len(CENTS)), weights, 0.0)
        cents = (weights * CENTS[centre.clip(0, len(CENTS) - 1)]).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-30)
    elif found.shape[1] == 1:
        cents = melody.hz2cents(np.maximum(found[:, 0], 0.0))
    else:
        raise ValueError("raw pitch accuracy needs 360 bins or one pitch in Hz for each frame")
    return np.stack([melody.hz2cents(np.asarray(targets, float).reshape(len(targets))), cents], axis=1)


def _raw_pitch_accuracy(rows: np.ndarray) -> float:
    """Share of the voiced frames whose pitch is right within 50 cents (mir_eval)."""
    melody = _library("mir_eval.melody", "raw_pitch")
    voiced = (rows[:, 0] > 0).astype(float)
    if not voiced.any():
        return 0.0
    return float(melody.raw_pitch_accuracy(voiced, rows[:, 0], np.ones(len(rows)), rows[:, 1]))


def _no_targets(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    raise ValueError("this metric needs the data set")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("top1", _top(1), share=True),
        Metric("top5", _top(5), share=True),
        Metric("error_rate", _error_rate, higher_is_better=False, share=True),
        Metric("precision", _decisions, aggregate=_macro("precision"), share=True),
        Metric("recall", _decisions, aggregate=_macro("recall"), share=True),
        Metric("f1", _decisions, aggregate=_macro("f1"), share=True),
        Metric("map", _scored_labels, aggregate=_mean_average_precision, share=True),
        Metric("miou", _confusions, aggregate=_mean_iou, share=True),
        Metric("rmse", _squared_error, higher_is_better=False, aggregate=_root_mean),
        Metric("loss", _cross_entropy, higher_is_better=False),
        Metric("cosine", _cosine),
        Metric("cer", _no_targets, False, _ratio_of_sums, share=True, with_data=_text_errors("characters", "cer")),
        Metric("wer", _no_targets, False, _ratio_of_sums, share=True, with_data=_text_errors("words", "wer")),
        Metric("raw_pitch", _pitches, aggregate=_raw_pitch_accuracy, share=True),
    )
}
