"""What the lowerings of several families write: a slice, a join, a broadcast, a border, a conversion."""

from collections.abc import Sequence

from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.ir import Shape, Value
from cloud.compiler.lowering.call import AtenCall, Builder
from cloud.compiler.ops.movement import Concat, Expand, Pad, Slice


def axis_of(aten: AtenCall, position: int, name: str = "dim", default: int = 0) -> int:
    """An axis argument of the first operand, counted from the front."""
    axis: int = aten.argument(position, name, default)
    return axis % max(len(aten.arguments[0].shape), 1)


def many(given: int | Sequence[int], count: int = 1) -> tuple[int, ...]:
    """A number or a list, as torch takes sizes: always a tuple, a single number ``count`` times."""
    numbers = (given,) if isinstance(given, int) else tuple(given)
    return numbers * count if len(numbers) == 1 else numbers


def taken(build: Builder, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """Part of an axis; x itself when it is all of it."""
    whole = (start, stop, step) == (0, x.shape[axis], 1)
    return x if whole else build(Slice(axis, start, stop, step), x)


def joined(build: Builder, pieces: Sequence[Value], axis: int) -> Value:
    """Arrays one after another."""
    return pieces[0] if len(pieces) == 1 else build(Concat(axis), *pieces)


def expanded(build: Builder, x: Value, shape: Sequence[int]) -> Value:
    """x broadcast to a shape. Axes of size one are a reshape."""
    to: Shape = tuple(shape)
    if sum(one != 1 for one in x.shape) == sum(one != 1 for one in to):
        return build.reshape(x, to)
    return build(Expand(to), x)


def padded(
    build: Builder, x: Value, before: Sequence[int], after: Sequence[int], value: float = 0.0
) -> Value:
    """``value`` around x; a negative width cuts off."""
    for axis, (front, back) in enumerate(zip(before, after, strict=True)):
        x = taken(build, x, axis, max(-front, 0), x.shape[axis] - max(-back, 0))
    fronts, backs = tuple(max(one, 0) for one in before), tuple(max(one, 0) for one in after)
    return build(Pad(fronts, backs, value), x) if any((*fronts, *backs)) else x


def converted(build: Builder, x: Value, aten: AtenCall) -> Value:
    """x in the dtype that the call's result has inside: f32 or i32."""
    wanted = "f32" if aten.dtype == "f32" else "i32"
    if x.dtype == wanted:
        return x
    return build.pointwise(call(Fn.TO_F32 if wanted == "f32" else Fn.TO_I32, Arg(0)), x)
