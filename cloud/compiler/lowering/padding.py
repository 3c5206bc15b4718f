"""Padding in ATen: by a number, or by what is inside, which is a lookup with constant positions."""

from collections.abc import Mapping

import numpy as np

from cloud.compiler.ir import Array, Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.pieces import many, padded
from cloud.compiler.ops.indexing import Gather


def _pad(aten: AtenCall, build: Builder) -> Value:
    """``pad(x, widths, mode, value)``: widths in pairs, the last axis first."""
    x: Value = aten.arguments[0]
    widths: tuple[int, ...] = aten.arguments[1]
    mode, value = aten.argument(2, "mode", "constant"), aten.argument(3, "value")
    rank = len(x.shape)
    before, after = [0] * rank, [0] * rank
    for index in range(len(widths) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = widths[2 * index : 2 * index + 2]
    if mode == "constant":
        return padded(build, x, before, after, float(value or 0))
    for axis, (front, back) in enumerate(zip(before, after, strict=True)):
        if front or back:
            x = build(Gather(axis), x, build.constant(_mirrored(x.shape[axis], front, back, mode)))
    return x


def _mirrored(size: int, front: int, back: int, mode: str) -> Array:
    """Where each position of the longer axis comes from."""
    at = np.arange(-front, size + back)
    match mode:
        case "reflect":
            period = max(2 * (size - 1), 1)
            at = np.abs((at + size - 1) % period - (size - 1))
        case "replicate":
            at = np.clip(at, 0, size - 1)
        case "circular":
            at = at % size
        case _:
            raise ValueError(f"mode {mode!r}")
    return at


def _padding(mode: str) -> Lowering:
    """``constant_pad_nd(x, widths, value)``, ``reflection_pad2d(x, widths)`` and their like."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        arguments = (aten.arguments[0], many(aten.arguments[1]), mode, aten.argument(2, "value", 0))
        return _pad(AtenCall(aten.operator, arguments, aten.shape, aten.source, {}, aten.dtype), build)

    return lowering


LOWERINGS: Mapping[str, Lowering] = {
    "_pad_circular": _padding("circular"),
    "constant_pad_nd": _padding("constant"),
    "pad": _pad,
    "reflection_pad1d": _padding("reflect"),
    "reflection_pad2d": _padding("reflect"),
    "reflection_pad3d": _padding("reflect"),
    "replication_pad1d": _padding("replicate"),
    "replication_pad2d": _padding("replicate"),
    "replication_pad3d": _padding("replicate"),
}
