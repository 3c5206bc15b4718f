"""A bus and a broker to try it on, behind one face, so that one test can speak to all of them."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

from broker.aiomqtt_bus import AiomqttBus
from broker.bus import Bus, ConnectedBus, Delivery, Will
from broker.embedded import BrokerConfig, EmbeddedBroker
from broker.memory import MemoryBroker, MemoryBus
from broker.native import LinkOptions, NativeBus
from tests.support.mosquitto import Mosquitto

PATIENCE_S = 10.0
_fleets = itertools.count()

NETWORKED = [
    "native-mosquitto",
    "native-embedded-uvloop",
    "aiomqtt-mosquitto",
    "aiomqtt-embedded-uvloop",
    "aiomqtt311-mosquitto",
]
# Mosquitto looks at its websockets ten times a second, so only the tests that cross a connection pay for it.
WEBSOCKETS = "websockets-mosquitto"
MQTT_5 = [kind for kind in NETWORKED if "311" not in kind]
ALL = ["memory", *NETWORKED]


class Eager(random.Random):
    """Waits a twentieth of a second, whatever the limit is."""

    def uniform(self, a: float, b: float) -> float:
        return min(b, 0.05)


class World(Protocol):
    """One fleet on one broker."""

    root: str

    def bus(self, **options: Any) -> Any:
        """A client that is not connected yet. Options as in :class:`LinkOptions`."""

    async def connect(self, bus: Any) -> None:
        """Bring it up."""

    async def leave(self, bus: Any) -> None:
        """Say goodbye."""

    async def fall(self, bus: Any) -> None:
        """Lose the connection without a word."""


class MemoryWorld:
    def __init__(self) -> None:
        self.root = ""
        self._broker = MemoryBroker()

    def bus(
        self, *, will: Will | None = None, receive_max: int = 64, outbox_messages_max: int = 1000, **_: Any
    ) -> MemoryBus:
        return MemoryBus(self._broker, will=will, receive_max=receive_max, outbox_max=outbox_messages_max)

    async def connect(self, bus: MemoryBus) -> None:
        bus.connect()

    async def leave(self, bus: MemoryBus) -> None:
        bus.disconnect(cleanly=True)

    async def fall(self, bus: MemoryBus) -> None:
        bus.disconnect()


class NetworkWorld:
    def __init__(self, make: Callable[[LinkOptions], ConnectedBus], port: int, root: str = "") -> None:
        self.root = root or f"shoal/1/fleet{next(_fleets)}"
        self._make, self._port, self._clients = make, port, itertools.count()
        self._running: dict[ConnectedBus, asyncio.Task[None]] = {}

    def bus(self, **options: Any) -> ConnectedBus:
        client_id = f"{self.root.rpartition('/')[2]}-{next(self._clients)}"
        return self._make(replace(LinkOptions("127.0.0.1", self._port, self.root, client_id), **options))

    async def connect(self, bus: ConnectedBus) -> None:
        self._running[bus] = asyncio.create_task(bus.run())
        await until(lambda: bus.link.up)

    async def leave(self, bus: ConnectedBus) -> None:
        await bus.close()
        await self._running.pop(bus)

    async def fall(self, bus: ConnectedBus) -> None:
        task = self._running.pop(bus)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def end(self) -> None:
        for bus in tuple(self._running):
            await self.leave(bus)


def maker(kind: str) -> Callable[[LinkOptions], ConnectedBus]:
    """How a networked bus of this kind is made."""
    if kind.startswith("native"):
        return lambda options: NativeBus(options, rng=Eager())
    protocol, websockets = 4 if "311" in kind else 5, "websockets" in kind
    return lambda options: AiomqttBus(options, protocol=protocol, websockets=websockets, rng=Eager())


@asynccontextmanager
async def world_of(kind: str, mosquitto: Mosquitto | None) -> AsyncIterator[World]:
    """A fleet of its own on the broker that ``kind`` names."""
    if kind == "memory":
        yield MemoryWorld()
    elif "embedded" in kind:
        broker = EmbeddedBroker(BrokerConfig(host="127.0.0.1", port=0))
        async with broker, ended(NetworkWorld(maker(kind), broker.port)) as world:
            yield world
    else:
        assert mosquitto is not None
        port = mosquitto.websockets_port if "websockets" in kind else mosquitto.port
        async with ended(NetworkWorld(maker(kind), port)) as world:
            yield world


@asynccontextmanager
async def ended(world: NetworkWorld) -> AsyncIterator[NetworkWorld]:
    try:
        yield world
    finally:
        await world.end()


async def until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait for something that has to come true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def settled(bus: Bus) -> None:
    """Wait until whatever was on its way to a subscriber of this bus has certainly arrived.

    A message of its own goes through the broker behind everything else. It is repeated, because aiomqtt
    subscribes in a task while it publishes at once.
    """
    arrived: list[Delivery] = []
    name = f"settled/{random.getrandbits(64):x}"
    subscription = bus.subscribe([name], arrived.append)
    async with asyncio.timeout(PATIENCE_S):
        while not arrived:
            bus.publish(name, b"first", qos=1)
            await asyncio.sleep(0.02)
    bus.publish(name, b"last", qos=1)
    await until(lambda: arrived[-1].payload == b"last")
    subscription.close()
