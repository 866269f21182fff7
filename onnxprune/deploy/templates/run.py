#!/usr/bin/env python3
"""Runs the model of this package. Needs Python 3.8 or newer, numpy and onnxruntime, and nothing else.

    python run.py --check                                the packaged sample gives the packaged answer
    python run.py --input x.npy --output y.npy           one input; name=x.npy for each of several, or one .npz
    python run.py --benchmark                            how long an inference takes on this machine
    python run.py --benchmark --json timings.json        the same for a program (--json alone prints it)

Every file is compared with manifest.json first. Exit codes: 0 done, 1 the package or its answer is wrong,
2 something given can't be used, 3 the provider asked for isn't there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
COMPUTE = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "LSTM", "GRU", "RNN"}
COMPUTE |= {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "Attention", "MultiHeadAttention"}
SESSIONS = 8  # sessions differ by about 1%: their spread belongs into the figure
WARM_UPS = 5


class Stop(Exception):
    """Ends the program with a sentence and an exit code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


try:
    import numpy as np
    import onnxruntime as ort
except ImportError as error:
    sys.exit(f"run.py needs numpy and onnxruntime ({error}). Install them with: pip install numpy onnxruntime")


# ---- the package ----------------------------------------------------------------------------------------------


def read_manifest():
    """The manifest, after every file that it lists was found to be what it was when the package was built."""
    path = HERE / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = dict(manifest["files"])
        manifest["model"]["inputs"], manifest["sample"]["tolerance"]
    except OSError as error:
        raise Stop(1, f"{path} can't be read ({error.strerror}): unpack the package again") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Stop(1, f"{path} isn't the manifest of a package: unpack the package again") from error
    for name, entry in sorted(files.items()):
        try:
            found = sha256_of(HERE / name)
        except OSError as error:
            raise Stop(1, f"{name} of this package can't be read ({error.strerror}): unpack it again") from error
        if found != entry["sha256"]:
            raise Stop(1, f"{name} isn't the file that was packaged (its sha256 differs): unpack the package again")
    return manifest


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# ---- inputs and outputs ---------------------------------------------------------------------------------------


def describe(tensor):
    return f"{tensor['name']}: {tensor['type']} [{', '.join(str(size) for size in tensor['shape'])}]"


def read_arrays(given, inputs):
    """{input name: array} from x.npy, name=x.npy or one .npz."""
    wanted = "this model takes " + "; ".join(describe(tensor) for tensor in inputs)
    arrays = {}
    for item in given:
        name, separator, file = item.partition("=")
        if not separator or Path(item).exists():
            name, file = None, item
        try:
            loaded = np.load(file, allow_pickle=False)
        except OSError as error:
            raise Stop(2, f"{file} can't be read: {error.strerror or error}") from error
        except (ValueError, EOFError) as error:
            raise Stop(2, f"{file} isn't an array that numpy saved (.npy or .npz): {error}") from error
        if isinstance(loaded, np.lib.npyio.NpzFile):
            arrays.update({key: loaded[key] for key in loaded.files})
        elif name is None and len(inputs) > 1:
            raise Stop(2, f"say which input {file} is: --input NAME={file}; {wanted}")
        else:
            arrays[name or inputs[0]["name"]] = loaded
    for name in arrays:
        if name not in {tensor["name"] for tensor in inputs}:
            raise Stop(2, f"there is no input {name!r}: {wanted}")
    return {tensor["name"]: fit(arrays.get(tensor["name"]), tensor, wanted) for tensor in inputs}


