"""The folder of one run: where each stage leaves what it finished, and whether a run may go on in it."""

import os
from dataclasses import dataclass
from pathlib import Path

from onnxprune import recipe as recipes
from onnxprune.errors import OutputError, RecipeError
from onnxprune.graph.files import write_atomically
from onnxprune.recipe import Recipe


@dataclass(frozen=True)
class RunFolder:
    """Paths of everything a run writes. Each file is complete or absent, so what is there is finished."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe with every default filled in."""
        return self.path / "recipe.yaml"

    @property
    def stages(self) -> Path:
        """Where training goes on from; its being there marks the folder as a run."""
        return self.path / "stages"

    @property
    def history(self) -> Path:
        """What happened in each epoch and pruning step."""
        return self.path / "history.json"

    @property
    def dense(self) -> Path:
        """The trained network before pruning."""
        return self.path / "dense.onnx"

    @property
    def pruned(self) -> Path:
        """The result."""
        return self.path / "pruned.onnx"

    @property
    def equivalence(self) -> Path:
        """The proof that `pruned` computes what the trained module does; the last file that the export writes."""
        return self.stages / "equivalence.json"

    @property
    def validation(self) -> Path:
        """The measurements."""
        return self.path / "validation.json"

    @property
    def report(self) -> Path:
        """The measurements to read."""
        return self.path / "report.html"

    @property
    def package(self) -> Path:
        """The folder to ship."""
        return self.path / "package"

    def checkpoint(self, stage: str) -> Path:
        """The training state of a stage, replaced after each epoch."""
        return self.stages / f"{stage}.safetensors"

    def read_history(self) -> str | None:
        """The text of history.json, None where there is none."""
        return self.history.read_text(encoding="utf-8") if self.history.exists() else None


def open_run(path: str | os.PathLike, recipe: Recipe, *, resume: bool) -> RunFolder:
    """Prepare `path` for a run of `recipe`, or find the run that it holds.

    Raises OutputError for a folder that can't be written, holds something else, or holds a run that `resume` would have
    to go on with; RecipeError where that run is one of another recipe.
    """
    run = RunFolder(Path(path))
    folder = run.path
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"'{folder}' is a file. Give a folder for the run.")
    try:
        there = {child.name for child in folder.iterdir()} if folder.exists() else set()
        begun = run.stages.is_dir() and any(run.stages.iterdir())
        if there and run.stages.name not in there:
            raise OutputError(f"'{folder}' holds files that aren't a run. They stay; give a new folder for the run.")
        if begun:
            _check_same_recipe(run, recipe)
            if not resume:
                raise OutputError(
                    f"'{folder}' already holds a run of this recipe. Go on with it with --resume (a finished one is "
                    "only shown), or give another folder."
                )
            return run
        run.stages.mkdir(parents=True, exist_ok=True)
        write_atomically(run.recipe, recipe.to_yaml())
    except OSError as error:
        raise OutputError(
            f"The run folder '{folder}' can't be used: {error.strerror or error}. Give another place with -o."
        ) from error
    return run


def _check_same_recipe(run: RunFolder, recipe: Recipe) -> None:
    before, now = recipes.load(run.recipe).model_dump(), recipe.model_dump()
    changed = [key for key in now if before[key] != now[key]]
    if changed:
        shown = ", ".join(f"{key}: {before[key]} there, {now[key]} here" for key in changed)
        raise RecipeError(
            f"'{run.path}' holds a run of another recipe ({shown}). Give another folder, or the recipe in {run.recipe}."
        )
