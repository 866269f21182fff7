"""Damaged and hostile files against load, inspect and shrink; a whole run writes docs/benchmarks/fuzz_load.md.

    python scripts/benchmarks/fuzz_load.py [--files 20000] [--seed 0] [-o runs/fuzz_load]
    python scripts/benchmarks/fuzz_load.py --one 0 1234 > bad.onnx    # file 1234 of seed 0

Every file is a valid small model with one to four things wrong: bytes flipped, cut out, repeated or truncated, or a
part of the message replaced by something nasty. It goes through load, inspect and shrink, all but the proof, in a
worker process with a memory limit, under a watchdog. File k of a seed is always the same one; an interrupted run goes
on where it was. Exit code 1 where anything but a result or a refusal in one sentence came out.
"""

import argparse
import json
import os
import selectors
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "benchmarks" / "fuzz_load.md"
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from fuzz_mutations import corpus, mutate  # noqa: E402

#: Beyond what the worker has after its imports. The corpus' models take a few kilobytes.
MEMORY_MB = 1024
TIMEOUT_S = 20.0  # of processor time
#: What may come out of a file, and what must not.
GOOD = ("shrunk", "refused")
BAD = ("traceback", "over-allocation", "crash", "hang")
DATA = "weights.data"
VERBS = {"load": "loaded", "inspect": "inspected", "shrink": "shrunk"}


def damaged(seed: int, number: int) -> bytes:
    """File `number` of `seed`."""
    return mutate(np.random.default_rng([seed, number]), corpus())


def attempt(content: bytes, folder: Path) -> tuple[str, str]:
    """(outcome, detail) of one file: the refusal's first words, or where an exception came from."""
    from onnxprune.errors import OnnxPruneError
    from onnxprune.graph.model import load, save
    from onnxprune.graph.shrink import shrink
    from onnxprune.inspection import inspect_model
    from onnxprune.prune.cost import count

    path = folder / "net.onnx"
    path.write_bytes(content)
    stage = "load"
    try:
        model = load(path)
        stage = "inspect"
        inspect_model(path).as_dict()
        stage = "shrink"
        smaller, _ = shrink(model)
        count(smaller)
        save(smaller, folder / "small.onnx")
    except OnnxPruneError as error:
        sentence = str(error)
        return ("refused", stage) if sentence.strip() else ("traceback", f"{stage}: a refusal without words")
    except MemoryError as error:
        return "over-allocation", f"{stage}: {_origin(error)}"
    except Exception as error:  # noqa: BLE001 - finding these is what this is for
        return "traceback", f"{stage}: {type(error).__name__} {_origin(error)}"
    return "shrunk", ""


def _origin(error: BaseException) -> str:
    """The innermost place in onnxprune, and the message."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "onnxprune" in frame.filename] or frames
    words = " ".join(str(error).split())[:160]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}: {words}"


def work(seed: int, numbers: Iterator[int]) -> None:
    """The worker: one JSON line before each file and one after it."""
    from onnxprune import pipeline  # noqa: F401 - imported before memory is limited
    from onnxprune.runtime.child_main import limit_memory

    corpus()
    limit_memory(MEMORY_MB)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        (Path(name) / DATA).write_bytes(bytes(range(256)) * 16)
        for number in numbers:
            print(json.dumps([number]), flush=True)
            outcome, detail = attempt(damaged(seed, number), Path(name))
            print(json.dumps([number, outcome, detail]), flush=True)


def run(seed: int, count: int, log: Path | None = None) -> dict[int, tuple[str, str]]:
    """{number: (outcome, detail)} of the first files of `seed`; `log` keeps them, and is where a run goes on."""
    results = _read(log)
    file = log.open("a") if log else None
    try:
        while (start := next((n for n in range(count) if n not in results), None)) is not None:
            for number, outcome, detail in _supervise(seed, start, count):
                results[number] = outcome, detail
                if file:
                    file.write(json.dumps([number, outcome, detail]) + "\n")
                    file.flush()
                if number % 1000 == 999:
                    print(f"{number + 1} of {count}: {dict(Counter(o for o, _ in results.values()))}", file=sys.stderr)
    finally:
        if file:
            file.close()
    return {number: results[number] for number in range(count)}


def _read(log: Path | None) -> dict[int, tuple[str, str]]:
    if log is None or not log.exists():
        return {}
    lines = log.read_text().splitlines()
    return {number: (outcome, detail) for number, outcome, detail in map(json.loads, lines)}


def _supervise(seed: int, start: int, count: int) -> Iterator[tuple[int, str, str]]:
    """Run one worker until it is done, dies or hangs; a file that it didn't survive is the last one."""
    command = [sys.executable, __file__, "--worker", str(seed), str(start), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    waiting = selectors.DefaultSelector()
    waiting.register(process.stdout, selectors.EVENT_READ)
    current, pending, spent_s = start, b"", 0.0
    try:
        while True:
            while not waiting.select(1):
                # The first file also waits for the imports.
                if _cpu_s(process.pid) - spent_s > TIMEOUT_S + (60 if current == start else 0):
                    yield current, "hang", f"no result in {TIMEOUT_S:g} s of processor time"
                    return
            spent_s = _cpu_s(process.pid)
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                code = process.wait()
                if code or current + 1 < count:
                    words = process.stderr.read().decode(errors="replace").strip().splitlines()
                    yield current, "crash", f"exit code {code}: {' '.join(words[-1:])[:160]}"
                return
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                entry = json.loads(line)
                current = entry[0]
                if len(entry) == 3:
                    yield tuple(entry)
                    current += 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _cpu_s(pid: int) -> float:
    """Processor time that a process has used: a busy machine is no hang."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def document(results: dict[int, tuple[str, str]], command: str) -> str:
    """The Markdown page: how many files ended how."""
    counts = Counter(outcome for outcome, _ in results.values())
    stages = Counter(detail for outcome, detail in results.values() if outcome == "refused")
    lines = [
        "# Damaged and hostile files",
        "",
        f"Printed by `{command}`: {len(results)} files made from {len(corpus())} small models, each with one to four "
        f"things wrong, through load, inspect and shrink (all but the proof) in a worker with {MEMORY_MB} MB and "
        f"{TIMEOUT_S:g} s of processor time a file.",
        "",
        "| outcome | files |",
        "|---|---|",
        f"| refused with a sentence | {counts['refused']} |",
        *(f"| - while it was {VERBS[stage]} | {n} |" for stage, n in stages.most_common()),
        f"| taken, inspected and shrunk | {counts['shrunk']} |",
        *(f"| **{outcome}** | {counts[outcome]} |" for outcome in BAD),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/fuzz_load"), help="folder of the log")
    parser.add_argument("--one", type=int, nargs=2, metavar=("SEED", "NUMBER"), help="write one file to stdout")
    parser.add_argument("--worker", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        seed, start, count = arguments.worker
        work(seed, iter(range(start, count)))
        return 0
    if arguments.one:
        sys.stdout.buffer.write(damaged(*arguments.one))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = run(arguments.seed, arguments.files, arguments.out / f"seed-{arguments.seed}.jsonl")
    page = document(
        results, f"python scripts/benchmarks/fuzz_load.py --files {arguments.files} --seed {arguments.seed}"
    )
    print(page, end="")
    bad = {number: found for number, found in results.items() if found[0] not in GOOD}
    for number, (outcome, detail) in list(bad.items())[:50]:
        print(f"{outcome} {arguments.seed} {number}: {detail}", file=sys.stderr)
    if arguments.files >= 20_000:
        DOCUMENT.write_text(page)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
