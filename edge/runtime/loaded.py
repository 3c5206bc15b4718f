"""A module in service: its program, its free instances, and what its calls have cost so far."""

import asyncio
from collections import deque
from dataclasses import dataclass
from time import perf_counter

from edge.runtime.errors import WasmError
from edge.runtime.parameters import Array
from edge.runtime.program import Instance, Program, Result
from edge.runtime.tensor import TensorCall, TensorInstance, TensorProgram
from shared.package import ModuleKind, PackageInfo

_EWMA_WEIGHT = 0.2
_SIZES_REMEMBERED_MAX = 64
_NO_DEADLINE = float("inf")


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a loaded module. ``service_s``: (function, items) -> seconds, a moving average."""

    name: str
    info: PackageInfo
    digest: str
    trusted: bool
    interruptible: bool
    functions: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    load_s: float
    service_s: dict[tuple[str, int], float]


class Loaded:
    """Instances move between the free list and one call at a time; one that trapped is closed.

    Invariant: never more than ``instances_max`` free; never one in two threads. Taking and giving back are
    single operations of a deque, which need no lock.
    """

    def __init__(
        self,
        *,
        name: str,
        info: PackageInfo,
        digest: str,
        trusted: bool,
        program: Program,
        first: Instance,
        slots: int,
        inline_s_max: float,
    ) -> None:
        self.name, self.info, self.digest, self.trusted = name, info, digest, trusted
        self.program, self.slots, self.load_s = program, slots, 0.0
        self.gate = asyncio.Semaphore(slots)
        self._free: deque[Instance] = deque([first])
        self._inline_s_max, self._retired = inline_s_max, False
        self._service_s: dict[tuple[str, int], float] = {}
        self._may_inline = trusted and info.kind is ModuleKind.TENSOR

    def describe(self) -> Description:
        """A snapshot."""
        tensor = self.program if isinstance(self.program, TensorProgram) else None
        return Description(
            self.name,
            self.info,
            self.digest,
            self.trusted,
            not self._may_inline,
            tuple(self.program.functions),
            tuple(sorted(tensor.modules)) if tensor else (),
            self.load_s,
            dict(self._service_s),
        )

    def run(self, call: object, deadline: float) -> Result:
        """In a worker thread, which the gate has let in. Raises :class:`WasmError`."""
        try:
            instance = self._free.pop()
        except IndexError:
            instance = self.program.start(deadline)
        return self._run(instance, call, deadline)

    def run_inline(self, call: object) -> list[Array] | None:
        """On the event loop, or None: not trusted, not known to be quick, or every instance is busy."""
        if not self._may_inline or not isinstance(call, TensorCall):
            return None
        service_s = self._service_s.get((call.function, call.items))
        if service_s is None or service_s > self._inline_s_max:
            return None
        try:
            instance = self._free.pop()
        except IndexError:
            return None
        assert isinstance(instance, TensorInstance)
        return self._run_tensor(instance, call, _NO_DEADLINE, inline=True)

    def retire(self) -> None:
        """Close the free instances now and the others when their call ends."""
        self._retired = True
        self._close_free(down_to=0)

    def _run(self, instance: Instance, call: object, deadline: float) -> Result:
        if isinstance(instance, TensorInstance) and isinstance(call, TensorCall):
            return self._run_tensor(instance, call, deadline, inline=False)
        try:
            result = instance.run(call, deadline)
        except BaseException:
            instance.close()
            raise
        self._give_back(instance)
        return result

    def _run_tensor(
        self, instance: TensorInstance, call: TensorCall, deadline: float, *, inline: bool
    ) -> list[Array]:
        started = perf_counter()
        try:
            result = instance.run(call, deadline, inline=inline)
        except BaseException:
            instance.close()
            raise
        self._remember(call, perf_counter() - started)
        self._give_back(instance)
        return result

    def _give_back(self, instance: Instance) -> None:
        self._free.append(instance)
        self._close_free(down_to=0 if self._retired else self.slots)

    def _close_free(self, down_to: int) -> None:
        while len(self._free) > down_to:
            try:
                self._free.popleft().close()
            except IndexError:  # another thread took the last one
                return

    def _remember(self, call: TensorCall, elapsed_s: float) -> None:
        key = (call.function, call.items)
        known = self._service_s.get(key)
        if known is None and len(self._service_s) >= _SIZES_REMEMBERED_MAX:
            return  # such sizes go to a thread, which is always right
        if known is None or elapsed_s < known:  # noise only adds; the first call may have made a store
            self._service_s[key] = elapsed_s
        else:
            self._service_s[key] = known + _EWMA_WEIGHT * (elapsed_s - known)


def code_of(error: BaseException) -> str:
    """The word under which an error is counted."""
    return error.code if isinstance(error, WasmError) else type(error).__name__
