"""The page that is drawn from cuda.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DASH = "–"


def page(found: Mapping[str, Any]) -> str:
    """All tables in Markdown. A dry run says so first."""
    machine, parts = found["environment"], found["parts"]
    what = ", ".join(machine["cuda_devices"]) if found["provider"] == "cuda" else machine["processor"]
    lines = ["# On CUDA", ""]
    if found["dry_run"]:
        where = "a GPU, of small networks in short times" if found["provider"] == "cuda" else "the CPU"
        lines += [f"**A dry run on {where}: these are not the figures.** It only shows that every part works.", ""]
    lines += [
        f"{what}, driver {machine.get('cuda_driver') or 'none'}, ONNX Runtime {machine['onnxruntime']}; "
        f"{in_words(found['settings'])}; {found['scale']['seconds']:g} s for each pair of files. Measured and drawn by",
        "",
        "```sh",
        "python scripts/benchmarks/cuda.py -o runs/cuda --demo runs/demo --prepare  # takes the demo's pair along",
        f"python scripts/benchmarks/cuda.py -o runs/cuda --seconds {found['scale']['seconds']:g}  "
        "# on the GPU, again and again until it exits with 0",
        "```",
        "",
        "from the demo's pair and a ResNet-50 made from a seed (three channels in eight hold zeros before and are gone "
        "after). A call works for nine minutes at most and the next goes on where it stopped; onnxprune needn't be "
        "installed there.",
        "",
    ]
    if found["missing"]:
        lines += [f"Not measured yet: {', '.join(found['missing'])}.", ""]
    for name, part in parts.items():
        if "error" in (part["result"] or {}):
            lines += [f"{name} failed: {part['result']['error']}", ""]
    results = {name: part["result"] for name, part in parts.items() if "error" not in (part["result"] or {})}
    return "\n".join([*lines, *latency_table(results), *accuracy_table(results), *staircase_table(results)]) + "\n"


def in_words(settings: Mapping[str, str]) -> str:
    said = {name: value for name, value in settings.items() if name != "cuda_graph"}  # a column of its own
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items())


def latency_table(results: Mapping[str, Any]) -> Iterator[str]:
    """Both files of a pair in turn: inputs and outputs on the device, and with the way there and back."""
    yield "## Latency"
    yield ""
    yield (
        "Medians with inputs and outputs on the device; in brackets with the way from and to the host. Ratio: after "
        "over before, with its 95% interval."
    )
    yield ""
    yield "| pair | precision | batch | CUDA graph | before, ms | after, ms | ratio | verdict | mJ before | mJ after |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, result in results.items():
        if not name.startswith("latency "):
            continue
        _, pair, precision, _, batch, *graph = name.split()
        head = f"| {pair} | {precision} | {batch} | {'yes' if graph else 'no'} |"
        if result["refused"]:
            yield f"{head} | | | refused: {result['refused']} | | |"
            continue
        before, after = result["arms"]
        (ratio,) = result["ratios"]
        energy = [DASH if arm["energy_mj"] is None else f"{arm['energy_mj']:.3g}" for arm in (before, after)]
        yield (
            f"{head} {_time(before)} | {_time(after)} | {ratio['ratio']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] "
            f"| {ratio['verdict']} | {energy[0]} | {energy[1]} |"
        )
    yield ""
    slower = [name.removeprefix("latency ") for name, result in results.items() if _is_slower(name, result)]
    if slower:
        yield (
            f"**Smaller and slower**: {', '.join(slower)}. What a runtime's kernels make of a width is theirs to "
            "choose, so measure where it is to run: `onnxprune validate --provider cuda` fails such a file."
        )
        yield ""


def _is_slower(name: str, result: Mapping[str, Any]) -> bool:
    return name.startswith("latency ") and any(ratio["verdict"] == "slower" for ratio in result["ratios"])


def _time(arm: Mapping[str, Any]) -> str:
    whole = arm["end_to_end_ms"]
    return f"{arm['median_ms']:.3f}" + ("" if whole is None else f" ({whole:.3f})")


def accuracy_table(results: Mapping[str, Any]) -> Iterator[str]:
    """Top-1 in pairs, where nodes ran, and each file on the CPU against itself on the device."""
    yield "## Accuracy and equivalence"
    yield ""
    yield (
        "The large pair's labels are its reference's own decisions in float32 on the CPU; its two files are one "
        "function, and their distance on the device is the last column."
    )
    yield ""
    yield "| pair | precision | provider | before | after | difference | verdict | nodes | one from the other |"
    yield "|---|---|---|---|---|---|---|---|---|"
    agreements = []
    for name, result in results.items():
        if not name.startswith("accuracy "):
            continue
        _, pair, precision = name.split()
        rows = result["validation"]["accuracy"]
        for row in rows:
            head = f"| {pair} | {precision} | {row['provider']} |"
            if row["difference"] is None:
                yield f"{head} | | | {row['verdict']}: {row['reason']} | | |"
                continue
            nodes = ", ".join(f"{count} on {name}" for name, count in row["nodes_per_provider"]["candidate"].items())
            yield (
                f"{head} {row['reference']:.2%} | {row['candidate']:.2%} | {row['difference'] * 100:+.2f} "
                f"[{row['low'] * 100:+.2f}, {row['high'] * 100:+.2f}] | {row['verdict']} | {nodes} "
                f"| {_distance(result['equivalence']) if row is rows[-1] else ''} |"
            )
        for row in result["validation"]["agreement"]:
            agreements.append((pair, precision, row))
    yield ""
    if agreements:
        yield "| pair | precision | file | providers | apart, of the range | SNR | same decision |"
        yield "|---|---|---|---|---|---|---|"
        for pair, precision, row in agreements:
            seen = row["equivalence"]
            snr = DASH if seen["snr_db"] is None else f"{float(seen['snr_db']):.0f} dB"
            yield (
                f"| {pair} | {precision} | {row['model']} | {' against '.join(row['providers'])} "
                f"| {float(seen['error_over_range']):.1e} | {snr} | {seen['agreement']:.2%} |"
            )
        yield ""


def _distance(seen: Mapping[str, Any] | None) -> str:
    if seen is None:
        return DASH
    return f"{float(seen['error_over_range']):.1e} of the range, {seen['agreement']:.2%} alike"


def staircase_table(results: Mapping[str, Any]) -> Iterator[str]:
    """Median microseconds of four 3x3 convolutions by width."""
    stairs = {
        name.removeprefix("staircase "): result for name, result in results.items() if name.startswith("staircase ")
    }
    measured = {name: result for name, result in stairs.items() if result["arms"]}
    if not stairs:
        return
    yield "## Width"
    yield ""
    yield "Four 3x3 convolutions over 28x28, by their number of channels: median microseconds of an inference."
    yield ""
    yield from (f"{name} refused: {result['refused']}" for name, result in stairs.items() if result["refused"])
    widths = list(dict.fromkeys(arm["name"] for result in measured.values() for arm in result["arms"]))
    yield f"| channels | {' | '.join(measured)} |"
    yield "|---" * (len(measured) + 1) + "|"
    for width in widths:
        cells = []
        for result in measured.values():
            arm = next((arm for arm in result["arms"] if arm["name"] == width), None)
            cells.append(DASH if arm is None else f"{arm['median_ms'] * 1e3:.0f}")
        yield f"| {width} | {' | '.join(cells)} |"
    yield ""
