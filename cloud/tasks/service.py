"""Tasks bound to the store and to the fleet."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from broker.bus import Bus
from broker.service import Service
from cloud.client import Fleet
from cloud.tasks.core import (
    Announce,
    Answered,
    Event,
    Forget,
    Refused,
    RunTask,
    Saved,
    SaveTask,
    Task,
    Tasks,
)
from shared.errors import RequestFailed


class TaskStore(Protocol):
    """Where tasks survive. Each method blocks and is one transaction."""

    def tasks(self) -> list[Task]:
        """All of them."""
        ...

    def save_task(self, task: Task) -> None:
        """Durable when this returns."""
        ...

    def forget_task(self, id: str) -> None:
        """Delete one."""
        ...


def tasks_service(
    core: Tasks, bus: Bus, fleet: Fleet, store: TaskStore, announce: Callable[[Task], None]
) -> Service[Event]:
    """``announce`` hears of every version of a task once it is durable."""

    async def save(work: SaveTask) -> Event:
        await asyncio.to_thread(store.save_task, work.task)
        return Saved(work.task)

    async def run(work: RunTask) -> Event:
        spec = work.spec
        try:
            reply = await fleet.ask_packed(
                spec.model,
                msgspec.Raw(spec.inputs),
                function=spec.function,
                node=spec.node,
                idempotent=spec.idempotent,
                budget_s=spec.deadline_s,
            )
        except RequestFailed as error:
            return Refused(work.id, error.code, error.detail, error.definite)
        return Answered(work.id, reply.node, bytes(reply.body))

    return Service(
        "tasks",
        core,
        bus,
        [],
        do={
            Announce: lambda effect: announce(effect.task),
            Forget: lambda effect: store.forget_task(effect.id),
        },
        work={SaveTask: save, RunTask: run},
        work_max=1024,
    )
