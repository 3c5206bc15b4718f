"""The least that speaks MQTT 5 with QoS 1: the peer that our own transport is measured against."""

import asyncio
from collections.abc import Callable
from typing import cast

import mqtt5

_QOS_1 = mqtt5.QoS.AT_LEAST_ONCE


class Raw(asyncio.Protocol):
    """PUBLISH in, PUBACK out, a callback between. No session, no keepalive, no limits."""

    def __init__(self, client_id: str, username: str | None = None, password: str | None = None) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.received: Callable[[mqtt5.PublishPacket], None] = lambda _: None
        self.acknowledged: Callable[[], None] = lambda: None
        self._greeting = mqtt5.ConnectPacket(
            client_id, username=username, password=password.encode() if password else None, clean_start=True
        ).write()
        self._buffer, self._id = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._greeting)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        view, used = memoryview(data), 0
        while used < len(data):
            try:
                packet, size = mqtt5.read(view[used:])
            except IndexError:
                break
            used += size
            if type(packet) is mqtt5.PublishPacket:
                self.transport.write(mqtt5.PubAckPacket(packet.packet_id).write())
                self.received(packet)
            elif type(packet) is mqtt5.PubAckPacket:
                self.acknowledged()
            elif not self.ready.done():
                self.ready.set_result(packet)
        self._buffer = data[used:]

    def publish(self, topic: str, payload: bytes) -> None:
        self._id = self._id % 65535 + 1
        packet = mqtt5.PublishPacket(topic, payload, qos=_QOS_1, packet_id=self._id)
        self.transport.write(packet.write())

    async def subscribe(self, pattern: str) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.transport.write(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(pattern, max_qos=_QOS_1)]).write())
        await self.ready


async def raw(port: int, client_id: str, username: str | None = None, password: str | None = None) -> Raw:
    """One connection, accepted."""
    _, protocol = await asyncio.get_running_loop().create_connection(
        lambda: Raw(client_id, username, password), "127.0.0.1", port
    )
    answer = await protocol.ready
    assert answer.reason_code is mqtt5.ConnAckReasonCode.SUCCESS, answer
    return protocol
