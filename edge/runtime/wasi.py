"""WASI commands: any language, JSON on stdin, JSON on stdout, and nothing else.

wasmtime brings a whole WASI; this is our own, for control: output is counted as it is written, nothing can
sleep (an epoch does not interrupt a sleep), a denied clock says which grant is missing, and there are no
files or sockets by construction. Each run is a fresh instance, as the command model of WASI has it.

Invariant: a host function never raises and never blocks; see :func:`edge.runtime.wasi_table.shim`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import wasmtime
from wasmtime import Func, FuncType, Memory, Module, Store, ValType

from edge.runtime import wasi_table
from edge.runtime.binary import NOTHING, Import, Signature, read_interface
from edge.runtime.errors import BadInput, BadModule, OutOfMemory, Stopped, Unreachable, WasmError, blamed
from edge.runtime.fastcall import bind
from edge.runtime.limits import PAGE_BYTES, Grants
from edge.runtime.sandbox import Sandbox
from edge.runtime.wasi_process import BadAddress, Process

ENTRY = "_start"
_WORD = 0xFFFF_FFFF


class WasiCall(NamedTuple):
    """A run whose input fits."""

    stdin: bytes


@dataclass(slots=True)
class WasiProgram:
    """A compiled command. Stateless, so it is its own instance: every run opens and closes a store."""

    sandbox: Sandbox
    module: Module
    shim: Module
    imports: tuple[str, ...]
    grants: Grants
    memory_bytes_max: int
    types: tuple[FuncType, ...]
    functions: tuple[str, ...] = ("run",)

    def check(self, function: str, inputs: object) -> WasiCall:
        """Raises :class:`BadInput`."""
        if function not in ("run", ENTRY):
            raise BadInput(f"a WASI command has the one function run, not {function!r}")
        if not isinstance(inputs, bytes | bytearray | memoryview):
            raise BadInput("a WASI command takes bytes: one JSON value")
        if len(inputs) > self.sandbox.limits.input_bytes_max:
            raise BadInput(f"the input has over {self.sandbox.limits.input_bytes_max} bytes")
        return WasiCall(bytes(inputs))

    def start(self, deadline: float) -> "WasiProgram":  # noqa: ARG002 - the other kinds need it
        """Nothing to prepare."""
        return self

    def run(self, call: WasiCall, deadline: float) -> bytes:
        """What the command wrote to stdout: one JSON value. Raises :class:`WasmError`."""
        with self.sandbox.open_store(self.memory_bytes_max, instances=2) as store:
            process = Process(call.stdin, self.grants, self.sandbox.limits.output_bytes_max)
            try:
                self._execute(store, process, deadline)
            except WasmError as error:
                process.settle(error)
            return process.result()

    def close(self) -> None:
        """Nothing is kept between runs."""

    def _execute(self, store: Store, process: "Process", deadline: float) -> None:
        names = sorted(set(self.imports))
        host = [
            Func(store, kind, _host_function(process, name))
            for name, kind in zip(names, self.types, strict=True)
        ]
        shim = self.sandbox.instantiate(store, self.shim, host, deadline).exports(store)
        linked = [shim[name] for name in self.imports]
        exports = self.sandbox.instantiate(store, self.module, linked, deadline).exports(store)
        memory, entry = exports["memory"], exports[ENTRY]
        assert isinstance(memory, Memory)
        process.attach(store, memory)
        try:
            self.sandbox.call(store, deadline, bind(store, entry, NOTHING, self.sandbox.raw))
        except Unreachable as error:
            raise blamed(error, memory.data_len(store), self.memory_bytes_max) from None


def open_wasi(sandbox: Sandbox, binary: bytes, memory_bytes_max: int, grants: Grants) -> WasiProgram:
    """Compile and check the command. Blocks: use a thread. Raises :class:`BadModule`."""
    module, interface = sandbox.compile(binary), read_interface(binary)
    imports = tuple(_checked_import(one) for one in interface.imports)
    if interface.functions.get(ENTRY) != NOTHING or interface.memory_pages is None:
        raise BadModule(
            "a WASI command exports `memory` and a function `_start` without parameters and results"
        )
    if interface.memory_pages * PAGE_BYTES > memory_bytes_max:
        raise OutOfMemory(f"it starts with {interface.memory_pages} pages, over {memory_bytes_max} bytes")
    names = sorted(set(imports))
    shim = sandbox.compile(bytes(wasmtime.wat2wasm(wasi_table.shim(names))))
    types = tuple(_host_type(name) for name in names)
    return WasiProgram(sandbox, module, shim, imports, grants, memory_bytes_max, types)


def _checked_import(wanted: Import) -> str:
    params = wasi_table.SIGNATURES.get(wanted.name) if wanted.module == wasi_table.MODULE else None
    if params is None:
        raise BadModule(
            f"the import {wanted.module}.{wanted.name} is not allowed; {wasi_table.MODULE} is all there is"
        )
    if wanted.signature != Signature(params, () if wanted.name == "proc_exit" else ("i32",)):
        raise BadModule(f"the import {wanted.name} has another type than in WASI preview 1")
    return wanted.name


def _host_function(process: Process, name: str) -> Callable[..., int]:
    method = getattr(process, name, None)
    answer = wasi_table.errno_of_missing(name)
    return _guarded(process, method) if method is not None else lambda *_: answer


def _host_type(name: str) -> FuncType:
    params = [ValType.i32() if kind == "i32" else ValType.i64() for kind in wasi_table.SIGNATURES[name]]
    return FuncType(params, [ValType.i32()])


def _guarded(process: Process, method: Callable[..., int]) -> Callable[..., int]:
    """Unsigned words in, errno out, and no exception across the border."""

    def call(*words: int) -> int:
        try:
            return method(*(word & _WORD for word in words))
        except BadAddress:
            return process.stop(Stopped("it passed the host an address outside its memory"))
        except Exception as error:  # our bug: the module must not run on, and the caller must hear of it
            return process.stop(Stopped(f"the host failed in {method.__name__}: {error!r}"))

    return call
