"""ATen operators that move numbers and compute nothing.

Views cost nothing (a reshape has no code); slices, joins and repetitions are one strided copy each.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from cloud.compiler.ir import Shape, Value
from cloud.compiler.lowering import arrange, indexing, padding
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.pieces import axis_of, converted, expanded, joined, many, taken
from cloud.compiler.ops.movement import Pad


def _reshape(aten: AtenCall, build: Builder) -> Value:
    return build.reshape(aten.arguments[0], aten.shape)


def _same(aten: AtenCall, _: Builder) -> Value:
    value: Value = aten.arguments[0]
    return value


def _nothing(_: AtenCall, __: Builder) -> None:
    """A check that torch.export has made already."""
    return


def _dropout(aten: AtenCall, build: Builder) -> Value:
    if aten.argument(2, "train", False):
        raise aten.refuse("call it with training=self.training: inference has no randomness")
    return _same(aten, build)


def _native_dropout(aten: AtenCall, build: Builder) -> tuple[Value, ...]:
    """The second result is the mask."""
    return (_dropout(aten, build),)


def _slice(aten: AtenCall, build: Builder) -> Value:
    x, axis = aten.arguments[0], axis_of(aten, 1)
    start, stop, step = aten.argument(2, "start"), aten.argument(3, "end"), aten.argument(4, "step", 1)
    start, stop, step = slice(start, stop, step).indices(x.shape[axis])
    return taken(build, x, axis, start, stop, step)


def _select(aten: AtenCall, build: Builder) -> Value:
    x, axis = aten.arguments[0], axis_of(aten, 1)
    index = aten.arguments[2] % x.shape[axis]
    return build.reshape(taken(build, x, axis, index, index + 1), aten.shape)


def _narrow(aten: AtenCall, build: Builder) -> Value:
    x, axis, (start, length) = aten.arguments[0], axis_of(aten, 1), aten.arguments[2:4]
    start %= x.shape[axis]
    return taken(build, x, axis, start, start + length)


def _split(aten: AtenCall, build: Builder) -> tuple[Value, ...]:
    """Pieces of one size (the last may be smaller), or of the sizes given."""
    x, sizes, axis = aten.arguments[0], aten.arguments[1], axis_of(aten, 2)
    if isinstance(sizes, int):
        sizes = [min(sizes, x.shape[axis] - at) for at in range(0, x.shape[axis], sizes)]
    return _pieces(build, x, axis, sizes)


def _chunk(aten: AtenCall, build: Builder) -> tuple[Value, ...]:
    x, axis = aten.arguments[0], axis_of(aten, 2)
    size = -(-x.shape[axis] // aten.arguments[1])
    return _pieces(build, x, axis, [min(size, x.shape[axis] - at) for at in range(0, x.shape[axis], size)])


def _unbind(aten: AtenCall, build: Builder) -> tuple[Value, ...]:
    x, axis = aten.arguments[0], axis_of(aten, 1)
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return tuple(build.reshape(one, shape) for one in _pieces(build, x, axis, [1] * x.shape[axis]))


def _pieces(build: Builder, x: Value, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    stops = np.cumsum(sizes).tolist()
    return tuple(taken(build, x, axis, stop - size, stop) for size, stop in zip(sizes, stops, strict=True))


def _cat(aten: AtenCall, build: Builder) -> Value:
    pieces = [converted(build, one, aten) for one in aten.arguments[0]]
    return joined(build, pieces, aten.argument(1, "dim", 0) % len(aten.shape))


def _stack(aten: AtenCall, build: Builder) -> Value:
    axis = aten.argument(1, "dim", 0) % len(aten.shape)
    shape = (*aten.shape[:axis], 1, *aten.shape[axis + 1 :])
    pieces = [build.reshape(converted(build, one, aten), shape) for one in aten.arguments[0]]
    return joined(build, pieces, axis)


def _stacked(axis: int, view: Callable[[Shape], Shape]) -> Lowering:
    """hstack and its like: each array under another shape, then joined along ``axis`` (or the last)."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        arrays = [converted(build, one, aten) for one in aten.arguments[0]]
        pieces = [build.reshape(one, view(one.shape or (1,))) for one in arrays]
        return joined(build, pieces, min(axis, len(aten.shape) - 1))

    return lowering


def _expand(aten: AtenCall, build: Builder) -> Value:
    return expanded(build, aten.arguments[0], aten.shape)


def _copy(aten: AtenCall, build: Builder) -> Value:
    """The second array takes the place of the first."""
    return expanded(build, converted(build, aten.arguments[1], aten), aten.shape)


def _broadcast(aten: AtenCall, build: Builder) -> tuple[Value, ...]:
    shape = np.broadcast_shapes(*(one.shape for one in aten.arguments[0]))
    return tuple(expanded(build, one, shape) for one in aten.arguments[0])


def _repeat(aten: AtenCall, build: Builder) -> Value:
    """[a, b] repeated (r, s) times is [1, a, 1, b] expanded to [r, a, s, b]."""
    x, repeats = aten.arguments[0], tuple(many(aten.arguments[1]))
    rank = max(len(x.shape), len(repeats))
    sizes = (*(1,) * (rank - len(x.shape)), *x.shape)
    repeats = (*(1,) * (rank - len(repeats)), *repeats)
    apart = build.reshape(x, [one for size in sizes for one in (1, size)])
    pairs = [one for pair in zip(repeats, sizes, strict=True) for one in pair]
    return build.reshape(expanded(build, apart, pairs), aten.shape)


