"""Matrix products: torch, the numpy meaning and WebAssembly, and kernels alone in a memory full of NaN."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.frontend import export
from cloud.compiler.ir import Array, Node, Value
from cloud.compiler.kernels.contract import matmul_kernel
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.wat import Function, Kernel
from tests.unit.cloud.compiler.graphs import agree, agree_op

SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 16, 19, 33, 65])
BATCHES = st.sampled_from(
    [((), ()), ((2,), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 1), (3,)), ((1,), (2,)), ((2, 2), (2, 2))]
)
FULL, COLUMN, ROW, NUMBER = "full", "column", "row", "number"
GAP_BYTES = 64


@dataclass(frozen=True)
class Harness:
    """One kernel in one instance; arrays lie one after another with gaps of NaN between them."""

    kernel: Kernel

    def run(self, *operands: Array, shape: tuple[int, ...]) -> Array:
        arrays = [*operands, np.full(shape, np.nan, np.float32)]
        if self.kernel.scratch_bytes:
            arrays.append(np.full(self.kernel.scratch_bytes // 4, np.nan, np.float32))
        offsets, end = [], GAP_BYTES
        for array in arrays:
            offsets.append(end)
            end += array.nbytes + GAP_BYTES
        memory, function, store = self._instantiate(-(-end // 65536), len(arrays))
        memory[16:] = np.nan
        for offset, array in zip(offsets, arrays, strict=True):
            memory[offset // 4 : (offset + array.nbytes) // 4] = array.ravel()
        before = memory.copy()
        function(store, *offsets)
        owned = list(zip(offsets, arrays, strict=True))[len(operands) :]
        spans = [slice(offset // 4, (offset + array.nbytes) // 4) for offset, array in owned]
        y = memory[spans[0]].reshape(shape).copy()
        for span in spans:
            memory[span] = before[span]
        assert memory.tobytes() == before.tobytes(), "the kernel wrote outside its result"
        return y

    def _instantiate(self, pages: int, pointers: int) -> tuple[Array, wasmtime.Func, wasmtime.Store]:
        text = (
            f'(module (memory (export "memory") {pages} {pages}) {self.kernel.wat} '
            f'(export "kernel" (func ${self.kernel.name})))'
        )
        store = wasmtime.Store()
        exports = wasmtime.Instance(store, wasmtime.Module(store.engine, text), []).exports(store)
        memory = np.ctypeslib.as_array(exports["memory"].get_buffer_ptr(store)).view(np.float32)
        assert len(exports["kernel"].type(store).params) == pointers
        return memory, exports["kernel"], store


def kernel_for(op: MatMul, *shapes: tuple[int, ...]) -> Kernel:
    operands = tuple(Value(f"x{index}", shape) for index, shape in enumerate(shapes))
    return matmul_kernel(Node(Value("y", op.shape(*shapes)), op, operands))


def integers(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    """Sums of small integers are exact in float32, in any order."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-8, 9, shape).astype(np.float32) for shape in shapes]


def product_shapes(op: MatMul, sizes: tuple[int, int, int], batches) -> list[tuple[int, ...]]:
    rows, depth, columns = sizes
    x = (depth, rows) if op.transposed else (rows, depth)
    w = (columns, depth) if op.rows else (depth, columns)
    return [(*batches[0], *x), (*batches[1], *w)]