def fit(array, tensor, wanted):
    """The array with the input's type, once its shape fits. Changes only the width of a number, never its kind."""
    if array is None:
        raise Stop(2, f"no array was given for input {tensor['name']!r}: {wanted}")
    shape, dtype = tensor["shape"], np.dtype(tensor["type"])
    same_rank = len(shape) == array.ndim
    if not same_rank or any(isinstance(n, int) and n != m for n, m in zip(shape, array.shape)):  # noqa: B905
        raise Stop(2, f"input {tensor['name']!r} has shape {list(array.shape)}: {wanted}")
    if array.dtype != dtype:
        if array.dtype.kind != dtype.kind:
            raise Stop(2, f"input {tensor['name']!r} is {array.dtype}: {wanted}. Scale and convert it as in training")
        print(f"note: input {tensor['name']!r} converted from {array.dtype} to {dtype}", file=sys.stderr)
    return np.asarray(array, dtype=dtype, order="C")


def write_arrays(path, outputs):
    """One output as .npy, several (or a name that ends in .npz) as .npz; written beside and renamed."""
    path = Path(path)
    several = len(outputs) > 1 or path.suffix == ".npz"
    if several and path.suffix != ".npz":
        raise Stop(2, f"this model has {len(outputs)} outputs ({', '.join(outputs)}): give --output a name in .npz")

    def fill(file):
        if several:
            np.savez(file, **outputs)
        else:
            np.save(file, next(iter(outputs.values())))

    write(path, fill)


def write(path, fill):
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as file:
            fill(file)
        os.replace(beside, path)
    except OSError as error:
        if beside.exists():
            beside.unlink()
        raise Stop(2, f"{path} can't be written: {error.strerror or error}") from error


# ---- sessions -------------------------------------------------------------------------------------------------


def open_session(model, provider, threads, profile=None, exact=False):
    if PROVIDERS[provider] not in ort.get_available_providers():
        raise Stop(3, f"onnxruntime {ort.__version__} was built without {PROVIDERS[provider]}: install onnxruntime-gpu")
    if provider == "cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    providers = [PROVIDERS["cpu"]]
    if provider == "cuda":  # TF32 keeps 10 bits of a factor: fine for speed, too coarse to compare with
        providers = [(PROVIDERS["cuda"], {"use_tf32": "0"} if exact else {}), PROVIDERS["cpu"]]
    try:
        session = ort.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        raise Stop(2, f"onnxruntime {ort.__version__} can't open {model.name}: {first_line(error)}") from error
    if PROVIDERS[provider] not in session.get_providers():
        raise Stop(3, "CUDA was asked for, and this session fell back to the CPU: a CUDA or cuDNN library is missing")
    return session


