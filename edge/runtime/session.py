"""A private instance of a tensor module, whose memory lasts from call to call: what training needs."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from edge.runtime.errors import Stopped
from edge.runtime.parameters import Array
from edge.runtime.tensor import TensorInstance, TensorProgram
from edge.runtime.tensor_module import TensorModule
from edge.runtime.workers import Workers
from shared.abi import Function
from shared.errors import Unavailable

T = TypeVar("T")


class Steps:
    """A session as seen from its own thread: many calls without a trip to the event loop and back for each.

    Valid only inside the ``work`` of :meth:`Session.steps`. Every method raises :class:`WasmError`.
    """

    def __init__(
        self, program: TensorProgram, instance: TensorInstance, module: TensorModule, deadline: float
    ) -> None:
        self._program, self._instance, self._module, self._deadline = program, instance, module, deadline

    def call(self, function: str, inputs: Sequence[Array]) -> list[Array]:
        """As :meth:`Session.call`."""
        return self._instance.run(self._program.check(function, inputs), self._deadline)

    def parameters(self) -> dict[str, Array]:
        """Copies of all parameters, by name."""
        return self._module.parameters()

    def set_parameters(self, tensors: Mapping[str, Array]) -> None:
        """Replace all parameters."""
        self._module.set_parameters(tensors, self._deadline)


class Session:
    """``train_step`` changes parameters in place; inference on the same package never sees it.

    Calls run one at a time on the host's threads. A call that is stopped ends the session, for nobody knows
    what state its parameters are in. Made by :meth:`ModuleHost.open_session`; use ``async with`` or close it.
    """

    def __init__(
        self,
        program: TensorProgram,
        size: int,
        workers: Workers,
        deadline: Callable[[float | None], float],
        on_close: Callable[["Session"], None],
    ) -> None:
        self._program, self._size, self._workers = program, size, workers
        self._deadline, self._on_close = deadline, on_close
        self._gate = asyncio.Semaphore(1)
        self._instance: TensorInstance | None = None

    @property
    def batch_size(self) -> int:
        """Of the module in use."""
        return self._size

    def describe(self, function: str) -> Function | None:
        """Inputs and outputs of a function; None when the module has none of that name."""
        return self._program.modules[self._size].abi.function(function)

    async def start(self) -> None:
        """Make the instance, with the package's parameters."""
        deadline = self._deadline(None)
        self._instance = await self._workers.run(self._gate, deadline, partial(self._program.start, deadline))

    async def call(
        self, function: str, inputs: Sequence[Array], *, deadline_s: float | None = None
    ) -> list[Array]:
        """As :meth:`ModuleHost.run`, on this instance. Raises :class:`WasmError`."""
        call, deadline = self._program.check(function, inputs), self._deadline(deadline_s)
        return await self._run(deadline, lambda instance: instance.run(call, deadline))

    async def steps(self, work: Callable[[Steps], T], *, deadline_s: float | None = None) -> T:
        """``work(steps)`` in this session's thread. One deadline over all of it: keep it to some
        milliseconds, for the thread is one of few. Raises what ``work`` raises.
        """
        deadline = self._deadline(deadline_s)
        return await self._run(
            deadline, lambda one: work(Steps(self._program, one, self._module(one, deadline), deadline))
        )

    async def parameters(self) -> dict[str, Array]:
        """Copies of all parameters, by name, as they are now."""
        deadline = self._deadline(None)
        return await self._run(deadline, lambda instance: self._module(instance, deadline).parameters())

    async def set_parameters(self, tensors: Mapping[str, Array]) -> None:
        """Replace all parameters. Raises :class:`BadModule` that names what does not fit."""
        deadline = self._deadline(None)
        await self._run(deadline, lambda one: self._module(one, deadline).set_parameters(tensors, deadline))

    async def close(self) -> None:
        """Wait for the call that runs, and free the memory."""
        async with self._gate:
            self._end()
        self._on_close(self)

    def _module(self, instance: TensorInstance, deadline: float) -> TensorModule:
        return instance.module(self._size, deadline)

    async def _run(self, deadline: float, action: Callable[[TensorInstance], T]) -> T:
        def work() -> T:
            instance = self._instance
            if instance is None:
                raise Unavailable("the session has ended; open another")
            try:
                return action(instance)
            except Stopped:
                self._end()
                raise

        return await self._workers.run(self._gate, deadline, work)

    def _end(self) -> None:
        """Only where no call can be running: in the thread that has the gate, or holding the gate."""
        instance, self._instance = self._instance, None
        if instance is not None:
            instance.close()

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
