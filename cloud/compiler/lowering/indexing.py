"""ATen operators whose positions are numbers themselves: lookups, advanced indexing, scatters.

Several index arrays of neighbouring axes become one: x[i, j] of an array [n, m] is element i * m + j of the
array [n * m]. Each index is brought inside its own axis first, so that a wrong one can't reach another row.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from cloud.compiler.expr import TRUTHS, Arg, Call, Expr, Fn, Number, call
from cloud.compiler.ir import Value
from cloud.compiler.lowering import bags
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.pieces import axis_of, converted, expanded, taken
from cloud.compiler.ops.indexing import Gather, PutAlong, Scatter, TakeAlong
from cloud.compiler.ops.movement import Cast, Concat, Expand, Flip, Permute, Reshape, Slice
from cloud.compiler.ops.pointwise import Pointwise


def _index_select(aten: AtenCall, build: Builder) -> Value:
    x, axis, indices = aten.arguments[0], axis_of(aten, 1), aten.argument(2, "index")
    return build(Gather(axis), x, build.reshape(indices, (prod(indices.shape),)))


def _embedding(aten: AtenCall, build: Builder) -> Value:
    """Rows of a table. ``padding_idx`` matters for gradients only."""
    return build(Gather(0), *aten.arguments[:2])


def _take(aten: AtenCall, build: Builder) -> Value:
    x, indices = aten.arguments[:2]
    return build(Gather(0), build.reshape(x, (prod(x.shape),)), indices)


def _gather(aten: AtenCall, build: Builder) -> Value:
    return build(TakeAlong(axis_of(aten, 1)), aten.arguments[0], aten.argument(2, "index"))


def _take_along(aten: AtenCall, build: Builder) -> Value:
    x, indices, axis = aten.arguments[0], aten.arguments[1], aten.argument(2, "dim")
    if axis is None:
        x, indices = (build.reshape(one, (prod(one.shape),)) for one in (x, indices))
        return build(TakeAlong(0), x, indices)
    axis %= len(x.shape)
    own = (x.shape[axis], indices.shape[axis])
    shapes = ((*one.shape[:axis], 1, *one.shape[axis + 1 :]) for one in (x, indices))
    common = np.broadcast_shapes(*shapes)
    x, indices = (
        expanded(build, one, (*common[:axis], size, *common[axis + 1 :]))
        for one, size in zip((x, indices), own, strict=True)
    )
    return build(TakeAlong(axis), x, indices)


def _index(aten: AtenCall, build: Builder) -> Value:
    """``x[:, i, j]``. Index arrays with a gap between them put their axes in front, as in torch and numpy."""
    x, front, flat = _merged(aten, build, aten.arguments[0], aten.arguments[1])
    return build(Gather(front), x, flat)


def _index_put(aten: AtenCall, build: Builder) -> Value:
    x, indices, source = aten.arguments[:3]
    add = bool(aten.argument(3, "accumulate", False))
    if not add and (mask := _mask(aten, build, x, indices)):
        return _masked_put(aten, build, mask, source)
    if [one for one in indices if one is not None] and not _adjacent(indices):
        raise aten.refuse("index neighbouring axes, or permute first")
    merged, front, flat = _merged(aten, build, x, indices)
    shape = Gather(front).shape(merged.shape, flat.shape)
    put = build(Scatter(front, add), merged, flat, expanded(build, converted(build, source, aten), shape))
    return build.reshape(put, aten.shape)


def _mask(aten: AtenCall, build: Builder, x: Value, indices: Sequence[Value | None]) -> Value | None:
    """The index, if it is an array of truth values; inside they are integers like any others."""
    (first, *rest) = indices
    if first is None or rest or not first.shape or first.shape != x.shape[: len(first.shape)]:
        return None
    truth = _is_truth(build, first)
    if truth is None:
        raise aten.refuse("write torch.where(mask, value, x); for indices, use scatter or index_copy")
    return first if truth else None


def _is_truth(build: Builder, value: Value) -> bool | None:
    """Whether torch's array is of truth values, as far as the nodes that made it tell."""
    maker = next((one for one in build.nodes if one.result.name == value.name), None)
    constant = next((one for one in build.constants if one.value.name == value.name), None)
    match maker.op if maker else None:
        case None:
            return None if constant and set(constant.array().flat) <= {0, 1} else False
        case Pointwise(Call(fn, _)):
            return fn in TRUTHS or None
        case Cast():
            return maker is not None and maker.operands[0].dtype == "bool"
        case Reshape() | Permute() | Slice() | Expand() | Concat() | Flip() | Gather():
            return _is_truth(build, maker.operands[0]) if maker else None
        case _:
            return None


def _masked_put(aten: AtenCall, build: Builder, mask: Value, source: Value) -> Value:
    x = aten.arguments[0]
    if prod(source.shape) != 1:
        raise aten.refuse("put one number, or write torch.where(mask, values, x)")
    wide = build.reshape(mask, (*mask.shape, *(1,) * (len(x.shape) - len(mask.shape))))
    number = build.reshape(converted(build, source, aten), ())
    return build.pointwise(call(Fn.WHERE, Arg(0), Arg(1), Arg(2)), wide, number, x)


def _adjacent(indices: Sequence[Value | None]) -> bool:
    places = [axis for axis, one in enumerate(indices) if one is not None]
    return places == list(range(places[0], places[-1] + 1))


