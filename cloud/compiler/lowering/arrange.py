"""ATen operators that put an array's numbers in another order: permutations, turns, shuffles, diagonals."""

from collections.abc import Mapping
from math import prod

import numpy as np

from cloud.compiler.expr import Arg, Fn, Number, call
from cloud.compiler.ir import Array, Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.pieces import axis_of, converted, joined, many, padded, taken
from cloud.compiler.ops.movement import Flip, Strided


def _permute(aten: AtenCall, build: Builder) -> Value:
    x, axes = aten.arguments[:2]
    return build.permute(x, [axis % len(x.shape) for axis in axes])


def _transpose(aten: AtenCall, build: Builder) -> Value:
    x = aten.arguments[0]
    axes = list(range(len(x.shape)))
    first, second = aten.argument(1, "dim0"), aten.argument(2, "dim1")
    axes[first], axes[second] = axes[second], axes[first]
    return build.permute(x, axes)


def _reversed(aten: AtenCall, build: Builder) -> Value:
    """``.t()`` and ``.T``: all axes the other way round."""
    x = aten.arguments[0]
    return build.permute(x, range(len(x.shape))[::-1])


def _matrix_transpose(aten: AtenCall, build: Builder) -> Value:
    """``.mT``: the last two axes."""
    x = aten.arguments[0]
    rank = len(x.shape)
    return build.permute(x, (*range(rank - 2), rank - 1, rank - 2))


def _move_axes(aten: AtenCall, build: Builder) -> Value:
    x = aten.arguments[0]
    rank = len(x.shape)
    sources, targets = ([axis % rank for axis in many(one)] for one in aten.arguments[1:3])
    placed = dict(zip(targets, sources, strict=True))
    rest = iter([axis for axis in range(rank) if axis not in sources])
    return build.permute(x, [placed[axis] if axis in placed else next(rest) for axis in range(rank)])


def _flip(aten: AtenCall, build: Builder) -> Value:
    x = aten.arguments[0]
    axes = {"fliplr": (1,), "flipud": (0,)}.get(aten.base_name) or many(aten.arguments[1])
    return build(Flip(tuple(sorted(axis % len(x.shape) for axis in axes))), x)


def _turn(aten: AtenCall, build: Builder) -> Value:
    """``rot90(x, k, dims)``: quarter turns from the first axis towards the second."""
    x, turns = aten.arguments[0], aten.argument(1, "k", 1) % 4
    rank = len(x.shape)
    first, second = (axis % rank for axis in aten.argument(2, "dims", (0, 1)))
    if turns == 0:
        return build.reshape(x, x.shape)
    if turns == 2:
        return build(Flip(tuple(sorted((first, second)))), x)
    axes = list(range(rank))
    axes[first], axes[second] = second, first
    return build.permute(build(Flip((second if turns == 1 else first,)), x), axes)


def _roll(aten: AtenCall, build: Builder) -> Value:
    x, shifts, axes = aten.arguments[0], many(aten.arguments[1]), many(aten.argument(2, "dims", ()))
    if not axes:
        x, axes = build.reshape(x, (prod(x.shape),)), (0,)
    for shift, axis in zip(shifts, axes, strict=True):
        size = x.shape[axis]
        if cut := -shift % size:
            x = joined(
                build, [taken(build, x, axis, cut, size), taken(build, x, axis, 0, cut)], axis % len(x.shape)
            )
    return build.reshape(x, aten.shape)


