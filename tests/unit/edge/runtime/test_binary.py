import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.runtime.binary import NOTHING, Import, Signature, read_interface
from edge.runtime.errors import BadModule
from tests.unit.edge.runtime.modules import CALCULATOR, ECHO, affine, wasm


def test_signatures_of_every_value_type_are_read_without_asking_wasmtime() -> None:
    found = read_interface(
        wasm("""(module
          (func (export "all") (param i32 i64 f32 f64 v128 funcref externref) (result v128 i32)
            (local.get 4) (local.get 0)))""")
    )
    params = ("i32", "i64", "f32", "f64", "v128", "funcref", "externref")
    assert found.functions == {"all": Signature(params, ("v128", "i32"))}


def test_imports_of_every_kind_are_listed() -> None:
    found = read_interface(
        wasm("""(module
          (import "a" "table" (table 1 10 funcref)) (import "a" "memory" (memory 3 4))
          (import "a" "global" (global (mut v128))) (import "a" "call" (func $call (param i32)))
          (func (export "own")) (export "again" (func $call)) (export "memory" (memory 0)))""")
    )
    assert found.imports == (
        Import("a", "table", None),
        Import("a", "memory", None),
        Import("a", "global", None),
        Import("a", "call", Signature(("i32",), ())),
    )
    assert found.functions == {"own": NOTHING, "again": Signature(("i32",), ())}
    assert found.memory_pages == 3


def test_the_memory_counts_only_under_its_name() -> None:
    assert read_interface(wasm('(module (memory (export "other") 1))')).memory_pages is None
    assert read_interface(wasm('(module (memory (export "memory") 7 9))')).memory_pages == 7


@pytest.mark.parametrize("binary", [affine(), ECHO, wasm(CALCULATOR)], ids=["tensor", "wasi", "plain"])
def test_every_cut_of_a_module_is_read_or_refused(binary: bytes) -> None:
    for end in range(len(binary)):
        with contextlib.suppress(BadModule):
            read_interface(binary[:end])


@given(st.data())
def test_a_flipped_byte_is_read_or_refused(data: st.DataObject) -> None:
    binary = bytearray(ECHO)
    binary[data.draw(st.integers(8, len(binary) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadModule):
        read_interface(bytes(binary))
