"""ONNX Runtime sessions that are what they claim to be: settings, opening, and proof of where every node runs."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnxruntime

from onnxprune.errors import InputError, ModelError, ProviderRefused
from onnxprune.runtime import cuda
from onnxprune.runtime.children import RuntimeFailure, run_in_child
from onnxprune.runtime.environment import conflicting_packages, cores_available, environment

__all__ = [
    "Placement",
    "Provider",
    "RuntimeFailure",
    "SessionSettings",
    "conflicting_packages",
    "environment",
    "open_session",
    "placement",
    "profiled_placement",
    "prove_session",
    "run_in_child",
    "run_session",
]

Provider = Literal["cpu", "cuda"]
PROVIDER_NAMES: dict[str, str] = {"cpu": "CPUExecutionProvider", "cuda": cuda.CUDA}

# The operators that make up the work: a session on CUDA that leaves one of these on the CPU isn't one.
COMPUTE_OPERATORS = frozenset(
    {"Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvInteger", "MatMulInteger"}
    | {"QLinearConv", "QLinearMatMul", "Attention", "MultiHeadAttention", "LSTM", "GRU", "RNN"}
)
CONVOLUTION_SEARCH = "EXHAUSTIVE"  # ONNX Runtime's own default, said aloud so that both arms have it
COPY_OPERATORS = frozenset({"MemcpyFromHost", "MemcpyToHost"})
# What ONNX Runtime puts around convolutions on the CPU, to change into its blocked layout and back.
LAYOUT_OPERATORS = ("ReorderInput", "ReorderOutput")


@dataclasses.dataclass(frozen=True)
class SessionSettings:
    """How a model is run.

    threads: intra-operator threads, 0 for all cores this process may use; optimization: graph optimisation level;
    tf32: whether CUDA may round float32 products to TF32 (ONNX Runtime's own default is yes); cuda_graph: whether
    CUDA captures the work once and replays it.
    """

    provider: Provider = "cpu"
    threads: int = 1
    optimization: Literal["all", "none"] = "all"
    tf32: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.provider not in get_args(Provider):
            raise InputError(f"Provider '{self.provider}' is unknown. Choose one of {', '.join(get_args(Provider))}.")
        if self.threads < 0:
            raise InputError(f"threads is {self.threads}. Give a positive number, or 0 for all cores.")
        if self.optimization not in ("all", "none"):
            raise InputError(f"Optimisation level '{self.optimization}' is unknown. Choose all or none.")

    def as_dict(self) -> dict[str, str]:
        """What both arms of a comparison are run with, in words, for the record."""
        shared = {"optimization": self.optimization, "spinning": "off"}
        if self.provider == "cpu":
            return {**shared, "threads": str(self.threads or cores_available())}
        switches = {"tf32": self.tf32, "cuda_graph": self.cuda_graph}
        words = {name: "on" if switch else "off" for name, switch in switches.items()}
        return {**shared, **words, "convolution_search": CONVOLUTION_SEARCH}


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the nodes of a session run.

    nodes_per_provider: {ONNX Runtime provider name: number of nodes}; copies: nodes that copy between host and device
    (counted from the profile, None where none was taken); compute_ops_elsewhere: "operator on provider" for each
    Conv, Gemm, MatMul and the like outside the provider asked for.
    """

    asked: Provider
    nodes_per_provider: dict[str, int]
    copies: int | None
    compute_ops_elsewhere: tuple[str, ...]

    @property
    def proved(self) -> bool:
        """Whether something ran on the provider asked for, and nothing that counts ran elsewhere."""
        return self.nodes_per_provider.get(PROVIDER_NAMES[self.asked], 0) > 0 and not self.compute_ops_elsewhere


def open_session(
    model: str | Path | bytes,
    settings: SessionSettings | None = None,
    *,
    profile_prefix: str | None = None,
    optimised_to: str | None = None,
) -> onnxruntime.InferenceSession:
    """Open `model` with spinning off, and prove that it runs on the provider asked for.

    profile_prefix: profile the runs into a file of such a name; optimised_to: write the optimised graph to this file.

    Raises: ModelError (ONNX Runtime can't take the model), ProviderRefused (the provider isn't really there; the
    message names the missing library, or the operators that would run elsewhere).
    """
    return _open(model, settings or SessionSettings(), profile_prefix, optimised_to)


def prove_session(session: onnxruntime.InferenceSession, asked: Provider) -> Placement:
    """Where the nodes of a session run that somebody else opened, however they asked for the provider.

    The session needs the configuration entry session.record_ep_graph_assignment_info = 1.
    Raises: ProviderRefused naming the missing library, or the operators that run elsewhere.
    """
    try:
        seen = placement(session, asked)
    except Exception as error:
        raise ProviderRefused(
            f"Where this session runs can't be proved: {_first_line(error)}. Set the configuration entry "
            "session.record_ep_graph_assignment_info to 1 in its SessionOptions."
        ) from error
    if PROVIDER_NAMES[asked] not in session.get_providers() or not seen.proved:
        reason = why_refused(asked)
        found = ", ".join(f"{count} nodes on {name}" for name, count in seen.nodes_per_provider.items()) or "no nodes"
        raise ProviderRefused(
            f"This session isn't on {asked}: ONNX Runtime's record shows {found}. {reason or ''}".strip()
        )
    _require_libraries(asked)
    return seen


def placement(session: onnxruntime.InferenceSession, asked: Provider) -> Placement:
    """Where the nodes of `session` were assigned, from ONNX Runtime's own record of the partitioned graph."""
    nodes = [
        (group.ep_name, node.op_type)
        for group in session.get_provider_graph_assignment_info()
        for node in group.get_nodes()
    ]
    return _placement(asked, nodes, copies=None)


def profiled_placement(
    model: str | Path | bytes, settings: SessionSettings, feed: Mapping[str, np.ndarray]
) -> Placement:
    """Where the nodes of `model` ran on `feed`, from a profile of one run; copies between devices are counted.

    Raises: as open_session; ProviderRefused also where profile and assignment record disagree.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        session = open_session(model, settings, profile_prefix=str(Path(folder) / "profile"))
        run_session(session, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        assigned = placement(session, settings.provider)
    ran = [
        (event["args"]["provider"], event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and "provider" in event.get("args", {})
    ]
    copies = sum(operator in COPY_OPERATORS for _, operator in ran)
    seen = _placement(settings.provider, [node for node in ran if node[1] not in COPY_OPERATORS], copies)
    _require_proof(seen, "its profile")
    # Fusion changes how many nodes there are, never which providers have any: a provider that ran nodes without having
    # been assigned some means that one of the two records is not of this session.
    strangers = set(seen.nodes_per_provider) - set(assigned.nodes_per_provider)
    if strangers:
        raise ProviderRefused(
            f"The profile shows nodes on {', '.join(sorted(strangers))}, the assignment record none. "
            "Where the model ran can't be proved."
        )
    return dataclasses.replace(assigned, copies=copies)


def run_session(session: onnxruntime.InferenceSession, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run once: {output name: array}. Raises ModelError when ONNX Runtime refuses or fails."""
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feed)), strict=True))
    except Exception as error:
        raise ModelError(f"ONNX Runtime can't run the model: {_first_line(error)}.{_about_layout(error)}") from error


