"""Inference bound to the bus, the WebAssembly host and the device's own socket."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from broker.bus import Bus
from broker.service import Service, on
from edge.inference.core import (
    AnswerLocally,
    Event,
    InferArrived,
    Inference,
    LoadChanged,
    LocalAsked,
    Ran,
    Refusal,
    RunModule,
)
from shared.errors import ShoalError
from shared.messages import Reply, ReplyStatus
from shared.tensors import pack_inputs, unpack_inputs
from shared.topics import INFER

AnyArray = NDArray[Any]
Inputs = Sequence[AnyArray] | bytes


class Host(Protocol):
    """The part of the WebAssembly runtime that inference uses."""

    def run_now(self, name: str, inputs: Inputs, function: str = "run") -> Sequence[AnyArray] | bytes | None:
        """Run at once in this thread, or return None when that would hold up the loop."""
        ...

    async def run(
        self, name: str, inputs: Inputs, function: str = "run", deadline_s: float | None = None
    ) -> Sequence[AnyArray] | bytes:
        """Run under limits, aside."""
        ...


class LocalClients:
    """Those on this device who wait for an answer. At most ``waiting_max`` at a time."""

    def __init__(self, waiting_max: int = 64) -> None:
        self._waiting_max = waiting_max
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}

    async def ask(
        self,
        service: Service[Event],
        model: str,
        inputs: Inputs,
        *,
        function: str = "run",
        budget_s: float = 10.0,
    ) -> Reply:
        """Ask this device's own modules; works without a broker. Never raises for a refused request."""
        ticket = f"local-{next(self._numbers)}"
        if len(self._waiting) >= self._waiting_max:
            detail = f"{self._waiting_max} local requests are waiting already"
            return Reply(correlation=ticket, status=ReplyStatus.REFUSED, code="overloaded", detail=detail)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        try:
            service.feed(LocalAsked(ticket, model, function, pack_inputs(inputs), budget_s))
            async with asyncio.timeout(budget_s + 1.0):  # the core's own deadline comes first
                return await future
        except TimeoutError:
            detail = f"no answer within {budget_s:g} s"
            return Reply(correlation=ticket, status=ReplyStatus.FAILED, code="deadline", detail=detail)
        finally:
            del self._waiting[ticket]

    def answer(self, effect: AnswerLocally) -> None:
        """Hand over a reply; nobody may be waiting any more."""
        future = self._waiting.get(effect.ticket)
        if future is not None and not future.done():
            future.set_result(effect.reply)


class LoadReport:
    """Tells how busy we are at the end of the loop's turn, and only what is new.

    A request that is run at once comes and goes within one turn: nobody could have seen it, and telling would
    hold up its answer.
    """

    def __init__(self, tell: Callable[[LoadChanged], None]) -> None:
        self._tell, self._due = tell, False
        self._told = self._latest = LoadChanged(0, 0, ())

    def changed(self, load: LoadChanged) -> None:
        """The load is this now."""
        self._latest = load
        if not self._due and load != self._told:
            self._due = True
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        self._due = False
        if self._latest != self._told:
            self._told = self._latest
            self._tell(self._latest)


def inference_service(
    core: Inference, bus: Bus, host: Host, local: LocalClients, load_changed: Callable[[LoadChanged], None]
) -> Service[Event]:
    """Inference requests of this node, answered by the modules of ``host``."""

    def run(work: RunModule) -> Any:
        started = time.perf_counter()
        try:
            inputs = unpack_inputs(work.inputs)
            outputs = host.run_now(work.model, inputs, work.function)
            if outputs is None:
                return run_aside(work, inputs, started)
        except (ShoalError, ValueError) as error:
            return _refusal(work, error)
        return _ran(work, outputs, started)

    async def run_aside(work: RunModule, inputs: Inputs, started: float) -> Event:
        try:
            outputs = await host.run(work.model, inputs, work.function, deadline_s=work.budget_s)
        except (ShoalError, ValueError) as error:
            return _refusal(work, error)
        return _ran(work, outputs, started)

    return Service(
        "inference",
        core,
        bus,
        [on(INFER, lambda ids, command: InferArrived(ids["model"], command), node=core.node)],
        do={AnswerLocally: local.answer, LoadChanged: LoadReport(load_changed).changed},
        work={RunModule: run},
        work_max=core.slots + core.queue_max,
    )


def _ran(work: RunModule, outputs: Sequence[AnyArray] | bytes, started: float) -> Ran:
    body = outputs if isinstance(outputs, bytes) else [np.asarray(one) for one in outputs]
    return Ran(work.key, pack_inputs(body), time.perf_counter() - started)


def _refusal(work: RunModule, error: Exception) -> Refusal:
    return Refusal(work.key, getattr(error, "code", "bad-input"), str(error))
