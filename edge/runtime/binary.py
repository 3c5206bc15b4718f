"""What a WebAssembly binary imports and exports, read from its bytes. Pure.

Why not ask wasmtime: its C interface aborts the whole process when it is asked for the kind of a ``v128`` in
a foreign module's signature. So nothing here or elsewhere in this package asks it for a value's type.

Source: WebAssembly core specification 2.0, chapter 5. Only modules that wasmtime has validated come here, but
every read is checked all the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from edge.runtime.errors import BadModule

T = TypeVar("T")
MAGIC = b"\0asm\x01\0\0\0"
_TYPES, _IMPORTS, _FUNCTIONS, _MEMORIES, _EXPORTS, _CODE = 1, 2, 3, 5, 7, 10
_FUNCTION, _TABLE, _MEMORY, _GLOBAL = range(4)
_VALUE_TYPES = {
    0x7F: "i32",
    0x7E: "i64",
    0x7D: "f32",
    0x7C: "f64",
    0x7B: "v128",
    0x70: "funcref",
    0x6F: "externref",
}


class Signature(NamedTuple):
    """Types of a function's parameters and results: i32, i64, f32, f64, v128, funcref, externref."""

    params: tuple[str, ...]
    results: tuple[str, ...]


NOTHING = Signature((), ())


class Import(NamedTuple):
    """``signature``: None when it is not a function."""

    module: str
    name: str
    signature: Signature | None


@dataclass(frozen=True, slots=True)
class Interface:
    """``memory_pages``: at the start, of the export ``memory``; None when there is none."""

    imports: tuple[Import, ...]
    functions: dict[str, Signature]
    memory_pages: int | None


def read_interface(binary: bytes) -> Interface:
    """Raises :class:`BadModule` when the binary is cut short or of a kind that this runtime doesn't run."""
    sections = dict(_sections(binary))

    def of(section: int, read: Callable[[_Reader], T]) -> list[T]:
        return sections[section].vector(read) if section in sections else []

    types = of(_TYPES, _signature)
    imports = of(_IMPORTS, _import)
    indices = [found.value for found in imports if found.kind == _FUNCTION] + of(_FUNCTIONS, _Reader.number)
    memories = [found.value for found in imports if found.kind == _MEMORY] + of(_MEMORIES, _limits)
    exports = of(_EXPORTS, _export)
    memory = [index for name, kind, index in exports if kind == _MEMORY and name == "memory"]
    try:
        return Interface(
            tuple(
                Import(found.module, found.name, types[found.value] if found.kind == _FUNCTION else None)
                for found in imports
            ),
            {name: types[indices[index]] for name, kind, index in exports if kind == _FUNCTION},
            memories[memory[0]] if memory else None,
        )
    except IndexError:
        raise BadModule("the module exports or imports something that it does not define") from None


class CompileCost(NamedTuple):
    """What a compiler will have to do at most. See :func:`read_cost`."""

    functions: int
    largest: int
    total: int


def read_cost(binary: bytes) -> CompileCost:
    """An upper bound, made of sizes alone, of the work in a module that nobody has validated yet.

    A compiler in SSA form keeps, at every join of a function, each local that lives there, so its time and
    memory grow with joins times locals: measured, 128 KB of code made for it took 184 s and 2.4 GB. A
    function of ``b`` bytes has less than ``b`` joins; its cost is taken as (locals + 64) * b.
    """
    sections = dict(_sections(binary))
    types = sections[_TYPES].vector(_signature) if _TYPES in sections else []
    indices = sections[_FUNCTIONS].vector(_Reader.number) if _FUNCTIONS in sections else []
    bodies = sections[_CODE].vector(_body) if _CODE in sections else []
    if len(bodies) != len(indices) or max(indices, default=-1) >= len(types):
        raise BadModule("the module's functions have no types or no bodies")
    costs = [
        (declared + len(types[index].params) + 64) * size
        for (size, declared), index in zip(bodies, indices, strict=True)
    ]
    return CompileCost(len(costs), max(costs, default=0), sum(costs))


def _body(reader: "_Reader") -> tuple[int, int]:
    """(bytes, declared locals) of one function."""
    size = reader.number()
    body = _Reader(reader.take(size))
    groups = body.vector(lambda group: (group.number(), group.byte()))
    return size, sum(count for count, _ in groups)


class _Found(NamedTuple):
    """``value``: index of the type of a function, pages of a memory; else of no interest."""

    module: str
    name: str
    kind: int
    value: int


class _Reader:
    """A cursor over bytes that never leaves them."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def left(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, size: int) -> memoryview:
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise BadModule("the module is cut short")
        return self._data[start : self._at]

    def number(self) -> int:
        """Unsigned LEB128 of at most 64 bits."""
        value = shift = 0
        while shift < 70:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise BadModule("a number in the module has over 64 bits")

    def text(self) -> str:
        return str(self.take(self.number()), "utf-8", "replace")

    def vector(self, read: "Callable[[_Reader], T]") -> list[T]:
        return [read(self) for _ in range(self.number())]


def _sections(binary: bytes) -> Iterator[tuple[int, _Reader]]:
    if not binary.startswith(MAGIC):
        raise BadModule("not a WebAssembly binary: the first eight bytes are not its magic and version 1")
    reader = _Reader(memoryview(binary)[len(MAGIC) :])
    while reader.left():
        kind = reader.byte()
        yield kind, _Reader(reader.take(reader.number()))


def _value_type(reader: _Reader) -> str:
    code = reader.byte()
    if code not in _VALUE_TYPES:
        raise BadModule(f"the module uses a value type (0x{code:02x}) that this runtime does not run")
    return _VALUE_TYPES[code]


def _signature(reader: _Reader) -> Signature:
    if reader.byte() != 0x60:
        raise BadModule("the module defines a type that is not a function's")
    return Signature(tuple(reader.vector(_value_type)), tuple(reader.vector(_value_type)))


def _limits(reader: _Reader) -> int:
    flags, least = reader.byte(), reader.number()
    if flags & 1:
        reader.number()
    return least


def _import(reader: _Reader) -> _Found:
    module, name, kind = reader.text(), reader.text(), reader.byte()
    read = _IMPORT_KINDS.get(kind)
    if read is None:
        raise BadModule(f"the import {module}.{name} is of a kind that this runtime does not have")
    return _Found(module, name, kind, read(reader))


def _table(reader: _Reader) -> int:
    _value_type(reader)
    return _limits(reader)


def _global(reader: _Reader) -> int:
    _value_type(reader)
    return reader.byte()


_IMPORT_KINDS: dict[int, Callable[[_Reader], int]] = {
    _FUNCTION: _Reader.number,
    _TABLE: _table,
    _MEMORY: _limits,
    _GLOBAL: _global,
}


def _export(reader: _Reader) -> tuple[str, int, int]:
    return reader.text(), reader.byte(), reader.number()
