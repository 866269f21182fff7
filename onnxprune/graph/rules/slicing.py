"""Split, Slice and Pad: pieces of an axis, and pieces of its labels.

Of a grid (heads, and the dimensions in each head) whose rows are cut, every row must keep as many places of each piece.
"""

from collections.abc import Iterator

import numpy as np

from onnxprune.graph.labels import PINNED, Facet, ghost_of, spans
from onnxprune.graph.labels import facet as labelled
from onnxprune.graph.rules.layout import settle
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, mend, rule


def piece(op: Op, found: Facet, places: range, axis: int) -> Facet:
    """The labels at these places. Rows of a grid keep the same number of them, each its own choice."""
    taken = found.take(places, axis)
    rows = int(np.prod(found.shape[:axis]))
    if rows > 1 and len(places):
        op.ledger.row(op.ledger.fresh(rows), np.asarray(taken).reshape(rows, -1))
    return taken


def alike(op: Op, found: Facet, axis: int) -> None:
    """Every row of a grid keeps the very same places of `axis`, since one list of places is told for all of them."""
    rows = int(np.prod(found.shape[:axis]))
    if rows > 1:
        members = np.asarray(found).reshape(rows, -1).T
        op.ledger.row(op.ledger.fresh(len(members)), members)


@rule("", "Split", shape_inputs=(1,))
def split(op: Op) -> list[Facets]:
    """Pieces of the axis keep their labels; the sizes of the pieces are written anew."""
    axis = op.axis(0)
    ends = np.cumsum([out.shape[axis] for out in op.outputs])
    result = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        places = range(start, end)
        pieces = [f if f.shape[axis] == 1 else piece(op, f, places, axis) for f in op.inputs[0].facets]
        result.append(settle(op, pieces))
    return result


@mend("", "Split")
def split_sizes(change: Change) -> Mended | None:
    axis = change.attr("axis", 0) % len(change.before[0])
    before = [shape[axis] for shape in change.outputs_before]
    sizes = [shape[axis] for shape in change.outputs_after]
    if sizes == before or change.dynamic(change.node.inputs[0], axis):
        return None
    if change.version < 13:
        return Mended(attributes={"split": sizes})
    return Mended({1: np.array(sizes, np.int64)}, attributes={"num_outputs": None})


@rule("", "Slice", shape_inputs=(1, 2, 3, 4))
def slice_(op: Op) -> Facets | None:
    """Labels are sliced like the data, with any step; places computed at run time leave the axis pinned."""
    x, out = op.inputs[0], op.outputs[0]
    cuts = list(_cuts(op))
    if not all(axis is not None for axis, _ in cuts):
        op.pin(x.facets, "slices axes that are computed")
        return None
    facets = list(x.facets)
    for axis, cut in cuts:
        if cut is not None and cut.step == 1 and x.shape[axis] == out.shape[axis]:
            continue
        touched = [f for f in facets if f.shape[axis] > 1]
        facets = [f for f in facets if f.shape[axis] == 1]
        if cut is None or op.is_dynamic_input(0, axis):
            op.pin(touched, "slices the axis at computed places")
            continue
        places = range(x.shape[axis])[cut]
        for found in touched:
            if cut.step == 1:
                piece(op, found, range(places.start), axis)
            else:
                alike(op, found, axis)
            facets.append(piece(op, found, places, axis))
    return settle(op, facets)


def _cuts(op: Op) -> Iterator[tuple[int | None, slice | None]]:
    """(axis, what is kept of it); the axis is None where it is computed, what is kept where that is.

    A slice from the first place on with step 1 that is as long as the axis needs no places: `slice(None)`, step 1.
    """
    rank = len(op.inputs[0].shape)
    if op.version < 10:
        starts, ends = op.attr("starts"), op.attr("ends")
        axes, steps = op.attr("axes") or range(len(starts)), [1] * len(starts)
    else:
        count = op.inputs[1].shape[0]
        given = [
            None if t is None else t.elements or [None] * count for t in (*op.inputs[1:3], op.input(3), op.input(4))
        ]
        starts, ends = given[:2]
        axes = range(count) if given[2] is None else given[2]
        steps = [1] * count if given[3] is None else given[3]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        where = None if axis is None else int(axis) % rank
        if start is None or end is None or step is None:
            whole = step is not None and step == 1 and where is not None
            whole = whole and op.inputs[0].shape[where] == op.outputs[0].shape[where]
            whole = whole and op.is_dynamic_input(0, where) == op.is_dynamic(0, where)
            yield where, slice(None, None, 1) if whole else None
        else:
            yield where, slice(int(start), int(end), int(step))


