"""Two recordings compared: what `validate` says of accuracy and outputs, without running anything."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from onnxprune.errors import DataError, InputError
from onnxprune.runtime.accuracy import Metric, find_metric, score_outputs
from onnxprune.runtime.data import Dataset
from onnxprune.runtime.environment import environment
from onnxprune.runtime.equivalence import TOLERANCE, compare_outputs
from onnxprune.runtime.gates import decide_gates
from onnxprune.runtime.recording import Recording
from onnxprune.runtime.results import AccuracyRow, DataUsed, Figures, ProviderAgreement, Validation
from onnxprune.runtime.validation import filled_row, losses_in_words


def compare_recordings(
    reference: Recording,
    candidate: Recording,
    *,
    dataset: Dataset | None = None,
    metric: str | Metric | Callable = "top1",
    max_drop: float | None = None,
    tolerance: float | None = None,
) -> Validation:
    """Outputs of two models, or of one on two machines, on the same samples.

    tolerance: the outputs have to agree this well, as a gate; without it their distance is reported only. dataset: the
    samples that both ran on, for accuracy by `metric` and a largest drop.
    Raises: DataError (other samples than the recordings'), ModelError (outputs that don't match), InputError.
    """
    if max_drop is not None and dataset is None:
        raise InputError("A largest drop is asked for without data to measure it on. Give the data set.")
    if reference.data_sha256 != candidate.data_sha256:
        raise DataError(
            f"The recordings are of different samples ({reference.data_name}, {candidate.data_name}). "
            "Record both on the same data."
        )
    if dataset is not None and dataset.sha256 != reference.data_sha256:
        raise DataError(f"{dataset.name} isn't what was recorded on ({reference.data_name}). Give the same data.")
    seen = compare_outputs(
        lambda feed: dict(reference.outputs),
        lambda feed: dict(candidate.outputs),
        [{}],
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )
    rows = []
    where = " and ".join(dict.fromkeys((reference.provider, candidate.provider)))
    if dataset is not None:
        chosen = find_metric(metric)
        scores = [score_outputs(recording.outputs, dataset, chosen) for recording in (reference, candidate)]
        row = AccuracyRow(
            where,
            chosen.name,
            len(dataset),
            *[None] * 5,
            max_drop,
            None,
            None,
            "refused",
            higher_is_better=chosen.higher_is_better,
            share=chosen.share,
            nodes_per_provider={"reference": reference.nodes_per_provider, "candidate": candidate.nodes_per_provider},
        )
        rows.append(filled_row(row, scores, dataset.targets, chosen, max_drop))
    equivalence = None if tolerance is None else seen
    agreement = ()
    if equivalence is None:
        agreement = (ProviderAgreement("outputs", (reference.provider, candidate.provider), seen),)
    return Validation(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        reference=Figures(**reference.model),
        candidate=Figures(**candidate.model),
        equivalence=equivalence,
        accuracy=tuple(rows),
        latency=(),
        environment={
            **environment(),
            "recorded_on": [recording.environment.get("processor") for recording in (reference, candidate)],
        },
        gates=decide_gates(equivalence, rows, (), asked={where}, min_speedup=None),
        data=DataUsed(reference.data_name, reference.samples, reference.data_sha256),
        agreement=agreement,
        findings=tuple(losses_in_words(rows)),
    )
