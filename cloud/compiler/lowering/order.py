"""ATen operators that sort: all of an axis, its first places, its middle."""

from collections.abc import Mapping
from math import prod

from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.norm import along
from cloud.compiler.lowering.pieces import taken
from cloud.compiler.ops.indexing import TakeAlong
from cloud.compiler.ops.order import ArgSort
from cloud.compiler.ops.reduce import ReduceKind

_Sorted = tuple[Value, Value]  # numbers and positions


def _sort(aten: AtenCall, build: Builder) -> _Sorted:
    """``sort(x, dim, descending)``, ``sort.stable(x, stable, dim, descending)``: always stable."""
    at = 2 if aten.operator.endswith("stable") else 1
    descending = bool(aten.argument(at + 1, "descending", False))
    return _sorted(build, aten.arguments[0], aten.argument(at, "dim", -1), descending)


def _top(aten: AtenCall, build: Builder) -> _Sorted:
    """``topk(x, k, dim, largest, sorted)``: always sorted."""
    x, count, axis = aten.arguments[0], aten.arguments[1], aten.argument(2, "dim", -1)
    return _sorted(build, x, axis, bool(aten.argument(3, "largest", True)), slice(0, count))


def _kth(aten: AtenCall, build: Builder) -> _Sorted:
    """``kthvalue(x, k, dim, keepdim)``: the k-th smallest."""
    place = slice(aten.arguments[1] - 1, aten.arguments[1])
    values, positions = _sorted(build, aten.arguments[0], aten.argument(2, "dim", -1), False, place)
    return build.reshape(values, aten.shape), build.reshape(positions, aten.shape)


def _median(aten: AtenCall, build: Builder) -> Value | _Sorted:
    """``median(x)``, ``median(x, dim, keepdim)``: of an even number the lower one; NaN if there is any."""
    x, axis = aten.arguments[0], aten.argument(1, "dim")
    if axis is None:
        x = build.reshape(x, (prod(x.shape),))
    size = x.shape[axis or 0]
    middle = slice((size - 1) // 2, (size - 1) // 2 + 1)
    values, positions = _sorted(build, x, axis or 0, False, middle)
    if x.dtype == "f32":
        last, there = _sorted(build, x, axis or 0, False, slice(size - 1, size))
        unknown = call(Fn.NE, Arg(0), Arg(0))
        positions = build.pointwise(call(Fn.WHERE, unknown, Arg(1), Arg(2)), last, there, positions)
        values = build.pointwise(call(Fn.WHERE, unknown, Arg(0), Arg(1)), last, values)
    values = build.reshape(values, aten.shape)
    return values if axis is None else (values, build.reshape(positions, aten.shape))


def _bucketize(aten: AtenCall, build: Builder) -> Value:
    """``bucketize(x, boundaries, out_int32, right)``: how many boundaries are below (``right``: up to) x."""
    right = bool(aten.argument(3, "right", False))
    return _buckets(aten, build, aten.arguments[0], aten.arguments[1], right)


def _search(aten: AtenCall, build: Builder) -> Value:
    """``searchsorted(boundaries, x, out_int32, right, side)``, of one row of boundaries."""
    boundaries, x = aten.arguments[:2]
    right = bool(aten.argument(3, "right", False)) or aten.argument(4, "side") == "right"
    if len(boundaries.shape) != 1 or aten.argument(5, "sorter") is not None:
        raise aten.refuse("one sorted row of boundaries for all numbers is covered")
    return _buckets(aten, build, x, boundaries, right)


def _buckets(aten: AtenCall, build: Builder, x: Value | float, boundaries: Value, right: bool) -> Value:
    if not isinstance(x, Value):
        raise aten.refuse("give the number as an array")
    wide = build.reshape(x, (*x.shape, 1))
    counted = build.pointwise(call(Fn.LE if right else Fn.LT, Arg(0), Arg(1)), boundaries, wide)
    return along(build, ReduceKind.SUM, counted, (len(x.shape),))


def _sorted(build: Builder, x: Value, axis: int, descending: bool, places: slice = slice(None)) -> _Sorted:
    """Numbers and positions along an axis, or those of some places of the order."""
    if not x.shape:
        values, positions = _sorted(build, build.reshape(x, (1,)), 0, descending, places)
        return build.reshape(values, ()), build.reshape(positions, ())
    last = len(x.shape) - 1
    axes = [one for one in range(last + 1) if one != axis % (last + 1)] + [axis % (last + 1)]
    turned = build.permute(x, axes)
    start, stop, _ = places.indices(turned.shape[-1])
    positions = taken(build, build(ArgSort(descending), turned), last, start, stop)
    back = [axes.index(one) for one in range(last + 1)]
    values = build(TakeAlong(last), turned, positions)
    return build.permute(values, back), build.permute(positions, back)


LOWERINGS: Mapping[str, Lowering] = {
    "bucketize": _bucketize,
    "kthvalue": _kth,
    "median": _median,
    "searchsorted": _search,
    "sort": _sort,
    "topk": _top,
}
