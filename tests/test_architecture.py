"""The house rules that no single module's test can hold: imports point one way, and the wheel has every folder."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import onnxprune

PACKAGE = Path(onnxprune.__file__).parent
ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"

# What each part may import of the others; a part is a folder of the package or a module directly in it.
ALLOWED = {
    "errors": set(),
    "progress": set(),
    "graph": {"errors"},
    "prune": {"errors", "graph"},
    "runtime": {"errors", "graph", "prune"},
    "training": {"errors", "graph", "prune", "runtime"},
    "deploy": {"errors", "graph", "prune", "runtime"},
    "recipe": {"errors"},
    "drawing": {"errors", "graph"},
    "inspection": {"errors", "graph", "prune", "drawing"},
    "display": {"errors"},
    "taskdata": {"errors", "runtime"},
    "runfolder": {"errors", "graph", "recipe"},
    "workbench": {
        *("errors", "graph", "prune", "runtime", "training", "deploy"),
        *("progress", "recipe", "runfolder", "taskdata"),
    },
    "compress": {
        *("errors", "graph", "prune", "runtime", "training", "deploy"),
        *("progress", "recipe", "runfolder", "taskdata", "workbench"),
    },
    "shrinking": {"errors", "graph", "prune", "runtime", "deploy", "progress"},
    "measuring": {"errors", "runtime", "deploy", "progress"},
    "pytest_plugin": {"errors", "measuring"},
    "pipeline": {
        "errors",
        "measuring",
        "graph",
        "prune",
        "runtime",
        "deploy",
        "progress",
        "recipe",
        "inspection",
        "runfolder",
        "compress",
        "shrinking",
    },
    "cli": {"errors", "recipe", "display", "pipeline"},
    "__main__": {"cli"},
}
# The folders that may import what is heavy or optional.
ONLY_IN = {"torch": {"training"}, "onnxruntime": {"runtime"}, "rich": {"display"}, "typer": {"cli"}}
# Shipped as a file for the edge device, never imported by onnxprune.
STANDALONE = {PACKAGE / "deploy/templates/run.py"}


def source_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path not in STANDALONE)


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> list[tuple[str, ast.stmt]]:
    """Every module that the file imports, anywhere in it, as an absolute dotted name with the statement."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively: write the absolute name"
            module = node.module or ""
            # `from onnxprune import errors` names a part; `from onnxprune.graph import model` is in graph either way.
            found += [(f"{module}.{alias.name}" if module == "onnxprune" else module, node) for alias in node.names]
    return found


def test_every_part_has_a_row():
    assert {part_of(path) for path in source_files()} - {"__init__"} <= set(ALLOWED)


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return  # loads every name lazily; the subprocess test below holds it
    for name, node in imports(path):
        if name.startswith("onnxprune."):  # the package itself gives its names lazily
            target = name.split(".")[1]
            assert target == part or target in ALLOWED[part], f"{path}:{node.lineno}: {part} may not import {target}"
        for heavy, homes in ONLY_IN.items():
            if name.split(".")[0] == heavy:
                assert part in homes, f"{path}:{node.lineno}: only {', '.join(homes)} may import {heavy}"


def test_training_is_imported_only_when_it_is_needed():
    """At module level nobody outside training imports it: torch may not be installed."""
    for path in source_files():
        if part_of(path) in ("training", "__init__"):
            continue
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.ImportFrom | ast.Import):
                assert "onnxprune.training" not in ast.unparse(statement), f"{path}:{statement.lineno}"


def test_the_models_know_nothing_of_the_package():
    for path in MODELS.glob("*.py"):
        for name, node in imports(path):
            assert name.split(".")[0] != "onnxprune", f"{path}:{node.lineno} imports {name}"


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("statement", ["import onnxprune", "import onnxprune.cli", "import onnxprune.recipe"])
def test_importing_is_light(statement):
    heavy = "{'torch', 'onnxruntime', 'onnx_graphsurgeon', 'scipy', 'matplotlib'}"
    done = run_python(f"{statement}; import sys; print(sorted({heavy} & set(sys.modules)))")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_all_is_the_public_api():
    promised = {
        *("load", "save", "trace", "mask", "remove", "shrink", "Pruner"),
        *("Model", "Channels", "Unit", "ShrinkReport", "OnnxPruneError"),
    }
    assert promised <= set(onnxprune.__all__)
    assert list(onnxprune.__all__) == sorted(set(onnxprune.__all__), key=onnxprune.__all__.index)
    for name in onnxprune.__all__:
        assert getattr(onnxprune, name) is not None
        assert name in dir(onnxprune)
    with pytest.raises(AttributeError, match="nonsense"):
        onnxprune.nonsense  # noqa: B018


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_has_every_folder(project):
    folders = {path.parent for path in PACKAGE.rglob("*.py") if path not in STANDALONE}
    names = {".".join(("onnxprune", *folder.relative_to(PACKAGE).parts)) for folder in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == names | {"onnxprune_models"}


def test_every_third_party_import_is_declared(project):
    """Core imports need a core dependency; training and criteria may use `train`, the models also `demo`."""

    def names(requirements):
        return {re.split(r"[^A-Za-z0-9._-]", text)[0].lower().replace("_", "-") for text in requirements}

    core = names(project["project"]["dependencies"]) | {"protobuf", "markupsafe"}  # onnx's and jinja2's own interface
    extras = {extra: names(lines) for extra, lines in project["project"]["optional-dependencies"].items()}
    homes = packages_distributions()
    for path in [*source_files(), *MODELS.glob("*.py")]:
        allowed = set(core)
        if path.is_relative_to(MODELS):
            allowed |= extras["train"] | extras["demo"]
        elif part_of(path) in ("training", "prune"):
            allowed |= extras["train"]
        elif part_of(path) == "runtime":
            allowed |= extras["metrics"] | extras["huggingface"]
        elif part_of(path) == "pytest_plugin":
            allowed |= extras["test"]
        for name, node in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in ("onnxprune", "onnxprune_models"):
                continue
            owners = {owner.lower().replace("_", "-") for owner in homes.get(top, [top])}
            assert owners & allowed, f"{path}:{node.lineno} imports {top}, which pyproject.toml doesn't declare there"
