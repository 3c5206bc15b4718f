"""One client of an MQTT 5 broker, on our own protocol class.

                       ┌──────────── NativeBus: run, reconnect ───────────┐
    publish ──> Publisher ──┐                                  Subscriber <── subscribe, close
                            ├── Connection <── bytes ──> broker
    handlers <── Dispatcher <── Receiver ──┘

A delivery is decoded, routed and handled inside ``data_received``: no task, future or queue per message,
which is what makes it about twenty times cheaper than an ``async for``. Publisher, Receiver and Subscriber
outlive connections; each connection is one :class:`Connection`.

Subscribe before ``run`` when the session is kept by the broker: what waited there arrives right after the
connect, and a message without a handler is acknowledged and gone (counted as unroutable).
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import mqtt5

from broker.backoff import Backoff
from broker.bus import NO_PROPERTIES, BusStats, Handler, Link, LinkWatcher, Properties, Subscription
from broker.dispatch import Dispatcher
from broker.links import LinkState
from broker.names import Topics
from broker.native.connection import Connection
from broker.native.packets import connect_packet, publish_packet
from broker.native.receiver import Receiver
from broker.native.subscriber import Subscriber
from broker.options import LinkOptions
from broker.outbox import Outbox, Outgoing
from broker.publisher import Publisher
from broker.routes import Binding, Routes
from shared.errors import Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

_REFUSED_FROM = 0x80  # reason codes from here on are errors (MQTT 5.0, section 2.4)
_PACKET_BYTES_MAX = 268_435_460  # what four length bytes can say; for a broker that sets no limit


PacketHandlers = dict[type, Callable[[Any], None]]


class NativeBus:
    """See :class:`broker.bus.Bus`. ``clock``: monotonic seconds; ``rng``: spreads the reconnects."""

    def __init__(
        self,
        options: LinkOptions,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.stats = BusStats()
        self._options, self._clock = options, clock or time.monotonic
        self._topics, self._routes, self._state = Topics(options.root), Routes(), LinkState()
        outbox = Outbox(options.outbox_messages_max, options.outbox_bytes_max, self.stats)
        self._publisher = Publisher(outbox, self.stats, self._clock)
        self._receiver = Receiver(Dispatcher(options.root, self._routes, self.stats), options.receive_max)
        self._subscriber = Subscriber(self._routes, self._topics.filter, self._state.note)
        self._backoff = Backoff(rng or random.Random())
        self._connection: Connection | None = None
        self._connack: asyncio.Future[mqtt5.ConnAckPacket]
        self._broker_bytes_max = _PACKET_BYTES_MAX
        self._was_up = False
        self._closing = asyncio.Event()

    # The contract -----------------------------------------------------------------------------------

    @property
    def link(self) -> Link:
        """The state of the connection now."""
        return self._state.link

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
        done: Callable[[], None] | None = None,
    ) -> bool:
        """See :meth:`broker.bus.Bus.publish`. Raises ``ValueError`` for a topic that MQTT can't carry."""
        self._topics.name(topic)  # a bad one would end every connection that tries to send it
        return self._publisher.publish(topic, payload, qos, retain, properties, done)

    def subscribe(self, filters: Sequence[str], handler: Handler, *, qos: int = 1) -> Subscription:
        """See :meth:`broker.bus.Bus.subscribe`."""
        binding = Binding(tuple(filters), handler, qos, self._unbind)
        self._routes.add(binding)
        for pattern in dict.fromkeys(binding.filters):
            self._subscriber.subscribe(pattern)
        return binding

    def watch_link(self, watcher: LinkWatcher) -> Callable[[], None]:
        """See :meth:`broker.bus.Bus.watch_link`."""
        return self._state.watch(watcher)

    async def drained(self) -> None:
        """See :meth:`broker.bus.Bus.drained`."""
        await self._publisher.drained()

    # The connection ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """See :meth:`broker.bus.ConnectedBus.run`."""
        while not self._closing.is_set():
            alive_s, reason = await self._live()
            if self._closing.is_set():
                return
            delay_s = self._backoff.ended(alive_s)
            log.warning("%s: %s; next attempt in %.1f s", self._options.client_id, reason, delay_s)
            await self._pause(delay_s)
            self.stats.reconnects += 1

    async def close(self) -> None:
        """See :meth:`broker.bus.ConnectedBus.close`."""
        self._closing.set()
        if self._connection is not None:
            self._connection.close()
            await self._connection.lost

    def _unbind(self, binding: Binding) -> None:
        self._subscriber.forget(self._routes.remove(binding))

    async def _pause(self, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closing.wait()

    async def _live(self) -> tuple[float, str]:
        """One connection from its beginning to its end: how many seconds it was up, and why it ended."""
        up_at, reason = None, "stopped"
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                connection = await self._connect()
                resumed = await self._greeted(connection)
            up_at = self._clock()
            self._up(resumed)
            reason = await connection.lost
        except TimeoutError:
            reason = f"no answer within {self._options.connect_timeout_s:g} s"
        except (OSError, Unavailable) as error:
            reason = str(error)
        finally:
            self._drop(reason)
        return (0.0 if up_at is None else self._clock() - up_at), reason

    async def _connect(self) -> Connection:
        options, loop = self._options, asyncio.get_running_loop()
        # With a session that the broker keeps, only the first connection of this process may start clean.
        clean = options.clean_start and not (self._was_up and options.session_expiry_s)
        greeting = connect_packet(options, self._topics, clean_start=clean).write()
        self._connack = loop.create_future()
        # Until the broker has accepted us it may say nothing else.
        handlers: PacketHandlers = {
            mqtt5.ConnAckPacket: lambda packet: self._answered(packet, handlers),
            mqtt5.DisconnectPacket: self._dismissed,
        }
        _, self._connection = await loop.create_connection(
            lambda: Connection(greeting, handlers, self._congested, options.packet_bytes_max),
            options.host,
            options.port,
            ssl=options.tls,
        )
        return self._connection

    def _answered(self, packet: mqtt5.ConnAckPacket, handlers: PacketHandlers) -> None:
        # Here and not in a task: messages of a kept session may follow in the same chunk of bytes.
        assert self._connection is not None
        del handlers[mqtt5.ConnAckPacket]
        if packet.reason_code is mqtt5.ConnAckReasonCode.SUCCESS:
            self._state.note("")
            self._receiver.connected(self._connection.write, resumed=packet.session_present)
            handlers[mqtt5.PublishPacket] = self._receiver.published
            handlers[mqtt5.PubRelPacket] = self._receiver.released
            handlers[mqtt5.PubAckPacket] = self._acknowledged
            handlers[mqtt5.SubAckPacket] = self._subscriber.answered
            handlers[mqtt5.UnsubAckPacket] = self._subscriber.answered
            handlers[mqtt5.PingRespPacket] = lambda _: None  # any bytes at all prove the broker alive
        if not self._connack.done():
            self._connack.set_result(packet)

    async def _greeted(self, connection: Connection) -> bool:
        """CONNACK, all SUBACKs, then the outbox. Returns whether the broker had kept our session."""
        connack = await _unless_lost(connection, self._connack)
        if connack.reason_code is not mqtt5.ConnAckReasonCode.SUCCESS:
            raise Unavailable(f"the broker refused the connection: {_words(connack)}")
        asked_s, told_s = self._options.keepalive_s, connack.server_keep_alive
        connection.keep_alive(asked_s if told_s is None else told_s)
        subscribed = self._subscriber.connected(
            connection.write, identifiers=connack.subscription_id_available
        )
        await _unless_lost(connection, subscribed)
        self._broker_bytes_max = connack.max_packet_size or _PACKET_BYTES_MAX
        self._publisher.connected(self._transmit, connack.receive_max, resumed=connack.session_present)
        return connack.session_present

    def _up(self, resumed: bool) -> None:
        self._was_up = True
        refusals = self._state.link.reason
        where = f"{self._options.host}:{self._options.port}"
        log.info("%s: connected to %s%s", self._options.client_id, where, " (resumed)" if resumed else "")
        self._state.set(Link(up=True, resumed=resumed, reason=refusals))
        if self._closing.is_set() and self._connection is not None:
            self._connection.close()

    def _drop(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort(reason)
        self._publisher.disconnected()
        self._receiver.disconnected()
        self._subscriber.disconnected()
        self._state.set(Link(up=False, reason=reason))

    # Packets ----------------------------------------------------------------------------------------

    def _transmit(self, message: Outgoing, packet_id: int, duplicate: bool) -> bool:
        assert self._connection is not None
        now = 0.0 if message.expires_at is None else self._clock()
        data = publish_packet(message, self._topics, packet_id, duplicate, now).write()
        if len(data) > self._broker_bytes_max:
            return False
        self._connection.write(data)
        return True

    def _acknowledged(self, packet: mqtt5.PubAckPacket) -> None:
        code = packet.reason_code
        self._publisher.acknowledged(packet.packet_id, code.name if int(code) >= _REFUSED_FROM else "")

    def _dismissed(self, packet: mqtt5.DisconnectPacket) -> None:
        if self._connection is not None:
            self._connection.abort(f"the broker ended the connection: {_words(packet)}")

    def _congested(self, congested: bool) -> None:
        (self._publisher.pause if congested else self._publisher.resume)()


def _words(packet: mqtt5.ConnAckPacket | mqtt5.DisconnectPacket) -> str:
    """The broker's reason, fit for a person."""
    name = packet.reason_code.name.replace("_", " ").lower()
    return f"{name} ({packet.reason_str})" if packet.reason_str else name


async def _unless_lost(connection: Connection, answer: "asyncio.Future[T]") -> T:
    """The answer, or :class:`Unavailable` when the connection ends first."""
    await asyncio.wait((answer, connection.lost), return_when=asyncio.FIRST_COMPLETED)
    if not answer.done():
        raise Unavailable(connection.lost.result())
    return answer.result()
