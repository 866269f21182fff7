"""Everything on a GPU: is the removed network the same there, as good, and faster? docs/benchmarks/cuda.md.

    python scripts/benchmarks/cuda.py -o runs/cuda --demo runs/demo --prepare    # where the demo ran: takes it along
    python scripts/benchmarks/cuda.py -o runs/cuda                               # on the GPU, again and again until 0

Needs numpy, onnx, onnxruntime-gpu and what onnxprune itself imports; onnxprune needn't be installed. A call works for
nine minutes at most, and the next goes on where it stopped. What is found is one file, cuda.json, from which cuda.md
is drawn (both belong into docs/benchmarks). Exit code 0 when all is measured, 4 when there is more to do, 3 where this
machine has no CUDA, 1 where a part broke. `--seconds 6` where the GPU is lent for a quarter of an hour. `--provider cpu
--quick` is a dry run: it shows that the parts work, and says so in what it writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the plain files will do

BROKEN, REFUSED, MORE = 1, 3, 4
LIMIT_S = 9 * 60.0
FORMAT, VERSION = "onnxprune-cuda", 1
NEEDED = {"numpy": "numpy", "scipy": "scipy", "onnx": "onnx", "onnx_ir": "onnx-ir", "onnxruntime": "onnxruntime-gpu"}


def missing_packages() -> list[str]:
    """Packages that have to be there and aren't."""
    from importlib.util import find_spec

    return [package for module, package in NEEDED.items() if find_spec(module) is None]


def header(provider: str, quick: bool, scale: dict[str, object]) -> dict[str, object]:
    """What the file says of the machine before any figure."""
    from onnxprune.runtime import nvml
    from onnxprune.runtime.environment import environment
    from onnxprune.runtime.session import SessionSettings

    return {
        "format": FORMAT,
        "version": VERSION,
        "provider": provider,
        "quick": quick,
        "dry_run": provider != "cuda" or quick,
        "scale": scale,
        "settings": SessionSettings(provider).as_dict(),
        "environment": environment(),
        "clocks": nvml.clocks(),
    }


def write(path: Path, value: object) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def collect(out: Path, head: dict[str, object], names: list[str]) -> dict[str, object]:
    """cuda.json and cuda.md, of the parts that are there."""
    from cuda_table import page

    there = {name: json.loads(file.read_text()) for name in names if (file := part_file(out, name)).exists()}
    whole = {**head, "missing": [name for name in names if name not in there], "parts": there}
    write(out / "cuda.json", whole)
    (out / "cuda.md").write_text(page(whole), encoding="utf-8")
    return whole


def part_file(out: Path, name: str) -> Path:
    """Where a part's result lies."""
    return out / "parts" / f"{name.replace(' ', '-')}.json"


def run_parts(out: Path, arguments: argparse.Namespace, until: float) -> int:
    """As many parts as there is time for."""
    from cuda_parts import FULL, QUICK, parts

    from onnxprune.errors import OnnxPruneError

    networks = out / "networks"
    with_demo = (networks / "demo-reference.onnx").exists()
    if not with_demo:
        print("The demo's pair isn't here: only the large pair is measured. See --prepare.", file=sys.stderr)
    scale = QUICK if arguments.quick else FULL
    if arguments.seconds:
        scale = dataclasses.replace(scale, seconds=arguments.seconds, stair_seconds=3 * arguments.seconds)
    todo = parts(networks, arguments.provider, scale, with_demo)
    names = [part.name for part in todo]
    head_file = out / "machine.json"
    head = header(arguments.provider, arguments.quick, dataclasses.asdict(scale))
    if head_file.exists():
        before = json.loads(head_file.read_text())
        for key in ("provider", "quick"):
            if before[key] != head[key]:
                print(f"'{out}' holds figures with {key}: {before[key]}. Give another folder.", file=sys.stderr)
                return REFUSED
        if before["environment"]["cuda_devices"] != head["environment"]["cuda_devices"]:
            print(f"'{out}' holds figures of {before['environment']['cuda_devices']}. Give another.", file=sys.stderr)
            return REFUSED
        head = before
    else:
        write(head_file, head)
    left = [part for part in todo if not part_file(out, part.name).exists()]
    broken = False
    for index, part in enumerate(left):
        if time.monotonic() + part.seconds > until and index:
            break
        start = time.monotonic()
        try:
            result: Any = part.run()
        except OnnxPruneError as error:
            result = {"error": str(error)}
        except Exception:  # noqa: BLE001 - the other parts are worth having, and the next call tries this one again
            traceback.print_exc()
            broken = True
            continue
        write(part_file(out, part.name), {"result": result, "seconds": round(time.monotonic() - start, 1)})
        print(f"{part.name}: {time.monotonic() - start:.0f} s", flush=True)
    missing = collect(out, head, names)["missing"]
    if broken:
        return BROKEN
    if missing:
        print(f"{len(missing)} of {len(names)} parts are left. Run the same command again.")
        return MORE
    print(f"all {len(names)} parts are measured: {out / 'cuda.json'}, {out / 'cuda.md'}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/cuda"), help="folder of everything")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run")
    parser.add_argument("--quick", action="store_true", help="small networks and short times: a dry run too")
    parser.add_argument("--seconds", type=float, help="for each pair of files (default 20), thrice that for widths")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="a finished run of the demo")
    parser.add_argument("--prepare", action="store_true", help="only take the demo's pair and its digits along")
    parser.add_argument("--draw", type=Path, metavar="CUDA.json", help="only print the page of such a file")
    arguments = parser.parse_args()
    until = time.monotonic() + LIMIT_S

    if arguments.draw:
        from cuda_table import page

        print(page(json.loads(arguments.draw.read_text())), end="")
        return 0
    if absent := missing_packages():
        print(f"Not installed: {', '.join(absent)}. pip install {' '.join(absent)}", file=sys.stderr)
        return REFUSED
    from cuda_networks import take_demo

    from onnxprune.runtime.session import why_refused

    if arguments.prepare:
        (arguments.out / "networks").mkdir(parents=True, exist_ok=True)
        take_demo(arguments.demo, arguments.out / "networks")
        print(f"{arguments.out}: take this folder to the machine with the GPU")
        return 0
    if reason := why_refused(arguments.provider):
        print(f"refused: {reason}", file=sys.stderr)
        return REFUSED
    for folder in ("networks", "parts"):
        (arguments.out / folder).mkdir(parents=True, exist_ok=True)
    return run_parts(arguments.out, arguments, until)


if __name__ == "__main__":
    sys.exit(main())
