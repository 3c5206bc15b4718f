"""One compiled tensor module in one store: views of its memory, made once, and calls.

The memory can't grow, because its store is limited to the size it starts with; that is what makes it safe to
keep views. They never leave this package: a caller gets copies.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from wasmtime import Memory, Module

from edge.runtime.binary import NOTHING, Interface
from edge.runtime.errors import BadModule
from edge.runtime.fastcall import Call, bind, bind_deadline
from edge.runtime.limits import PAGE_BYTES
from edge.runtime.parameters import DTYPES, Array, match
from edge.runtime.sandbox import Sandbox
from shared.abi import Abi, Function, Tensor

PREPARE = "prepare"


class _Bound(NamedTuple):
    """One function of one store, and views of the memory that it reads and writes."""

    inputs: tuple[Array, ...]
    outputs: tuple[tuple[Array, np.dtype[np.generic]], ...]
    call: Call


class TensorModule:
    """One module of the package in one store. Belongs to one thread at a time."""

    def __init__(
        self, sandbox: Sandbox, module: Module, abi: Abi, memory_bytes: int, deadline: float
    ) -> None:
        """Raises :class:`WasmError` when the start function misbehaves."""
        self._sandbox, self._abi = sandbox, abi
        self._store = sandbox.open_store(memory_bytes)
        self._set_deadline = bind_deadline(self._store, sandbox.raw)
        try:
            exports = sandbox.instantiate(self._store, module, (), deadline).exports(self._store)
            memory = exports["memory"]
            assert isinstance(memory, Memory)
            self._memory = np.frombuffer(memoryview(memory.get_buffer_ptr(self._store)), np.uint8)
            self._parameters = tuple(self._view(tensor) for tensor in abi.parameters.tensors)
            self._functions = {one.name: self._bind(one, exports[one.name]) for one in abi.functions}
            self._prepare = (
                bind(self._store, exports[PREPARE], NOTHING, sandbox.raw) if PREPARE in exports else None
            )
        except BaseException:
            self._store.close()
            raise

    def run(
        self, function: str, inputs: Sequence[Array], deadline: float | None
    ) -> Sequence[tuple[Array, np.dtype[np.generic]]]:
        """Write the inputs' items, call, and return views of the outputs with the dtypes to copy them to.

        Inputs with fewer items than the module's batch are padded with zeros. ``deadline``: None for a call
        on the event loop, which has a short one of its own.
        """
        bound = self._functions[function]
        for view, array in zip(bound.inputs, inputs, strict=True):
            if view.shape == array.shape:
                view[...] = array
            else:
                view[: len(array)] = array
                view[len(array) :] = 0
        if deadline is None:
            self._sandbox.call_inline(self._set_deadline, bound.call)
        else:
            self._sandbox.call(self._store, deadline, bound.call)
        return bound.outputs

    def parameters(self) -> dict[str, Array]:
        """Copies, by name."""
        tensors = self._abi.parameters.tensors
        return {tensor.name: view.copy() for tensor, view in zip(tensors, self._parameters, strict=True)}

    def set_parameters(self, tensors: Mapping[str, Array], deadline: float) -> None:
        """Copy every tensor to its offset, then let the module derive what it derives from them."""
        for view, array in zip(self._parameters, match(self._abi.parameters, tensors), strict=True):
            view[...] = array
        if self._prepare is not None:
            self._sandbox.call(self._store, deadline, self._prepare)

    def close(self) -> None:
        """Free the memory. Every view dies with it."""
        self._parameters, self._functions = (), {}
        self._store.close()

    def _bind(self, described: Function, export: object) -> _Bound:
        raw = self._sandbox.raw
        outputs = tuple((self._bytes_or_view(tensor), DTYPES[tensor.dtype]) for tensor in described.outputs)
        return _Bound(
            tuple(self._view(tensor) for tensor in described.inputs),
            outputs,
            bind(self._store, export, NOTHING, raw),
        )

    def _view(self, tensor: Tensor) -> Array:
        raw = self._memory[tensor.offset : tensor.offset + tensor.nbytes]
        view: Array = raw.view(DTYPES[tensor.dtype]).reshape(tensor.shape)
        return view

    def _bytes_or_view(self, tensor: Tensor) -> Array:
        """Truth values are read as bytes: a module may write any byte, numpy allows itself only 0 and 1."""
        view = self._view(tensor)
        return view.view(np.uint8) if tensor.dtype == "bool" else view


def check_module(interface: Interface, abi: Abi, memory_bytes_max: int) -> None:
    """Does the module keep what its description promises? Raises :class:`BadModule`."""
    if interface.imports:
        names = ", ".join(f"{one.module}.{one.name}" for one in interface.imports[:5])
        raise BadModule(f"a tensor module imports nothing; this one wants {names}")
    if interface.memory_pages is None:
        raise BadModule("a tensor module exports its memory as `memory`; this one does not")
    size = interface.memory_pages * PAGE_BYTES
    if not abi.memory_bytes <= size <= memory_bytes_max:
        raise BadModule(
            f"the memory has {size} bytes; described are {abi.memory_bytes}, at most {memory_bytes_max}"
        )
    wanted = {one.name for one in abi.functions} | ({PREPARE} & interface.functions.keys())
    for name in sorted(wanted):
        if interface.functions.get(name) != NOTHING:
            raise BadModule(f"{name} is not an exported function without parameters and results")