@given(SIZES, SIZES, SIZES, BATCHES, st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_a_product_is_exact_on_integers_in_every_layout(m, k, n, batches, rows, transposed, seed):
    op = MatMul(rows, transposed)
    arrays = integers(seed, *product_shapes(op, (m, k, n), batches))
    kernel = kernel_for(op, *(one.shape for one in arrays))
    y = Harness(kernel).run(*arrays, shape=op.shape(*(one.shape for one in arrays)))
    assert np.array_equal(y, op.evaluate(*arrays))


@given(
    SIZES,
    SIZES,
    st.lists(st.sampled_from([FULL, COLUMN, ROW, NUMBER]), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=8, deadline=None)
def test_an_epilogue_reads_operands_of_any_broadcast_shape(m, n, extras, rows, seed):
    shapes = {FULL: (2, m, n), COLUMN: (n,), ROW: (m, 1), NUMBER: ()}
    expr = Arg(0)
    for index in range(len(extras)):
        expr = call(Fn.RELU, call(Fn.ADD, expr, Arg(index + 1)))
    op = MatMul(rows=rows, epilogue=expr)
    x, w = product_shapes(op, (m, 5, n), ((2,), ()))
    arrays = integers(seed, x, w, *(shapes[one] for one in extras))
    y = Harness(kernel_for(op, *(one.shape for one in arrays))).run(*arrays, shape=(2, m, n))
    assert np.array_equal(y, op.evaluate(*arrays))


@given(SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_a_product_of_real_numbers_is_within_a_millionth(m, k, n, rows, transposed, seed):
    rng = np.random.default_rng(seed)
    op = MatMul(rows, transposed)
    shapes = product_shapes(op, (m, k, n), ((), ()))
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    y = Harness(kernel_for(op, *shapes)).run(x, w, shape=(m, n))
    exact, scale = (
        op.evaluate(*(each(one.astype(np.float64)) for one in (x, w))) for each in (np.asarray, np.abs)
    )
    assert (np.abs(y - exact) <= 1e-6 * scale).all()


@pytest.mark.parametrize("size", [(130, 70, 33), (3, 300, 40), (64, 200, 65)])
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_products_beyond_the_cache_are_blocked_and_still_exact(size, rows, transposed):
    op = MatMul(rows, transposed)
    agree_op(op, *integers(1, *product_shapes(op, size, ((), ()))), tolerance=0)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [True, False])
def test_a_special_weight_reaches_only_its_own_column(special, rows):
    x, w, b = integers(1, (3, 5), (6, 5), (6,))
    x[:] = 1
    w[4, 4] = special
    op = MatMul(rows=rows, epilogue=call(Fn.RELU, call(Fn.ADD, Arg(0), Arg(1))))
    w = w if rows else np.ascontiguousarray(w.T)
    y = Harness(kernel_for(op, x.shape, w.shape, b.shape)).run(x, w, b, shape=(3, 6))
    assert y.tobytes() == op.evaluate(x, w, b).tobytes()


def test_equal_products_share_a_kernel_and_a_name_says_what_is_different():
    relu = call(Fn.RELU, Arg(0))
    ops = [MatMul(), MatMul(rows=False), MatMul(transposed=True), MatMul(epilogue=relu)]
    assert len({kernel_for(op, (4, 4), (4, 4)).name for op in ops}) == len(ops)
    assert kernel_for(MatMul(), (4, 4), (4, 4)) == kernel_for(MatMul(), (4, 4), (4, 4))
    assert kernel_for(MatMul(), (2, 2, 3), (5, 3)) == kernel_for(MatMul(), (4, 3), (5, 3))


def test_operands_that_do_not_fit_are_refused():
    for shapes in [((2, 3), (4, 5)), ((3,), (3,)), ((2, 4, 3), (3, 5, 3))]:
        with pytest.raises(ValueError, match=r"matmul|broadcast"):
            MatMul().shape(*shapes)


class Call(nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def ones(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator) for shape in shapes]


MATMULS = [
    ((5,), (5,)),
    ((4, 5), (5,)),
    ((5,), (5, 6)),
    ((2, 4, 5), (5,)),
    ((5,), (2, 5, 6)),
    ((3, 5), (5, 7)),
]
MATMULS += [((2, 4, 5), (5, 6)), ((4, 5), (2, 5, 6)), ((3, 1, 4, 5), (2, 5, 6)), ((2, 1, 5), (2, 5, 1))]


@pytest.mark.parametrize(("x", "y"), MATMULS)
def test_matmul_of_every_rank_and_broadcast(x, y):
    agree(Call(torch.matmul), *ones(x, y))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda b, x, y: torch.addmm(b, x, y, beta=0.5, alpha=2), [(6,), (4, 5), (5, 6)]),
        (lambda b, x, y: torch.addmm(b, x, y, beta=0), [(4, 6), (4, 5), (5, 6)]),
        (lambda b, x, y: torch.baddbmm(b, x, y, alpha=3), [(2, 4, 6), (2, 4, 5), (2, 5, 6)]),
        (lambda b, x, y: torch.addbmm(b, x, y), [(4, 6), (2, 4, 5), (2, 5, 6)]),
        (lambda b, x, y: torch.addmv(b, x, y), [(4,), (4, 5), (5,)]),
        (lambda b, x, y: torch.addr(b, x, y), [(4, 5), (4,), (5,)]),
        (torch.mm, [(3, 4), (4, 5)]),
        (torch.bmm, [(2, 3, 4), (2, 4, 5)]),
        (torch.mv, [(3, 4), (4,)]),
        (torch.outer, [(3,), (4,)]),
        (torch.inner, [(2, 3, 4), (5, 4)]),
        (torch.linalg.vecdot, [(2, 3), (2, 3)]),
        (lambda x, y: torch.tensordot(x, y, dims=([0, 2], [1, 0])), [(3, 2, 4), (4, 3, 5)]),
        (lambda x, y, z: torch.linalg.multi_dot([x, y, z]), [(3, 4), (4, 5), (5, 2)]),
        (functional.linear, [(2, 3, 4), (5, 4), (5,)]),
        (functional.linear, [(2, 4), (4,)]),
    ],
)
def test_every_product_of_torch(function, shapes):
    agree(Call(function), *ones(*shapes))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bqhd,bkhd->bhqk", [(1, 5, 2, 4), (1, 6, 2, 4)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]),
        ("nchw,kc->nkhw", [(1, 3, 2, 2), (4, 3)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("i,j->ji", [(3,), (4,)]),
        ("bi,bi->b", [(2, 3), (2, 3)]),
        ("abc,bd->ad", [(2, 3, 4), (3, 5)]),
        ("bij->bj", [(2, 3, 4)]),
        ("ij->ji", [(2, 3)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
        ("bi,ij,bj->b", [(2, 3), (3, 4), (2, 4)]),
        ("bi,ci,di,i->dcb", [(2, 3), (4, 3), (5, 3), (3,)]),
        ("ab,c,bd->ad", [(2, 3), (4,), (3, 5)]),
    ],
)
def test_einsum_is_a_product_and_permutations(equation, shapes):
    agree(Call(lambda *inputs: torch.einsum(equation, *inputs)), *ones(*shapes))


def test_an_einsum_with_a_diagonal_is_refused():
    with pytest.raises(UnsupportedOperator, match="einsum"):
        export(Call(lambda x: torch.einsum("ii->i", x)), tuple(ones((3, 3))))


def test_bilinear():
    agree(nn.Bilinear(3, 4, 5), *ones((2, 3), (2, 4)))


@pytest.mark.parametrize(
    ("keywords", "mask"),
    [({}, None), ({"is_causal": True}, None), ({"scale": 0.3}, None), ({}, (1, 1, 5, 6)), ({}, (5, 6))],
)
def test_attention_with_masks_and_scales(keywords, mask):
    q, k, v = ones((2, 2, 5, 4), (2, 2, 6, 4), (2, 2, 6, 3))
    masks = [] if mask is None else ones(mask)
    agree(
        Call(lambda q, k, v, *m: functional.scaled_dot_product_attention(q, k, v, *m, **keywords)),
        *(q, k, v, *masks),
    )


def test_a_mask_of_truth_values_takes_keys_away():
    q, k, v, m = ones((2, 2, 5, 4), (2, 2, 6, 4), (2, 2, 6, 3), (5, 6))
    m[:, 0] = 1
    agree(Call(lambda q, k, v, m: functional.scaled_dot_product_attention(q, k, v, m > 0)), q, k, v, m)


def test_queries_in_groups_share_keys_and_values():
    q, k, v = (torch.randn(shape) for shape in ((2, 6, 5, 4), (2, 2, 7, 4), (2, 2, 7, 4)))
    model = Call(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    agree(model, q, k, v)


class SelfAttention(nn.Module):
    """The result, and the weights where they are asked for."""

    def __init__(self, weights: bool):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.weights = weights

    def forward(self, x):
        result, weights = self.attention(x, x, x, need_weights=self.weights)
        return (result, weights) if self.weights else result


@pytest.mark.parametrize("weights", [True, False])
def test_multi_head_attention(weights):
    agree(SelfAttention(weights), *ones((2, 5, 8)))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_transformer_encoder_layer(norm_first, activation):
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True, norm_first=norm_first, activation=activation
    )
    agree(layer, *ones((2, 5, 8)), tolerance=2e-6)


def test_a_loop_of_one_is_no_loop():
    f = Function("f", ("p",))
    with f.loop(1):
        f.advance("p", 16)
    assert "loop" not in f.kernel().wat


def test_a_loop_repeats_its_body():
    f = Function("count", ("y",))
    with f.loop(5), f.block():
        f.set("total", "(i32.add (local.get $total) (i32.const 1))")
    f.emit("(f32.store (local.get $y) (f32.convert_i32_s (local.get $total)))")
    assert Harness(f.kernel()).run(shape=(1,)) == [5]


@pytest.mark.parametrize(("rows", "depth"), [(1, 12544), (2, 100_000), (3, 5003)])
def test_long_sums_stay_as_exact_as_short_ones(rows, depth):
    rng = np.random.default_rng(depth)
    x, w = (rng.standard_normal((size, depth)).astype(np.float32) for size in (rows, 9))
    agree_op(MatMul(), x, w, tolerance=5e-7)
