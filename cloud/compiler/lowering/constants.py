"""Arrays that depend on nothing: zeros, ones, ranges. One number is kept, and repeated by ``prepare``."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.elements import inside, number
from cloud.compiler.ops.movement import Expand

_NUMPY = {"f32": np.float32, "i32": np.int32}


def filled(build: Builder, shape: tuple[int, ...], value: Any, dtype: str) -> Value:
    """An array of one number. ``value``: a number, or an array of no axes."""
    if not isinstance(value, Value):
        value = build.constant(np.asarray(number(value, dtype).value, _NUMPY[dtype]))
    return value if value.shape == shape else build(Expand(shape), value)


def _full(position: int) -> Lowering:
    def lower(aten: AtenCall, build: Builder) -> Value:
        value = aten.argument(position, "fill_value", aten.argument(position, "value"))
        return filled(build, aten.shape, value, inside(aten.dtype))

    return lower


def _always(value: float) -> Callable[[AtenCall, Builder], Value]:
    def lower(aten: AtenCall, build: Builder) -> Value:
        return filled(build, aten.shape, value, inside(aten.dtype))

    return lower


def _scalar(aten: AtenCall, build: Builder) -> Value:
    return filled(build, (), aten.arguments[0], inside(aten.dtype))


def _arange(aten: AtenCall, build: Builder) -> Value:
    numbers = np.arange(*aten.arguments[:3])
    return build.constant(numbers.astype(_NUMPY[inside(aten.dtype)]))


def _triangle(lower: bool) -> Lowering:
    """``tril_indices(rows, columns, offset)``: the places of a triangle, row by row."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        rows, columns = aten.arguments[:2]
        offset = aten.argument(2, "offset", 0)
        cut = np.tril if lower else np.triu
        return build.constant(np.stack(np.nonzero(cut(np.ones((rows, columns), np.int32), offset))))

    return lowering


LOWERINGS: Mapping[str, Lowering] = {
    "arange": _arange,
    "empty": _always(0),
    "empty_like": _always(0),
    "fill": _full(1),
    "full": _full(1),
    "full_like": _full(1),
    "empty_strided": _always(0),
    "new_empty": _always(0),
    "new_empty_strided": _always(0),
    "new_full": _full(2),
    "new_ones": _always(1),
    "new_zeros": _always(0),
    "ones": _always(1),
    "ones_like": _always(1),
    "scalar_tensor": _scalar,
    "tril_indices": _triangle(lower=True),
    "triu_indices": _triangle(lower=False),
    "zeros": _always(0),
    "zeros_like": _always(0),
}