def _repeat_each(aten: AtenCall, build: Builder) -> Value:
    x, repeats, axis = aten.arguments[0], aten.argument(1, "repeats"), aten.argument(2, "dim")
    if not isinstance(repeats, int):
        raise aten.refuse("repeat every element equally often, or use index_select with constant indices")
    if axis is None:
        x, axis = build.reshape(x, (prod(x.shape),)), 0
    axis %= len(x.shape)
    front, back = x.shape[: axis + 1], x.shape[axis + 1 :]
    apart = build.reshape(x, (*front, 1, *back))
    return build.reshape(expanded(build, apart, (*front, repeats, *back)), aten.shape)


def _meshgrid(aten: AtenCall, build: Builder) -> tuple[Value, ...]:
    arrays = list(aten.arguments[0])
    sizes = [prod(one.shape) for one in arrays]
    swap = aten.argument(1, "indexing", "ij") == "xy" and len(arrays) > 1
    places = list(range(len(arrays)))
    if swap:
        places[:2], sizes[:2] = [1, 0], sizes[1::-1]
    found = []
    for one, place in zip(arrays, places, strict=True):
        shape = [size if axis == place else 1 for axis, size in enumerate(sizes)]
        found.append(expanded(build, build.reshape(one, shape), sizes))
    return tuple(found)


def _eye(aten: AtenCall, build: Builder) -> Value:
    return build.constant(np.eye(*aten.shape, dtype=np.float32 if aten.dtype == "f32" else np.int32))


def _linspace(aten: AtenCall, build: Builder) -> Value:
    """As torch computes it, in float32: from both ends to the middle."""
    start, stop, count = aten.arguments[:3]
    if aten.dtype != "f32":
        raise aten.refuse("use torch.arange for integers")
    step = np.float32((stop - start) / max(count - 1, 1))
    index = np.arange(count, dtype=np.float32)
    rising, falling = np.float32(start) + step * index, np.float32(stop) - step * (count - 1 - index)
    return build.constant(np.where(index < count // 2, rising, falling) if count > 1 else rising)


def _slice_gradient(aten: AtenCall, build: Builder) -> Value:
    gradient, sizes, axis, start, stop, step = aten.arguments[:6]
    start, stop, step = slice(start, stop, step).indices(sizes[axis])
    if step != 1:
        raise aten.refuse("train with slices of step 1")
    rank = len(sizes)
    before = tuple(start if one == axis % rank else 0 for one in range(rank))
    after = tuple(size - front - own for size, front, own in zip(sizes, before, gradient.shape, strict=True))
    return build(Pad(before, after), gradient)


def _select_gradient(aten: AtenCall, build: Builder) -> Value:
    gradient, sizes, axis, index = aten.arguments[:4]
    axis, rank = axis % len(sizes), len(sizes)
    one = build.reshape(gradient, (*sizes[:axis], 1, *sizes[axis + 1 :]))
    before = tuple(index % sizes[axis] if other == axis else 0 for other in range(rank))
    after = tuple(size - front - own for size, front, own in zip(sizes, before, one.shape, strict=True))
    return build(Pad(before, after), one)


LOWERINGS: Mapping[str, Lowering] = {
    "_assert_async": _nothing,
    "_assert_scalar": _nothing,
    "_assert_tensor_metadata": _nothing,
    "_reshape_copy": _reshape,
    "_unsafe_view": _reshape,
    "alias": _same,
    "alpha_dropout": _dropout,
    "atleast_1d": _reshape,
    "atleast_2d": _reshape,
    "atleast_3d": _reshape,
    "broadcast_tensors": _broadcast,
    "broadcast_to": _expand,
    "cat": _cat,
    "chunk": _chunk,
    "clone": _same,
    "column_stack": _stacked(1, lambda shape: shape if len(shape) > 1 else (*shape, 1)),
    "concat": _cat,
    "concatenate": _cat,
    "contiguous": _same,
    "copy": _copy,
    "detach": _same,
    "dropout": _dropout,
    "dstack": _stacked(
        2, lambda shape: (1, *shape, 1) if len(shape) == 1 else (*shape, *(1,) * (3 - len(shape)))
    ),
    "expand": _expand,
    "expand_as": _expand,
    "eye": _eye,
    "feature_alpha_dropout": _dropout,
    "feature_dropout": _dropout,
    "flatten": _reshape,
    "hstack": _stacked(1, lambda shape: shape),
    "lift_fresh_copy": _same,
    "linspace": _linspace,
    "meshgrid": _meshgrid,
    "narrow": _narrow,
    "native_dropout": _native_dropout,
    "ravel": _reshape,
    "repeat": _repeat,
    "repeat_interleave": _repeat_each,
    "reshape": _reshape,
    "reshape_as": _reshape,
    "select": _select,
    "select_backward": _select_gradient,
    "slice": _slice,
    "slice_backward": _slice_gradient,
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "sym_constrain_range": _nothing,
    "sym_constrain_range_for_size": _nothing,
    "tile": _repeat,
    "unbind": _unbind,
    "unflatten": _reshape,
    "unsqueeze": _reshape,
    "view": _reshape,
    "view_as": _reshape,
    "vstack": _stacked(0, lambda shape: (1, *shape) if len(shape) == 1 else shape),
    **arrange.LOWERINGS,
    **indexing.LOWERINGS,
    **padding.LOWERINGS,
}
