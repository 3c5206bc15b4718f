"""Pointwise operations: loop nests over any broadcast, and every elementwise ATen operator against torch."""

from collections.abc import Callable
from math import inf, nan

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.backend import build_module
from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.frontend import export
from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.kernels.pointwise import Nest, nest_of, pointwise
from cloud.compiler.ops.pointwise import Pointwise
from tests.unit.cloud.compiler.graphs import agree, agree_op, close, run

SUM = call(Fn.ADD, call(Fn.MUL, Arg(0), 3.0), Arg(1))


class Model(torch.nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


EDGES = [0.0, -0.0, 1, -1, 0.5, -0.5, 2.5, -2.5, 3, -3, 6, 20.5, -20.5, 1e-3, -7, 30, -60]
torch.manual_seed(0)
X = torch.cat([torch.tensor(EDGES), torch.randn(20) * 3]).reshape(1, 37)
Y = torch.cat([torch.randn(17) * 2, torch.randn(20)]).reshape(1, 37)
WILD = torch.tensor([[inf, -inf, nan, 0.0, 1.0]])
I = torch.randint(-9, 10, (1, 37))  # noqa: E741
J = torch.randint(1, 7, (1, 37)) * torch.tensor([1, -1] * 18 + [1])
A, B = I > 0, J > 0


def test_dense_operands_of_one_shape_are_one_flat_loop() -> None:
    assert nest_of((2, 3, 4), [(2, 3, 4), (2, 3, 4), ()]) == Nest((24,), ((1,), (1,), (0,)))


def test_a_bias_begins_again_for_each_row_and_a_scale_stands_still() -> None:
    assert nest_of((8, 16, 32), [(8, 16, 32), (32,)]) == Nest((128, 32), ((32, 1), (0, 1)))
    assert nest_of((8, 16, 32), [(8, 16, 32), (16, 1)]) == Nest((8, 16, 32), ((512, 32, 1), (0, 1, 0)))


def test_axes_of_size_one_vanish() -> None:
    assert nest_of((1, 5, 1), [(5, 1), (1, 1, 1)]) == Nest((5,), ((1,), (0,)))
    assert nest_of((1, 1), [(1,)]) == Nest((1,), ((0,),))


@st.composite
def broadcast_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast against each other."""
    result = [*draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)), draw(st.integers(1, 37))]

    def operand() -> tuple[int, ...]:
        kept = [draw(st.sampled_from([size, size, 1])) for size in result]
        return tuple(kept[draw(st.integers(0, len(kept))) :])

    return operand(), operand()


@settings(max_examples=8, deadline=None)
@given(broadcast_shapes(), st.integers(0, 99))
def test_any_shapes_broadcast_as_in_numpy(shapes: tuple[tuple[int, ...], ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    agree_op(Pointwise(SUM), *(rng.integers(-9, 9, one).astype(np.float32) for one in shapes), tolerance=0)


@pytest.mark.parametrize(
    "expr", [SUM, call(Fn.MUL, call(Fn.SIGMOID, Arg(0)), Arg(1)), call(Fn.POW, Arg(0), Arg(1))]
)
def test_no_length_writes_beyond_its_result(expr: object) -> None:
    """Two results, one behind the other in memory: neither has a trace of the other."""
    for count in range(1, 23):
        x, y = Value("x", (count,)), Value("y", (count,))
        first, second = Value("first", (count,)), Value("second", (count,))
        op = Pointwise(expr)
        graph = Graph((x, y), (), (Node(second, op, (y, x)), Node(first, op, (x, y))), (first, second))
        graph.check()
        check_both(graph, count)


def check_both(graph: Graph, count: int) -> None:
    """The results of x, y and of y, x."""
    rng = np.random.default_rng(count)
    arrays = [rng.uniform(0.5, 2, count).astype(np.float32) for _ in range(2)]
    got = run(build_module({"run": graph}), arrays, {})
    op = graph.nodes[0].op
    close(got[0], op.evaluate(*arrays), 1e-6, "first")
    close(got[1], op.evaluate(*reversed(arrays)), 1e-6, "second")


def test_kernels_of_equal_nests_are_the_same_function() -> None:
    def kernel(shape: tuple[int, ...], name: str) -> object:
        values = (Value(f"a{name}", shape), Value(f"b{name}", shape))
        return pointwise(Node(Value(name, shape), Pointwise(SUM), values))

    assert kernel((4, 6), "p") == kernel((2, 12), "q")
    assert kernel((4, 6), "p") != kernel((4, 7), "q")


SIGNS = torch.tensor([0.0, -0.0, 1.0, -1.0, inf, -inf, nan, 3e38])
GROUPS: dict[str, tuple[Callable[..., object], tuple[torch.Tensor, ...]]] = {
    "exponentials": (
        lambda x: (x.exp(), x.exp2(), x.expm1(), x.sigmoid(), x.tanh(), x.sinh(), x.cosh()),
        (Y,),
    ),
    "logarithms": (
        lambda x: (x.log(), x.log2(), x.log10(), x.log1p(), x.sqrt(), x.rsqrt(), torch.logit(x, 0.1)),
        (X.abs() + 0.25,),
    ),
    "circular and error functions": (lambda x: (x.sin(), x.cos(), torch.tan(x / 9), x.erf(), x.erfc()), (X,)),
    "inverse circular functions": (
        lambda x: (x.atan(), (x / 9).clamp(-1, 1).asin(), (x / 9).clamp(-1, 1).acos()),
        (X,),
    ),
    "inverse hyperbolic functions": (
        lambda x: (x.asinh(), (1 + x.abs()).acosh(), x.clamp(-0.99, 0.99).atanh()),
        (X,),
    ),
    "angles and lengths of sides": (
        lambda x, y: (torch.atan2(x, y), torch.atan2(y, x), torch.hypot(x, y)),
        (X, X.flip(0) - 0.5),
    ),
    "the four axes, and no direction": (
        lambda x, y: (torch.atan2(x, y), torch.hypot(x, y), x.signbit(), torch.copysign(y, x)),
        (SIGNS.repeat_interleave(len(SIGNS)), SIGNS.repeat(len(SIGNS))),
    ),
    "a number beats NaN": (
        lambda x, y: (torch.fmax(x, y), torch.fmin(x, y)),
        (SIGNS.repeat_interleave(len(SIGNS)), SIGNS.repeat(len(SIGNS))),
    ),
    "rounding": (
        lambda x: (
            x.floor(),
            x.ceil(),
            x.round(),
            x.trunc(),
            x.frac(),
            x.sign(),
            x.neg(),
            x.abs(),
            x.square(),
        ),
        (X,),
    ),
    "wild numbers": (
        lambda x: (
            x.exp(),
            x.tanh(),
            x.sigmoid(),
            x.log(),
            x.isnan(),
            x.isinf(),
            x.isfinite(),
            x.nan_to_num(),
        ),
        (WILD,),
    ),
    "wild activations": (
        lambda x: (F.relu(x), F.relu6(x), F.elu(x), F.softplus(x), x.clamp(-1, 1), F.leaky_relu(x)),
        (WILD,),
    ),
    "rectifiers": (
        lambda x: (
            F.relu(x),
            F.relu6(x),
            F.leaky_relu(x),
            F.leaky_relu(x, 0.3),
            F.rrelu(x),
            F.threshold(x, 0.1, 20),
        ),
        (X,),
    ),
    "exponential units": (
        lambda x: (F.elu(x), F.elu(x, 0.7), F.celu(x), F.celu(x, 0.7), F.selu(x), F.silu(x), F.mish(x)),
        (X,),
    ),
    "gelu": (lambda x: (F.gelu(x), F.gelu(x, approximate="tanh")), (X,)),
    "hard units": (
        lambda x: (
            F.hardswish(x),
            F.hardsigmoid(x),
            F.hardtanh(x),
            F.hardtanh(x, -2, 0.5),
            F.hardshrink(x, 0.6),
        ),
        (X,),
    ),
    "soft units": (
        lambda x: (F.softplus(x), F.softplus(x, 2, 5), F.softsign(x), F.logsigmoid(x), F.softshrink(x, 0.6)),
        (X,),
    ),
    "shrinking": (lambda x: F.tanhshrink(x), (X,)),
    "prelu": (lambda x, w: (F.prelu(x.reshape(1, 37, 1), w), F.prelu(x, w[:1])), (X, Y[0])),
    "sums": (
        lambda x, y: (
            torch.add(x, y, alpha=2.5),
            torch.sub(x, y, alpha=2),
            3 - x,
            torch.rsub(x, y, alpha=2),
            x * y,
        ),
        (X, Y),
    ),
    "combinations": (
        lambda x, y: (
            torch.lerp(x, y, 0.3),
            torch.lerp(x, y, 0.8),
            torch.lerp(x, y, y),
            torch.addcmul(x, y, x, value=0.5),
            torch.addcdiv(x, x, y, value=0.5),
        ),
        (X, Y),
    ),
    "division": (lambda x, y: (x / y, 2 / x.abs().clamp(0.1), x.reciprocal().clamp(-9, 9), x / 3), (X, Y)),
    "rounded division": (
        lambda x, y: (
            torch.div(x, y, rounding_mode="floor"),
            torch.div(x, y, rounding_mode="trunc"),
            x % y,
            torch.fmod(x, y),
            x % 2.5,
        ),
        (X, Y),
    ),
    "integers": (
        lambda x, y: (
            x + y,
            x - y,
            x * y,
            x // y,
            x % y,
            torch.fmod(x, y),
            torch.div(x, y, rounding_mode="trunc"),
        ),
        (I, J),
    ),
    "integers alone": (
        lambda x, y: (
            x.abs(),
            -x,
            x.sign(),
            x.square(),
            x.relu(),
            x**3,
            x**0,
            x.clamp(-2, 3),
            torch.maximum(x, y),
        ),
        (I, J),
    ),
    "mixed types": (
        lambda x, y, a: (
            x + 1.5,
            x * y,
            x / 2,
            x.sin(),
            x < y,
            a + x,
            a * y,
            a * a,
            torch.where(a, x, y),
            x > 2.5,
        ),
        (I, Y, A),
    ),
    "powers": (
        lambda x: (x**0, x**1, x**2, x**3, x**7, x**-2, x**-1, x**0.5, x**-0.5, x**2.5, x**9, 1.5**x),
        (Y.abs() + 0.5,),
    ),
    "powers of what is negative": (
        lambda x, y: (x**2, x**-3, torch.pow(x, y.round()), torch.pow(x, y)),
        (X + 0.1, Y),
    ),
    "bounds": (
        lambda x, y: (
            x.clamp(-1, 2),
            torch.clamp(x, min=y),
            torch.clamp(x, y, y + 1),
            x.clamp_min(0.5),
            x.clamp(max=0.5),
            torch.maximum(x, y),
            torch.minimum(x, y),
        ),
        (X, Y),
    ),
    "comparisons": (
        lambda x, y: (x == y, x != y, x < y, x <= 0.5, x > 2, x >= y, x == x, torch.logical_and(x, y)),
        (X, Y),
    ),
    "truth": (
        lambda a, b: (
            a & b,
            a | b,
            a ^ b,
            ~a,
            torch.logical_or(a, b),
            torch.logical_xor(a, b),
            torch.logical_not(a),
        ),
        (A, B),
    ),
    "bits": (lambda x, y: (x & y, x | y, x ^ y, ~x), (I, J)),
    "choices": (
        lambda a, x, y, i: (
            torch.where(a, x, y),
            torch.where(a, x, 0.0),
            torch.where(a, i, 0),
            torch.where(x > y, a, ~a),
            x.masked_fill(a, -1e9),
            x.masked_fill(a, torch.tensor(2.0)),
        ),
        (A, X, Y, I),
    ),
    "conversions": (
        lambda x, i, a: (x.long(), x.bool(), x.int(), i.float(), i.bool(), a.float(), a.long(), i.type_as(x)),
        (X, I, A),
    ),
    "constants": (
        lambda x: (
            torch.full((1, 3), 2.5),
            torch.zeros(1, 37) + x,
            torch.ones_like(x) * x,
            torch.full_like(x, 3.0),
            torch.arange(37) + x,
            x.new_zeros(1, 3),
            x.new_full((1, 2), 7.0),
            torch.arange(0, 1, 0.25).reshape(1, 4),
            torch.fill(x, 3.0),
            x * torch.tensor(2.5),
        ),
        (X,),
    ),
    "in place": (lambda x: x.clone().add_(1).mul_(2).relu_().clamp_(0, 3), (X,)),
}


@pytest.mark.parametrize("group", GROUPS)
def test_operators_mean_what_torch_means(group: str) -> None:
    function, inputs = GROUPS[group]
    agree(Model(function), *inputs, tolerance=1e-6)


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (lambda x: torch.round(x, decimals=2), "round"),
        (lambda x: x.int() ** x.int(), "integers to a fixed power"),
    ],
)
def test_what_is_not_covered_says_what_to_do(function: Callable[..., torch.Tensor], advice: str) -> None:
    with pytest.raises(UnsupportedOperator, match=advice):
        export(Model(function), (X,))
