"""Lengths of vectors and distances between them."""

from collections.abc import Mapping
from math import inf

from cloud.compiler.expr import Arg, Expr, Fn, call
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.norm import along, axes_of
from cloud.compiler.ops.reduce import ReduceKind

_X, _Y = Arg(0), Arg(1)
_DIFFERENCE = call(Fn.SUB, _X, _Y)


def _vector_norm(aten: AtenCall, build: Builder) -> Value:
    """``linalg_vector_norm(x, ord, dim, keepdim)``, ``norm(x, p, dim, keepdim)``."""
    order = aten.argument(1, "ord", aten.argument(1, "p", 2))
    if not isinstance(order, int | float | None):
        raise aten.refuse("give the order as a number")
    axes = axes_of(aten.arguments[0], aten.argument(2, "dim"))
    keepdims = bool(aten.argument(3, "keepdim", False))
    return _norm(build, aten.arguments[0], 2.0 if order is None else float(order), axes, keepdims)


def _linalg_norm(aten: AtenCall, build: Builder) -> Value:
    """A vector's norm, or the Frobenius norm of a matrix; the other norms of matrices are refused."""
    order, axes = aten.argument(1, "ord"), axes_of(aten.arguments[0], aten.argument(2, "dim"))
    matrix = aten.argument(2, "dim") is not None and len(axes) == 2
    if order not in (None, "fro") and (matrix or len(axes) > 1 or isinstance(order, str)):
        raise aten.refuse("of the norms of matrices only the Frobenius norm is covered")
    keepdims = bool(aten.argument(3, "keepdim", False))
    return _norm(
        build, aten.arguments[0], float(order) if isinstance(order, int | float) else 2.0, axes, keepdims
    )


def _norm(build: Builder, x: Value, order: float, axes: tuple[int, ...], keepdims: bool) -> Value:
    size = call(Fn.ABS, _X)
    if order in (inf, -inf):
        kind = ReduceKind.MAX if order > 0 else ReduceKind.MIN
        return along(build, kind, build.pointwise(size, x), axes, keepdims)
    before, after = _POWERS.get(
        order, (call(Fn.POW, size, order), call(Fn.POW, _X, 1 / order if order else 1.0))
    )
    total = along(build, ReduceKind.SUM, build.pointwise(before, x), axes, keepdims)
    return total if after == _X else build.pointwise(after, total)


_POWERS: Mapping[float, tuple[Expr, Expr]] = {
    0.0: (call(Fn.TO_F32, call(Fn.NE, _X, 0.0)), _X),
    1.0: (call(Fn.ABS, _X), _X),
    2.0: (call(Fn.MUL, _X, _X), call(Fn.SQRT, _X)),
}


def _cosine_similarity(aten: AtenCall, build: Builder) -> Value:
    """sum(x / max(|x|, eps) * y / max(|y|, eps)) along ``dim`` of the broadcast shape."""
    x, y = aten.arguments[:2]
    if len(x.shape) != len(y.shape):
        raise aten.refuse("give both arrays the same number of axes")
    axis, eps = aten.argument(2, "dim", 1) % len(x.shape), float(aten.argument(3, "eps", 1e-8))
    if x.shape[axis] != y.shape[axis]:
        raise aten.refuse("give both arrays the same size along dim")
    sizes = (_norm(build, one, 2.0, (axis,), True) for one in (x, y))
    cosine = call(
        Fn.MUL,
        call(Fn.DIV, _X, call(Fn.MAX, Arg(2), eps)),
        call(Fn.DIV, _Y, call(Fn.MAX, Arg(3), eps)),
    )
    return along(build, ReduceKind.SUM, build.pointwise(cosine, x, y, *sizes), (axis,))


def _pairwise_distance(aten: AtenCall, build: Builder) -> Value:
    """|x - y + eps| along the last axis."""
    order, eps = float(aten.argument(2, "p", 2)), float(aten.argument(3, "eps", 1e-6))
    difference = build.pointwise(call(Fn.ADD, call(Fn.SUB, _X, _Y), eps), *aten.arguments[:2])
    axes = (len(difference.shape) - 1,)
    return _norm(build, difference, order, axes, bool(aten.argument(4, "keepdim", False)))


def _distance(aten: AtenCall, build: Builder) -> Value:
    difference = build.pointwise(_DIFFERENCE, *aten.arguments[:2])
    return _norm(build, difference, float(aten.argument(2, "p", 2)), axes_of(difference, None), False)


def _all_distances(aten: AtenCall, build: Builder) -> Value:
    """``cdist(x, y, p)``: x [*B, M, D], y [*B, N, D] -> [*B, M, N], from the differences themselves."""
    x, y = aten.arguments[:2]
    rows = build.reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    columns = build.reshape(y, (*y.shape[:-2], 1, *y.shape[-2:]))
    difference = build.pointwise(_DIFFERENCE, rows, columns)
    axes = (len(difference.shape) - 1,)
    return _norm(build, difference, float(aten.argument(2, "p", 2)), axes, False)


def _loss(each: Expr) -> Lowering:
    """``mse_loss(x, y, reduction)``: 0 none, 1 mean, 2 sum."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        errors = build.pointwise(each, *aten.arguments[:2])
        kind = {1: ReduceKind.MEAN, 2: ReduceKind.SUM}.get(aten.argument(2, "reduction", 1))
        return errors if kind is None else along(build, kind, errors, axes_of(errors, None))

    return lowering


LOWERINGS: Mapping[str, Lowering] = {
    "cdist": _all_distances,
    "cosine_similarity": _cosine_similarity,
    "dist": _distance,
    "l1_loss": _loss(call(Fn.ABS, _DIFFERENCE)),
    "linalg_norm": _linalg_norm,
    "linalg_vector_norm": _vector_norm,
    "mse_loss": _loss(call(Fn.MUL, _DIFFERENCE, _DIFFERENCE)),
    "norm": _vector_norm,
    "pairwise_distance": _pairwise_distance,
    "_cdist_forward": _all_distances,
}
