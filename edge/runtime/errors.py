"""What can go wrong with a WebAssembly module, one type per answer an operator would give.

    WasmError
    ├── BadModule             the file can't be used: the message names the import, section or limit
    ├── BadInput              the caller's arguments don't fit the function: the message says what would
    ├── UnknownModule         nothing is loaded under that name
    ├── Busy                  the queue of waiting calls is full (also Unavailable: try later)
    └── Stopped               it ran and was stopped; the instance is thrown away, the module stays usable
        ├── DeadlineExceeded  ├── OutOfMemory       ├── StackOverflow   ├── TableLimit
        ├── OutputTooLarge    ├── OutOfBounds       ├── DivisionByZero  ├── Unreachable
        ├── IllegalOperation  ├── CapabilityDenied  └── ExitFailure     └── BadOutput

``code`` is the word that travels in replies and counters. wasmtime's own exceptions end here.
"""

from typing import ClassVar

from wasmtime import Trap, TrapCode, WasmtimeError

from shared.errors import ShoalError, Unavailable

_MESSAGE_CHARACTERS_MAX = 500


class WasmError(ShoalError):
    """Base of everything this package raises on purpose."""

    code: ClassVar[str] = "wasm"

    def __init__(self, message: str) -> None:
        super().__init__(message[:_MESSAGE_CHARACTERS_MAX])  # it may quote names that the module chose


class BadModule(WasmError):
    """The module can't be loaded here."""

    code = "bad-module"


class BadInput(WasmError):
    """The arguments don't fit the function."""

    code = "bad-input"


class UnknownModule(WasmError):
    """No module of that name is loaded."""

    code = "unknown-module"


class Busy(WasmError, Unavailable):
    """As many calls wait as may wait. Try later."""

    code = "busy"


class Stopped(WasmError):
    """The module ran and was stopped."""

    code = "stopped"


class DeadlineExceeded(Stopped):
    """The call's deadline passed, waiting or running."""

    code = "deadline"


class OutOfMemory(Stopped):
    """The module wanted more linear memory than its limit."""

    code = "out-of-memory"


class StackOverflow(Stopped):
    """The call stack passed its limit; endless recursion, most likely."""

    code = "stack-overflow"


class TableLimit(Stopped):
    """The module wanted more or larger tables than its limit."""

    code = "table-limit"


class OutputTooLarge(Stopped):
    """The output passed its limit."""

    code = "output-too-large"


class OutOfBounds(Stopped):
    """A load, store or indirect call outside the memory or table."""

    code = "out-of-bounds"


class DivisionByZero(Stopped):
    """An integer division by zero."""

    code = "division-by-zero"


class Unreachable(Stopped):
    """The module executed ``unreachable``: an abort or a panic in its source language."""

    code = "unreachable"


class IllegalOperation(Stopped):
    """Any other trap: bad indirect call, float that is no integer, misaligned atomic."""

    code = "illegal-operation"


class CapabilityDenied(Stopped):
    """The module asked the host for something that was not granted."""

    code = "denied"


class ExitFailure(Stopped):
    """A WASI command ended with an exit status other than 0."""

    code = "exit"


class BadOutput(Stopped):
    """A WASI command wrote something that is not one JSON value."""

    code = "bad-output"


_BY_TRAP: dict[TrapCode, tuple[type[Stopped], str]] = {
    TrapCode.INTERRUPT: (DeadlineExceeded, "it ran past its deadline and was interrupted"),
    TrapCode.STACK_OVERFLOW: (StackOverflow, "its call stack passed the limit"),
    TrapCode.MEMORY_OUT_OF_BOUNDS: (OutOfBounds, "it read or wrote outside its memory"),
    TrapCode.TABLE_OUT_OF_BOUNDS: (OutOfBounds, "it used an element outside its table"),
    TrapCode.ARRAY_OUT_OF_BOUNDS: (OutOfBounds, "it used an element outside an array"),
    TrapCode.INTEGER_DIVISION_BY_ZERO: (DivisionByZero, "it divided an integer by zero"),
    TrapCode.UNREACHABLE: (Unreachable, "it aborted (executed `unreachable`)"),
    TrapCode.ALLOCATION_TOO_LARGE: (OutOfMemory, "it asked for an allocation that can't succeed"),
}


def translated(error: Trap | WasmtimeError) -> WasmError:
    """The typed form of what wasmtime raised, while a module was instantiated or called."""
    if isinstance(error, Trap):
        return _of_trap(error)
    message = _cause(str(error))
    if "memory" in message and "limit" in message:
        return OutOfMemory(f"{message}; raise memory_bytes_max if this module may have it")
    if "table" in message and "limit" in message:
        return TableLimit(f"{message}; raise table_elements_max if this module may have it")
    return BadModule(message)


def blamed(error: Unreachable, memory_bytes: int, memory_bytes_max: int) -> Stopped:
    """What an abort with that much memory in use most likely means.

    Languages abort when an allocation fails, and wasmtime does not tell that a growth was refused; an abort
    with seven eighths of the memory in use is taken for that.
    """
    if memory_bytes * 8 < memory_bytes_max * 7:
        return error
    return OutOfMemory(f"it aborted with {memory_bytes} of {memory_bytes_max} bytes of memory in use")


def _of_trap(trap: Trap) -> WasmError:
    code = trap.trap_code
    if code is None:
        return IllegalOperation(_cause(trap.message))
    kind, story = _BY_TRAP.get(code, (IllegalOperation, _cause(trap.message)))
    return kind(story)


def _cause(message: str) -> str:
    """The last line: wasmtime puts the backtrace first and the reason last."""
    return message.strip().rpartition("\n")[2].strip()
