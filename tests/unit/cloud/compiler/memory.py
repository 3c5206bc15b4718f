"""One kernel alone in a memory of its own, with a watch on every byte around its result."""

from collections.abc import Sequence
from math import prod

import numpy as np
import wasmtime

from cloud.compiler.backend import _with_helpers
from cloud.compiler.ir import NUMPY, Array, Value
from cloud.compiler.wat import Kernel

GUARD_BYTES = 64
PAGE_BYTES = 2**16
UNTOUCHED = 0xAB


def run_kernel(kernel: Kernel, arrays: Sequence[Array], result: Value) -> Array:
    """The kernel's result. Fails when any byte but the result's (and the workspace's) has changed."""
    nbytes = [array.nbytes for array in arrays] + [prod(result.shape) * NUMPY[result.dtype].itemsize]
    room = sum(_after(0, one) for one in nbytes) + kernel.scratch_bytes + PAGE_BYTES
    memory, call = _instance(kernel, -(-room // PAGE_BYTES))
    memory[GUARD_BYTES:] = UNTOUCHED
    addresses, at = [], GUARD_BYTES
    for array in arrays:
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        memory[at : at + len(data)] = data
        addresses.append(at)
        at = _after(at, len(data))
    end = at + nbytes[-1]
    workspace = _after(at, end - at)
    before = memory.copy()
    call(*addresses, at, *([workspace] if kernel.scratch_bytes else []))
    stop = workspace if kernel.scratch_bytes else len(memory)
    assert np.array_equal(memory[:at], before[:at]), f"{kernel.name} wrote before its result"
    assert np.array_equal(memory[end:stop], before[end:stop]), f"{kernel.name} wrote behind its result"
    return np.frombuffer(memory[at:end].tobytes(), NUMPY[result.dtype]).reshape(result.shape)


def _after(at: int, nbytes: int) -> int:
    return -(-(at + nbytes) // GUARD_BYTES) * GUARD_BYTES + GUARD_BYTES


def _instance(kernel: Kernel, pages: int):
    text = "\n".join(one.wat for one in _with_helpers([kernel]))
    wat = f'(module (memory (export "memory") {pages}) {text} (export "kernel" (func ${kernel.name})))'
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, wasmtime.wat2wasm(wat)), []).exports(
        store
    )
    view = np.ctypeslib.as_array(exports["memory"].get_buffer_ptr(store))
    return view, lambda *addresses: exports["kernel"](store, *addresses)
