"""Packets of the ``mqtt5`` codec over one :class:`Connection` at a time."""

import asyncio
from collections.abc import Callable
from typing import Any

import mqtt5

from broker.client import Ears, Welcome
from broker.names import Topics
from broker.native.connection import Connection
from broker.native.packets import connect_packet, publish_packet
from broker.native.receiver import Receiver
from broker.options import LinkOptions
from broker.outbox import Outgoing
from shared.errors import Unavailable

_ERRORS_FROM = 0x80  # reason codes from here on are errors (MQTT 5.0, section 2.4)
_PACKET_BYTES_MAX = 268_435_460  # what four length bytes can say; for a broker that sets no limit
_FIRST_ID = 0x8000  # for SUBSCRIBE and UNSUBSCRIBE; the lower half belongs to PUBLISH
_ID_COUNT = 0x8000

_PacketHandlers = dict[type, Callable[[Any], None]]
_Acknowledgement = mqtt5.PubAckPacket | mqtt5.SubAckPacket | mqtt5.UnsubAckPacket


class NativeWire:
    """See :class:`broker.client.Wire`. ``clock``: monotonic seconds, as in the messages' expiry."""

    def __init__(self, options: LinkOptions, topics: Topics, ears: Ears, clock: Callable[[], float]) -> None:
        self._options, self._topics, self._ears, self._clock = options, topics, ears, clock
        self._receiver = Receiver(ears.received)
        self._connection: Connection
        self._connack: asyncio.Future[mqtt5.ConnAckPacket]
        self._broker_bytes_max = _PACKET_BYTES_MAX
        self._asked = 0

    # From the bus -----------------------------------------------------------------------------------

    async def open(self, *, clean_start: bool) -> Welcome:
        """See :meth:`broker.client.Wire.open`."""
        options, loop = self._options, asyncio.get_running_loop()
        greeting = connect_packet(options, self._topics, clean_start=clean_start).write()
        self._connack = loop.create_future()
        # Until the broker has accepted us it may say nothing else.
        handlers: _PacketHandlers = {
            mqtt5.ConnAckPacket: lambda packet: self._greeted(packet, handlers),
            mqtt5.DisconnectPacket: self._dismissed,
        }
        self._connection = Connection(greeting, handlers, self._ears.congested, options.packet_bytes_max)
        connection = self._connection
        await loop.create_connection(lambda: connection, options.host, options.port, ssl=options.tls)
        await asyncio.wait((self._connack, connection.lost), return_when=asyncio.FIRST_COMPLETED)
        if not self._connack.done():
            raise Unavailable(connection.lost.result())
        return self._welcome(self._connack.result())

    async def ended(self) -> str:
        """See :meth:`broker.client.Wire.ended`."""
        return await asyncio.shield(self._connection.lost)

    def transmit(self, message: Outgoing, packet_id: int, duplicate: bool) -> bool:
        """See :meth:`broker.client.Wire.transmit`."""
        now = 0.0 if message.expires_at is None else self._clock()
        data = publish_packet(message, self._topics, packet_id, duplicate, now).write()
        if len(data) > self._broker_bytes_max:
            return False
        self._connection.write(data)
        return True

    def subscribe(self, pattern: str, qos: int, identifier: int | None) -> int:
        """See :meth:`broker.subscriber.Asking.subscribe`."""
        packet_id = self._next_id()
        wanted = mqtt5.TopicFilter(
            self._topics.filter(pattern),
            max_qos=mqtt5.QoS(qos),
            retain_as_published=False,  # so that the flag says "was there when we subscribed"
        )
        self._connection.write(mqtt5.SubscribePacket(packet_id, [wanted], subscription_id=identifier).write())
        return packet_id

    def unsubscribe(self, pattern: str) -> int:
        """See :meth:`broker.subscriber.Asking.unsubscribe`."""
        packet_id = self._next_id()
        self._connection.write(mqtt5.UnsubscribePacket(packet_id, [self._topics.filter(pattern)]).write())
        return packet_id

    async def close(self) -> None:
        """See :meth:`broker.client.Wire.close`."""
        self._connection.close()
        await self._connection.lost

    async def drop(self, reason: str) -> None:
        """See :meth:`broker.client.Wire.drop`."""
        self._receiver.disconnected()
        self._connection.abort(reason)

    # From the broker --------------------------------------------------------------------------------

    def _greeted(self, packet: mqtt5.ConnAckPacket, handlers: _PacketHandlers) -> None:
        # Here and not in a task: messages of a kept session may follow in the same chunk of bytes.
        del handlers[mqtt5.ConnAckPacket]
        if packet.reason_code is mqtt5.ConnAckReasonCode.SUCCESS:
            self._receiver.connected(self._connection.write, resumed=packet.session_present)
            handlers[mqtt5.PublishPacket] = self._receiver.published
            handlers[mqtt5.PubRelPacket] = self._receiver.released
            handlers[mqtt5.PubAckPacket] = self._published
            handlers[mqtt5.SubAckPacket] = self._subscribed
            handlers[mqtt5.UnsubAckPacket] = self._subscribed
            handlers[mqtt5.PingRespPacket] = lambda _: None  # any bytes at all prove the broker alive
        if not self._connack.done():
            self._connack.set_result(packet)

    def _welcome(self, connack: mqtt5.ConnAckPacket) -> Welcome:
        if connack.reason_code is not mqtt5.ConnAckReasonCode.SUCCESS:
            raise Unavailable(f"the broker refused the connection: {_words(connack)}")
        asked_s, told_s = self._options.keepalive_s, connack.server_keep_alive
        self._connection.keep_alive(asked_s if told_s is None else told_s)
        self._broker_bytes_max = connack.max_packet_size or _PACKET_BYTES_MAX
        return Welcome(connack.session_present, connack.receive_max, connack.subscription_id_available)

    def _published(self, packet: mqtt5.PubAckPacket) -> None:
        code = packet.reason_code
        self._ears.published(packet.packet_id, code.name if int(code) >= _ERRORS_FROM else "")

    def _subscribed(self, packet: mqtt5.SubAckPacket | mqtt5.UnsubAckPacket) -> None:
        code = packet.reason_codes[0]
        self._ears.subscribed(packet.packet_id, _spoken(code.name) if int(code) >= _ERRORS_FROM else "")

    def _dismissed(self, packet: mqtt5.DisconnectPacket) -> None:
        self._connection.abort(f"the broker ended the connection: {_words(packet)}")

    def _next_id(self) -> int:
        # 32,768 of them go round; nobody has so many unanswered at once.
        self._asked += 1
        return _FIRST_ID + self._asked % _ID_COUNT


def _words(packet: mqtt5.ConnAckPacket | mqtt5.DisconnectPacket) -> str:
    """The broker's reason, fit for a person."""
    name = _spoken(packet.reason_code.name)
    return f"{name} ({packet.reason_str})" if packet.reason_str else name


def _spoken(name: str) -> str:
    return name.replace("_", " ").lower()
