"""The quick way into a module: it runs, and what stops it arrives as an exception, again and again."""

import pytest
import wasmtime

from cloud.compiler import rawcall

TEXT = """(module
  (global $runs (export "runs") (mut i32) (i32.const 0))
  (func (export "run") (global.set $runs (i32.add (global.get $runs) (i32.const 1))))
  (func (export "stop") unreachable))"""


@pytest.fixture(params=[rawcall.bind, rawcall._raw], ids=["bind", "raw"])
def exports(request):
    """Of a fresh instance, bound."""
    store = wasmtime.Store()
    instance = wasmtime.Instance(store, wasmtime.Module(store.engine, TEXT), []).exports(store)
    return {name: request.param(store, instance[name]) for name in ("run", "stop")} | {
        "runs": lambda: instance["runs"].value(store)
    }


def test_every_call_arrives(exports):
    for _ in range(3):
        exports["run"]()
    assert exports["runs"]() == 3


def test_a_trap_is_raised_each_time_and_the_instance_goes_on(exports):
    for _ in range(3):
        with pytest.raises(wasmtime.Trap, match="unreachable"):
            exports["stop"]()
    exports["run"]()
    assert exports["runs"]() == 1
