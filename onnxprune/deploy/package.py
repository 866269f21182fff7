"""Build the folder that is shipped: a model, its evidence, and a runner that needs numpy and onnxruntime.

package/
  model.onnx        the model, byte for byte (and its external data files, where it has them)
  manifest.json     sha256 and size of every other file, inputs and outputs, versions
  run.py            runs, checks and times the model on the device
  sample.npz        inputs and the outputs that belong to them: `python run.py --check`
  README.md         how to use it
  validation.json   the measurements, where there are any
  recipe.yaml       how it was made, where a recipe was used
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import onnx_ir as ir

from onnxprune.deploy.verify import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    MODEL,
    NotAManifest,
    Problem,
    VerifyResult,
    read_listed,
    sha256_of,
    verify_package,
)
from onnxprune.errors import DataError, ModelError, OutputError
from onnxprune.graph.model import Model, load
from onnxprune.runtime.children import memory_for, patience_s
from onnxprune.runtime.equivalence import runnable_feeds
from onnxprune.runtime.feeds import Feed, fit_samples, read_inputs, static_batch, take_samples
from onnxprune.runtime.session import RuntimeFailure, SessionSettings, open_session, run_in_child, run_session

if TYPE_CHECKING:
    from onnxprune.runtime.validation import Validation

__all__ = ["Package", "Problem", "VerifyResult", "build_package", "verify_package"]

SAMPLE = "sample.npz"
SAMPLE_ROWS = 4
CHILD_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Package:
    """A package on disk. `sha256` is the manifest's own digest: written down elsewhere, it pins the whole folder."""

    path: Path
    sha256: str
    files: Mapping[str, int]
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that the manifest lists."""
        return sum(self.files.values())

    def as_dict(self) -> dict[str, Any]:
        """The package as plain JSON types."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "files": dict(self.files),
            "inputs": [dict(tensor) for tensor in self.inputs],
            "outputs": [dict(tensor) for tensor in self.outputs],
        }

    def __str__(self) -> str:
        return f"{self.path}: {len(self.files)} files, {self.size_bytes:,} bytes, manifest sha256 {self.sha256}"


def build_package(
    pruned: str | os.PathLike,
    out: str | os.PathLike,
    *,
    validation: Validation | None = None,
    recipe: str | None = None,
    example: Mapping[str, np.ndarray] | np.ndarray | None = None,
    licence: str | None = None,
    tolerance: float | None = None,
) -> Package:
    """Build the package folder `out` around the ONNX file `pruned`; `out` is complete or as it was before.

    `example` is one array or {input name: array [n, ...]}; its first rows become the sample, random numbers where it is
    None.
    `tolerance` is the largest error over range that `run.py --check` accepts on another device: 1e-4 by default, 1e-2
    for 16-bit outputs. `licence` is the model's, taken from its metadata where it isn't given.
    Raises ModelError, DataError (an example that doesn't fit, a validation of another file) and OutputError (an
    unwritable place, a full disk, or `out` holds something that isn't a package).
    """
    pruned, out = Path(pruned), Path(out)
    model = load(pruned)
    inputs, outputs = _tensors(model, model.ir.graph.inputs), _tensors(model, model.ir.graph.outputs)
    _check_validation(validation, pruned)
    _check_place(out)
    sources = _model_files(pruned, model)
    feeds, answers = _sample(pruned, example)
    if tolerance is None:
        tolerance = 1e-2 if any(array.dtype == np.float16 for array in answers.values()) else 1e-4
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "onnxprune": _version(),
        "model": {
            "file": MODEL,
            "name": pruned.stem,
            "ir_version": model.ir.ir_version,
            "opset": dict(model.ir.graph.opset_imports),
            "inputs": inputs,
            "outputs": outputs,
            "licence": licence or model.ir.metadata_props.get("license") or model.ir.metadata_props.get("licence"),
        },
        "sample": {"file": SAMPLE, "tolerance": tolerance},
        "verdict": None if validation is None else validation.verdict,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            folder = Path(scratch) / "new"
            folder.mkdir()
            for source, name in sources:
                shutil.copyfile(source, folder / name)
            _write_sample(folder / SAMPLE, feeds, answers)
            if validation is not None:
                validation.save(folder / "validation.json")
            if recipe is not None:
                (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
            (folder / "README.md").write_text(_readme(facts, validation, recipe), encoding="utf-8")
            (folder / "run.py").write_text(_template("run.py"), encoding="utf-8")
            os.chmod(folder / "run.py", 0o755)
            package = _write_manifest(folder, out, facts)
            _move_into_place(folder, out, Path(scratch) / "old")
    except OSError as error:
        raise OutputError(
            f"Package '{out}' can't be written: {error.strerror or error}. Free space, or choose another place."
        ) from error
    return package


def _tensors(model: Model, values: Any) -> list[dict[str, Any]]:
    """Name, NumPy type and shape (numbers and names) of the graph's real inputs or its outputs."""
    found = []
    for value in values:
        if value.is_initializer() and value.is_graph_input():
            continue
        dtype = value.dtype
        if not isinstance(value.type, ir.TensorType) or dtype is None or dtype.numpy().kind not in "biuf":
            raise ModelError(
                f"'{value.name}' of {model.name} is a {value.type}, which run.py can't read or write with numpy. "
                "Package a model whose inputs and outputs are tensors of numbers."
            )
        if dtype.numpy().isbuiltin != 1:
            raise ModelError(
                f"'{value.name}' of {model.name} is {dtype.name.lower()}, a type that numpy doesn't have. "
                "Cast inputs and outputs to float32 inside the model."
            )
        dims = [] if value.shape is None else value.shape
        shape = [dim if isinstance(dim, int) else (dim.value or "?") for dim in dims]
        found.append({"name": value.name, "type": dtype.numpy().name, "shape": shape})
    return found


def _check_validation(validation: Validation | None, pruned: Path) -> None:
    if validation is None or validation.candidate.sha256 == sha256_of(pruned):
        return
    raise DataError(
        f"The validation is about another file than '{pruned}' (its sha256 differs). Validate this file first."
    )


def _check_place(out: Path) -> None:
    if out.is_symlink():
        raise OutputError(f"'{out}' is a link. Give the folder itself.")
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"'{out}' is a file. Give a new folder for the package.")
    if not any(out.iterdir()):
        return
    try:
        read_listed(out / MANIFEST)
    except NotAManifest as error:
        raise OutputError(
            f"'{out}' holds something that isn't a package, and isn't overwritten. Give a new folder."
        ) from error