@mend("", "Slice")
def slice_places(change: Change) -> Mended | None:
    """Starts, ends and steps move to where their places are now; a Gather picks them where no step fits any more."""
    old, rank = change.version < 10, len(change.before[0])
    starts, ends = (change.attr("starts"), change.attr("ends")) if old else (change.value(1), change.value(2))
    axes = change.attr("axes") if old else change.value(3)
    steps = None if old else change.value(4)
    if starts is None or ends is None:
        return None
    axes = range(len(starts)) if axes is None else [int(a) % rank for a in axes]
    new: dict[int, dict[int, int]] = {1: {}, 2: {}, 4: {}}
    picked: dict[int, np.ndarray] = {}
    for position, axis in enumerate(axes):
        before, after = change.before[0][axis], change.after[0][axis]
        step = 1 if steps is None else int(steps[position])
        places = range(before)[int(starts[position]) : int(ends[position]) : step]
        if before == after or places == range(before):
            continue
        kept = change.kept(change.node.inputs[0], axis)
        left = (np.cumsum(kept) - 1)[[place for place in places if kept[place]]]
        cut = _as_slice(left, after)
        if cut is None:
            picked[axis] = left
            cut = (0, len(left), 1)
        new[1][position], new[2][position] = cut[:2]
        if step != 1:
            new[4][position] = cut[2]
    if old:
        moved = [[changes.get(i, int(s)) for i, s in enumerate(v)] for v, changes in ((starts, new[1]), (ends, new[2]))]
        return Mended(attributes={"starts": moved[0], "ends": moved[1]})
    return Mended(places={index: changes for index, changes in new.items() if changes}, picked=picked)


def _as_slice(places: np.ndarray, size: int) -> tuple[int, int, int] | None:
    """(start, end, step) of a slice that takes these places of an axis; None where they aren't evenly spaced."""
    steps = np.unique(np.diff(places))
    if len(steps) > 1:
        return None
    step = int(steps[0]) if len(steps) else 1
    end = int(places[-1]) + (1 if step > 0 else -1)
    return int(places[0]), end if end >= 0 else -size - 1, step


@rule("", "Pad", shape_inputs=(1, 3))
def pad(op: Op) -> Facets:
    """Constant places are added that stay; negative pads cut labels off; other modes pin the axes that they pad."""
    x = op.inputs[0]
    pads = _pads(op)
    constant = op.attr("mode", "constant") == "constant"
    facets = []
    for found in x.facets:
        padded = [a for a in spans(found) if pads[a] != (0, 0)]
        if any(None in pads[a] for a in padded):
            op.pin([found], "pads the axis by a computed amount")
        elif padded and not constant:
            op.pin([found], "pads the axis with what it holds")
        else:
            # Along other axes constant padding puts its own value where a deleted slice held the ghost.
            others = any(pads[a] != (0, 0) for a in range(len(pads)) if a not in padded)
            ghost = None if others and constant and _pad_value(op) != ghost_of(found) else ghost_of(found)
            for axis in padded:
                found = _padded(op, found, axis, *pads[axis])
            facets.append(labelled(found, ghost))
    return settle(op, facets)


def _padded(op: Op, found: Facet, axis: int, before: int, behind: int) -> Facet:
    size = found.shape[axis]
    first, last = max(-before, 0), size - max(-behind, 0)
    if (first, last) != (0, size):
        piece(op, found, range(first), axis)
        found = piece(op, found, range(first, last), axis)
    widths = [(max(before, 0), max(behind, 0)) if a == axis else (0, 0) for a in range(found.ndim)]
    return np.pad(found, widths, constant_values=PINNED)


def _pads(op: Op) -> list[tuple[int | None, int | None]]:
    """(before, behind) of each axis; None where that is computed."""
    rank = len(op.inputs[0].shape)
    given, axes = op.attr("pads"), list(range(rank))
    if given is None:
        given = op.inputs[1].elements
        chosen = op.input(3)
        if given is None or (chosen is not None and chosen.data is None):
            return [(None, None)] * rank
        if chosen is not None:
            axes = [int(a) % rank for a in chosen.data.ravel()]
    pads: list[tuple[int | None, int | None]] = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        pads[axis] = (given[position], given[position + len(axes)])
    return pads


def _pad_value(op: Op) -> float | None:
    if op.version < 11:
        return float(op.attr("value", 0.0))
    value = op.input(2)
    if value is None:
        return 0.0
    return None if value.data is None else float(value.data.ravel()[0])


@mend("", "Pad")
def pad_amounts(change: Change) -> Mended | None:
    """Negative pads cut off no more than is left of what they cut off."""
    rank = len(change.before[0])
    given = change.attr("pads")
    old = given is not None
    given = given if old else change.value(1)
    axes = None if old else change.value(3)
    if given is None:
        return None
    axes = list(range(rank)) if axes is None else [int(a) % rank for a in axes.ravel()]
    new: dict[int, int] = {}
    for position, axis in enumerate(axes):
        if change.before[0][axis] == change.after[0][axis]:
            continue
        kept = change.kept(change.node.inputs[0], axis)
        before, behind = int(given[position]), int(given[position + len(axes)])
        if before < 0:
            new[position] = -int(kept[:-before].sum())
        if behind < 0:
            new[position + len(axes)] = -int(kept[behind:].sum())
    if not new:
        return None
    if old:
        return Mended(attributes={"pads": [new.get(i, int(p)) for i, p in enumerate(given)]})
    return Mended(places={1: new})
