"""Operators that move data move flags by the same NumPy call. The sizes and places they are told are written anew."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.deploy.cutting.flags import Flags, ahead, cut, lines, other_axes, reshape, take
from onnxprune.deploy.cutting.tensors import Tensors, check_agrees, flow, mend, operand, refusal, whole_slices
from onnxprune.graph.labels import reshape_blocks

# ---- shapes ---------------------------------------------------------------------------------------------------------


@flow("Reshape", "Flatten", "Squeeze", "Unsqueeze", operands=1)
def reshape_like(node: gs.Node, tensors: Tensors) -> list[Flags]:
    source, out = node.inputs[0], node.outputs[0]
    return [reshape(tensors.flags(source), tensors.shapes[source.name], tensors.shapes[out.name])]


@mend("Reshape")
def write_target(node: gs.Node, tensors: Tensors) -> None:
    """Fixed sizes are written out; a symbolic one is the input's at that place (0), or what is left over (-1)."""
    source, out = node.inputs[0], node.outputs[0]
    target = [-1 if tensors.is_symbolic(out.name, axis) else size for axis, size in enumerate(tensors.left(out))]
    made_of = _made_of(node, tensors)
    for axis, size in enumerate(target):
        if size == -1 and axis in made_of.get(axis, ()) and tensors.ratio(out, axis, source, axis) == 1:
            target[axis] = 0
    node.attrs.pop("allowzero", None)
    if target.count(-1) <= 1:
        tensors.write(node, 1, target)
    else:
        tensors.replace(node, 1, _compute_target(node, tensors, target))


def _made_of(node: gs.Node, tensors: Tensors) -> dict[int, tuple[int, ...]]:
    """{axis of the result: axes of the input that its elements come from}: others may be as long by chance."""
    shapes = (tensors.shapes[value.name] for value in (node.inputs[0], node.outputs[0]))
    return {axis: left for left, right in reshape_blocks(*shapes) for axis in right}


def _compute_target(node: gs.Node, tensors: Tensors, target: Sequence[int]) -> gs.Tensor:
    """A target with several symbolic sizes: of one nothing is said, others are multiples of sizes of the input.

    Those that are neither stay as they were computed.
    """
    source, out, old = node.inputs[0], node.outputs[0], node.inputs[1]
    name = f"{node.name}.sizes1"
    made_of = _made_of(node, tensors)
    multiples: dict[int, tuple[int, Fraction] | None] = {}
    for axis, size in enumerate(target):
        if size == -1:
            ratios = ((i, tensors.ratio(out, axis, source, i)) for i in made_of.get(axis, ()))
            multiples[axis] = next(((i, ratio) for i, ratio in ratios if ratio is not None), None)
    rest = next((axis for axis, found in multiples.items() if found is None), min(multiples))

    def number(value: int) -> gs.Constant:
        return tensors.constant(name, np.array([value], np.int64))

    sizes = tensors.compute("Shape", name, source)
    parts: list[gs.Tensor] = []
    for axis, size in enumerate(target):
        if size != -1 or axis == rest:
            parts.append(number(size))
        elif multiples[axis] is not None:
            like, ratio = multiples[axis]
            part = tensors.compute("Gather", name, sizes, number(like))
            part = tensors.compute("Mul", name, part, number(ratio.numerator))
            parts.append(tensors.compute("Div", name, part, number(ratio.denominator)))
        elif axis in tensors.changes(out.name):
            raise refusal(node, "makes of several symbolic sizes")
        else:
            parts.append(tensors.compute("Gather", name, old, number(axis)))
    return tensors.compute("Concat", name, *parts, axis=0)


@mend("Squeeze")
def name_squeezed_axes(node: gs.Node, tensors: Tensors) -> None:
    """Without axes it would take whichever are of size 1 by now."""
    source = node.inputs[0]
    if "axes" in node.attrs or operand(node, 1) is not None:
        return
    axes = [axis for axis, size in enumerate(tensors.shapes[source.name]) if size == 1]
    if any(tensors.is_symbolic(source.name, axis) for axis in axes):
        raise refusal(node, "takes of symbolic sizes")
    if tensors.opset < 13:
        node.attrs["axes"] = axes
    else:
        tensors.write(node, 1, axes)


