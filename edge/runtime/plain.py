"""Plain modules: exported functions of numbers, no imports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from wasmtime import Memory, Module

from edge.runtime.binary import Signature, read_interface
from edge.runtime.errors import BadInput, BadModule, Unreachable, blamed
from edge.runtime.fastcall import NUMERIC, Number, bind
from edge.runtime.sandbox import Sandbox

_INTEGER_BITS = {"i32": 32, "i64": 64}


class PlainCall(NamedTuple):
    """A call whose arguments fit."""

    function: str
    arguments: tuple[Number, ...]


@dataclass(slots=True)
class PlainProgram:
    """``signatures``: of the functions that take and give only numbers.

    State in globals or memory lasts from call to call on one instance, and a call may meet any of the
    instances: keep such functions pure.
    """

    sandbox: Sandbox
    module: Module
    memory_bytes_max: int
    signatures: Mapping[str, Signature]

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions that can be called."""
        return tuple(self.signatures)

    def check(self, function: str, inputs: object) -> PlainCall:
        """Raises :class:`BadInput` that says what would fit."""
        signature = self.signatures.get(function)
        if signature is None:
            raise BadInput(
                f"there is no function {function!r}; there are {', '.join(self.signatures) or 'none'}"
            )
        kinds = signature.params
        numbers = _flat(inputs, len(kinds))
        if numbers is None or len(numbers) != len(kinds):
            raise BadInput(f"{function} takes {len(kinds)} numbers: {', '.join(kinds) or 'none'}")
        return PlainCall(function, tuple(map(_number, numbers, kinds)))

    def start(self, deadline: float) -> "PlainInstance":
        """A new instance. Runs the module's start function: use a thread."""
        return PlainInstance(self, deadline)


class PlainInstance:
    """One store. Belongs to one thread at a time."""

    def __init__(self, program: PlainProgram, deadline: float) -> None:
        """Raises :class:`WasmError` when the start function misbehaves."""
        self._sandbox, self._memory_bytes_max = program.sandbox, program.memory_bytes_max
        self._store = self._sandbox.open_store(program.memory_bytes_max)
        try:
            instance = self._sandbox.instantiate(self._store, program.module, (), deadline)
            exports = instance.exports(self._store)
            memory = exports.get("memory")
            self._memory = memory if isinstance(memory, Memory) else None
            self._calls = {
                name: bind(self._store, exports[name], signature, self._sandbox.raw)
                for name, signature in program.signatures.items()
            }
        except BaseException:
            self._store.close()
            raise

    def run(self, call: PlainCall, deadline: float) -> list[Number]:
        """The results, in order. Raises :class:`WasmError`; the caller then throws this instance away."""
        try:
            return list(
                self._sandbox.call(self._store, deadline, self._calls[call.function], *call.arguments)
            )
        except Unreachable as error:
            if self._memory is None:
                raise
            raise blamed(error, self._memory.data_len(self._store), self._memory_bytes_max) from None

    def close(self) -> None:
        """Free the memory."""
        self._calls = {}
        self._store.close()


def open_plain(sandbox: Sandbox, binary: bytes, memory_bytes_max: int) -> PlainProgram:
    """Compile and check the module. Blocks: use a thread. Raises :class:`BadModule`."""
    module, interface = sandbox.compile(binary), read_interface(binary)
    if interface.imports:
        names = ", ".join(f"{one.module}.{one.name}" for one in interface.imports[:5])
        raise BadModule(f"a plain module imports nothing; this one wants {names}")
    signatures = {
        name: kind
        for name, kind in interface.functions.items()
        if NUMERIC.issuperset(kind.params + kind.results)
    }
    return PlainProgram(sandbox, module, memory_bytes_max, signatures)


def _flat(inputs: object, most: int) -> list[object] | None:
    """Numbers, numpy scalars, and arrays for as many numbers as they hold."""
    if isinstance(inputs, np.ndarray):
        inputs = (inputs,)
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes | str) or len(inputs) > most:
        return None
    numbers: list[object] = []
    for one in inputs:
        if isinstance(one, np.ndarray | np.generic):
            if one.size > most:
                return None
            numbers.extend(np.ravel(one).tolist())
        else:
            numbers.append(one)
    return numbers


def _number(value: object, kind: str) -> Number:
    """Integers must fit as signed or unsigned, as in the specification's own tests; no silent rounding."""
    bits = _INTEGER_BITS.get(kind)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{value!r} is not a number ({kind})")
    if bits is None:
        return _as_float(value)
    if not isinstance(value, int) or not -(1 << bits - 1) <= value < 1 << bits:
        raise BadInput(f"{value!r} is not an {kind}")
    return value - (1 << bits) if value >= 1 << bits - 1 else value


def _as_float(value: Number) -> float:
    try:
        return float(value)
    except OverflowError:
        raise BadInput(f"{value!r} is too large for a float") from None