def _open(
    model: str | Path | bytes, settings: SessionSettings, profile_prefix: str | None, optimised_to: str | None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong arrives as an exception, once
    options.intra_op_num_threads = settings.threads or cores_available()
    options.inter_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if settings.optimization == "all" else levels.ORT_DISABLE_ALL
    )
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if optimised_to:
        options.optimized_model_filepath = optimised_to
    source = model if isinstance(model, bytes) else str(model)
    providers = _providers(settings)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:
        where = "the model" if isinstance(model, bytes) else f"'{model}'"
        raise ModelError(f"ONNX Runtime can't open {where}: {_first_line(error)}.") from error
    if PROVIDER_NAMES[settings.provider] not in session.get_providers():
        raise ProviderRefused(
            f"Asked for {settings.provider}, ONNX Runtime opened the model on {', '.join(session.get_providers())}. "
            f"{conflicting_packages() or 'Its log says why.'}"
        )
    if settings.provider != "cpu":
        _require_proof(placement(session, settings.provider), "ONNX Runtime's assignment record")
        _require_libraries(settings.provider)
    return session


def _providers(settings: SessionSettings) -> list[object]:
    """Providers as ONNX Runtime wants them, after checking that the one asked for can be had."""
    if settings.provider == "cpu":
        return [PROVIDER_NAMES["cpu"]]
    reason = why_refused(settings.provider)
    if reason:
        raise ProviderRefused(reason)
    options = {
        "use_tf32": "1" if settings.tf32 else "0",
        "cudnn_conv_algo_search": CONVOLUTION_SEARCH,
        "enable_cuda_graph": "1" if settings.cuda_graph else "0",
    }
    return [(cuda.CUDA, options), PROVIDER_NAMES["cpu"]]


