"""Matrix products in ATen."""

from collections.abc import Mapping
from math import prod

from cloud.compiler.expr import Arg, Expr, Fn, call
from cloud.compiler.ir import Value
from cloud.compiler.lowering import attention, einsum
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.reduce import Reduce, ReduceKind


def matmul(build: Builder, x: Value, y: Value) -> Value:
    """numpy's and torch's ``x @ y``: vectors and matrices, batches broadcast."""
    if len(y.shape) > 1:
        return build(MatMul(rows=False), x, y)
    if len(x.shape) == 2:
        return build(MatMul(), y, x)
    product = build(MatMul(), x, build.reshape(y, (1, *y.shape)))
    return build.reshape(product, product.shape[:-1])


def _linear(aten: AtenCall, build: Builder) -> Value:
    x, w, bias = aten.argument(0), aten.argument(1), aten.argument(2, "bias")
    y = matmul(build, x, w) if len(w.shape) == 1 else build(MatMul(), x, w)
    return y if bias is None else build.pointwise(call(Fn.ADD, Arg(0), Arg(1)), y, bias)


def _matmul(aten: AtenCall, build: Builder) -> Value:
    return matmul(build, aten.arguments[0], aten.arguments[1])


def _added(aten: AtenCall, build: Builder) -> Value:
    """addmm, baddbmm, addmv: beta * input + alpha * (x @ y)."""
    base, x, y = aten.arguments[:3]
    return _sum(aten, build, base, matmul(build, x, y))


def _sum(aten: AtenCall, build: Builder, base: Value, product: Value) -> Value:
    alpha, beta = aten.argument(4, "alpha", 1), aten.argument(3, "beta", 1)
    scaled = _times(Arg(0), alpha)
    if beta == 0:  # torch: NaN and infinity in the input are then ignored
        return build.pointwise(scaled, product)
    return build.pointwise(call(Fn.ADD, scaled, _times(Arg(1), beta)), product, base)


def _times(x: Expr, factor: float) -> Expr:
    return x if factor == 1 else call(Fn.MUL, x, float(factor))


def _added_outer(aten: AtenCall, build: Builder) -> Value:
    base, x, y = aten.arguments[:3]
    return _sum(aten, build, base, _columns_times_row(build, x, y))


def _added_batch(aten: AtenCall, build: Builder) -> Value:
    """addbmm: the products of a batch are summed, which is one product of a longer depth."""
    base, x, y = aten.arguments[:3]
    batch, rows, depth = x.shape
    wide = build.reshape(build.permute(x, (1, 0, 2)), (rows, batch * depth))
    long = build.reshape(y, (batch * depth, y.shape[-1]))
    return _sum(aten, build, base, matmul(build, wide, long))


def _outer(aten: AtenCall, build: Builder) -> Value:
    return _columns_times_row(build, aten.arguments[0], aten.arguments[1])


def _columns_times_row(build: Builder, x: Value, y: Value) -> Value:
    column = build.reshape(x, (*x.shape, 1))
    return build.pointwise(call(Fn.MUL, Arg(0), Arg(1)), column, y)


def _inner(aten: AtenCall, build: Builder) -> Value:
    """Along the last axis of both, for all pairs of the other axes."""
    x, y = aten.arguments[:2]
    if not x.shape or not y.shape:
        return build.pointwise(call(Fn.MUL, Arg(0), Arg(1)), x, y)
    rows = build.reshape(x, (prod(x.shape[:-1]), x.shape[-1]))
    columns = build.reshape(y, (prod(y.shape[:-1]), y.shape[-1]))
    return build.reshape(build(MatMul(), rows, columns), aten.shape)


def _vecdot(aten: AtenCall, build: Builder) -> Value:
    x, y = aten.arguments[:2]
    product = build.pointwise(call(Fn.MUL, Arg(0), Arg(1)), x, y)
    axis = aten.argument(2, "dim", -1) % len(product.shape)
    return build(Reduce(ReduceKind.SUM, (axis,)), product)


def _tensordot(aten: AtenCall, build: Builder) -> Value:
    x, y, x_axes, y_axes = aten.arguments[:4]
    x_axes = [axis % len(x.shape) for axis in x_axes]
    y_axes = [axis % len(y.shape) for axis in y_axes]
    x_kept = [axis for axis in range(len(x.shape)) if axis not in x_axes]
    y_kept = [axis for axis in range(len(y.shape)) if axis not in y_axes]
    depth = prod(x.shape[axis] for axis in x_axes)
    rows = build.reshape(build.permute(x, (*x_kept, *x_axes)), (prod(x.shape) // depth, depth))
    columns = build.reshape(build.permute(y, (*y_axes, *y_kept)), (depth, prod(y.shape) // depth))
    flat = matmul(build, rows, columns)
    return build.reshape(flat, aten.shape)


def _bilinear(aten: AtenCall, build: Builder) -> Value:
    """y[n, o] = sum over i, j of x[n, i] * w[o, i, j] * z[n, j]: one product with all pairs of x and z."""
    x, z, w = aten.arguments[:3]
    bias = aten.argument(3, "bias")
    left = build.reshape(x, (*x.shape, 1))
    right = build.reshape(z, (*z.shape[:-1], 1, z.shape[-1]))
    pairs = build.pointwise(call(Fn.MUL, Arg(0), Arg(1)), left, right)
    flat = build.reshape(pairs, (*x.shape[:-1], x.shape[-1] * z.shape[-1]))
    y = build(MatMul(), flat, build.reshape(w, (w.shape[0], w.shape[1] * w.shape[2])))
    return y if bias is None else build.pointwise(call(Fn.ADD, Arg(0), Arg(1)), y, bias)


def _chain(aten: AtenCall, build: Builder) -> Value:
    first, *rest = aten.arguments[0]
    for one in rest:
        first = matmul(build, first, one)
    return build.reshape(first, aten.shape)


LOWERINGS: Mapping[str, Lowering] = {
    "addbmm": _added_batch,
    "addmm": _added,
    "addmv": _added,
    "addr": _added_outer,
    "baddbmm": _added,
    "bilinear": _bilinear,
    "bmm": _matmul,
    "dot": _matmul,
    "einsum": einsum.lower_einsum,
    "ger": _outer,
    "inner": _inner,
    "linalg_multi_dot": _chain,
    "linalg_vecdot": _vecdot,
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "mv": _matmul,
    "outer": _outer,
    "scaled_dot_product_attention": attention.lower_attention,
    "tensordot": _tensordot,
    "vdot": _matmul,
}
