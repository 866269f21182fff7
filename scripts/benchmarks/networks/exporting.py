"""From a subject to two ONNX files: as users ship it (optimised), and with every parameter's name kept (plain)."""

import contextlib
import io
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import onnxscript.optimizer
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch.nn.attention import SDPBackend, sdpa_kernel

from networks.network import BATCHES, Input, Network, Subject, feeds
from networks.randomise import randomise

SEED = 0
OPSET = 20


@dataclass(frozen=True)
class Exported:
    """The files of one network: `plain` is None where there is no module. `inputs` and `sizes` as of the subject."""

    optimized: Path
    plain: Path | None
    inputs: tuple[Input, ...]
    sizes: tuple[dict[str, int], ...]
    remark: str


def build(network: Network) -> Subject:
    """Make the network; a module gets the same random weights each time."""
    torch.manual_seed(SEED)
    subject = network.make()
    if subject.is_module:
        randomise(subject.network, examples(subject), SEED, subject.deviation)
    return subject


def examples(subject: Subject, which: int = 0) -> tuple[torch.Tensor, ...]:
    drawn = feeds(subject.inputs, subject.sizes[which], BATCHES[which], SEED)
    return tuple(torch.from_numpy(array) for array in drawn.values())


def export(network: Network, folder: Path, *, static: bool = False) -> Exported:
    """The network's files in `folder`, made unless they are there; with `static` only the batch is dynamic.

    A network that can't be exported with its image or sequence size dynamic is exported without.
    """
    stem = network.name.replace("/", "-") + ("-static" if static else "")
    notes = folder / f"{stem}.json"
    if not notes.exists():
        subject = build(network)
        subject = subject.static() if static else subject
        remark = subject.remark
        try:
            files = _write(subject, folder / stem)
            _run_second_size(subject, folder / files[0])
        except Exception as error:  # the exporter raises whatever its stages raise, and ONNX Runtime its own
            if not any(subject.sizes):
                raise
            remark = f"exported at a fixed size: {_reason(error)}"
            subject = subject.static()
            files = _write(subject, folder / stem)
        inputs = [asdict(value) for value in subject.inputs]
        notes.write_text(json.dumps({"files": files, "inputs": inputs, "sizes": subject.sizes, "remark": remark}))
    read = json.loads(notes.read_text())
    return Exported(
        optimized=folder / read["files"][0],
        plain=folder / read["files"][1] if read["files"][1] else None,
        inputs=tuple(Input(**{**value, "shape": tuple(value["shape"])}) for value in read["inputs"]),
        sizes=tuple(read["sizes"]),
        remark=read["remark"],
    )


def _write(subject: Subject, stem: Path) -> tuple[str, str | None]:
    optimized = stem.with_name(f"{stem.name}.onnx")
    if not subject.is_module:
        onnx.save(subject.network, optimized)
        return optimized.name, None
    plain = stem.with_name(f"{stem.name}.plain.onnx")
    with _quiet():
        program = _program(subject)
        ir.save(program.model, plain)
        program.optimize()
        model = program.model
        if not _is_complete(model):  # some rewriting of the optimiser's drops constants
            model = ir.load(plain)
            onnxscript.optimizer.fold_constants(model)
            RemoveUnusedNodesPass()(model)
        ir.save(model, optimized)
    return optimized.name, plain.name


def _run_second_size(subject: Subject, path: Path) -> None:
    """Raise ONNX Runtime's error where the exporter has fixed what depends on the size."""
    if subject.is_module and any(subject.sizes):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.run(None, feeds(subject.inputs, subject.sizes[1], BATCHES[1], SEED))


def _is_complete(model: ir.Model) -> bool:
    """Whether every value that a node reads is an input, an initializer or another node's."""
    made = {*model.graph.inputs, *model.graph.initializers.values(), *(v for node in model.graph for v in node.outputs)}
    return all(value is None or value in made for node in model.graph for value in node.inputs)


def _program(subject: Subject):
    names = [value.name for value in subject.inputs]
    dynamic = tuple({a: s for a, s in enumerate(v.shape) if isinstance(s, str)} for v in subject.inputs)
    # Attention's fused kernels leave strides that the exporter's own decomposition trips over.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.onnx.export(
            subject.network,
            examples(subject),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=names,
            dynamic_shapes=dynamic,
        )


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


@contextlib.contextmanager
def _quiet():
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
