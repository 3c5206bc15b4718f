"""WebAssembly on the device: ``ModuleHost`` for the agent, ``WebAssemblyRuntime`` for one model.

    program   what a package is: tensor | wasi | plain, checked and compiled
    sandbox   one engine with its limits: compile, instantiate, call, type every trap
    loaded    a program in service: instances, inline or thread; many, session: batches, training
    inline    which calls may run on the event loop
    host      the agent's door; runtime: the documented facade

Invariant: nothing that a module does raises anything but a WasmError, or outlives its deadline by more than
two ticks of 5 ms. No module runs without interruption, whoever signed it.
Invariant: no call holds the event loop for longer than ``inline_deadline_s`` and two ticks. A module that was
stopped there, or whose slower calls add up, is barred from the loop, at first for 10 s, at last for an hour.
"""

from edge.runtime.errors import (
    BadInput,
    BadModule,
    BadOutput,
    Busy,
    CapabilityDenied,
    DeadlineExceeded,
    DivisionByZero,
    ExitFailure,
    IllegalOperation,
    OutOfBounds,
    OutOfMemory,
    OutputTooLarge,
    StackOverflow,
    Stopped,
    TableLimit,
    UnknownModule,
    Unreachable,
    WasmError,
)
from edge.runtime.host import HostStats, ModuleHost
from edge.runtime.limits import Grants, Limits
from edge.runtime.loaded import Description, Loaded
from edge.runtime.measure import Measurement, measure
from edge.runtime.program import Result
from edge.runtime.runtime import WASMModelConfig, WebAssemblyRuntime
from edge.runtime.session import Session

__all__ = [
    "BadInput",
    "BadModule",
    "BadOutput",
    "Busy",
    "CapabilityDenied",
    "DeadlineExceeded",
    "Description",
    "DivisionByZero",
    "ExitFailure",
    "Grants",
    "HostStats",
    "IllegalOperation",
    "Limits",
    "Loaded",
    "Measurement",
    "ModuleHost",
    "OutOfBounds",
    "OutOfMemory",
    "OutputTooLarge",
    "Result",
    "Session",
    "StackOverflow",
    "Stopped",
    "TableLimit",
    "UnknownModule",
    "Unreachable",
    "WASMModelConfig",
    "WasmError",
    "WebAssemblyRuntime",
    "measure",
]
