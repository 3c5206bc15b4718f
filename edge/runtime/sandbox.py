"""One wasmtime engine with its limits: compiles, instantiates and calls, and types every trap.

Everything is compiled to check the epoch at each function entry and loop edge (1.02 to 1.5 times the run
time) and can be stopped. There is no way around it: a signature says that a module came through our cloud,
not that our compiler made it.
"""

import hashlib
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from wasmtime import Config, Engine, Instance, Module, Store, Trap, WasmtimeError

from edge.runtime.binary import read_cost
from edge.runtime.cache import CompiledCache
from edge.runtime.errors import BadModule, DeadlineExceeded, WasmError, translated
from edge.runtime.fastcall import Call, RawBinding
from edge.runtime.limits import Limits
from edge.runtime.ticker import Ticker

T = TypeVar("T")
WASMTIME_VERSION = metadata.version("wasmtime")
_WASM_MAGIC = b"\0asm"


class Sandbox:
    """Everything a module may do passes through here. Thread-safe; the stores it opens are not."""

    def __init__(
        self,
        limits: Limits,
        *,
        cache: CompiledCache | None = None,
        raw: RawBinding | None = None,
    ) -> None:
        """``raw``: the binding for fast calls (see ``fastcall``), or None for the public one."""
        self.limits, self.raw, self._cache = limits, raw, cache
        self.engine, self._settings = _engine(limits)
        self._ticker = Ticker(self.engine)
        self._compiled: WeakValueDictionary[str, Module] = WeakValueDictionary()

    def compile(self, wasm: bytes) -> Module:
        """Machine code for the module: from memory, from the cache, or made now. Raises BadModule.

        Takes milliseconds to seconds and can't be interrupted: call it in a thread. What bounds it is the
        module's size and :func:`~edge.runtime.binary.read_cost`.
        """
        if len(wasm) > self.limits.module_bytes_max:
            size, most = len(wasm), self.limits.module_bytes_max
            raise BadModule(f"the module has {size} bytes; module_bytes_max is {most}")
        if not wasm.startswith(_WASM_MAGIC):  # wasmtime would take anything else for the text format
            raise BadModule("not a WebAssembly binary: the first four bytes are not its magic")
        identity = f"{hashlib.sha256(wasm).hexdigest()} {self._settings}"
        module = self._compiled.get(identity)
        if module is None:
            module = self._compiled[identity] = self._load_or_compile(identity, wasm)
        return module

    def open_store(self, memory_bytes_max: int, instances: int = 1) -> Store:
        """A fresh store under every limit. The caller closes it."""
        store = Store(self.engine)
        store.set_limits(
            memory_size=memory_bytes_max,
            table_elements=self.limits.table_elements_max,
            instances=instances,
            tables=self.limits.tables_max,
            memories=1,
        )
        return store

    def instantiate(self, store: Store, module: Module, imports: Sequence[Any], deadline: float) -> Instance:
        """Runs the start function, too, and so has a deadline (monotonic seconds) like any call."""
        return self.call(store, deadline, lambda: Instance(store, module, imports))

    def call(self, store: Store, deadline: float, function: Callable[..., T], *arguments: object) -> T:
        """``function(*arguments)``, which enters ``store``, stopped at ``deadline``.

        Raises a :class:`WasmError`.
        """
        if deadline <= monotonic():
            raise DeadlineExceeded("the deadline passed before the call could start")
        try:
            with self._ticker:
                store.set_epoch_deadline(self._ticker.ticks(deadline))
                return function(*arguments)
        except (Trap, WasmtimeError) as error:
            raise translated(error) from None

    def call_inline(self, set_deadline: Callable[[int], None], function: Call) -> None:
        """``function()``, stopped after ``inline_deadline_s``; ``set_deadline``: its store's.

        The same as :meth:`call` at a third of its cost, for calls that take microseconds.
        """
        try:
            with self._ticker:
                set_deadline(self._ticker.ticks(monotonic() + self.limits.inline_deadline_s))
                function()
        except (Trap, WasmtimeError) as error:
            raise translated(error) from None

    @property
    def ticking(self) -> bool:
        """True while the ticker thread is awake."""
        return self._ticker.awake

    def close(self) -> None:
        """End the ticker. No call may be in flight."""
        self._ticker.close()

    def _check_cost(self, wasm: bytes) -> None:
        """A compile can't be interrupted, so one that would take too long is not begun."""
        cost, limits = read_cost(wasm), self.limits
        if cost.functions > limits.functions_max:
            raise BadModule(
                f"{cost.functions} functions are too many; functions_max is {limits.functions_max}"
            )
        if cost.largest > limits.function_cost_max:
            raise BadModule(
                f"a function is too costly to compile ({cost.largest}, by its size and number of locals); "
                f"function_cost_max is {limits.function_cost_max}"
            )
        if cost.total > limits.module_cost_max:
            raise BadModule(
                f"the module is too costly to compile ({cost.total}, by its size and number of locals); "
                f"module_cost_max is {limits.module_cost_max}"
            )

    def _load_or_compile(self, identity: str, wasm: bytes) -> Module:
        if self._cache is not None and (module := self._cache.load(self.engine, identity)) is not None:
            return module
        self._check_cost(wasm)
        try:
            module = Module(self.engine, wasm)
        except WasmtimeError as error:
            raise _refused(error) from None
        if self._cache is not None:
            self._cache.save(identity, module)
        return module


def _refused(error: WasmtimeError) -> WasmError:
    cause = str(error).strip().rpartition("\n")[2].strip()
    return BadModule(f"the module is not valid here: {cause}")


def _engine(limits: Limits) -> tuple[Engine, str]:
    """The engine and a text that names every setting which changes the compiled code.

    Proposals that no model needs are off: less to attack. Relaxed SIMD is pinned to one meaning, so that
    the same module gives the same bits on every processor.
    """
    settings: dict[str, bool | int] = {
        "epoch_interruption": True,
        "max_wasm_stack": limits.stack_bytes_max,
        "wasm_simd": limits.simd,
        "wasm_relaxed_simd": limits.simd,
        "wasm_relaxed_simd_deterministic": limits.simd,
        "wasm_threads": limits.threads,
        "shared_memory": False,
        "wasm_memory64": False,
        "wasm_multi_memory": False,
        "wasm_tail_call": False,
        "wasm_gc": False,
        "wasm_function_references": False,
        "wasm_exceptions": False,
        "wasm_component_model": False,
        "gc_support": False,
        "parallel_compilation": False,  # a compile leaves the other cores to the agent
    }
    config = Config()
    for name, value in settings.items():
        setattr(config, name, value)
    described = " ".join(f"{name}={int(value)}" for name, value in settings.items())
    return Engine(config), f"wasmtime {WASMTIME_VERSION} {platform.machine()} {described}"
