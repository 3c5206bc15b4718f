"""The quick road and the public road must be one road, seen from the caller."""

from collections.abc import Callable
from typing import Any

import pytest
import wasmtime
from wasmtime import Config, Engine, Instance, Module, Store, Trap, TrapCode

from edge.runtime.binary import NOTHING, read_interface
from edge.runtime.fastcall import RawBinding, bind, bind_deadline, find_raw_binding
from tests.unit.edge.runtime.modules import CALCULATOR, ENDLESS, RECURSION, wasm

Bind = Callable[[str], Any]
SIGNATURES = read_interface(wasm(CALCULATOR)).functions


def exports_of(wat: str) -> tuple[Store, Any]:
    store = Store(Engine())
    return store, Instance(store, Module(store.engine, wasm(wat)), []).exports(store)


@pytest.fixture(params=["public", "fast"])
def road(request: pytest.FixtureRequest) -> Bind:
    raw = None if request.param == "public" else find_raw_binding()
    assert raw is not None or request.param == "public"
    store, exports = exports_of(CALCULATOR)
    return lambda name: bind(store, exports[name], SIGNATURES[name], raw)


def test_numbers_of_every_type_go_in_and_come_out(road: Bind) -> None:
    assert road("add")(2, -5) == (-3,)
    assert road("add")(2**31 - 1, 1) == (-(2**31),)
    assert road("half")(3.0) == (1.5,)
    assert road("single")(0.5) == (0.5,)
    assert road("wide")(-(2**62)) == (-(2**62),)
    assert road("both")(7, 2.5) == (2.5, 7)


def test_a_trap_arrives_with_its_code_and_the_function_still_works(road: Bind) -> None:
    divide = road("divide")
    for _ in range(3):
        with pytest.raises(Trap) as caught:
            divide(1, 0)
        assert caught.value.trap_code is TrapCode.INTEGER_DIVISION_BY_ZERO
        assert divide(9, 3) == (3,)


def test_the_wrong_number_of_arguments_is_an_error_and_no_crash(road: Bind) -> None:
    with pytest.raises((TypeError, wasmtime.WasmtimeError)):
        road("add")(1)
    with pytest.raises((TypeError, wasmtime.WasmtimeError)):
        road("add")(1, 2, 3)


def test_a_deep_recursion_ends_in_a_trap_on_every_road() -> None:
    for raw in (None, find_raw_binding()):
        store, exports = exports_of(RECURSION)
        with pytest.raises(Trap) as caught:
            bind(store, exports["run"], NOTHING, raw)()
        assert caught.value.trap_code is TrapCode.STACK_OVERFLOW


def test_this_wasmtime_has_the_binding_that_we_know() -> None:
    assert isinstance(find_raw_binding(), RawBinding)


@pytest.mark.parametrize("fast", [True, False])
def test_a_deadline_is_set_on_either_road(fast: bool) -> None:
    config = Config()
    config.epoch_interruption = True
    store = Store(Engine(config))
    endless = Instance(store, Module(store.engine, wasm(ENDLESS)), []).exports(store)["run"]
    bind_deadline(store, find_raw_binding() if fast else None)(2)
    store.engine.increment_epoch()
    store.engine.increment_epoch()
    with pytest.raises(Trap) as caught:
        bind(store, endless, NOTHING, None)()
    assert caught.value.trap_code is TrapCode.INTERRUPT


@pytest.mark.parametrize(
    "missing",
    ["_wasmtime_func_call_unchecked", "_wasmtime_context_set_epoch_deadline", "wasmtime_val_raw_t"],
)
def test_a_wasmtime_without_the_binding_is_no_error(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delattr(wasmtime._bindings, missing)
    assert find_raw_binding() is None


@pytest.mark.parametrize("name", ["_wasmtime_func_call_unchecked", "_wasmtime_context_set_epoch_deadline"])
def test_a_binding_with_other_arguments_is_not_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(wasmtime._bindings, name, wasmtime._bindings._wasmtime_func_new_unchecked)
    assert find_raw_binding() is None


def test_a_raw_value_of_another_shape_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasmtime._bindings, "wasmtime_val_raw_t", wasmtime._bindings.wasmtime_val_t)
    assert find_raw_binding() is None
