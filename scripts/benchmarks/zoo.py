"""Delete at random from more than a hundred networks, and hold what is left against three independent answers.

    python scripts/benchmarks/zoo.py [-o runs/zoo] [--only 'timm/*'] [--sample] [--jobs 2]

Each network is exported once, and checked in a child process of its own; run again, it goes on where it was stopped. A
run over all networks writes docs/benchmarks/zoo.md. Exit code 1 where something failed. Needs the extra `zoo`, and for
the files of two packages `pip install --no-deps rapidocr-onnxruntime magika`, which depend on a build of ONNX Runtime
that overwrites the one that is there.
"""

import argparse
import fnmatch
import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from dataclasses import asdict
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import zoo_table
from networks import SAMPLE, catalogue
from networks.exporting import export
from networks.network import Network, NotInstalled

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks" / "zoo.md"
POLL_SECONDS = 0.2
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def check_one(name: str, path: Path, arguments: argparse.Namespace) -> None:
    """In a child process: export and check one network, and leave what was found at `path`."""
    warnings.simplefilter("ignore")
    from zoo_check import check

    network = next(network for network in catalogue() if network.name == name)
    found: dict = {"name": name}
    try:
        started = time.monotonic()
        exported = export(network, arguments.cache, static=arguments.static)
        found["export_seconds"] = time.monotonic() - started
        if not arguments.export_only:
            started = time.monotonic()
            found |= asdict(check(network, exported, backend=not arguments.quick, module=not arguments.quick))
            found["check_seconds"] = time.monotonic() - started
    except NotInstalled as error:
        found["not_installed"] = str(error)
    except Exception as error:  # noqa: BLE001 one network's crash is one row
        found["crash"] = f"{type(error).__name__}: {error}"
        found["traceback"] = traceback.format_exc()
    partly = path.with_suffix(".part")
    partly.write_text(json.dumps(found, indent=1))
    partly.replace(path)


class Running:
    """A network that is being checked."""

    def __init__(self, context: BaseContext, network: Network, path: Path, arguments: argparse.Namespace):
        self.network, self.path, self.limit_seconds = network, path, arguments.timeout
        self.started = time.monotonic()
        self.process: BaseProcess = context.Process(target=check_one, args=(network.name, path, arguments))
        self.process.start()

    def ended(self) -> bool:
        """Whether there is a result; a process that died or takes too long leaves one that says so."""
        if self.process.is_alive() and time.monotonic() - self.started > self.limit_seconds:
            self.process.kill()
            self.process.join()
            self._note(f"took more than {self.limit_seconds:.0f} seconds")
        if self.process.is_alive():
            return False
        self.process.join()
        if not self.path.exists():
            self._note(f"the process ended with exit code {self.process.exitcode}")
        return True

    def _note(self, what: str) -> None:
        self.path.write_text(json.dumps({"name": self.network.name, "crash": what}))


def check_all(networks: list[Network], arguments: argparse.Namespace) -> None:
    """Check those that have no result yet, `jobs` at a time, and print a line for each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["networks.preload"])
    waiting = [network for network in networks if not result_path(network.name, arguments).exists()]
    running: list[Running] = []
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            network = waiting.pop(0)
            running.append(Running(context, network, result_path(network.name, arguments), arguments))
        for one in [one for one in running if one.ended()]:
            running.remove(one)
            print(zoo_table.line(json.loads(one.path.read_text())), flush=True)
        time.sleep(POLL_SECONDS)


def result_path(name: str, arguments: argparse.Namespace) -> Path:
    return arguments.out / f"{name.replace('/', '-')}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/zoo"), help="folder of the results")
    parser.add_argument("--cache", type=Path, default=Path("runs/zoo-exports"), help="folder of the exported networks")
    parser.add_argument("--only", default="*", help="networks whose name matches one of these patterns, by commas")
    parser.add_argument("--sample", action="store_true", help="the networks that continuous integration checks")
    parser.add_argument("--static", action="store_true", help="image and sequence sizes fixed, only the batch dynamic")
    parser.add_argument("--quick", action="store_true", help="hold against the mask only")
    parser.add_argument("--export-only", action="store_true", help="fill the cache")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one network")
    arguments = parser.parse_args()
    os.environ.update(dict.fromkeys(THREADS, "1"))  # of the children
    for folder in (arguments.out, arguments.cache):
        folder.mkdir(parents=True, exist_ok=True)

    patterns = arguments.only.split(",")
    networks = [n for n in catalogue() if any(fnmatch.fnmatch(n.name, pattern) for pattern in patterns)]
    if arguments.sample:
        networks = [network for network in networks if network.name in SAMPLE]
    check_all(networks, arguments)
    results = [json.loads(result_path(network.name, arguments).read_text()) for network in networks]
    complete = (arguments.only, arguments.sample, arguments.quick, arguments.export_only) == ("*", False, False, False)
    if complete and not arguments.static:
        DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
        DOCUMENT.write_text(zoo_table.document(results))
    print(zoo_table.summary(results))
    return 0 if all(not zoo_table.problems(result) for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