def _sample(pruned: Path, example: Mapping[str, np.ndarray] | np.ndarray | None) -> tuple[Feed, Feed]:
    """(inputs, outputs) by name, from a child process: the file may be a stranger's."""
    specs = read_inputs(pruned)
    feed = None
    if example is not None:
        samples = fit_samples(specs, example if isinstance(example, Mapping) else {specs[0].name: example})
        count = len(next(iter(samples.values())))
        rows = static_batch(specs) or min(SAMPLE_ROWS, count)
        feed = take_samples(specs, samples, np.arange(rows) % count)
    path = str(pruned.resolve())
    try:
        return run_in_child(_run, path, feed, memory_mb=memory_for(path), timeout_s=patience_s(CHILD_TIMEOUT_S))
    except RuntimeFailure as error:
        raise RuntimeFailure(f"'{pruned}', run on its sample, {error}. A package needs a model that runs.") from error


def _run(path: str, feed: Feed | None) -> tuple[Feed, Feed]:
    if feed is None:
        feed = runnable_feeds(path, batches=(1,))[0]
    return feed, run_session(open_session(path, SessionSettings()), feed)


def _model_files(pruned: Path, model: Model) -> list[tuple[Path, str]]:
    """The model's file and its external data files, with the names that they have in the package."""
    tensors = [value.const_value for value in model.ir.graph.initializers.values()]
    data = sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})
    taken = {MODEL, MANIFEST, SAMPLE, "README.md", "run.py", "validation.json", "recipe.yaml"}
    for name in data:
        if name in taken:
            raise ModelError(f"'{pruned}' keeps its weights in '{name}', a name that a package uses. Save it again.")
    return [(pruned, MODEL), *((pruned.parent / name, name) for name in data)]


def _write_sample(path: Path, feeds: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray]) -> None:
    arrays = {f"input:{name}": array for name, array in feeds.items()}
    arrays |= {f"output:{name}": array for name, array in answers.items()}
    np.savez(path, allow_pickle=False, **arrays)


def _write_manifest(folder: Path, out: Path, facts: Mapping[str, Any]) -> Package:
    files = {
        path.name: {"sha256": sha256_of(path), "size_bytes": path.stat().st_size} for path in sorted(folder.iterdir())
    }
    text = json.dumps({**facts, "files": files}, indent=2, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return Package(
        path=out,
        sha256=sha256_of(folder / MANIFEST),
        files={name: entry["size_bytes"] for name, entry in files.items()},
        inputs=tuple(facts["model"]["inputs"]),
        outputs=tuple(facts["model"]["outputs"]),
    )


def _move_into_place(folder: Path, out: Path, old: Path) -> None:
    """Rename the new folder to `out`; an older package goes only once the new one is there."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    if out.exists():
        os.rename(out, old)
    try:
        os.rename(folder, out)
    except OSError:
        if old.exists():
            os.rename(old, out)
        raise


def _readme(facts: Mapping[str, Any], validation: Validation | None, recipe: str | None) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_template("package_readme.md.j2"))
    # Why something was refused is a long sentence; it stands in validation.json.
    rows = [] if validation is None else [(*row[:-1], row[-1].partition(":")[0]) for row in validation.rows()]
    return template.render(facts=facts, rows=rows, has_recipe=recipe is not None) + "\n"


def _template(name: str) -> str:
    return resources.files("onnxprune.deploy").joinpath("templates", name).read_text(encoding="utf-8")


def _version() -> str:
    try:
        return importlib.metadata.version("onnxprune")
    except importlib.metadata.PackageNotFoundError:
        return "from source"
