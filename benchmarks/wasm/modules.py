"""What a module costs beside its runs: bytes, emission, compilation on a device, start, interruption."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from wasmtime import Config, Engine, Instance, Memory, Module, Store

from benchmarks.wasm.timing import Call, Failure, attempted, interleaved
from benchmarks.zoo import ZooModel
from cloud.compiler import Compiled
from cloud.compiler.backend import build_module
from cloud.compiler.frontend import batched, export
from cloud.compiler.passes import Precision, optimise
from edge.runtime import Limits
from edge.runtime.binary import NOTHING
from edge.runtime.fastcall import Call as BoundCall
from edge.runtime.fastcall import bind, find_raw_binding
from edge.runtime.parameters import match, read_safetensors
from edge.runtime.sandbox import Sandbox
from edge.runtime.tensor_module import PREPARE
from shared.abi import read_abi

Row = dict[str, Any]
TIMES = 7
INSTANCES = 3
NEVER = 1 << 40  # epochs
LIMITS = Limits(memory_bytes_max=1 << 30, deadline_s=60)


def measure(zoo: ZooModel, compiled: Compiled | Failure, rounds: int, folder: Path) -> Row:
    """Of the module for the smallest batch, in milliseconds and bytes."""
    found = attempted(compiled, lambda compiled: _figures(zoo, compiled, rounds, folder))
    row: Row = {"model": zoo.name, "error": ""}
    return row | ({"error": found.reason} if isinstance(found, Failure) else found)


def _figures(zoo: ZooModel, compiled: Compiled, rounds: int, folder: Path) -> Row:
    size = min(compiled.package.modules)
    binary = compiled.package.modules[size]
    exported = export(zoo.build(), batched((zoo.inputs(1),), size)).graph
    graph = optimise(exported, Precision.FAST)
    engine = Sandbox(LIMITS).engine  # a device's, with its settings
    stored = folder / f"{zoo.name}.cwasm"
    stored.write_bytes(Module(engine, binary).serialize())
    return {
        "module_bytes": len(binary),
        "memory_bytes": compiled.modules[size].abi.memory_bytes,
        "passes_ms": _median_ms(lambda: optimise(exported, Precision.FAST)),
        "emit_ms": _median_ms(lambda: build_module({"run": graph})),
        "compile_ms": _median_ms(lambda: Module(engine, binary)),
        "cached_start_ms": _median_ms(lambda: Module.deserialize_file(engine, str(stored))),
        "interruption": _interruption(binary, compiled.package.parameters, rounds),
    }


def _median_ms(call: Callable[[], object]) -> float:
    samples = []
    for _ in range(TIMES):
        began = perf_counter()
        call()
        samples.append((perf_counter() - began) * 1e3)
    return median(samples)


def _interruption(binary: bytes, parameters: bytes, rounds: int) -> float:
    """How many times as long a run takes when it looks at the epoch. The input is zeros.

    Of several instances each: where a memory happens to lie makes a run a tenth longer or shorter.
    """
    stores: list[Store] = []
    calls: dict[tuple[int, bool], Call | Failure] = {}
    for instance, interruptible in product(range(INSTANCES), (False, True)):
        config = Config()
        config.epoch_interruption = interruptible
        store = Store(Engine(config))
        stores.append(store)  # a bound call needs its store, and does not keep it
        if interruptible:
            store.set_epoch_deadline(NEVER)
        calls[instance, interruptible] = Call(_bound(store, binary, parameters))
    totals = {True: 0.0, False: 0.0}
    for (_, interruptible), seconds in interleaved(calls, rounds).items():
        if isinstance(seconds, Failure):
            raise RuntimeError(f"{'' if interruptible else 'not '}interruptible: {seconds.reason}")
        totals[interruptible] += seconds
    return totals[True] / totals[False]


def _bound(store: Store, binary: bytes, parameters: bytes) -> BoundCall:
    """``run`` of a fresh instance with its parameters in place."""
    raw, abi = find_raw_binding(), read_abi(binary)
    assert abi is not None
    exports = Instance(store, Module(store.engine, binary), []).exports(store)
    memory = exports["memory"]
    assert isinstance(memory, Memory)
    view = np.frombuffer(memoryview(memory.get_buffer_ptr(store)), np.uint8)
    arrays = match(abi.parameters, read_safetensors(parameters))
    for tensor, array in zip(abi.parameters.tensors, arrays, strict=True):
        view[tensor.offset : tensor.offset + tensor.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    if PREPARE in exports:
        bind(store, exports[PREPARE], NOTHING, raw)()
    return bind(store, exports["run"], NOTHING, raw)
