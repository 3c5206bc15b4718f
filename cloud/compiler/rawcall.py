"""A call without arguments through wasmtime's private binding: a quarter of a microsecond instead of 10.

``Func.__call__`` asks for the function's type and converts values, each time. The C function below it takes
everything ready-made. It is not part of wasmtime's public interface, so all that is private is here, and the
public call is used where it is missing. (The device's runtime has a binding of its own, with deadlines: the
two sides share no code.)
"""

import ctypes
from collections.abc import Callable
from functools import partial

import wasmtime


def bind(store: wasmtime.Store, function: wasmtime.Func) -> Callable[[], object]:
    """``function()`` of ``store``. Raises ``wasmtime.Trap`` or ``wasmtime.WasmtimeError``."""
    try:
        return _raw(store, function)
    except (AttributeError, TypeError):
        return partial(function, store)


def _raw(store: wasmtime.Store, function: wasmtime.Func) -> Callable[[], None]:
    """The C function without the types of its arguments: ctypes would look at each of them in each call."""
    bindings, ffi = wasmtime._bindings, wasmtime._ffi
    enter = ffi.dll["wasmtime_func_call_unchecked"]  # by its name in brackets: an object of our own
    enter.restype = ctypes.c_void_p
    address = ctypes.c_void_p
    values, trap = (bindings.wasmtime_val_raw_t * 1)(), address()
    context, at = ctypes.cast(store._context(), address), ctypes.byref(function._func)
    values_at, count, trap_at = ctypes.byref(values), ctypes.c_size_t(1), ctypes.byref(trap)
    error_type, trap_type = ctypes.POINTER(bindings.wasmtime_error_t), ctypes.POINTER(ffi.wasm_trap_t)

    def call() -> None:
        error = enter(context, at, values_at, count, trap_at)
        if error:
            raise wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, error_type))
        if trap:
            owned = ctypes.cast(trap, trap_type)
            trap.value = None  # the exception owns it now
            raise wasmtime.Trap._from_ptr(owned)

    return call
