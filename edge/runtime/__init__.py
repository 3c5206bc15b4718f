"""WebAssembly on the device: ``ModuleHost`` for the agent, ``WebAssemblyRuntime`` for one model.

    program   what a package is: tensor | wasi | plain, checked and compiled
    sandbox   one engine with its limits: compile, instantiate, call, type every trap
    loaded    a program in service: instances, inline or thread; many, session: batches, training
    host      the agent's door; runtime: the documented facade

Invariant: nothing that a module does raises anything but a WasmError, blocks the event loop, or outlives its
deadline by more than a tick (trusted tensor modules excepted: they can't be interrupted and need not be).
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
