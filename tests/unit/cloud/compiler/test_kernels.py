"""Each kernel alone, in a memory full of NaN: right results, nothing else written, nothing else read."""

from dataclasses import dataclass

import numpy as np
import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.ir import Array
from cloud.compiler.kernels.dot import Dot, dot_kernel
from cloud.compiler.kernels.elementwise import add_kernel, relu_kernel
from cloud.compiler.ops import Activation, Linear
from cloud.compiler.wat import Function, Kernel

SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 16, 19, 63, 64, 65])
GAP_BYTES = 64


@dataclass(frozen=True)
class Harness:
    """One kernel in one instance; arrays lie one after another with gaps of NaN between them."""

    kernel: Kernel

    def run(self, *operands: Array, shape: tuple[int, ...]) -> Array:
        arrays = [*operands, np.full(shape, np.nan, np.float32)]
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
        result = slice(offsets[-1] // 4, (offsets[-1] + arrays[-1].nbytes) // 4)
        y = memory[result].reshape(shape).copy()
        memory[result] = before[result]
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


def draw_arrays(seed: int, exact: bool, *shapes: tuple[int, ...]) -> list[Array]:
    rng = np.random.default_rng(seed)
    if exact:
        return [rng.integers(-8, 9, shape).astype(np.float32) for shape in shapes]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@given(SIZES, SIZES, SIZES, st.booleans(), st.sampled_from(Activation), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_the_product_is_exact_on_integers_for_any_shape(rows, depth, columns, bias, activation, seed):
    x, w, b = draw_arrays(seed, True, (rows, depth), (columns, depth), (columns,))
    operands = (x, w, b) if bias else (x, w)
    y = Harness(dot_kernel(Dot(rows, depth, columns, bias, activation))).run(*operands, shape=(rows, columns))
    assert np.array_equal(y, Linear(activation).evaluate(*operands))


@given(SIZES, SIZES, SIZES, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_product_of_real_numbers_is_within_a_millionth(rows, depth, columns, seed):
    x, w, b = draw_arrays(seed, False, (rows, depth), (columns, depth), (columns,))
    y = Harness(dot_kernel(Dot(rows, depth, columns, True, Activation.NONE))).run(
        x, w, b, shape=(rows, columns)
    )
    exact = Linear().evaluate(*(one.astype(np.float64) for one in (x, w, b)))
    scale = Linear().evaluate(*(np.abs(one).astype(np.float64) for one in (x, w, b)))
    assert (np.abs(y - exact) <= 1e-6 * scale).all()


@given(SIZES, SIZES, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_adding_a_row_to_every_row_is_numpys_addition(rows, columns, seed):
    x, b = draw_arrays(seed, False, (rows, columns), (columns,))
    assert np.array_equal(Harness(add_kernel(rows, columns)).run(x, b, shape=x.shape), x + b)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 15, 16, 17, 18, 19, 20, 64, 67])
def test_relu_keeps_every_bit_of_what_it_keeps(count):
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, -1.5, 2.5, 1e-45, -1e-45], np.float32)
    x = np.resize(special, count)
    y = Harness(relu_kernel(count)).run(x, shape=x.shape)
    assert y.tobytes() == np.where(x < 0, np.float32(0), x).tobytes()


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_special_weight_reaches_only_its_own_column(special):
    x, w, b = draw_arrays(1, True, (3, 5), (6, 5), (6,))
    x[:] = 1
    w[4, 4] = special
    y = Harness(dot_kernel(Dot(3, 5, 6, True, Activation.RELU))).run(x, w, b, shape=(3, 6))
    assert y.tobytes() == Linear(Activation.RELU).evaluate(x, w, b).tobytes()


def test_two_layers_of_one_shape_have_one_kernel_name_and_others_do_not():
    one = Dot(1, 2, 3, True, Activation.RELU)
    names = {dot_kernel(Dot(1, 2, 3, bias, act)).name for bias in (True, False) for act in Activation}
    assert dot_kernel(one) == dot_kernel(Dot(1, 2, 3, True, Activation.RELU))
    assert len(names) == 4


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
