"""A module in service: its program, its free instances, and what its calls have cost so far."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, thread_time

from edge.runtime.errors import DeadlineExceeded, Stopped, WasmError
from edge.runtime.inline import Probation, Recent
from edge.runtime.limits import Limits
from edge.runtime.parameters import Array
from edge.runtime.program import Instance, Program, Result
from edge.runtime.tensor import TensorCall, TensorInstance, TensorProgram
from shared.package import PackageInfo

_SIZES_REMEMBERED_MAX = 64
_WARM_UP_CALLS, _WARM_UP_S_MAX = 6, 0.02
_SLOW = 10  # times the bound of a quick call: no noise of caches and clocks, worth a look


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a loaded module.

    ``service_s``: (function, items) -> seconds, median of the last calls. ``overruns``: calls on the event
    loop that were stopped there and ran again in a thread.
    """

    name: str
    info: PackageInfo
    digest: str
    functions: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    load_s: float
    service_s: dict[tuple[str, int], float]
    overruns: int


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
        program: Program,
        first: Instance,
        slots: int,
        limits: Limits,
        clock: Callable[[], float] = monotonic,
        processor_clock: Callable[[], float] = thread_time,
    ) -> None:
        """``slots``: calls that may run at once in threads. Both clocks in seconds."""
        self.name, self.info, self.digest = name, info, digest
        self.program, self.slots, self.load_s, self.overruns = program, slots, 0.0, 0
        self.gate = asyncio.Semaphore(slots)
        self._free: deque[Instance] = deque([first])
        self._clock, self._processor_clock, self._retired = clock, processor_clock, False
        self._inline_s_max = limits.inline_s_max
        self._probation = Probation(_SLOW * limits.inline_s_max, limits.inline_deadline_s)
        self._recent: dict[tuple[str, int], Recent] = {}

    def describe(self) -> Description:
        """A snapshot."""
        tensor = self.program if isinstance(self.program, TensorProgram) else None
        return Description(
            self.name,
            self.info,
            self.digest,
            tuple(self.program.functions),
            tuple(sorted(tensor.modules)) if tensor else (),
            self.load_s,
            {key: recent.median_s for key, recent in tuple(self._recent.items())},
            self.overruns,
        )

    def warm_up(self, deadline: float) -> None:
        """Measure ``run`` on zeros, so that the first request may run on the loop already. In the loader.

        A module that can't take zeros is stopped by them, and is then not known to be quick: no more.
        """
        call = self.program.zeros("run") if isinstance(self.program, TensorProgram) else None
        if call is None:
            return
        until = self._clock() + _WARM_UP_S_MAX
        try:
            for _ in range(_WARM_UP_CALLS):
                self.run(call, deadline)
                if self._clock() > until:
                    return
        except Stopped:
            self._recent.clear()

    def run(self, call: object, deadline: float) -> Result:
        """In a worker thread, which the gate has let in. Raises :class:`WasmError`."""
        try:
            instance = self._free.pop()
        except IndexError:
            instance = self.program.start(deadline)
        if isinstance(instance, TensorInstance) and isinstance(call, TensorCall):
            return self._run_tensor(instance, call, deadline)
        try:
            result = instance.run(call, deadline)
        except BaseException:
            instance.close()
            raise
        self._give_back(instance)
        return result

    def run_inline(self, call: object) -> list[Array] | None:
        """On the event loop. None: not known to be quick, barred, or every instance is busy.

        Raises :class:`DeadlineExceeded` when it passed ``inline_deadline_s``: nothing is lost but that time,
        for tensor functions are pure; run it again in a thread. See :class:`Probation` for what follows.
        """
        if not isinstance(call, TensorCall) or len(call.parts) > 1:
            return None
        recent, started = self._recent.get((call.function, call.items)), self._clock()
        if recent is None or not recent.is_quick or started < self._probation.barred_until:
            return None
        try:
            instance = self._free.pop()
        except IndexError:
            return None
        assert isinstance(instance, TensorInstance)
        if not instance.is_ready(call):
            self._free.append(instance)
            return None
        return self._run_watched(instance, call, recent, started)

    def _run_watched(
        self, instance: TensorInstance, call: TensorCall, recent: Recent, started: float
    ) -> list[Array]:
        """On the event loop, with an eye on the clock."""
        used_s = self._processor_clock() if started < self._probation.watched_until else None
        counts = instance.is_ticking
        try:
            result = instance.run(call, None)
        except BaseException as error:
            instance.close()
            if isinstance(error, DeadlineExceeded):
                self.overruns += 1
                if used_s is None:  # else what it used decides
                    self._probation.bar(self._clock())
            raise
        finally:
            elapsed_s = (ended := self._clock()) - started
            if elapsed_s > self._probation.slow_s:
                self._probation.slow(used_s and self._processor_clock() - used_s, ended)
        if counts:
            recent.add(elapsed_s)
        self._give_back(instance)
        return result

    def retire(self) -> None:
        """Close the free instances now and the others when their call ends."""
        self._retired = True
        self._close_free(down_to=0)

    def _run_tensor(self, instance: TensorInstance, call: TensorCall, deadline: float) -> list[Array]:
        was_warm = instance.is_warm(call)
        started = self._clock()
        try:
            result = instance.run(call, deadline)
        except BaseException:
            instance.close()
            raise
        if was_warm:
            self._remember(call, self._clock() - started)
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
        recent = self._recent.get(key)
        if recent is None:
            if len(self._recent) >= _SIZES_REMEMBERED_MAX:
                return  # such sizes go to a thread, which is always right
            recent = self._recent[key] = Recent(self._inline_s_max)
        recent.add(elapsed_s)


def code_of(error: BaseException) -> str:
    """The word under which an error is counted."""
    return error.code if isinstance(error, WasmError) else type(error).__name__