def nodes_per_provider(model, provider, threads, feeds):
    """{provider: nodes} as one profiled run saw them; stops when heavy nodes ran elsewhere than asked."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, provider, threads, profile=os.path.join(folder, "profile"))
        infer(session, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    counts, astray = {}, set()
    for event in events:
        arguments = event.get("args", {})
        ran_on = arguments.get("provider")
        if event.get("cat") != "Node" or not ran_on:
            continue
        counts[ran_on] = counts.get(ran_on, 0) + 1
        if ran_on != PROVIDERS[provider] and arguments.get("op_name") in COMPUTE:
            astray.add(arguments["op_name"])
    if astray:
        raise Stop(3, f"{', '.join(sorted(astray))} didn't run on {PROVIDERS[provider]}: nothing was measured")
    return counts


def infer(session, feeds):
    try:
        return session.run(None, feeds)
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        raise Stop(2, f"the model refused this input: {first_line(error)}") from error


def first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---- what can be asked ----------------------------------------------------------------------------------------


def check(manifest, model, provider, threads):
    """Runs the packaged sample and compares with the answers it gave when the package was built."""
    names, feeds = sample_feeds(manifest)
    session = open_session(model, provider, threads, exact=True)
    with np.load(HERE / manifest["sample"]["file"], allow_pickle=False) as sample:
        expected = {name: sample["output:" + name] for name in names}
    tolerance, worst = manifest["sample"]["tolerance"], 0.0
    found = dict(zip(names, infer(session, feeds)))  # noqa: B905
    for name, want in expected.items():
        got = found[name]
        if got.shape != want.shape:
            raise Stop(1, f"output {name!r} has shape {list(got.shape)} instead of {list(want.shape)}")
        if not np.array_equal(np.isfinite(got), np.isfinite(want)):
            raise Stop(1, f"output {name!r} isn't finite where it should be")
        want, got = want.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(want)
        want, got = want[finite], got[finite]
        if want.size:
            error = np.max(np.abs(got - want)) / (np.ptp(want) or np.max(np.abs(want)) or 1.0)
            worst = max(worst, float(error))
    if worst > tolerance:
        raise Stop(1, f"failed: the sample's outputs differ by {worst:.2e} of their range, {tolerance:.0e} is allowed")
    print(f"passed: the sample's outputs differ by {worst:.2e} of their range, {tolerance:.0e} is allowed ({provider})")


def sample_feeds(manifest):
    with np.load(HERE / manifest["sample"]["file"], allow_pickle=False) as sample:
        feeds = {tensor["name"]: sample["input:" + tensor["name"]] for tensor in manifest["model"]["inputs"]}
    return [tensor["name"] for tensor in manifest["model"]["outputs"]], feeds


def resize(feeds, inputs, batch):
    """The sample cut or repeated to `batch` rows along every input's first axis, where that axis is free."""
    free = [tensor["name"] for tensor in inputs if tensor["shape"] and not isinstance(tensor["shape"][0], int)]
    if batch is not None and not free:
        raise Stop(2, f"this model takes {'; '.join(map(describe, inputs))} and no other size: leave --batch out")
    return {
        name: np.resize(array, (batch or 1, *array.shape[1:])) if name in free else array
        for name, array in feeds.items()
    }


def benchmark(manifest, model, arguments):
    """Times single inferences in sessions created anew, and says on what machine."""
    _, feeds = sample_feeds(manifest)
    feeds = resize(feeds, manifest["model"]["inputs"], arguments.batch)
    placed = nodes_per_provider(model, arguments.provider, arguments.threads, feeds)
    load_before, sessions = load_average(), []
    for _ in range(SESSIONS):
        start = time.perf_counter()
        session = open_session(model, arguments.provider, arguments.threads)
        opened = time.perf_counter()
        infer(session, feeds)
        first = time.perf_counter()
        for _ in range(WARM_UPS):
            infer(session, feeds)
        runs, until = [], time.perf_counter() + arguments.seconds / SESSIONS
        while not runs or time.perf_counter() < until:
            begin = time.perf_counter()
            infer(session, feeds)
            runs.append((time.perf_counter() - begin) * 1e3)
        sessions.append({"session_ms": (opened - start) * 1e3, "first_run_ms": (first - opened) * 1e3, "runs_ms": runs})
    runs = np.concatenate([session["runs_ms"] for session in sessions])
    return {
        "format": "onnxprune-benchmark",
        "format_version": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model_sha256": manifest["files"][manifest["model"]["file"]]["sha256"],
        "provider": arguments.provider,
        "nodes_per_provider": placed,
        "threads": arguments.threads,
        "shapes": {name: list(array.shape) for name, array in feeds.items()},
        "samples": len(runs),
        "median_ms": float(np.median(runs)),
        "p90_ms": float(np.percentile(runs, 90)),
        "p99_ms": float(np.percentile(runs, 99)) if len(runs) >= 299 else None,
        "first_run_ms": float(np.median([session["first_run_ms"] for session in sessions])),
        "session_ms": float(np.median([session["session_ms"] for session in sessions])),
        "device": device(load_before),
        "sessions": sessions,
    }


