"""Kernels of :mod:`cloud.compiler.ops.movement`: most of them are one or several strided copies."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

from cloud.compiler.ir import Node
from cloud.compiler.kernels import gather
from cloud.compiler.kernels.cast import Cast as CastSpec
from cloud.compiler.kernels.cast import cast_kernel
from cloud.compiler.kernels.copy import Axis, Copy, copy_kernel, strides
from cloud.compiler.kernels.pad import pad_kernel
from cloud.compiler.ops.movement import Cast, Concat, Expand, Flip, Pad, Permute, Reshape, Slice, Strided
from cloud.compiler.wat import Function, Kernel, get
from shared.abi import ITEM_BYTES


def _nothing(_: Node) -> None:
    """The plan gives both one address."""
    return


def _permute(node: Node) -> Kernel:
    assert isinstance(node.op, Permute)
    steps = strides(node.operands[0].shape)
    return _taken(node, [steps[axis] for axis in node.op.axes])


def _slice(node: Node) -> Kernel:
    assert isinstance(node.op, Slice)
    steps = list(strides(node.operands[0].shape))
    offset = node.op.start * steps[node.op.axis]
    steps[node.op.axis] *= node.op.step
    return _taken(node, steps, offset)


def _expand(node: Node) -> Kernel:
    (x,) = node.operands
    missing = len(node.result.shape) - len(x.shape)
    steps = [step if size > 1 else 0 for size, step in zip(x.shape, strides(x.shape), strict=True)]
    return _taken(node, [0] * missing + steps)


def _flip(node: Node) -> Kernel:
    assert isinstance(node.op, Flip)
    shape, steps = node.result.shape, list(strides(node.result.shape))
    offset = sum((shape[axis] - 1) * steps[axis] for axis in node.op.axes)
    for axis in node.op.axes:
        steps[axis] = -steps[axis]
    return _taken(node, steps, offset)


def _strided(node: Node) -> Kernel:
    assert isinstance(node.op, Strided)
    return _taken(node, node.op.steps, node.op.offset)


def _taken(node: Node, steps: Sequence[int], offset: int = 0) -> Kernel:
    """The result's positions in row-major order, each axis with its step in the operand."""
    shape = node.result.shape
    return copy_kernel(Copy(tuple(map(Axis, shape, steps, strides(shape))), offset), _width(node))


def _width(node: Node) -> int:
    """Bytes of one number: 4, but 8 or 1 at the border."""
    return ITEM_BYTES[node.result.dtype]


def _concat(node: Node) -> Kernel:
    """One strided copy for each operand; those of one size share a function."""
    assert isinstance(node.op, Concat)
    axis, total = node.op.axis, prod(node.result.shape[node.op.axis :])
    runs = [prod(one.shape[axis:]) for one in node.operands]
    outer = prod(node.result.shape[:axis])
    width = _width(node)
    f = Function(
        f"concat{8 * width}_{outer}_{'_'.join(map(str, runs))}", [*(f"x{i}" for i in range(len(runs))), "y"]
    )
    helpers = []
    for index, run in enumerate(runs):
        helpers.append(copy_kernel(Copy((Axis(outer, run, total), Axis(run, 1, 1))), width))
        f.emit(f"(call ${helpers[-1].name} {get(f'x{index}')} {get('y')})")
        f.advance("y", run * width)
    return f.kernel(helpers=helpers)


def _pad(node: Node) -> Kernel:
    assert isinstance(node.op, Pad)
    return pad_kernel(node.operands[0].shape, node.op, node.result.dtype)


def _cast(node: Node) -> Kernel | None:
    (x,) = node.operands
    if x.dtype == node.result.dtype:
        return copy_kernel(Copy((Axis(prod(x.shape), 1, 1),)), _width(node))
    return cast_kernel(CastSpec(prod(x.shape), x.dtype, node.result.dtype))


EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {
    Cast: _cast,
    Concat: _concat,
    Expand: _expand,
    Flip: _flip,
    Pad: _pad,
    Permute: _permute,
    Reshape: _nothing,
    Slice: _slice,
    Strided: _strided,
    **gather.EMITTERS,
}
