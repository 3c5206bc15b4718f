"""The coordinator bound to the bus, the disk and the catalog."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from broker.bus import Bus
from broker.service import Service, on
from cloud.federated.core import Coordinator
from cloud.federated.events import (
    Aggregate,
    Asker,
    CloudSeen,
    Event,
    Judge,
    LearnAsked,
    LearnerAsked,
    LearnerSeen,
    Load,
    MakeModel,
    Offer,
    PartArrived,
    Prepare,
    Remove,
    SaveClients,
    Settle,
    Withdraw,
    Write,
)
from cloud.federated.executor import Executor
from shared.core import Work
from shared.errors import Unreadable
from shared.learning import UpdateAsk, UpdatePart
from shared.messages import Manifest
from shared.topics import APP_LEARN, APP_LEARNER, APP_UPDATE, CLOUD, LEARNER, UPDATE

TICK_S = 0.25
WORK_MAX = 256
_ROUND_DIGITS_MAX = 9


def learning_service(
    core: Coordinator,
    bus: Bus,
    executor: Executor,
    offer: Callable[[Manifest, int], None],
    withdraw: Callable[[str], None],
) -> Service[Event]:
    """Bind the core. ``offer`` and ``withdraw`` say which artifacts can be sent to devices, ``offer`` also to
    how many, where that is known.

    Feed it what the registry says of nodes, and a ``ModelAdded`` for each model in the catalog.
    """
    thread = _Thread(executor)
    works = (Load, Prepare, Write, Judge, Aggregate, MakeModel, Remove, Settle, SaveClients)
    return Service(
        "learning",
        core,
        bus,
        [
            on(UPDATE, _part),
            on(LEARNER, lambda ids, learner: LearnerSeen(ids["node"], learner)),
            on(APP_LEARN, lambda ids, ask: LearnAsked(ids["app"], ask)),
            on(APP_LEARNER, lambda ids, ask: LearnerAsked(ids["app"], ask)),
            on(APP_UPDATE, lambda ids, ask: _asked(ids["app"], ask)),
            on(CLOUD, lambda _, presence: CloudSeen(presence.term, presence.online)),
        ],
        do={
            Offer: lambda effect: offer(effect.manifest, effect.readers),
            Withdraw: lambda effect: withdraw(effect.digest),
        },
        work=dict.fromkeys(works, thread.perform),
        tick_s=TICK_S,
        work_max=WORK_MAX,
    )


def _part(ids: dict[str, str], part: UpdatePart) -> PartArrived:
    """Raises :class:`Unreadable` for a round that is no number."""
    number = ids["round"]
    if not (number.isascii() and number.isdigit() and len(number) <= _ROUND_DIGITS_MAX):
        raise Unreadable(f"{number[:16]!r} is not a round")
    return PartArrived(ids["node"], ids["job"], int(number), part)


def _asked(app: str, ask: UpdateAsk) -> PartArrived:
    return PartArrived(ask.client, ask.job, ask.round, ask.part, Asker(app, ask.correlation))


class _Thread:
    """One thread for the disk and for the sums, so that work is done in the order in which it was asked for.

    What came while it was busy is handed over in one piece: updates that arrive together share one sync.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._pool = ThreadPoolExecutor(1, "learning")
        self._waiting: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._busy = False

    def perform(self, work: Work) -> "asyncio.Future[Any]":
        """The answer, when there is one."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((work, future))
        if not self._busy:
            self._next(loop)
        return future

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = list(self._waiting)
        self._waiting.clear()
        self._busy = bool(batch)
        if batch:
            done = loop.run_in_executor(self._pool, self._executor.perform, [work for work, _ in batch])
            done.add_done_callback(lambda answers: self._done(loop, batch, answers))

    def _done(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[tuple[Work, "asyncio.Future[Any]"]],
        answers: "asyncio.Future[list[object]]",
    ) -> None:
        error = answers.exception()
        for index, (_, future) in enumerate(batch):
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(answers.result()[index])
        self._next(loop)


def clock_base() -> float:
    """The wall clock at time 0 of the clock that steps services."""
    return time.time() - time.monotonic()