@flow("Expand", operands=1)
def expand(node: gs.Node, tensors: Tensors) -> list[Flags]:
    filled = tensors.flags(node.outputs[0])
    return [ahead(tensors.flags(node.inputs[0]), filled.ndim) | filled]


@mend("Expand")
def write_expanded(node: gs.Node, tensors: Tensors) -> None:
    """Axes that the input has ask for 1, which leaves them as they are. Symbolic ones stay as they were computed."""
    source, out, old = node.inputs[0], node.outputs[0], node.inputs[1]
    count, left = tensors.shapes[old.name][0], tensors.left(out)
    given = (1,) * (len(left) - len(tensors.shapes[source.name])) + tuple(tensors.shapes[source.name])
    target: list[int | None] = []
    for axis in range(len(left) - count, len(left)):
        if given[axis] != 1:
            target.append(1)
        else:
            target.append(None if tensors.is_symbolic(out.name, axis) else left[axis])
    _write_sizes(node, 1, target, tensors)


@mend("ConstantOfShape")
def write_filled(node: gs.Node, tensors: Tensors) -> None:
    """The sizes that are left; symbolic ones stay as they were computed."""
    out = node.outputs[0]
    sizes = [None if tensors.is_symbolic(out.name, axis) else size for axis, size in enumerate(tensors.left(out))]
    _write_sizes(node, 0, sizes, tensors)


def _write_sizes(node: gs.Node, index: int, sizes: Sequence[int | None], tensors: Tensors) -> None:
    """Ask for these sizes, where one is None for the one that was asked for."""
    if None not in sizes:
        tensors.write(node, index, sizes)
        return
    name = f"{node.name}.sizes{index}"
    told = tensors.constant(name, np.array([size is not None for size in sizes]))
    known = tensors.constant(name, np.array([size or 0 for size in sizes], np.int64))
    tensors.replace(node, index, tensors.compute("Where", name, told, known, node.inputs[index]))


@flow("Transpose", operands=1)
def transpose(node: gs.Node, tensors: Tensors) -> list[Flags]:
    return [np.transpose(tensors.flags(node.inputs[0]), node.attrs.get("perm"))]


