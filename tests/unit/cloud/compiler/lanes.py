"""One expression as a WebAssembly function over flat arrays: for tests of many numbers."""

from collections.abc import Sequence

import numpy as np
import wasmtime

from cloud.compiler.expr import Expr, arity
from cloud.compiler.ir import Array
from cloud.compiler.kernels.expression import helpers, vector
from cloud.compiler.wat import Function, Kernel, get

PAGE_BYTES = 65536
START = 64


def kernel(expr: Expr, dtypes: Sequence[str], vectors: int) -> Kernel:
    """``y[i] = expr(x0[i], x1[i], ...)``, a vector a turn."""
    names = [f"p{index}" for index in range(len(dtypes))]
    f = Function("lanes", (*names, "y"))
    with f.loop(vectors):
        for index, name in enumerate(names):
            f.set(f"x{index}", f"(v128.load {get(name)})", "v128")
        args = [get(f"x{index}") for index in range(len(names))]
        f.emit(f"(v128.store {get('y')} {vector(f, expr, args, dtypes)})")
        for name in (*names, "y"):
            f.advance(name, 16)
    return f.kernel(helpers=helpers(expr))


def run(expr: Expr, *arrays: Array, result: type = np.float32) -> Array:
    """The expression over arrays of equal length; the length is filled up to whole vectors with zeros."""
    assert arity(expr) <= len(arrays)
    count = len(arrays[0])
    vectors = -(-count // 4)
    nbytes = 16 * vectors
    dtypes = ["f32" if one.dtype == np.float32 else "i32" for one in arrays]
    made = kernel(expr, dtypes, vectors)
    addresses = " ".join(f"(i32.const {START + index * nbytes})" for index in range(len(arrays) + 1))
    pages = (START + nbytes * (len(arrays) + 1)) // PAGE_BYTES + 1
    texts = "\n".join(one.wat for one in (*made.helpers, made))
    wat = f'(module (memory (export "m") {pages}) {texts} (func (export "run") (call $lanes {addresses})))'
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    exports = wasmtime.Instance(store, wasmtime.Module(engine, wasmtime.wat2wasm(wat)), []).exports(store)
    memory = np.ctypeslib.as_array(exports["m"].get_buffer_ptr(store))
    for index, one in enumerate(arrays):
        at = START + index * nbytes
        memory[at : at + one.nbytes] = one.view(np.uint8)
    exports["run"](store)
    at = START + len(arrays) * nbytes
    return memory[at : at + 4 * count].view(result).copy()
