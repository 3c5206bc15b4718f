"""The names in a binary: those of functions stay, the rest goes, and the module is the same."""

import wasmtime

from cloud.compiler.binary import without_locals

TEXT = """(module
  (memory (export "memory") 1 1)
  (data (i32.const 0) "name")
  (func $answer_of_everything (export "answer") (param $first_number i32) (result i32) (local $the_other i32)
    (local.set $the_other (i32.const 2))
    (i32.add (local.get $first_number) (local.get $the_other))))"""


def test_functions_keep_their_names_and_locals_lose_them():
    binary = bytes(wasmtime.wat2wasm(TEXT))
    short = without_locals(binary)
    assert b"first_number" in binary
    assert b"first_number" not in short
    assert b"the_other" not in short
    assert b"answer_of_everything" in short


def test_the_module_does_what_it_did():
    store = wasmtime.Store()
    module = wasmtime.Module(store.engine, without_locals(bytes(wasmtime.wat2wasm(TEXT))))
    answer = wasmtime.Instance(store, module, []).exports(store)["answer"]
    assert isinstance(answer, wasmtime.Func)
    assert answer(store, 40) == 42


def test_sections_of_more_than_127_bytes():
    lines = "".join(f"(func $with_a_long_name_{index} (nop))" for index in range(400))
    binary = bytes(wasmtime.wat2wasm(f"(module {lines})"))
    assert without_locals(binary).count(b"with_a_long_name_") == 400
    assert wasmtime.Module(wasmtime.Engine(), without_locals(binary))
