"""Calls into a store: quick through wasmtime's private binding, or safe through its public one.

``Func.__call__`` asks for the function's type and converts every value, each time: 8-20 us. The C function
below it takes one array of raw values, which can be made once: about 1 us. The binding is not part of
wasmtime's public interface, so everything private is in this file, is looked at before it is used, and
:func:`bind` takes the public road when it is missing or looks different.

Every call releases the GIL, the tiny ones on the event loop, too: the thread that interrupts an endless loop
is a Python thread (see ``ticker``).
"""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import wasmtime
from wasmtime import Func, Store

from edge.runtime.binary import Signature

Number = int | float
Call = Callable[..., tuple[Number, ...]]
NUMERIC = frozenset({"i32", "i64", "f32", "f64"})


class RawBinding:
    """The private pieces: checked once, then used by every call."""

    def __init__(self) -> None:
        """Raises ``AttributeError`` or ``TypeError`` when the pieces are not as this file knows them."""
        bindings, ffi = wasmtime._bindings, wasmtime._ffi
        self.raw_value, self.trap = bindings.wasmtime_val_raw_t, ffi.wasm_trap_t
        self.trap_from, self.error_from = wasmtime.Trap._from_ptr, wasmtime.WasmtimeError._from_ptr
        self.enter: Any = bindings._wasmtime_func_call_unchecked
        fields = {name for name, *_ in self.raw_value._fields_}
        if not fields >= NUMERIC or ctypes.sizeof(self.raw_value) != 16:
            raise TypeError("wasmtime's raw value is not the 16-byte union that this runtime knows")
        if [kind.__name__ for kind in self.enter.argtypes] != [
            "LP_wasmtime_context",
            "LP_wasmtime_func",
            "LP_wasmtime_val_raw",
            ctypes.c_size_t.__name__,
            "LP_LP_wasm_trap_t",
        ]:
            raise TypeError("wasmtime's unchecked call does not take the arguments that this runtime knows")
        self.set_deadline: Any = bindings._wasmtime_context_set_epoch_deadline
        if [kind.__name__ for kind in self.set_deadline.argtypes] != [
            "LP_wasmtime_context",
            ctypes.c_uint64.__name__,
        ]:
            raise TypeError("wasmtime's epoch deadline does not take the arguments that this runtime knows")


def find_raw_binding() -> RawBinding | None:
    """The private binding, or None when this wasmtime has none that we know."""
    try:
        return RawBinding()
    except (AttributeError, TypeError):
        return None


def bind(store: Store, func: object, signature: Signature, raw: RawBinding | None) -> Call:
    """The exported function ``func`` of ``store`` as a plain callable: numbers in, a tuple of numbers out.

    Raises ``wasmtime.Trap`` or ``wasmtime.WasmtimeError``. Not thread-safe, like the store itself, which the
    caller keeps open for as long as it calls. ``signature``: the function's own, of numbers only.
    """
    assert isinstance(func, Func)  # the module's type was checked when it was opened
    assert NUMERIC.issuperset(signature.params + signature.results)
    if raw is None:
        return _public(store, func)
    return _raw(store, func, signature, raw)


def bind_deadline(store: Store, raw: RawBinding | None) -> Callable[[int], None]:
    """``store.set_epoch_deadline``, in a third of the time. The caller keeps the store open."""
    return store.set_epoch_deadline if raw is None else partial(raw.set_deadline, store._context())


def _public(store: Store, func: Func) -> Call:
    def call(*arguments: Number) -> tuple[Number, ...]:
        result = func(store, *arguments)
        if result is None:
            return ()
        return tuple(result) if isinstance(result, list) else (result,)

    return call


def _raw(store: Store, func: Func, signature: Signature, raw: RawBinding) -> Call:
    params, results = signature
    enter = raw.enter
    size = max(1, len(params), len(results))
    values = (raw.raw_value * size)()
    trap = ctypes.POINTER(raw.trap)()
    context, function, trap_at = store._context(), ctypes.byref(func._func), ctypes.byref(trap)

    def fail(error: Any) -> Exception:
        if error:
            return raw.error_from(error)
        owned = ctypes.cast(trap, ctypes.POINTER(raw.trap))
        ctypes.memset(trap_at, 0, ctypes.sizeof(trap))  # the exception owns it now
        return raw.trap_from(owned)

    def call_plain() -> tuple[Number, ...]:
        error = enter(context, function, values, size, trap_at)
        if error or trap:
            raise fail(error)
        return ()

    def call(*arguments: Number) -> tuple[Number, ...]:
        if len(arguments) != len(params):
            raise TypeError(f"expected {len(params)} arguments, got {len(arguments)}")
        for value, field, argument in zip(values, params, arguments, strict=False):
            setattr(value, field, argument)
        call_plain()
        return tuple(getattr(value, field) for value, field in zip(values, results, strict=False))

    return call if params or results else call_plain
