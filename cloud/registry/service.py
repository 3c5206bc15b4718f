"""The registry, bound to the bus."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from broker.bus import Bus
from broker.service import Service, on
from cloud.facts import NodeChanged, NodeForgotten, NodeNews
from cloud.registry.core import Registry
from cloud.registry.events import (
    BirthSeen,
    Event,
    HeartbeatSeen,
    PresenceSeen,
    Recalled,
    Remember,
    ReportedSeen,
)
from shared.messages import Birth
from shared.topics import BIRTH, HEARTBEAT, PRESENCE, REPORTED

TICK_S = 1.0


class NodeStore(Protocol):
    """Where births survive. Both methods block; each is one transaction."""

    def load_births(self) -> dict[str, Birth]:
        """The newest birth of every node ever kept."""
        ...

    def save_birth(self, node: str, birth: Birth, at_unix_s: float) -> None:
        """Durable when this returns."""
        ...


def registry_service(
    core: Registry, bus: Bus, store: NodeStore, tell: Callable[[NodeNews], None]
) -> Service[Event]:
    """``tell`` hears everything new about a node, in order; give it the other services' ``feed``.

    The store is read here, before anything can be heard.
    """

    async def remember(work: Remember) -> None:
        await asyncio.to_thread(store.save_birth, work.node, work.birth, time.time())

    service: Service[Event] = Service(
        "registry",
        core,
        bus,
        [
            on(HEARTBEAT, lambda ids, message: HeartbeatSeen(ids["node"], message)),
            on(PRESENCE, lambda ids, message: PresenceSeen(ids["node"], message)),
            on(BIRTH, lambda ids, message: BirthSeen(ids["node"], message)),
            on(REPORTED, lambda ids, message: ReportedSeen(ids["node"], message)),
        ],
        do={NodeChanged: tell, NodeForgotten: tell},
        work={Remember: remember},
        work_max=1024,  # a fleet that returns at once is born at once
        tick_s=TICK_S,
    )
    for node, birth in store.load_births().items():
        service.feed(Recalled(node, birth))
    return service