def _pixel_shuffle(aten: AtenCall, build: Builder) -> Value:
    """[*, C * r * r, H, W] -> [*, C, H * r, W * r]."""
    x, r = aten.arguments[:2]
    *batch, c, h, w = x.shape
    n = prod(batch)
    apart = build.reshape(x, (n, c // r**2, r, r, h, w))
    return build.reshape(build.permute(apart, (0, 1, 4, 2, 5, 3)), aten.shape)


def _pixel_unshuffle(aten: AtenCall, build: Builder) -> Value:
    """[*, C, H * r, W * r] -> [*, C * r * r, H, W]."""
    x, r = aten.arguments[:2]
    *batch, c, h, w = x.shape
    n = prod(batch)
    apart = build.reshape(x, (n, c, h // r, r, w // r, r))
    return build.reshape(build.permute(apart, (0, 1, 3, 5, 2, 4)), aten.shape)


def _channel_shuffle(aten: AtenCall, build: Builder) -> Value:
    x, groups = aten.arguments[:2]
    n, c, *rest = x.shape
    apart = build.reshape(x, (n, groups, c // groups, prod(rest)))
    return build.reshape(build.permute(apart, (0, 2, 1, 3)), aten.shape)


def _gated(aten: AtenCall, build: Builder) -> Value:
    """``glu``: the first half times the sigmoid of the second."""
    x, axis = aten.arguments[0], axis_of(aten, 1, default=-1)
    half = x.shape[axis] // 2
    parts = taken(build, x, axis, 0, half), taken(build, x, axis, half, 2 * half)
    return build.pointwise(call(Fn.MUL, Arg(0), call(Fn.SIGMOID, Arg(1))), *parts)


def _triangle(lower: bool) -> Lowering:
    def lowering(aten: AtenCall, build: Builder) -> Value:
        x, diagonal = aten.arguments[0], aten.argument(1, "diagonal", 0)
        rows, columns = x.shape[-2:]
        low = np.tri(rows, columns, diagonal if lower else diagonal - 1, dtype=np.int32)
        return _kept(build, x, low if lower else 1 - low)

    return lowering


def _kept(build: Builder, x: Value, mask: Array) -> Value:
    """x where the constant mask is 1, else zero."""
    return build.pointwise(
        call(Fn.WHERE, Arg(1), Arg(0), Number(0, x.dtype)), x, build.constant(mask.astype(np.int32))
    )


def _diagonal(aten: AtenCall, build: Builder) -> Value:
    x, offset = aten.arguments[0], aten.argument(1, "offset", 0)
    rank = len(x.shape)
    rows, columns = aten.argument(2, "dim1", 0) % rank, aten.argument(3, "dim2", 1) % rank
    steps = [prod(x.shape[axis + 1 :]) for axis in range(rank)]
    kept = [steps[axis] for axis in range(rank) if axis not in (rows, columns)]
    start = offset * steps[columns] if offset > 0 else -offset * steps[rows]
    return build(Strided(aten.shape, (*kept, steps[rows] + steps[columns]), start), x)


def _diagonal_embedding(aten: AtenCall, build: Builder) -> Value:
    x = aten.arguments[0]
    if (aten.argument(1, "offset", 0), aten.argument(2, "dim1", -2), aten.argument(3, "dim2", -1)) != (
        0,
        -2,
        -1,
    ):
        raise aten.refuse("use the main diagonal of the last two axes, then transpose")
    return _kept(build, build.reshape(x, (*x.shape, 1)), np.eye(x.shape[-1]))


def _windows(aten: AtenCall, build: Builder) -> Value:
    """``x.unfold(dim, size, step)``: sliding windows in a new last axis."""
    x, axis, step = aten.arguments[0], axis_of(aten, 1), aten.arguments[3]
    steps = [prod(x.shape[one + 1 :]) for one in range(len(x.shape))]
    window = steps[axis]
    steps[axis] *= step
    return build(Strided(aten.shape, (*steps, window)), x)


def _image_columns(aten: AtenCall, build: Builder) -> Value:
    """``torch.nn.Unfold``: [N, C, H, W] -> [N, C * kernel, positions]."""
    x, kernel, dilation, padding, stride = aten.arguments[:5]
    edges = (0, 0, *many(padding, 2))
    x = padded(build, x, edges, edges)
    n, c, h, w = x.shape
    down, right = (
        (size - spread * (k - 1) - 1) // step + 1
        for size, k, spread, step in zip((h, w), kernel, many(dilation, 2), many(stride, 2), strict=True)
    )
    (dy, dx), (sy, sx) = many(dilation, 2), many(stride, 2)
    to = (n, c, *kernel, down, right)
    return build.reshape(build(Strided(to, (c * h * w, h * w, dy * w, dx, sy * w, sx)), x), aten.shape)


def _block_diagonal(aten: AtenCall, build: Builder) -> Value:
    rows, left = [], 0
    for one in aten.arguments[0]:
        block = build.reshape(converted(build, one, aten), (1, *one.shape)[-2:] if one.shape else (1, 1))
        right = aten.shape[1] - left - block.shape[1]
        rows.append(padded(build, block, (0, left), (0, right)))
        left += block.shape[1]
    return joined(build, rows, 0)


LOWERINGS: Mapping[str, Lowering] = {
    "T": _reversed,
    "adjoint": _matrix_transpose,
    "block_diag": _block_diagonal,
    "channel_shuffle": _channel_shuffle,
    "diag_embed": _diagonal_embedding,
    "diagonal": _diagonal,
    "flip": _flip,
    "fliplr": _flip,
    "flipud": _flip,
    "glu": _gated,
    "im2col": _image_columns,
    "mH": _matrix_transpose,
    "mT": _matrix_transpose,
    "matrix_H": _reversed,
    "moveaxis": _move_axes,
    "movedim": _move_axes,
    "native_channel_shuffle": _channel_shuffle,
    "numpy_T": _reversed,
    "permute": _permute,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "roll": _roll,
    "rot90": _turn,
    "swapaxes": _transpose,
    "swapdims": _transpose,
    "t": _reversed,
    "transpose": _transpose,
    "tril": _triangle(lower=True),
    "triu": _triangle(lower=False),
    "unfold": _windows,
}