@flow("DepthToSpace", operands=1)
def depth_to_space(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """x[N,b*b*C,H,W] -> y[N,C,b*H,b*W]: a channel goes with all the b*b places of its block."""
    count = node.attrs["blocksize"] ** 2
    flags = whole_slices(node, tensors.along(node.inputs[0], 1), (0, 2, 3)).ravel()
    is_dcr = node.attrs.get("mode", "DCR") == "DCR"
    return [
        whole_slices(node, flags.reshape((1, count, -1) if is_dcr else (1, -1, count)), [1 if is_dcr else 2]).reshape(
            1, -1, 1, 1
        )
    ]


@flow("SpaceToDepth", operands=1)
def space_to_depth(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """x[N,C,b*H,b*W] -> y[N,b*b*C,H,W]: the channels, once for every place of a block."""
    flags = whole_slices(node, tensors.along(node.inputs[0], 1), (0, 2, 3))
    return [np.tile(flags, (1, node.attrs["blocksize"] ** 2, 1, 1))]


@flow("Col2Im", operands=1)
def col2im(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """x[N,C*k,L] -> y[N,C,*S]: a channel goes with all the k places of its block."""
    out = tensors.shapes[node.outputs[0].name]
    blocks = whole_slices(node, tensors.along(node.inputs[0], 1), (0, 2)).reshape(out[1], -1)
    return [whole_slices(node, blocks, [1]).reshape(1, -1, *[1] * (len(out) - 2))]


@flow("Resize", "Upsample", operands=1)
def resize(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags = tensors.flags(node.inputs[0])
    shapes = zip(tensors.shapes[node.inputs[0].name], tensors.shapes[node.outputs[0].name], strict=True)
    return [whole_slices(node, flags, [axis for axis, (before, after) in enumerate(shapes) if before != after])]


@mend("Resize")
def write_sizes(node: gs.Node, tensors: Tensors) -> None:
    """The sizes that are left, where sizes are given; those that aren't known stay as they were computed."""
    given, out = operand(node, 3), node.outputs[0].name
    if given is None or not tensors.shapes.get(given.name, (1,))[0]:
        return
    rank, changed = len(tensors.shapes[out]), tensors.changes(out)
    axes = node.attrs.get("axes", range(rank))
    sizes = tensors.elements(node, 3) or [None] * len(axes)
    left = [changed.get(axis % rank, size) for axis, size in zip(axes, sizes, strict=True)]
    if left != sizes:
        _write_sizes(node, 3, left, tensors)


# ---- parts ----------------------------------------------------------------------------------------------------------


@flow("Concat")
def concat(node: gs.Node, tensors: Tensors) -> list[Flags]:
    axis = node.attrs.get("axis", 1) % len(tensors.shapes[node.outputs[0].name])
    parts = [tensors.along(tensor, axis) for tensor in node.inputs]
    sizes = np.max([part.shape for part in parts], axis=0)
    laid = [np.broadcast_to(part, [*sizes[:axis], part.shape[axis], *sizes[axis + 1 :]]) for part in parts]
    return [np.concatenate(laid, axis)]


@flow("Split", operands=1)
def split(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags, axis = tensors.flags(node.inputs[0]), node.attrs.get("axis", 0)
    if flags.shape[axis] == 1:
        return [flags] * len(node.outputs)
    ends = np.cumsum([tensors.shapes[tensor.name][axis] for tensor in node.outputs])
    return np.split(flags, ends[:-1], axis=axis)


@mend("Split")
def write_parts(node: gs.Node, tensors: Tensors) -> None:
    axis = node.attrs.get("axis", 0)
    before = [tensors.shapes[tensor.name][axis] for tensor in node.outputs]
    left = [tensors.left(tensor)[axis] for tensor in node.outputs]
    if left == before or tensors.is_symbolic(node.inputs[0].name, axis):
        return
    if tensors.opset < 13:
        node.attrs["split"] = left
    else:
        node.attrs.pop("num_outputs", None)
        tensors.write(node, 1, left)


# ---- places of one axis ---------------------------------------------------------------------------------------------


def _moved(node: gs.Node, flags: Flags, axis: int, places: np.ndarray) -> np.ndarray:
    """Where those of `places` that stay are found afterwards. Raises ModelError unless it is so in every row."""
    rows = flags.all(axis=tuple(range(axis + 1, flags.ndim))).reshape(-1, flags.shape[axis])
    rows = rows[~rows.all(axis=1)]
    stays, after = ~rows[:, places], (np.cumsum(~rows, axis=1) - 1)[:, places]
    if len(np.unique(stays.sum(axis=1))) > 1:
        raise refusal(node, "reads of rows of which different places go")
    found = after[stays].reshape(len(rows), -1)
    if (found != found[:1]).any():
        raise refusal(node, "reads of rows of which different places go")
    return found[0]


@flow("Slice", operands=1)
def slice_(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags = tensors.flags(node.inputs[0])
    for axis, places in _sliced(node, tensors).items():
        flags = take(flags, places, axis)
    return [flags]


def _sliced(node: gs.Node, tensors: Tensors) -> dict[int, np.ndarray]:
    """{axis: the places that are read} of the axes along which flags differ, unless all of an axis is read."""
    source, out = node.inputs[0], node.outputs[0]
    flags, shape, left = tensors.flags(source), tensors.shapes[source.name], tensors.shapes[out.name]
    starts, ends, axes, steps = _slice_inputs(node, tensors)
    if axes is None and flags.size > 1:
        raise refusal(node, "slices of computed axes")
    found = {}
    for position, axis in enumerate([] if axes is None else axes):
        axis = axis % len(shape)
        if flags.shape[axis] == 1:
            continue
        if starts is not None and ends is not None and steps is not None:
            places = np.arange(shape[axis])[int(starts[position]) : int(ends[position]) : int(steps[position])]
            if not np.array_equal(places, np.arange(shape[axis])):
                found[axis] = places
        elif left[axis] != shape[axis] or steps is None or steps[position] != 1:
            raise refusal(node, "slices at computed places")
    return found


def _slice_inputs(node: gs.Node, tensors: Tensors) -> list[list[int] | None]:
    """Starts, ends, axes and steps; None for those that are computed."""
    if "starts" in node.attrs:
        starts, ends = node.attrs["starts"], node.attrs["ends"]
        axes = node.attrs.get("axes", range(len(starts)))
        return [list(starts), list(ends), list(axes), [1] * len(starts)]
    starts, ends, axes, steps = (tensors.known(node, index) for index in range(1, 5))
    count = node.inputs[1].shape[0] if starts is None else len(starts)
    if operand(node, 3) is None:
        axes = np.arange(count)
    if operand(node, 4) is None:
        steps = np.ones(count, int)
    return [None if given is None else given.tolist() for given in (starts, ends, axes, steps)]


@mend("Slice")
def write_places(node: gs.Node, tensors: Tensors) -> None:
    """Where places that stay aren't equally far from each other any more, they are looked up first."""
    sliced, source = _sliced(node, tensors), node.inputs[0]
    if not sliced:
        return
    starts, ends, axes, steps = _slice_inputs(node, tensors)
    flags = tensors.flags(source)
    for position, axis in enumerate(axes):
        axis = axis % flags.ndim
        if axis not in sliced:
            continue
        found = _moved(node, flags, axis, sliced[axis])
        apart = np.unique(np.diff(found))
        if len(apart) > 1:
            places = tensors.constant(f"{node.name}.places", found)
            node.inputs[0] = tensors.compute("Gather", f"{node.name}.picked", node.inputs[0], places, axis=axis)
            starts[position], ends[position], steps[position] = 0, len(found), 1
            continue
        step = int(apart[0]) if len(apart) else 1
        end = int(found[-1]) + (1 if step > 0 else -1)
        starts[position], steps[position] = int(found[0]), step
        ends[position] = end if end >= 0 else np.iinfo(np.int64).min
    if "starts" in node.attrs:
        node.attrs["starts"], node.attrs["ends"] = starts, ends
        return
    tensors.write(node, 1, starts)
    tensors.write(node, 2, ends)
    if operand(node, 4) is not None:
        tensors.write(node, 4, steps)


@flow("Gather")
def gather(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Known places pick flags; computed ones leave the axis as it is. Flags of the places themselves go along."""
    flags, places, known = tensors.flags(node.inputs[0]), tensors.flags(node.inputs[1]), tensors.known(node, 1)
    axis = node.attrs.get("axis", 0) % flags.ndim
    if flags.shape[axis] > 1 and known is None:
        raise refusal(node, "looks up at computed places")
    shape = tensors.shapes[node.inputs[1].name]
    found = take(flags, np.zeros(shape, np.int64) if known is None else known, axis)
    around = (1,) * axis, (1,) * (flags.ndim - axis - 1)
    return [found | places.reshape(around[0] + places.shape + around[1])]


@mend("Gather")
def write_looked_up(node: gs.Node, tensors: Tensors) -> None:
    """Those of the places that stay, where they are found afterwards."""
    flags, known = tensors.flags(node.inputs[0]), tensors.known(node, 1)
    axis = node.attrs.get("axis", 0) % flags.ndim
    if flags.shape[axis] > 1:
        found = _moved(node, flags, axis, known.astype(np.int64).ravel())
        tensors.write(node, 1, found.reshape(_left_of_places(node, tensors, axis, known.ndim)))


def _left_of_places(node: gs.Node, tensors: Tensors, axis: int, rank: int) -> tuple[int, ...]:
    return tensors.left(node.outputs[0])[axis : axis + rank]


@flow("Compress", operands=1)
def compress(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags, known, axis = tensors.flags(node.inputs[0]), tensors.known(node, 1), node.attrs.get("axis")
    if axis is None or (known is None and flags.shape[axis] > 1):
        raise refusal(node, "picks at computed places or of the whole tensor")
    return [flags if known is None else take(flags, np.flatnonzero(known), axis)]


@mend("Compress")
def write_condition(node: gs.Node, tensors: Tensors) -> None:
    flags, known, axis = tensors.flags(node.inputs[0]), tensors.known(node, 1), node.attrs["axis"]
    if flags.shape[axis] > 1:
        condition = np.zeros(tensors.left(node.inputs[0])[axis], bool)
        condition[_moved(node, flags, axis, np.flatnonzero(known))] = True
        tensors.write(node, 1, condition)


@flow("Pad", operands=1)
def pad(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Constants that are put around stay; what repeats a place of the axis goes with it."""
    flags = tensors.flags(node.inputs[0])
    for axis, widths in _pads(node, tensors).items():
        places = _padded(node, flags.shape[axis], widths)
        is_constant = np.expand_dims(places < 0, other_axes(flags, axis))
        flags = take(flags, places.clip(0), axis) & ~is_constant
    return [flags]


def _pads(node: gs.Node, tensors: Tensors) -> dict[int, tuple[int, int]]:
    """{axis: (before, behind)} of the axes along which flags differ."""
    flags = tensors.flags(node.inputs[0])
    pads, axes = node.attrs.get("pads", node.attrs.get("paddings")), list(range(flags.ndim))
    if pads is None:
        pads = tensors.elements(node, 1)
    if operand(node, 3) is not None:
        axes = tensors.known(node, 3)
    if pads is None or axes is None:
        raise refusal(node, "pads by computed amounts")
    pairs = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    found = {int(axis) % flags.ndim: widths for axis, *widths in pairs if flags.shape[int(axis)] > 1}
    if any(None in widths for widths in found.values()):
        raise refusal(node, "pads by computed amounts")
    return {axis: (int(before), int(behind)) for axis, (before, behind) in found.items() if before or behind}


def _padded(node: gs.Node, size: int, widths: tuple[int, int]) -> np.ndarray:
    """Which place of the axis each place of the result repeats; -1 where a constant is put."""
    mode = node.attrs.get("mode", "constant")
    if mode != "constant" and min(widths) < 0:
        raise refusal(node, "cuts away")
    places = np.arange(size)[max(-widths[0], 0) : size - max(-widths[1], 0)]
    around = max(widths[0], 0), max(widths[1], 0)
    return np.pad(places, around, constant_values=-1) if mode == "constant" else np.pad(places, around, mode)


@mend("Pad")
def write_pads(node: gs.Node, tensors: Tensors) -> None:
    """As much is repeated, or cut away, as stays of it. Refused where the axis then ends with another place."""
    source = node.inputs[0]
    flags, rank = tensors.flags(source), len(tensors.shapes[source.name])
    changed = {}
    for axis, (before, behind) in _pads(node, tensors).items():
        size = flags.shape[axis]
        if node.attrs.get("mode", "constant") == "constant":
            ends = np.arange(max(-before, 0)), np.arange(size - max(-behind, 0), size)
            cut_away = [len(_moved(node, flags, axis, places)) for places in ends]
            changed[axis] = tuple(w if w >= 0 else -c for w, c in zip((before, behind), cut_away, strict=True))
        else:
            places = _padded(node, size, (before, behind))
            ends = places[:before], places[len(places) - behind :]
            changed[axis] = tuple(len(_moved(node, flags, axis, found)) for found in ends)
            wanted = _moved(node, flags, axis, places)
            if not np.array_equal(_padded(node, tensors.left(source)[axis], changed[axis]), wanted):
                raise refusal(node, "repeats of an axis that shrinks at its ends")
    if not changed:
        return
    attribute = next((name for name in ("pads", "paddings") if name in node.attrs), None)
    if attribute is None and tensors.known(node, 1) is None:
        raise refusal(node, "pads by computed amounts")
    pads = list(tensors.known(node, 1) if attribute is None else node.attrs[attribute])
    axes = range(rank) if operand(node, 3) is None else tensors.known(node, 3)
    for position, axis in enumerate(axes):
        if int(axis) % rank in changed:
            pads[position], pads[position + len(axes)] = changed[int(axis) % rank]
    if attribute is None:
        tensors.write(node, 1, pads)
    else:
        node.attrs[attribute] = pads


@flow("Tile", operands=1)
def tile(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags, out = tensors.flags(node.inputs[0]), tensors.shapes[node.outputs[0].name]
    return [np.tile(flags, [out[axis] // size if size > 1 else 1 for axis, size in enumerate(flags.shape)])]


# ---- places of several axes -----------------------------------------------------------------------------------------


@flow("GatherElements")
def gather_elements(node: gs.Node, tensors: Tensors) -> list[Flags]:
    return [_elements(node, tensors)]


@flow("ScatterElements", "Scatter")
def scatter_elements(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """What is written has to go where what it replaces does."""
    written = node.inputs[2]
    check_agrees(node, _elements(node, tensors), tensors.flags(written), tensors.shapes[written.name])
    return [tensors.flags(node.inputs[0])]


def _elements(node: gs.Node, tensors: Tensors) -> Flags:
    """What goes of the elements that known places of one axis name, or computed ones of an axis that stays."""
    data, places = node.inputs[:2]
    flags, shape, given = tensors.flags(data), tensors.shapes[data.name], tensors.shapes[places.name]
    known, axis = tensors.known(node, 1), node.attrs.get("axis", 0) % len(shape)
    if known is None:
        if any(flags.shape[a] > 1 and (a == axis or given[a] != n) for a, n in enumerate(shape)):
            raise refusal(node, "looks up at computed places")
        check_agrees(node, flags, tensors.flags(places), given)
        return flags
    whole = tensors.whole(data)[tuple(slice(None if a == axis else n) for a, n in enumerate(given))]
    found = np.take_along_axis(whole, known.astype(np.int64) % shape[axis], axis)
    for a in range(len(shape)):
        if a != axis and (found.all(axis=other_axes(found, a)) != whole.all(axis=other_axes(whole, a))).any():
            raise refusal(node, "looks up of rows of which everything goes")
    return found


@mend("GatherElements", "ScatterElements", "Scatter")
def write_elements(node: gs.Node, tensors: Tensors) -> None:
    known, data = tensors.known(node, 1), node.inputs[0]
    if known is None or data.name not in tensors.goes:
        return
    whole, gone = tensors.whole(data), _elements(node, tensors)
    axis = node.attrs.get("axis", 0) % whole.ndim
    box = tuple(slice(None if a == axis else n) for a, n in enumerate(known.shape))
    after = np.cumsum(~whole, axis)[box] - 1
    tensors.write(node, 1, cut(np.take_along_axis(after, known.astype(np.int64) % whole.shape[axis], axis), gone))


@flow("GatherND")
def gather_nd(node: gs.Node, tensors: Tensors) -> list[Flags]:
    return [_tuples(node, tensors)]


@flow("ScatterND")
def scatter_nd(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """What is written has to go where what it replaces does."""
    written = node.inputs[2]
    check_agrees(node, _tuples(node, tensors), tensors.flags(written), tensors.shapes[written.name])
    return [tensors.flags(node.inputs[0])]


def _tuples(node: gs.Node, tensors: Tensors) -> Flags:
    """What goes of the slices that known places of the first axes name, or computed ones of axes that stay."""
    data, places = node.inputs[:2]
    flags, depth, known = tensors.flags(data), tensors.shapes[places.name][-1], tensors.known(node, 1)
    batch, lead = node.attrs.get("batch_dims", 0), len(tensors.shapes[places.name]) - 1
    if places.name in tensors.goes or any(n > 1 for n in flags.shape[:batch]):
        raise refusal(node, "looks up, of which places go,")
    if all(n == 1 for n in flags.shape[: batch + depth]):
        return flags.reshape((1,) * lead + flags.shape[batch + depth :])
    if known is None or batch:
        raise refusal(node, "looks up at computed places")
    return tensors.along(data, *range(depth))[tuple(np.moveaxis(known, -1, 0))]


@mend("GatherND", "ScatterND")
def write_tuples(node: gs.Node, tensors: Tensors) -> None:
    data, known = node.inputs[0], tensors.known(node, 1)
    flags, depth = tensors.flags(data), tensors.shapes[node.inputs[1].name][-1]
    if known is None or all(n == 1 for n in flags.shape[:depth]):
        return
    box = lines(tensors.along(data, *range(depth)))
    if box is None:
        raise refusal(node, "looks up of rows of which different places go")
    places = [known[..., axis] % len(line) for axis, line in enumerate(box[:depth])]
    gone = np.logical_or.reduce([line[found] for line, found in zip(box, places, strict=False)])
    after = np.stack([(np.cumsum(~line) - 1)[found] for line, found in zip(box, places, strict=False)], -1)
    tensors.write(node, 1, cut(after, gone[..., None]))
