"""The device's replica bound to the bus and the disk."""

import asyncio
import random
import time
from pathlib import Path

from broker.bus import Bus
from broker.service import Service, on
from edge.sync.core import COMPARE_S, DeviceSync
from edge.sync.data import Data
from edge.sync.disk import ReplicaDisk
from edge.sync.events import Answer, Changed, CloudSeen, DesiredHeard, Event, MessageHeard, Save
from shared.sync import Gate, OpenGate
from shared.topics import CLOUD, DESIRED_KEY, SYNC_DOWN

TICK_S = 0.1


class SyncService:
    """Everything about the replica in one agent. ``data`` is what programs use.

    The replica is read here, before anything can be heard. ``trouble``: what of it was damaged.
    """

    def __init__(
        self,
        node: str,
        epoch: int,
        bus: Bus,
        folder: Path,
        *,
        gate: Gate | None = None,
        compare_s: float = COMPARE_S,
    ) -> None:
        self.core = DeviceSync(node, epoch, random.random, gate or OpenGate(), compare_s=compare_s)
        self._disk = ReplicaDisk(folder)
        self.trouble = self._disk.trouble
        self.service: Service[Event] = Service(
            "sync",
            self.core,
            bus,
            [
                on(SYNC_DOWN, lambda _, message: MessageHeard(message, _unix_ms()), node=node),
                on(DESIRED_KEY, lambda ids, one: DesiredHeard(ids["key"], one, _unix_ms()), node=node),
                on(CLOUD, lambda _, presence: CloudSeen(presence)),
            ],
            do={
                Answer: lambda effect: self.data.answered(effect),
                Changed: lambda effect: self.data.changed(effect),
            },
            work={Save: self._save},
            tick_s=TICK_S,
        )
        self.data = Data(self.core, self.service.feed)
        self.service.feed(self._disk.restored)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            await self.service.run()
        finally:
            self._disk.close()

    async def _save(self, work: Save) -> Event:
        return await asyncio.to_thread(self._disk.save, work)


def _unix_ms() -> int:
    return int(time.time() * 1000)