def why_refused(provider: Provider) -> str | None:
    """The sentence that says why this machine can't offer `provider`, None if it can as far as can be told."""
    reason = None if provider == "cpu" else cuda.why_not_cuda()
    conflict = conflicting_packages()
    return f"{reason} {conflict}" if reason and conflict else reason


def _require_proof(seen: Placement, source: str) -> None:
    if seen.proved:
        return
    if seen.compute_ops_elsewhere:
        found = ", ".join(sorted(set(seen.compute_ops_elsewhere)))
    else:
        found = ", ".join(f"{count} nodes on {name}" for name, count in seen.nodes_per_provider.items()) or "no nodes"
    raise ProviderRefused(
        f"Asked for {seen.asked}, but {source} shows {found}. That would not be a {seen.asked} figure."
    )


def _require_libraries(asked: Provider) -> None:
    """A session in a process into which no CUDA library is mapped isn't on CUDA, whatever its record says."""
    if asked == "cpu" or not sys.platform.startswith("linux"):
        return
    mapped = cuda.mapped_libraries()
    missing = [name for name in ("libonnxruntime_providers_cuda", "libcublas", "libcuda") if not _has(mapped, name)]
    if missing:
        raise ProviderRefused(
            f"Asked for {asked}, but {', '.join(missing)} isn't mapped into this process (/proc/self/maps). "
            f"{why_refused(asked) or f'That would not be a {asked} figure.'}"
        )


def _has(files: list[str], name: str) -> bool:
    return any(Path(file).name.startswith(f"{name}.") for file in files)


def _placement(asked: Provider, nodes: list[tuple[str, str]], copies: int | None) -> Placement:
    wanted = PROVIDER_NAMES[asked]
    elsewhere = tuple(
        f"{operator} on {name}" for name, operator in nodes if operator in COMPUTE_OPERATORS and name != wanted
    )
    return Placement(asked, dict(Counter(name for name, _ in nodes)), copies, elsewhere)


def _about_layout(error: BaseException) -> str:
    """What to do where a node fails that no file holds: ONNX Runtime put it there."""
    if not any(name in str(error) for name in LAYOUT_OPERATORS):
        return ""
    return (
        " That node is ONNX Runtime's own, of its blocked layout, and can't take a layer of this width. The model may "
        "be right: open it at the optimisation level ORT_ENABLE_EXTENDED, which does without, or leave the layer a "
        "multiple of 16 channels."
    )


def _first_line(error: BaseException) -> str:
    """ONNX Runtime's message without its error code prefix, on one line."""
    words = " ".join(str(error).split())
    return (words.split(" : ", 3)[-1] if words.startswith("[ONNXRuntimeError]") else words).rstrip(".")
