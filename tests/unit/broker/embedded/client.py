"""A client that says exactly what a test wants, and a decorator that gives a test its broker."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import mqtt5
import pytest
import uvloop

from broker.embedded import (
    Authenticator,
    Authorizer,
    BrokerConfig,
    BrokerLimits,
    EmbeddedBroker,
    accept_anyone,
)

P = TypeVar("P")
DEADLINE_S = 10.0  # a hang is a failure, never a wait for ever


def with_broker(
    *,
    authenticate: Authenticator = accept_anyone,
    authorize: Authorizer | None = None,
    sys_interval_s: float = 0.0,
    **limits: Any,
) -> Callable[[Callable[[EmbeddedBroker], Awaitable[None]]], Callable[..., None]]:
    """Run an async test against a fresh broker on a free port: a test function on both event loops.

    A story inside a test function runs where it is called, on asyncio's own loop.
    """

    def decorate(test: Callable[[EmbeddedBroker], Awaitable[None]]) -> Callable[..., None]:
        async def story() -> None:
            config = BrokerConfig(port=0, limits=BrokerLimits(**limits), sys_interval_s=sys_interval_s)
            async with EmbeddedBroker(config, authenticate=authenticate, authorize=authorize) as broker:
                await test(broker)

        def run() -> None:
            asyncio.run(story())

        def run_on(runner: Callable[[Coroutine[Any, Any, None]], None]) -> None:
            runner(story())

        if "<locals>" in test.__qualname__:
            return run
        run_on.__name__, run_on.__doc__, run_on.__module__ = test.__name__, test.__doc__, test.__module__
        return LOOPS(run_on)

    return decorate


LOOPS = pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


class Client:
    """One socket. Nothing is acknowledged unless the test says so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._buffer = b""
        self.connack: mqtt5.ConnAckPacket
        self._last_id = 0

    @classmethod
    async def dial(cls, broker: EmbeddedBroker | None, **kwargs: Any) -> "Client":
        """Only the TCP connection; or a socket the test has connected (``sock``)."""
        address = {"host": "127.0.0.1", "port": broker.port} if broker else {}
        return cls(*await asyncio.open_connection(**address, **kwargs))

    @classmethod
    async def connect(cls, broker: EmbeddedBroker, client_id: str = "", **properties: Any) -> "Client":
        """A CONNECT that is accepted. ``expiry`` is short for the session expiry interval."""
        properties.setdefault("clean_start", "expiry" not in properties)
        properties["session_expiry_interval"] = properties.pop("expiry", 0)
        self = await cls.dial(broker)
        await self.send(mqtt5.ConnectPacket(client_id, **properties))
        self.connack = await self.expect(mqtt5.ConnAckPacket)
        assert self.connack.reason_code == 0, self.connack
        return self

    async def send(self, *packets: Any) -> None:
        self._writer.write(b"".join(p if isinstance(p, bytes) else p.write() for p in packets))
        await self._writer.drain()

    async def receive(self) -> Any:
        """The next packet; ``EOFError`` when the broker has hung up."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    packet, nbytes = mqtt5.read(memoryview(self._buffer))
                except IndexError:
                    try:
                        data = await self._reader.read(1 << 16)
                    except ConnectionResetError:
                        data = b""
                    if not data:
                        raise EOFError from None
                    self._buffer += data
                    continue
                self._buffer = self._buffer[nbytes:]
                return packet

    async def expect(self, kind: type[P]) -> P:
        packet = await self.receive()
        assert isinstance(packet, kind), packet
        return packet

    async def raw(self, nbytes: int) -> bytes:
        """The next bytes, undecoded."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.readexactly(nbytes)

    async def message(self) -> mqtt5.PublishPacket:
        return await self.expect(mqtt5.PublishPacket)

    async def fence(self) -> list[Any]:
        """Everything that arrived before the answer to a ping: proves that nothing else did."""
        await self.send(mqtt5.PingReqPacket())
        seen: list[Any] = []
        while not isinstance(packet := await self.receive(), mqtt5.PingRespPacket):
            seen.append(packet)
        return seen

    async def payloads(self) -> list[bytes]:
        return [packet.payload for packet in await self.fence()]

    async def subscribe(
        self, *patterns: str, qos: int = 2, id: int | None = None, **options: Any
    ) -> list[int]:
        options.setdefault("retain_as_published", False)
        filters = [mqtt5.TopicFilter(p, max_qos=mqtt5.QoS(qos), **options) for p in patterns]
        await self.send(mqtt5.SubscribePacket(self.next_id(), filters, subscription_id=id))
        return [int(code) for code in (await self.expect(mqtt5.SubAckPacket)).reason_codes]

    async def subscribe_anyway(self, *patterns: str) -> None:
        """SUBSCRIBE at QoS 1 with filters that the codec would not write; the answer is the caller's."""
        await self.send(_with_filters(0x82, patterns, b"\1"))

    async def unsubscribe_anyway(self, *patterns: str) -> None:
        """UNSUBSCRIBE, likewise."""
        await self.send(_with_filters(0xA2, patterns, b""))

    async def unsubscribe(self, *patterns: str) -> list[int]:
        await self.send(mqtt5.UnsubscribePacket(self.next_id(), list(patterns)))
        return [int(code) for code in (await self.expect(mqtt5.UnsubAckPacket)).reason_codes]

    async def publish(self, topic: str, payload: bytes = b"", qos: int = 1, **properties: Any) -> int:
        """Publish and, above QoS 0, see it through; the reason code of the first answer."""
        packet_id = self.next_id() if qos else None
        await self.send(
            mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS(qos), packet_id=packet_id, **properties)
        )
        if packet_id is None:
            return 0
        answer = await self.receive()
        assert answer.packet_id == packet_id, answer
        if qos == 2 and int(answer.reason_code) < 0x80:
            await self.send(mqtt5.PubRelPacket(packet_id))
            await self.expect(mqtt5.PubCompPacket)
        return int(answer.reason_code)

    async def ack(self, packet: mqtt5.PublishPacket) -> None:
        assert packet.packet_id is not None
        await self.send(mqtt5.PubAckPacket(packet.packet_id))

    async def disconnect(self, reason: int = 0, **properties: Any) -> None:
        await self.send(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode(reason), **properties))
        await self.closed()

    async def closed(self) -> list[Any]:
        """What the broker still said before it hung up."""
        seen: list[Any] = []
        while True:
            try:
                seen.append(await self.receive())
            except EOFError:
                self.vanish()
                return seen

    async def disconnected(self) -> int:
        """The reason code of the DISCONNECT that ends this connection."""
        seen = await self.closed()
        assert seen, "cut without a word"
        assert isinstance(seen[-1], mqtt5.DisconnectPacket), seen
        return int(seen[-1].reason_code)

    def vanish(self) -> None:
        """Gone without a DISCONNECT."""
        self._writer.transport.abort()

    def pause(self) -> None:
        """Stop reading from the socket."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def listen_for_ever(self) -> None:
        """Read and forget."""
        while await self._reader.read(1 << 16):
            pass

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id


def _with_filters(first_byte: int, patterns: tuple[str, ...], after_each: bytes) -> bytes:
    texts = [pattern.encode() for pattern in patterns]
    body = b"\0\x63\0" + b"".join(len(text).to_bytes(2, "big") + text + after_each for text in texts)
    assert len(body) < 128
    return bytes([first_byte, len(body)]) + body


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something the broker does on its own time; a deadline, not a measurement."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)
