"""What a person sees: progress bars on stderr, tables on stdout. The only file that knows rich."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

#: Output that goes into a file or a pipe has no width of its own; tables get this one.
FILE_WIDTH = 160
#: Pins that `inspect` prints.
SHOWN_PINS = 12
VERDICT_STYLES = {
    "passed": "green",
    "faster": "green",
    "failed": "bold red",
    "slower": "bold red",
    "refused": "yellow",
    "inconclusive": "yellow",
}


class ProgressBars:
    """A progress callback `(done, total, what)` with one bar for each `what`; silent where stderr isn't a terminal.

    Each bar shows the rate and an estimate of the time left.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._shown = console.is_terminal
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "ProgressBars":
        if self._shown:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._shown:
            self._bars.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        if what not in self._tasks:
            # What an earlier run finished isn't this run's speed: a new bar starts where it is told to.
            self._tasks[what] = self._bars.add_task(what, total=total, completed=done, rate="")
        task = self._tasks[what]
        self._bars.update(task, completed=done, total=total)
        speed = next(t.finished_speed or t.speed for t in self._bars.tasks if t.id == task)
        self._bars.update(task, rate=f"{speed:.1f}/s" if speed else "")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """One table on stdout, text to the left, numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    rows = list(rows)
    for index, column in enumerate(columns):
        numbers = all(row[index][:1] in "+-0123456789" for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=VERDICT_STYLES.get(cell.split(":")[0], "")) for cell in row))
    _console().print(table)


def print_lines(*lines: str) -> None:
    """Plain lines on stdout, as long as they are."""
    for line in lines:
        _console().print(Text(line), soft_wrap=True)


def print_validation(validation: Any) -> None:
    """The table of a Validation, and every gate that didn't pass."""
    title = f"{validation.reference.file} -> {validation.candidate.file}"
    refusals: dict[str, list[str]] = {}
    rows = []
    for *cells, verdict in validation.rows():
        word, _, reason = verdict.partition(": ")
        if reason:
            refusals.setdefault(reason, []).append(cells[0])
        rows.append((*cells, word))
    print_table(title, ("", "before", "after", "ratio", "verdict"), rows)
    for reason, refused in refusals.items():
        print_lines(f"{' and '.join(refused)} refused: {reason}")
    print_lines(*validation.findings)
    for gate in validation.gates:
        if gate.verdict != "passed":
            reason = f": {gate.reason}" if gate.reason else ""
            print_lines(f"{gate.verdict}: {gate.name}, asked {gate.asked}, measured {gate.measured}{reason}")
    print_lines(f"verdict: {validation.verdict}")


def print_run(run: Any) -> None:
    """The table of a CompressedRun, and the next command to try."""
    print_validation(run.validation)
    python = Path(sys.executable)
    python = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    next_command = f"{python} {run.path / 'package' / 'run.py'} --benchmark"
    print_lines(f"report:  {run.path / 'report.html'}", f"next:    {next_command}")


def print_foresight(found: Any) -> None:
    """A Foresight: what a run would leave of the network, and how long each stage would take."""
    minutes = {stage: f"{seconds / 60:.1f} minutes" for stage, seconds in found.seconds.items()}
    samples = ", ".join(f"{count:,} to {part}" for part, count in found.samples.items())
    left = ", ".join(f"{share:.1%} of {cost}" for cost, share in found.left.items())
    width = max(map(len, minutes), default=0)
    print_lines(
        f"{found.name}: samples are {samples.replace('to validation', 'to validate').replace('to test', 'to test')}",
        f"{left} would be left; of units, by the sizes of the weights as they are:",
        *(f"  {group}: {after} of {before} ({kind})" for group, kind, before, after in found.widths),
        "on this machine, as it is now:",
        *(f"  {stage:{width}}  {told}" for stage, told in minutes.items()),
        f"  {'altogether':{width}}  {sum(found.seconds.values()) / 60:.1f} minutes, and some for export and proof",
        "nothing was written",
    )


def print_inspection(found: Any) -> None:
    """An Inspection: what the model is, which units it has, what pins the rest."""
    cost = found.cost
    facts = [
        ("parameters", f"{cost.params:,}"),
        ("MACs", f"{cost.macs:,} a sample"),
        ("bytes", f"{cost.size_bytes:,}"),
        ("nodes", f"{cost.nodes:,}, opset {', '.join(_opset(*pair) for pair in found.opset.items())}"),
        *((f"input {name}", kind) for name, kind in found.inputs.items()),
        *((f"output {name}", kind) for name, kind in found.outputs.items()),
    ]
    width = min(max(len(name) for name, _ in facts), 30)
    print_lines(found.file, *(f"  {name:{width}}  {value}" for name, value in facts), "", found.can_go, "")
    _print_units(found.kinds)
    _print_pins(found.pins)
    if found.drawing is not None:
        print_lines(f"drawn in {found.drawing}")
    if found.explanation is not None:
        print_lines("", *str(found.explanation).splitlines())


def _opset(domain: str, version: int) -> str:
    return f"{version} of {domain}" if domain else str(version)


def _print_units(kinds: Sequence[Any]) -> None:
    rows = []
    for kind in kinds:
        sizes = f"{kind.smallest:,}" if kind.smallest == kind.largest else f"{kind.smallest:,} – {kind.largest:,}"
        rows.append((kind.kind, f"{kind.units:,}", kind.exactness, sizes, kind.example))
    if rows:
        _print_plain("Units: what can be deleted", ("kind", "number", "result", "weights of each", "the first"), rows)


