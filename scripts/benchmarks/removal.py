"""What other tools remove of the conformance suite, and what they break: docs/benchmarks/removal.md.

    python scripts/benchmarks/removal.py [-o runs/removal] [--peer openvino ...]

Each tool runs in an environment of its own that is made in the output folder, case by case in a process that may
crash; finished cases are only read when it is started again. A tool that can't be installed is a row that says so.
"""

import argparse
import json
import subprocess
import sys
import venv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "benchmarks" / "removal.md"
WORKER = Path(__file__).with_name("removal_worker.py")
sys.path.insert(0, str(ROOT))

from tests.conformance.cases import CASES  # noqa: E402

#: One case takes a second; loading PyTorch takes some.
TIMEOUT_S = 120
SLOW = "no result in time"
BASE = ("onnx", "onnxruntime", "numpy", "ml_dtypes")


@dataclass(frozen=True)
class Peer:
    """A tool: its name in the table, what pip installs for it, how it is called, and what it works on."""

    name: str
    requirements: tuple[str, ...]
    how: str


PEERS = {
    "onnxprune": Peer("onnxprune", (), "`onnxprune.shrink`"),
    "openvino": Peer(
        "OpenVINO", ("openvino==2026.4.1", *BASE), "`apply_moc_transformations`, then `apply_pruning_transformation`"
    ),
    "onnxifier": Peer("ONNXifier", ("onnxifier==2.0.3", *BASE), "pass `remove_zero_channels`"),
    "torch-simplify": Peer(
        "torch-simplify", ("torch-simplify==1.1.4", "torch==2.13.0", *BASE), "`simplify(module, zeros)`, PyTorch only"
    ),
    "torch-pruning": Peer(
        "Torch-Pruning",
        ("torch-pruning==1.6.0", "torch==2.13.0", *BASE),
        "`DependencyGraph`: deletes what it is told, here each filter whose weights are 0; PyTorch only",
    ),
}
OUTCOMES = ("full", "less", "invalid", "WRONG", "refused")
SIGNS = {"full": "full", "less": "less", "invalid": "invalid", "WRONG": "**WRONG**", "refused": "refused", "": ""}


def interpreter(key: str, folder: Path) -> Path:
    """The Python of a peer's own environment, made if it isn't there. Raises CalledProcessError."""
    if not PEERS[key].requirements:
        return Path(sys.executable)
    home = folder / key
    python = home / "bin" / "python"
    done = home / "installed"
    if not done.exists():
        venv.create(home, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS[key].requirements]
        subprocess.run(command, check=True, capture_output=True, text=True)
        done.touch()
    return python


def run(key: str, folder: Path) -> dict[str, dict]:
    """{case: {"outcome": ..., "detail": ...}} of one peer; a "missing" entry alone where it can't be had."""
    log = folder / f"{key}.jsonl"
    results = {}
    if log.exists():
        results = {entry["case"]: entry for entry in map(json.loads, log.read_text().splitlines())}
    left = [name for name in CASES if name not in results]
    if not left:
        return results
    try:
        python = interpreter(key, folder)
    except (subprocess.CalledProcessError, OSError) as error:
        words = getattr(error, "stderr", "") or str(error)
        return {"missing": {"case": "missing", "outcome": "missing", "detail": words.strip().splitlines()[-1][:200]}}
    with log.open("a") as file:
        while left:
            for entry in _batch(python, key, left):
                results[entry["case"]] = entry
                file.write(json.dumps(entry) + "\n")
                file.flush()
            left = [name for name in left if name not in results]
    return results


def _batch(python: Path, key: str, names: list[str]) -> list[dict]:
    """Run cases in one process until it is through or dies; the case that it died of is invalid."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "ignore"}
    command = [python, WORKER, key, *names]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S + 5 * len(names), env=environment
        )
        output, reason = done.stdout, f"the process ended with {done.returncode}: {done.stderr.strip()[-150:]}"
    except subprocess.TimeoutExpired as error:
        output, reason = (error.stdout or b"").decode(), SLOW
    entries = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    rest = [name for name in names if name not in {entry["case"] for entry in entries}]
    if rest and (not entries or reason != SLOW):  # a process that got anywhere in its time is only started again
        entries.append({"case": rest[0], "outcome": "invalid", "detail": reason})
    return entries


def document(results: dict[str, dict[str, dict]]) -> str:
    """The Markdown page: a summary, then tool by case."""
    lines = [
        "# Removing dead structure: the conformance suite through other tools",
        "",
        f"Printed by `python scripts/benchmarks/removal.py`: {len(CASES)} small graphs of tests/conformance, each with "
        "what a correct tool can remove, worked out by hand. *full*: all of it, and nothing where nothing may go; "
        "*less*: right, and less; *invalid*: the tool raises halfway, or its result can't be run; *WRONG*: it runs and "
        "computes something else (above 1e-5 of the output's range, or outputs of another shape); *refused*: it "
        "doesn't read the graph at all; *no original*: tools for PyTorch run where the case has a module. Removal is "
        "counted in elements of kernels and matrices; each tool is judged against its own run of the unpruned model, "
        "which must agree with ONNX Runtime's.",
        "",
        "| tool | how it was called | full | less | invalid | WRONG | refused | no original |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, found in results.items():
        peer = PEERS[key]
        if "missing" in found:
            lines.append(f"| {peer.name} | couldn't be installed: {found['missing']['detail']} | | | | | | |")
            continue
        counts = Counter(entry["outcome"] for entry in found.values())
        version = next((entry["version"] for entry in found.values() if entry.get("version")), "")
        numbers = " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {f'{peer.name} {version}'.strip()} | {peer.how} | {numbers} | {counts['']} |")
    present = [key for key, found in results.items() if "missing" not in found]
    lines += [
        "",
        "Of these, the cases in which something may be removed (the others are traps: nothing may go):",
        "",
        "| tool | full | less | invalid | WRONG | refused | no original |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in present:
        counts = Counter(entry["outcome"] for name, entry in results[key].items() if CASES[name].gone)
        numbers = " | ".join(str(counts[outcome]) for outcome in (*OUTCOMES, ""))
        lines.append(f"| {PEERS[key].name} | {numbers} |")
    lines += ["", "| case | may go | " + " | ".join(PEERS[key].name for key in present) + " |"]
    lines.append("|---|---|" + "---|" * len(present))
    for name, case in CASES.items():
        signs = " | ".join(SIGNS[results[key][name]["outcome"]] for key in present)
        lines.append(f"| {name} | {case.removable_kernels or ''} | {signs} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/removal"), help="folder of environments and logs")
    parser.add_argument("--peer", choices=PEERS, action="append", help="may be repeated; all by default")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = arguments.peer or list(PEERS)
    results = {key: run(key, arguments.out.resolve()) for key in PEERS if key in chosen}
    page = document(results)
    print(page, end="")
    if set(chosen) == set(PEERS):
        DOCUMENT.write_text(page)
    ours = results.get("onnxprune", {})
    return 1 if any(entry["outcome"] in ("WRONG", "invalid") for entry in ours.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
