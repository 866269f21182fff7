"""Outputs recorded on one machine, to be compared on another: running and comparing are apart."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.graph.model import write_atomically
from onnxprune.runtime.accuracy import record_outputs
from onnxprune.runtime.data import Dataset
from onnxprune.runtime.session import SessionSettings, open_session, placement

FORMAT, VERSION = "onnxprune-recording", 1
HEADER = "onnxprune"


@dataclasses.dataclass(frozen=True)
class Recording:
    """A model's outputs on a data set, and where they came from.

    outputs: {output name: array [n, ...]}; model: its figures (parameters, multiply-adds, bytes, sha256, file);
    nodes_per_provider: where its nodes were assigned; data_name, data_sha256, samples: what it ran on.
    """

    outputs: Mapping[str, np.ndarray]
    provider: str
    nodes_per_provider: Mapping[str, int]
    data_name: str
    data_sha256: str
    samples: int
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, path: str | os.PathLike) -> None:
        """Write as .npz: the arrays by name, and the rest as JSON. Raises: OutputError."""
        header = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "outputs"
        }
        text = json.dumps({"format": FORMAT, "version": VERSION, **header})
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{HEADER: np.array(text)}, **{f"output:{k}": v for k, v in self.outputs.items()})
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Recording:
        """Read what `save` wrote. Raises: DataError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(str(arrays.pop(HEADER)))
            if (header.pop("format"), header.pop("version")) != (FORMAT, VERSION):
                raise ValueError("another format")
            outputs = {name.removeprefix("output:"): array for name, array in arrays.items()}
            return cls(outputs=outputs, **header)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else error
            raise DataError(f"'{path}' isn't a recording ({why}). Make one with onnxprune record.") from error


def record(model: str | Path, dataset: Dataset, settings: SessionSettings | None = None, batch: int = 64) -> Recording:
    """Run `model` on all of `dataset`. Raises: ModelError, DataError, ProviderRefused."""
    settings = settings or SessionSettings()
    outputs = record_outputs(model, dataset.inputs, settings, batch)
    seen = placement(open_session(model, settings), settings.provider)
    return Recording(
        outputs=outputs,
        provider=settings.provider,
        nodes_per_provider=seen.nodes_per_provider,
        data_name=dataset.name,
        data_sha256=dataset.sha256,
        samples=len(dataset),
    )