def _print_pins(pins: Sequence[Any]) -> None:
    holding = [pin for pin in pins if pin.weights]
    idle = sum(len(pin.axes) for pin in pins) - sum(len(pin.axes) for pin in holding)
    if holding:
        rows = [(f"{p.weights:,}", f"{len(p.axes):,}", p.cause.by, p.cause.why) for p in holding[:SHOWN_PINS]]
        _print_plain("Pinned: weights that no unit can delete", ("weights", "axes", "by", "which"), rows)
    if rest := holding[SHOWN_PINS:]:
        print_lines(f"and {len(rest)} more pins of {sum(pin.weights for pin in rest):,} weights; --json lists all", "")
    if idle:
        print_lines(f"{idle:,} more axes stay whose weights can go along others, as in kernels.", "")


def _print_plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table without bars, which fits a narrow terminal; numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = all(row[index][:1] in "0123456789" for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    _console().print(table)


def print_shrunk(done: Any) -> None:
    """A ShrunkModel: cost before and after, and what became of the channels."""
    before, after = done.before.as_dict(), done.after.as_dict()
    names = {"params": "parameters", "macs": "MACs", "size_bytes": "bytes", "nodes": "nodes"}
    rows = [
        (names[key], f"{before[key]:,}", f"{after[key]:,}", f"{after[key] / before[key]:.1%}" if before[key] else "")
        for key in names
    ]
    print_table(str(done.path), ("", "before", "after", "ratio"), rows)
    report = done.report
    if not report.rounds and not report.kept_dead:
        print_lines("No channel is dead: nothing was removed.")
    print_table("Channels", ("verdict", "number"), [(word, f"{number:,}") for word, number in report.verdicts.items()])
    if report.kept_dead:
        print_table("Dead, and kept all the same", ("tensor", "channels", "reason"), _kept_dead(report.kept_dead))
    if report.subnormals:
        print_lines(f"{report.subnormals:,} weights below {report.zero_below:.3g} were set to 0")
    if done.bound is not None:
        allowed = (
            "no bound: " + done.bound.obstacle if done.bound.change is None else f"at most {done.bound.change:.3g}"
        )
        measured = "" if done.change is None else f", measured {done.change:.3g}"
        print_lines(f"that moves outputs, for inputs up to {done.bound.inputs:g}: {allowed}{measured}")
    print_lines("not proved by running (--no-verify)" if done.equivalence is None else str(done.equivalence))


def _kept_dead(entries: Iterable[Any]) -> list[tuple[str, str, str]]:
    """One row for the channels of a tensor that stay for one reason; the constant that each holds is left out."""
    found: dict[tuple[str, str], int] = {}
    for entry in entries:
        key = entry.tensor, entry.reason.split("; ", 1)[-1]
        found[key] = found.get(key, 0) + 1
    return [(tensor, f"{number:,}", reason) for (tensor, reason), number in found.items()]


def print_bench(found: Any) -> None:
    """A Bench: one table for each provider, batch size and thread count."""
    for comparison in found.comparisons:
        if comparison.refused:
            print_lines(f"{comparison.provider}, batch {comparison.batch}: refused, {comparison.refused}")
            continue
        ratios = {ratio.name: ratio for ratio in comparison.ratios}
        rows = []
        for arm in comparison.arms:
            ratio = ratios.get(arm.name)
            time = (f"{arm.median_ms:.3f}", f"{arm.p90_ms:.3f}", "" if arm.p99_ms is None else f"{arm.p99_ms:.3f}")
            shown = (f"{ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]", ratio.verdict) if ratio else ("", "")
            rows.append((arm.name, *time, *shown))
        threads = comparison.threads or "all"
        title = f"{comparison.provider}, batch {comparison.batch}, threads {threads}, {comparison.rounds} rounds"
        print_table(title, ("", "median ms", "p90 ms", "p99 ms", "ratio", "verdict"), rows)
        print_lines(*(f"{name}: {sentence}" for name, sentence in comparison.failures.items()))
        print_lines(
            *(
                f"{ratio.name} is inconclusive: measure about {ratio.more_seconds:.0f} s longer"
                for ratio in comparison.ratios
                if ratio.more_seconds is not None
            )
        )
        apart = [
            (
                arm.name,
                f"{arm.session_ms:.1f}",
                f"{arm.first_run_ms:.2f}",
                "" if arm.peak_memory_mb is None else f"{arm.peak_memory_mb:,.0f}",
                ", ".join(f"{count} on {name}" for name, count in arm.nodes_per_provider.items()),
                "" if arm.copies is None else str(arm.copies),
                "" if arm.energy_mj is None else f"{arm.energy_mj:.3g} ({arm.energy_source})",
            )
            for arm in comparison.arms
        ]
        columns = ("", "session ms", "first run ms", "peak memory MB", "nodes", "copies between devices", "mJ")
        if not any(row[-1] for row in apart):  # nothing counts energy here
            apart, columns = [row[:-1] for row in apart], columns[:-1]
        print_table("Apart from that", columns, apart)
    print_lines(*found.findings)


def print_doctor(found: Any) -> None:
    """A Doctor: one line a thing, and what to do about those that are missing."""
    signs = {"there": "yes", "missing": "no", "note": "note"}
    rows = [(signs[check.state], check.what, check.found, check.remedy) for check in found.checks]
    print_table("What this machine can measure", ("", "what", "found", "what to do"), rows)


class _Console(Console):
    """Writes what it is given, and leaves a reader that has gone away to the caller."""

    def __init__(self, **options: Any) -> None:
        super().__init__(file=sys.stdout, highlight=False, emoji=False, markup=False, **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console() -> Console:
    console = _Console()
    return console if console.is_terminal else _Console(width=FILE_WIDTH)