def device(load_before):
    """What ran the timings: enough to tell two machines apart."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": platform.machine(),
        "processor": processor(),
        "cores": cores,
        "system": platform.platform(),
        "gpus": gpus(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": ort.__version__,
        "providers": ort.get_available_providers(),
        "load_before": load_before,
        "load_after": load_average(),
    }


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "model\t"))]
    return next((name for name in named if not name.isdigit()), platform.processor())


def gpus():
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.decode(errors="replace").splitlines() if line.strip()]


def load_average():
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def print_timings(result):
    where = result["device"]
    print(f"median {result['median_ms']:.3f} ms, 90th percentile {result['p90_ms']:.3f} ms", end="")
    print(f", 99th percentile {result['p99_ms']:.3f} ms" if result["p99_ms"] is not None else "", end="")
    print(f" ({result['samples']} runs in {SESSIONS} sessions)")
    print(f"first run {result['first_run_ms']:.2f} ms, opening the session {result['session_ms']:.1f} ms")
    shapes = ", ".join(f"{name} {shape}" for name, shape in result["shapes"].items())
    placed = ", ".join(f"{count} nodes on {name}" for name, count in sorted(result["nodes_per_provider"].items()))
    print(f"{shapes}; {placed}; {result['threads'] or 'all'} thread(s)")
    print(f"{where['processor']}, {where['cores']} cores, onnxruntime {where['onnxruntime']}, {where['system']}")
    for name in where["gpus"]:
        print(name)


def positive(number):
    def read(text):
        value = number(text)
        if not 0 < value < 1e6:
            raise ValueError
        return value

    read.__name__ = f"positive {number.__name__}"
    return read


def parser():
    lines = (__doc__ or "").split("\n\n")
    parse = argparse.ArgumentParser(
        prog="run.py",
        description=lines[0],
        epilog="\n\n".join(lines[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--check", action="store_true", help="run the packaged sample and compare")
    parse.add_argument("--benchmark", action="store_true", help="time inferences on this machine")
    parse.add_argument("--input", action="append", metavar="[NAME=]FILE", help=".npy or .npz to run the model on")
    parse.add_argument("--output", metavar="FILE", help="where the outputs go (.npy, or .npz for several)")
    parse.add_argument("--provider", choices=sorted(PROVIDERS), default="cpu", help="default: cpu")
    parse.add_argument("--threads", type=int, choices=range(257), default=1, metavar="N", help="0: all; default: 1")
    parse.add_argument("--batch", type=positive(int), help="benchmark this many at once; default: 1")
    parse.add_argument("--seconds", type=positive(float), default=10.0, help="length of the benchmark; default: 10")
    parse.add_argument("--json", nargs="?", const="-", metavar="FILE", help="benchmark as JSON, to FILE or printed")
    return parse


def main(argv=None):
    parse = parser()
    arguments = parse.parse_args(argv)
    asked = [arguments.check, arguments.benchmark, arguments.input is not None]
    if sum(asked) != 1:
        parse.error("ask for one of --check, --benchmark or --input FILE --output FILE")
    if (arguments.input is None) != (arguments.output is None):
        parse.error("--input and --output go together")
    if arguments.json and not arguments.benchmark:
        parse.error("--json goes with --benchmark")
    try:
        manifest = read_manifest()
        model = HERE / manifest["model"]["file"]
        if arguments.check:
            check(manifest, model, arguments.provider, arguments.threads)
        elif arguments.benchmark:
            report(benchmark(manifest, model, arguments), arguments.json)
        else:
            feeds = read_arrays(arguments.input, manifest["model"]["inputs"])
            session = open_session(model, arguments.provider, arguments.threads)
            names = [tensor["name"] for tensor in manifest["model"]["outputs"]]
            write_arrays(arguments.output, dict(zip(names, infer(session, feeds))))  # noqa: B905
    except Stop as stop:
        print(f"run.py: {stop}", file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("run.py: interrupted", file=sys.stderr)
        return 130
    return 0


def report(result, where):
    if where is None:
        print_timings(result)
    elif where == "-":
        print(json.dumps(result, indent=1))
    else:
        write(Path(where), lambda file: file.write(json.dumps(result, indent=1).encode()))
        print_timings(result)


if __name__ == "__main__":
    sys.exit(main())
