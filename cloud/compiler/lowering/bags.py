"""Bags of rows of a table: ``nn.EmbeddingBag`` over a matrix, one bag to a row."""

from collections.abc import Mapping
from math import prod

import numpy as np

from cloud.compiler.expr import Arg, Call, Fn, Number, call
from cloud.compiler.ir import Array, Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.norm import along
from cloud.compiler.ops.indexing import Gather
from cloud.compiler.ops.reduce import ReduceKind

_KINDS = (ReduceKind.SUM, ReduceKind.MEAN, ReduceKind.MAX)
_PRODUCT = call(Fn.MUL, Arg(0), Arg(1))


def _bags(aten: AtenCall, build: Builder) -> tuple[Value]:
    """``embedding_bag(w, indices, offsets, scale, mode, sparse, weights, include_last, padding_idx)``.

    Torch gives all indices in one row and says where each bag starts. The other results are for gradients.
    """
    table, indices, offsets = aten.arguments[:3]
    kind, weights = _KINDS[aten.argument(4, "mode", 0)], aten.argument(6, "per_sample_weights")
    length = _length(aten, _constant(build, offsets), prod(indices.shape))
    indices = build.reshape(indices, (prod(indices.shape) // length, length))
    rows = build(Gather(0), table, indices)
    padding = aten.argument(8, "padding_idx")
    if padding is not None and padding >= 0:
        if kind is ReduceKind.MAX:
            raise aten.refuse("the maximum of a bag with padding: mask the rows and use amax")
        return (_known_rows(build, kind, rows, indices, (padding, weights)),)
    if weights is not None:
        rows = build.pointwise(_PRODUCT, rows, build.reshape(weights, (*indices.shape, 1)))
    return (along(build, kind, rows, (1,)),)


def _known_rows(
    build: Builder, kind: ReduceKind, rows: Value, indices: Value, given: tuple[int, Value | None]
) -> Value:
    """The sum or mean of the rows that are no padding; 0 where there is none."""
    padding, weights = given
    known = build.pointwise(call(Fn.TO_F32, Call(Fn.NE, (Arg(0), Number(padding, "i32")))), indices)
    known = build.reshape(known, (*indices.shape, 1))
    share = build.pointwise(_PRODUCT, known, build.reshape(weights, known.shape)) if weights else known
    total = along(build, ReduceKind.SUM, build.pointwise(_PRODUCT, rows, share), (1,))
    if kind is ReduceKind.SUM:
        return total
    count = along(build, ReduceKind.SUM, known, (1,))
    return build.pointwise(call(Fn.DIV, Arg(0), call(Fn.MAX, Arg(1), 1.0)), total, count)


def _constant(build: Builder, value: Value) -> Array | None:
    return next((one.array() for one in build.constants if one.value.name == value.name), None)


def _length(aten: AtenCall, starts: Array | None, count: int) -> int:
    """Of every bag. Raises for bags that are not of one length."""
    if aten.argument(7, "include_last_offset", False) and starts is not None:
        starts = starts[:-1]
    length = count // starts.size if starts is not None and starts.size else 0
    if starts is None or not length or not np.array_equal(starts, np.arange(0, count, length)):
        raise aten.refuse("give the bags as a matrix of indices, one bag to a row, and no offsets")
    return length


LOWERINGS: Mapping[str, Lowering] = {"embedding_bag": _bags, "_embedding_bag": _bags}
