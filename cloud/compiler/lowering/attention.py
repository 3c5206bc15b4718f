"""scaled_dot_product_attention: two batched products with a softmax between them.

scores  = q @ k.T * scale + mask       [.., queries, keys]     the scale and the mask are an epilogue
result  = softmax(scores) @ v          [.., queries, features]
"""

from math import inf, sqrt

import numpy as np

from cloud.compiler.expr import Arg, Fn, Number, call
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder
from cloud.compiler.lowering.pieces import expanded
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.reduce import Softmax


def lower_attention(aten: AtenCall, build: Builder) -> Value:
    """``(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)``."""
    q, k, v = aten.arguments[:3]
    if aten.argument(4, "dropout_p", 0.0):
        raise aten.refuse("pass dropout_p=0.0 when not self.training: inference has no randomness")
    if aten.argument(7, "enable_gqa", False):
        k, v = (_shared(build, one, q.shape[-3]) for one in (k, v))
    scale = aten.argument(6, "scale")
    factor = 1 / sqrt(q.shape[-1]) if scale is None else float(scale)
    scores = build.pointwise(call(Fn.MUL, Arg(0), factor), build(MatMul(), q, k))
    scores = _masked(aten, build, scores)
    weights = build(Softmax(len(scores.shape) - 1), scores)
    return build(MatMul(rows=False), weights, v)


def _shared(build: Builder, x: Value, heads: int) -> Value:
    """Each head of keys or values for several neighbouring heads of queries."""
    *front, groups, length, size = x.shape
    wide = build.reshape(x, (*front, groups, 1, length, size))
    return build.reshape(
        expanded(build, wide, (*front, groups, heads // groups, length, size)), (*front, heads, length, size)
    )


def _masked(aten: AtenCall, build: Builder, scores: Value) -> Value:
    """A truth value keeps a key or takes it away; a number is added."""
    mask = aten.argument(3, "attn_mask")
    if aten.argument(5, "is_causal", False):
        mask = build.constant(np.tril(np.ones(scores.shape[-2:], np.bool_)))
    if mask is None:
        return scores
    if mask.dtype == "f32":
        return build.pointwise(call(Fn.ADD, Arg(0), Arg(1)), scores, mask)
    return build.pointwise(call(Fn.WHERE, Arg(1), Arg(0), Number(-inf)), scores, mask)
