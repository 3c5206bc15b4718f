"""The registry, bound to the bus."""

from collections.abc import Callable

from broker.bus import Bus
from broker.service import Service, on
from cloud.facts import NodeChanged, NodeForgotten, NodeNews
from cloud.registry.core import Registry
from cloud.registry.events import BirthSeen, Event, HeartbeatSeen, PresenceSeen, ReportedSeen
from shared.topics import BIRTH, HEARTBEAT, PRESENCE, REPORTED

TICK_S = 1.0


def registry_service(core: Registry, bus: Bus, tell: Callable[[NodeNews], None]) -> Service[Event]:
    """``tell`` hears everything new about a node, in order; give it the other services' ``feed``."""
    return Service(
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
        tick_s=TICK_S,
    )
