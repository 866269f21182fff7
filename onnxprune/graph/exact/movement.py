"""Known values through operators that move elements: each is one NumPy call on the pair."""

import numpy as np

from onnxprune.graph.exact.known import Known, pair
from onnxprune.graph.exact.step import Step, knows
from onnxprune.graph.labels import reshape, unrolled


@knows("Transpose")
def transpose(step: Step) -> Known:
    order = step.attr("perm") or list(range(step.rank))[::-1]
    return step.operand().both(lambda a: a.transpose(order))


@knows("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshaped(step: Step) -> Known | None:
    if step.known(0) is None:
        return None
    x, old, new = step.operand(), step.shape(0), step.out_shape()
    if x.shape == old and x.is_all_known:
        return x.both(lambda a: a.reshape(new))
    if x.value.size == 1:
        return x.both(lambda a: a.reshape((1,) * len(new)))
    return x.moved(lambda a: unrolled(reshape(a, old, new), new))


@knows("Concat")
def concat(step: Step) -> Known | None:
    axis = step.attr("axis", 1) % len(step.out_shape())
    operands = [step.operand(i) for i in range(len(step.node.inputs)) if step.has(i)]
    sizes = [step.shape(i)[axis] for i in range(len(step.node.inputs)) if step.has(i)]
    across = np.broadcast_shapes(*[(*k.shape[:axis], 1, *k.shape[axis + 1 :]) for k in operands])
    target = [(*across[:axis], size, *across[axis + 1 :]) for size in sizes]
    value = np.concatenate([np.broadcast_to(k.value, t) for k, t in zip(operands, target, strict=True)], axis)
    flags = np.concatenate([np.broadcast_to(k.is_known, t) for k, t in zip(operands, target, strict=True)], axis)
    return Known(value, flags).compressed()


@knows("Split")
def split(step: Step) -> list[Known | None] | None:
    if step.known(0) is None:
        return None
    axis = step.attr("axis", 0) % step.rank
    x = step.operand()
    ends = np.cumsum([step.out_shape(k)[axis] for k in range(len(step.node.outputs))])
    if x.shape[axis] == 1:
        return [x] * len(ends)
    if not step.is_fixed(0, axis):
        return None
    return [
        x.both(lambda a, start=start, end=end: a.take(range(start, end), axis))
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


@knows("Slice")
def sliced(step: Step) -> Known | None:
    if step.known(0) is None:
        return None
    rank, old = step.rank, step.version < 10
    x = step.operand()
    starts = step.attr("starts") if old else step.array(1)
    ends = step.attr("ends") if old else step.array(2)
    axes = step.attr("axes") if old else (step.array(3) if step.has(3) else None)
    steps = step.array(4) if step.has(4) else None
    if starts is None or ends is None or (step.has(3) and axes is None) or (step.has(4) and steps is None):
        # Where it cuts isn't known: what is the same everywhere is so behind it.
        return x.same_along(tuple(range(rank)))
    axes = range(len(starts)) if axes is None else [int(a) % rank for a in axes]
    steps = [1] * len(starts) if steps is None else steps
    places = [slice(None)] * rank
    for axis, start, end, pace in zip(axes, starts, ends, steps, strict=True):
        if x.shape[axis] > 1:
            if not step.is_fixed(0, axis):
                return None
            places[axis] = slice(*_python_places(int(start), int(end), int(pace), x.shape[axis]))
    return x.both(lambda a: a[tuple(places)])


def _python_places(start: int, end: int, pace: int, size: int) -> tuple[int | None, int | None, int]:
    """ONNX clamps where Python would read an end before the first element as one counted from behind."""
    start, end, pace = slice(start, end, pace).indices(size)
    return start, (None if end < 0 else end), pace


@knows("Gather")
def gather(step: Step) -> Known | None:
    x, rank = step.known(0), len(step.shape(1))
    if x is None:
        return None
    axis = step.attr("axis", 0) % step.rank
    x, indices = x.aligned(step.rank), step.array(1)
    if x.shape[axis] > 1 and (indices is None or not step.is_fixed(0, axis)):
        x = x.same_along((axis,))
    if x.shape[axis] == 1:
        return x.both(lambda a: a.reshape(a.shape[:axis] + (1,) * rank + a.shape[axis + 1 :]))
    return x.both(lambda a: a.take(indices.astype(np.int64), axis, mode="wrap")).compressed()


@knows("Expand")
def expand(step: Step) -> Known | None:
    return None if step.known(0) is None else step.operand(0, len(step.out_shape()))


@knows("Tile")
def tile(step: Step) -> Known | None:
    if step.known(0) is None:
        return None
    x, counts = step.operand(), step.array(1)
    if counts is None:
        return x.same_along(tuple(range(step.rank)))
    return x.both(lambda a: np.tile(a, [int(c) if s > 1 else 1 for c, s in zip(counts, a.shape, strict=True)]))


@knows("Pad")
def pad(step: Step) -> Known | None:
    """Constant padding puts its value around; other modes repeat what is there."""
    if step.known(0) is None:
        return None
    x, rank, mode = step.operand(), step.rank, step.attr("mode", "constant")
    amounts, filling = pad_amounts(step), pad_filling(step)
    padded = [a for a in range(rank) if amounts is None or amounts[:, a].any()]
    if not padded:
        return x
    if mode != "constant":
        return x.same_along(tuple(padded))
    varying = [a for a in padded if x.shape[a] > 1]
    if amounts is None or filling is None or (amounts[:, varying] < 0).any():
        x = x.same_along(tuple(padded))
        varying = []
    steady = [a for a in padded if a not in varying]
    if steady:
        x = x.where(np.zeros(1, bool)) if filling is None else x.where(x.value == filling)
    if varying:
        widths = [tuple(amounts[:, a]) if a in varying else (0, 0) for a in range(rank)]
        value = np.pad(x.value, widths, constant_values=np.asarray(filling, x.value.dtype))
        return pair(value, np.pad(x.is_known, widths, constant_values=True))
    return x


def pad_amounts(step: Step) -> np.ndarray | None:
    """[2, rank]: how many places before and behind each axis; None where that is computed."""
    rank = step.rank
    given = step.attr("pads") or step.attr("paddings")
    axes = list(range(rank))
    if given is None:
        given = step.array(1)
        if step.has(3):
            axes = None if step.array(3) is None else [int(a) % rank for a in step.array(3)]
    if given is None or axes is None:
        return None
    amounts = np.zeros((2, rank), np.int64)
    amounts[:, axes] = np.asarray(given).reshape(2, -1)
    return amounts


def pad_filling(step: Step) -> float | None:
    """What constant padding puts around; None where that is computed."""
    if step.version < 11:
        return step.attr("value", 0.0)
    if not step.has(2):
        return 0.0
    found = step.array(2)
    return None if found is None else found.ravel()[0]


@knows("DepthToSpace")
def depth_to_space(step: Step) -> Known | None:
    """x[N,b*b*C,H,W] -> y[N,C,b*H,b*W]: known where all b*b channels of a block hold the same."""
    b, c = step.attr("blocksize"), step.shape(0)[1]
    x = step.operand().same_along((0, 2, 3))
    x = x.both(lambda a: np.broadcast_to(a, (1, c, 1, 1)))
    if step.attr("mode", "DCR") == "DCR":
        grid = x.both(lambda a: a.reshape(b * b, c // (b * b)).T)
    else:
        grid = x.both(lambda a: a.reshape(c // (b * b), b * b))
    return grid.same_along((1,)).both(lambda a: a.reshape(1, -1, 1, 1))


@knows("SpaceToDepth")
def space_to_depth(step: Step) -> Known:
    b = step.attr("blocksize")
    x = step.operand().same_along((2, 3))
    return x if x.shape[1] == 1 else x.both(lambda a: np.tile(a, (1, b * b, 1, 1)))


@knows("Resize", "Upsample")
def resize(step: Step) -> Known | None:
    """Weights of an interpolation add up to 1; only beyond the edges there may be another value."""
    if step.known(0) is None:
        return None
    before, after = step.shape(0), step.out_shape()
    axes = tuple(a for a in range(step.rank) if before[a] != after[a] or not step.is_fixed(0, a))
    x = step.operand().same_along(axes)
    crops = step.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return x.where(x.value == step.attr("extrapolation_value", 0.0)) if crops else x


@knows("Trilu")
def triangle(step: Step) -> Known | None:
    return None if step.known(0) is None else step.operand().where(step.operand().is_zero)
