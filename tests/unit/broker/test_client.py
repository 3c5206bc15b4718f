"""The client bus over a wire that does what the test says."""

import asyncio

import pytest

from broker.client import ClientBus, Welcome
from broker.options import LinkOptions

OPTIONS = LinkOptions(host="broker", port=1883, root="main", client_id="caller")


class SlowWire:
    """Opens when the test lets it; notes how it was ended."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[Welcome] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.goodbyes = 0

    async def open(self, *, clean_start: bool) -> Welcome:
        return await self.opened

    async def ended(self) -> str:
        return await asyncio.shield(self.lost)

    async def close(self) -> None:
        self.goodbyes += 1
        await self.drop("closed")

    async def drop(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    def transmit(self, message: object, packet_id: int, duplicate: bool) -> bool:
        raise AssertionError("nothing was published")

    def subscribe(self, pattern: str, qos: int, identifier: int | None) -> int:
        raise AssertionError("nothing was subscribed")

    def unsubscribe(self, pattern: str) -> int:
        raise AssertionError("nothing was subscribed")


async def closed(turns: int | None) -> SlowWire:
    """A bus that is closed ``turns`` of the loop after the broker has let it in; None: before."""
    wire = SlowWire()
    bus = ClientBus(OPTIONS, lambda *_: wire)
    running = asyncio.create_task(bus.run())
    await asyncio.sleep(0)
    if turns is not None:
        wire.opened.set_result(Welcome(resumed=False, window=10, identifiers=True))
        for _ in range(turns):
            await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await bus.close()
        await running
    assert not bus.link.up
    return wire


def test_whom_the_broker_has_not_answered_leaves_without_a_goodbye() -> None:
    assert asyncio.run(closed(None)).goodbyes == 0


@pytest.mark.parametrize("turns", range(6))
def test_a_bus_ends_when_it_is_closed_just_as_the_broker_lets_it_in(turns: int) -> None:
    assert asyncio.run(closed(turns)).lost.done()