def _merged(
    aten: AtenCall, build: Builder, x: Value, indices: Sequence[Value | None]
) -> tuple[Value, int, Value]:
    """x with the indexed axes as one, that axis, and one index array for it."""
    places = [axis for axis, one in enumerate(indices) if one is not None]
    arrays = [one for one in indices if one is not None]
    if not arrays:
        raise aten.refuse("index with at least one array")
    front = places[0]
    if not _adjacent(indices):
        rest = [axis for axis in range(len(x.shape)) if axis not in places]
        x, front = build.permute(x, (*places, *rest)), 0
    sizes = x.shape[front : front + len(arrays)]
    merged = build.reshape(x, (*x.shape[:front], prod(sizes), *x.shape[front + len(arrays) :]))
    if len(arrays) == 1:
        return merged, front, arrays[0]
    terms = [
        call(Fn.MUL, _inside(Arg(index), size), Number(prod(sizes[index + 1 :]), "i32"))
        for index, size in enumerate(sizes)
    ]
    flat: Expr = terms[0]
    for term in terms[1:]:
        flat = call(Fn.ADD, flat, term)
    return merged, front, build.pointwise(flat, *arrays)


def _inside(index: Expr, size: int) -> Expr:
    """As :func:`cloud.compiler.ops.indexing.inside`."""
    zero, wrapped = Number(0, "i32"), call(Fn.ADD, index, Number(size, "i32"))
    found = call(Fn.WHERE, call(Fn.LT, index, zero), wrapped, index)
    return call(Fn.MIN, call(Fn.MAX, found, zero), Number(size - 1, "i32"))


def _scatter(add: bool) -> Lowering:
    """``scatter(x, dim, index, src or value)``, ``scatter_add``, ``scatter_reduce(.., "sum")``."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        x, axis, indices = aten.arguments[0], axis_of(aten, 1), aten.argument(2, "index")
        source = aten.argument(3, "src", aten.argument(3, "value"))
        if aten.argument(4, "reduce", "sum") != "sum" or not aten.argument(5, "include_self", True):
            raise aten.refuse("scatter_add and plain scatter are covered")
        source = _source(aten, build, source, indices.shape)
        return build(PutAlong(axis, add), x, indices, source)

    return lowering


def _source(aten: AtenCall, build: Builder, source: Value | float, shape: Sequence[int]) -> Value:
    """What is put: an array cut to the indices' shape, or one number, repeated."""
    if not isinstance(source, Value):
        number = np.asarray(source, np.float32 if aten.dtype == "f32" else np.int32)
        return expanded(build, build.constant(number), shape)
    for axis, size in enumerate(shape):
        source = taken(build, source, axis, 0, size)
    return converted(build, source, aten)


def _index_add(add: bool) -> Lowering:
    """``index_add(x, dim, index, source, alpha)`` and ``index_copy``."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        x, axis, indices, source = aten.arguments[0], axis_of(aten, 1), *aten.arguments[2:4]
        alpha = aten.argument(4, "alpha", 1)
        if alpha != 1:
            source = build.pointwise(call(Fn.MUL, Arg(0), Number(alpha, source.dtype)), source)
        indices = build.reshape(indices, (prod(indices.shape),))
        return build(Scatter(axis, add), x, indices, source)

    return lowering


def _index_fill(aten: AtenCall, build: Builder) -> Value:
    x, axis, indices, value = aten.arguments[0], axis_of(aten, 1), *aten.arguments[2:4]
    indices = build.reshape(indices, (prod(indices.shape),))
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    if isinstance(value, Value):
        return build(Scatter(axis), x, indices, expanded(build, converted(build, value, aten), shape))
    return build(Scatter(axis), x, indices, _source(aten, build, value, shape))


def _slice_scatter(aten: AtenCall, build: Builder) -> Value:
    """x with a slice replaced: what ``x[:, 1:3] = y`` becomes."""
    x, source, axis = aten.arguments[0], aten.arguments[1], axis_of(aten, 2)
    limits = slice(aten.argument(3, "start"), aten.argument(4, "end"), aten.argument(5, "step", 1))
    return _replaced(build, x, converted(build, source, aten), axis, range(x.shape[axis])[limits])


def _select_scatter(aten: AtenCall, build: Builder) -> Value:
    x, source, axis, index = aten.arguments[0], aten.arguments[1], axis_of(aten, 2), aten.arguments[3]
    index %= x.shape[axis]
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    one = build.reshape(converted(build, source, aten), shape)
    return _replaced(build, x, one, axis, range(index, index + 1))


def _replaced(build: Builder, x: Value, source: Value, axis: int, places: range) -> Value:
    if len(places) == x.shape[axis]:
        return source
    return build(Scatter(axis), x, build.constant(np.array(places)), source)


def _one_hot(aten: AtenCall, build: Builder) -> Value:
    """``one_hot(x, num_classes)``; without a number of classes torch refuses to trace."""
    x, classes = aten.arguments[0], build.constant(np.arange(aten.arguments[1]))
    return build.pointwise(call(Fn.EQ, Arg(0), Arg(1)), build.reshape(x, (*x.shape, 1)), classes)


LOWERINGS: Mapping[str, Lowering] = {
    "embedding": _embedding,
    "gather": _gather,
    "index": _index,
    "index_add": _index_add(add=True),
    "index_copy": _index_add(add=False),
    "index_fill": _index_fill,
    "index_put": _index_put,
    "index_select": _index_select,
    "one_hot": _one_hot,
    "scatter": _scatter(add=False),
    "scatter_add": _scatter(add=True),
    "scatter_reduce": _scatter(add=True),
    "select_scatter": _select_scatter,
    "slice_scatter": _slice_scatter,
    "take": _take,
    "take_along_dim": _take_along,
    **bags.LOWERINGS,
}
