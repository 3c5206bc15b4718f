"""The agent bound to the bus, the machine and the process's end."""

from collections.abc import Awaitable, Callable

from broker.bus import Bus, Will
from broker.service import Service, on
from edge.agent.core import (
    Agent,
    CloudSeen,
    CommandArrived,
    Event,
    Exit,
    Measure,
    Measured,
    PingRead,
    ReadForPing,
    ReadVitals,
    StartDraining,
    Vitals,
    VitalsRead,
)
from shared.messages import Capabilities, Presence
from shared.topics import CLOUD, COMMAND, PRESENCE
from shared.wire import encode

WILL_DELAY_S = 5  # a short cut of the network is not a death


def last_will(node: str, epoch: int) -> Will:
    """What the broker says when this boot dies without a word."""
    gone = Presence(epoch=epoch, online=False, reason="connection lost")
    return Will(PRESENCE.at(node=node).name, encode(gone), delay_s=WILL_DELAY_S)


def agent_service(
    core: Agent,
    bus: Bus,
    *,
    vitals: Callable[[], Vitals],
    measure: Callable[[], Awaitable[Capabilities]],
    drain: Callable[[], None],
    leave: Callable[[str], None],
) -> Service[Event]:
    """Presence, birth, heartbeats and commands of this boot."""

    async def measured(_: Measure) -> Event:
        return Measured(await measure())

    return Service(
        "agent",
        core,
        bus,
        [
            on(COMMAND, lambda ids, command: CommandArrived(ids["verb"], command), node=core.node),
            on(CLOUD, lambda _, presence: CloudSeen(presence)),
        ],
        do={StartDraining: lambda _: drain(), Exit: lambda effect: leave(effect.reason)},
        work={
            ReadVitals: lambda _: VitalsRead(vitals()),
            ReadForPing: lambda work: PingRead(work.command, vitals()),
            Measure: measured,
        },
        tick_s=min(0.5, core.heartbeat_s / 4),
    )
