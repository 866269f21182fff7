"""What the zoo's results say: a line, a verdict and a row for each network, and the page of them all."""

import platform
from importlib.metadata import PackageNotFoundError, version

#: Largest error, as a fraction of the output's range.
TOLERANCE = 1e-5
#: However far a network is from itself in float64, a difference above this shows something else.
LARGEST_ROUNDING = 1e-4
#: A deletion that moves the output by less of its range shows nothing.
LEAST_EFFECT = 1e-3
#: Below this fraction of weights prunable, the tensors that stay are listed.
ENOUGH = 0.95
ALL = "all kinds"
TENSORS_LISTED = 6
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "timm", "transformers")
MB = 2**20


def problems(result: dict) -> list[str]:
    """What is wrong with a network's result; nothing for one that isn't installed."""
    if "crash" in result:
        return [_short(result["crash"])]
    found = []
    for what, deletions in (("", result.get("deletions", [])), ("module: ", result.get("torch_deletions", []))):
        for deletion in deletions:
            where = f"{what}{deletion['kind']}"
            if deletion["failure"]:
                found.append(f"{where}: {_short(deletion['failure'])}")
            elif not deletion["error"] <= max(TOLERANCE, min(2 * (deletion.get("rounding") or 0), LARGEST_ROUNDING)):
                found.append(f"{where}: error {deletion['error']:.1e}")
            elif not what and deletion["effect"] < LEAST_EFFECT:
                found.append(f"{where}: moves the output by {deletion['effect']:.0e} only")
            if deletion["backend_failure"]:
                found.append(f"{where}: backend: {_short(deletion['backend_failure'])}")
            elif deletion["backend_error"] is not None and not deletion["backend_error"] <= TOLERANCE:
                found.append(f"{where}: backend: error {deletion['backend_error']:.1e}")
    return found


def line(result: dict) -> str:
    """What is printed while the zoo runs."""
    name = f"{result['name']:34}"
    if "not_installed" in result:
        return f"{name} {result['not_installed']}"
    wrong = problems(result)
    if "deletions" not in result:
        return f"{name} {'; '.join(wrong) or 'exported in {:.0f} s'.format(result['export_seconds'])}"
    figures = " ".join(_figures(result))
    return f"{name} {figures} {'ok' if not wrong else wrong[0]}"


def _figures(result: dict) -> list[str]:
    deleted = [d["weights_left"] for d in result["deletions"]]
    return [
        f"{result['nodes']:,}",
        f"{result['weights'] / 1e6:.2f}M",
        f"{result['prunable']:.1%}",
        f"{1 - min(deleted):.1%}" if deleted else "–",
        _error([d["error"] for d in result["deletions"]]),
        _error([d["error"] for d in result["torch_deletions"]]),
        _error([d["backend_error"] for d in result["deletions"] if d["backend_error"] is not None]),
        f"{result['trace_seconds']:.2f}",
        f"{result['remove_seconds']:.2f}",
        f"{result['peak_bytes'] / MB:.0f}",
    ]


def _error(errors: list[float]) -> str:
    return f"{max(errors):.0e}" if errors else "–"


def _short(text: str, length: int = 200) -> str:
    return " ".join(text.split()).replace("|", "/")[:length]


def summary(results: list[dict]) -> str:
    """How many networks passed, and how many of them are prunable enough."""
    there = [result for result in results if "not_installed" not in result]
    passed = [result for result in there if not problems(result)]
    lines = [f"{len(passed)} of {len(there)} networks: every deletion valid and equal to all answers."]
    for family in dict.fromkeys(result["name"].split("/")[0] for result in there):
        of_it = [result for result in there if result["name"].startswith(f"{family}/")]
        traced = [result for result in of_it if "prunable" in result]
        enough = sum(result["prunable"] >= ENOUGH for result in traced)
        fine = sum(result in passed for result in of_it)
        lines.append(f"{family}: {fine} of {len(of_it)} passed, {enough} with at least {ENOUGH:.0%} prunable.")
    return "\n".join(lines)


def document(results: list[dict]) -> str:
    """The page with a row for each network, and the tensors that stay where less than ENOUGH is prunable."""
    head = (
        "network|nodes|weights|prunable|deleted|error|against PyTorch|other backend|trace s|remove s|peak MB|verdict"
    ).split("|")
    lines = [
        "# The zoo",
        "",
        f"Printed by `python scripts/benchmarks/zoo.py` with {_versions()}, on {platform.processor() or 'a CPU'} with "
        "one thread.",
        "",
        "Of each network, with random weights, 30% of the units of each kind are deleted at random, then of all kinds "
        "together, and the result is run by ONNX Runtime. `error` is the largest difference to the masked network over "
        "the range of the output, at batch 3 and at a second size of whatever is dynamic; `against PyTorch` that of "
        "the unoptimised export to the module with the same slices zeroed, where no normalisation is restated, and may "
        f"be above {TOLERANCE:.0e} only where the module is half as far from itself in float64; "
        "`other backend` that of onnx-graphsurgeon's removal to the masked network. `deleted` is the share of the "
        "weights that went with all kinds together; the peak is what tracing and removal take beyond what the process "
        "holds before the file is read.",
        "",
        *summary(results).splitlines(),
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    lines += [_row(result, len(head)) for result in results]
    few = [result for result in results if result.get("prunable", 1) < ENOUGH]
    if few:
        lines += ["", f"## What can't be cut, where less than {ENOUGH:.0%} is prunable", ""]
        lines += [entry for result in few for entry in _tensors(result)]
    notes = [(result["name"], note) for result in results for note in [result.get("remark"), *result.get("notes", [])]]
    rounded = [
        (result["name"], d) for result in results for d in result.get("torch_deletions", []) if d.get("rounding")
    ]
    if rounded:
        lines += ["", f"## More than {TOLERANCE:.0e} from the module", ""]
        lines += [
            f"* {name}, {d['kind']}: {d['error']:.1e}; the module in float64 differs from itself by {d['rounding']:.1e}"
            for name, d in rounded
        ]
    if any(note for _, note in notes):
        lines += ["", "## What the exporter did", ""]
        lines += [f"* {name}: {_short(note)}" for name, note in notes if note]
    return "\n".join(lines) + "\n"


def _row(result: dict, columns: int) -> str:
    if "deletions" in result:
        cells = _figures(result)
        verdict = "; ".join(problems(result)[:2]) or "passed"
    else:
        cells = ["–"] * (columns - 2)
        verdict = result.get("not_installed") or "; ".join(problems(result))
    return "| " + " | ".join([result["name"], *cells, verdict]) + " |"


def _tensors(result: dict) -> list[str]:
    listed = [
        f"  * `{name}` {shape}, {share:.0%} of it: {_short(reason)}"
        for name, shape, share, reason in result["pinned_tensors"][:TENSORS_LISTED]
    ]
    return [f"* {result['name']}, {result['prunable']:.1%} prunable", *listed]


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
