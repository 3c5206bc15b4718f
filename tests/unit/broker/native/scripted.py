"""A broker that says exactly what a test tells it to."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import mqtt5

from broker.native import LinkOptions, NativeBus

ROOT = "shoal/1/test"


class Eager(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return 0.01


class Peer:
    """The broker's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._buffer = reader, writer, b""

    async def read(self) -> mqtt5.Packet:
        """The next packet of the client."""
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self._buffer))
            except IndexError:
                async with asyncio.timeout(5):
                    more = await self._reader.read(65536)
                if not more:
                    raise EOFError from None
                self._buffer += more
            else:
                self._buffer = self._buffer[size:]
                return packet

    async def read_until(self, kind: type) -> mqtt5.Packet:
        while not isinstance(packet := await self.read(), kind):
            pass
        return packet

    def say(self, *packets: object) -> None:
        """Send packets, or bytes that only look like some, in one piece."""
        self._writer.write(b"".join(one if isinstance(one, bytes) else one.write() for one in packets))

    async def welcome(self, *, subscriptions: int = 0, **connack: object) -> mqtt5.ConnectPacket:
        """CONNECT, CONNACK, and SUBACK for so many filters."""
        connect = await self.read()
        assert isinstance(connect, mqtt5.ConnectPacket)
        self.say(mqtt5.ConnAckPacket(**connack))
        for _ in range(subscriptions):
            asked = await self.read_until(mqtt5.SubscribePacket)
            granted = mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE
            self.say(mqtt5.SubAckPacket(asked.packet_id, [granted]))
        return connect


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def scripted(*scripts: Script, **options: object) -> AsyncIterator[NativeBus]:
    """A bus whose connections meet these scripts, one after the other; then nobody answers."""
    left, failed, talks = list(scripts), [], set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())
        try:
            if left:
                await left.pop(0)(Peer(reader, writer))
        except EOFError:
            pass
        except Exception as error:
            failed.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    given = {"connect_timeout_s": 5.0, **options}
    bus = NativeBus(LinkOptions("127.0.0.1", port, ROOT, "bus", **given), rng=Eager())
    try:
        yield bus
    finally:
        await bus.close()
        server.close()
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
    assert not failed, failed


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)
