"""What one session still has to be told: the sender of QoS 0, 1 and 2 (MQTT 5, sections 4.3-4.6, 4.9).

    deliver ──► room on the wire? ──yes──► in flight ──PUBACK──────────────────► done
                    │ no                   (packet id) ──PUBREC─► released ──PUBCOMP─► done
                    ▼                           │
                  queue ──pump──────────────────┘      a lost connection keeps both; the next one
                                                        repeats them in order, with DUP or as PUBREL

"Room" means: a connection that is not congested, and a window (the client's receive maximum, at most our
``inflight_max``) that is not used up. No QoS 1 or 2 message overtakes an earlier one: while one waits, all
that follow wait (QoS 0 passes by: it is now or never). The bound is on messages and on bytes, in flight or
not, of this client and (``holdings``) of all; at the bound the newest message is dropped and counted, because
what is already in flight can't be taken back and what waited longest was promised first.
"""

from collections import deque
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Protocol

from broker.embedded import wire
from broker.embedded.config import BrokerLimits
from broker.embedded.holdings import Holdings
from broker.embedded.message import Message, as_duplicate
from broker.embedded.stats import Counters
from broker.embedded.wire import Fault


class Link(Protocol):
    """What an outbox needs of a live connection."""

    congested: bool  # the write buffer is over its limit
    packet_bytes_max: int  # of the client
    receive_max: int  # of the client
    aliases: dict[str, int] | None  # topic -> alias we told the client; None when it takes no aliases
    aliases_max: int

    def send(self, data: bytes) -> None:
        """Write one packet; never blocks."""
        ...


class Feeder(Protocol):
    """Somebody with more for this outbox whenever it has room: a shared group."""

    def feed(self) -> None:
        """Hand out what waits, as far as there is room."""
        ...

    def take_back(self, messages: Iterable[Message]) -> None:
        """Messages that did not reach the lost member, oldest first."""
        ...


class Stage(IntEnum):
    """Which answer a message in flight waits for."""

    PUBACK = 1
    PUBREC = 2
    PUBCOMP = 3


class Delivery:
    """One message for one client: how it is sent, and how far it got."""

    __slots__ = ("feeder", "ids", "message", "on_wire", "qos", "retain", "stage")

    def __init__(
        self, message: Message, qos: int, retain: bool, ids: tuple[int, ...], feeder: Feeder | None
    ) -> None:
        self.message, self.qos, self.retain, self.ids, self.feeder = message, qos, retain, ids, feeder
        self.stage = Stage.PUBREC if qos == 2 else Stage.PUBACK
        self.on_wire = False  # uses a place of this connection's window


class Outbox:
    """Owned by one session; survives its connections."""

    __slots__ = (
        "_clock", "_counters", "_holdings", "_inflight", "_last_id", "_limits", "_queue", "_repeat",
        "_undisputed_bytes", "_window", "bytes_held", "feeders", "link",
    )  # fmt: skip

    def __init__(
        self, limits: BrokerLimits, counters: Counters, clock: Callable[[], float], holdings: Holdings
    ) -> None:
        self._limits, self._counters, self._clock, self._holdings = limits, counters, clock, holdings
        self._queue: deque[Delivery] = deque()
        self._inflight: dict[int, Delivery] = {}  # by packet id, oldest first
        self._repeat: deque[int] = deque()  # packet ids of the last connection, to be sent again
        self._last_id = 0
        self._undisputed_bytes = min(limits.queue_bytes_reserved, limits.queue_bytes_max)
        self._window = 0
        self.bytes_held = 0
        self.feeders: list[Feeder] = []
        self.link: Link | None = None

    def __len__(self) -> int:
        return len(self._queue) + len(self._inflight)

    @property
    def has_room(self) -> bool:
        """True when nothing that came earlier waits, and the window is open."""
        link = self.link
        return (
            link is not None
            and self._window > 0
            and not self._queue
            and not self._repeat
            and not link.congested
        )

    def has_room_for(self, message: Message) -> bool:
        """True when this QoS 1 or 2 message, offered now, would go out now."""
        return self.has_room and self._holdings.admit(self.bytes_held, message)

    # --- offers ---------------------------------------------------------------------------------------

    def deliver(
        self, message: Message, qos: int, retain: bool, ids: tuple[int, ...], feeder: Feeder | None = None
    ) -> None:
        """Send the message, or queue it, or drop and count it. ``qos`` is what the filter left of it."""
        link = self.link
        if qos == 0:
            self._deliver_at_most_once(message, retain, ids)
        elif self.bytes_held + message.size_bytes > self._undisputed_bytes and not self._holdings.admit(
            self.bytes_held, message
        ):
            self._counters.dropped_queue_full += 1
        elif (
            link and self._window > 0 and not (self._queue or self._repeat or link.congested)
        ):  # has_room, inlined
            self._transmit(link, Delivery(message, qos, retain, ids, feeder))
        else:
            self._enqueue(Delivery(message, qos, retain, ids, feeder))

    def replay(self, message: Message, qos: int, ids: tuple[int, ...]) -> None:
        """Deliver a retained message. A long list of facts waits for a slow reader, even at QoS 0."""
        link = self.link
        if qos == 0 and link is not None and (link.congested or self._queue):
            if not self._holdings.admit(self.bytes_held, message):
                self._counters.dropped_queue_full += 1
                return
            self._enqueue(Delivery(message, 0, True, ids, None))
        else:
            self.deliver(message, qos, True, ids)

    def _deliver_at_most_once(self, message: Message, retain: bool, ids: tuple[int, ...]) -> None:
        link = self.link
        if link is None:
            self._counters.dropped_offline += 1
        elif link.congested:
            self._counters.dropped_slow_consumer += 1
        elif message.expires_at is None and link.aliases is None:  # the path that everyone shares
            data = message.encode((0, retain, ids, None, None, True), None)
            if len(data) <= link.packet_bytes_max:
                link.send(data)
                self._counters.publishes_sent += 1
            else:
                self._counters.dropped_too_large += 1
        else:
            self._send(link, Delivery(message, 0, retain, ids, None), None)

    def _enqueue(self, delivery: Delivery) -> None:
        if len(self._queue) >= self._limits.queue_messages_max:
            self._counters.dropped_queue_full += 1
            return
        self._queue.append(delivery)
        self._hold(delivery.message)

    def _hold(self, message: Message) -> None:
        self.bytes_held += message.size_bytes
        self._holdings.hold(message)

    def _release(self, message: Message) -> None:
        self.bytes_held -= message.size_bytes
        self._holdings.release(message)

    # --- the wire -------------------------------------------------------------------------------------

    def _transmit(self, link: Link, delivery: Delivery) -> None:
        """Put a message in flight. Its bytes count from here on (a queued one is taken off first)."""
        packet_id = self._last_id % 65_535 + 1
        while packet_id in self._inflight:
            packet_id = packet_id % 65_535 + 1
        self._last_id = packet_id
        if self._send(link, delivery, packet_id):
            delivery.on_wire = True
            self._window -= 1
            self._inflight[packet_id] = delivery
            self.bytes_held += delivery.message.size_bytes
            self._holdings.hold(delivery.message)

    def _send(self, link: Link, delivery: Delivery, packet_id: int | None, again: bool = False) -> bool:
        """Write the PUBLISH; False (counted) when the client would not take a packet of that size."""
        message = delivery.message
        remaining_s = None if message.expires_at is None else message.remaining_s(self._clock())
        alias, named = (None, True) if link.aliases is None else _alias_for(message.topic, link.aliases, link)
        data = message.encode(
            (delivery.qos, delivery.retain, delivery.ids, remaining_s, alias, named), packet_id
        )
        if len(data) > link.packet_bytes_max:
            self._counters.dropped_too_large += 1
            return False
        if alias is not None and link.aliases is not None:
            link.aliases[message.topic] = alias
        link.send(as_duplicate(data) if again else data)
        self._counters.publishes_sent += 1
        return True

    # --- acknowledgements -----------------------------------------------------------------------------

    def on_puback(self, packet_id: int) -> None:
        """The client has it (QoS 1)."""
        self._settle(packet_id, Stage.PUBACK)

    def on_pubcomp(self, packet_id: int) -> None:
        """The client has released it (QoS 2)."""
        self._settle(packet_id, Stage.PUBCOMP)

    def on_pubrec(self, packet_id: int, accepted: bool) -> None:
        """The client has it (QoS 2), or refuses it; a refusal ends the exchange."""
        delivery = self._inflight.get(packet_id)
        if delivery is None:
            self._counters.acknowledgements_unknown += 1
            if accepted and self.link is not None:
                self.link.send(wire.pubrel(packet_id, wire.PACKET_ID_NOT_FOUND))
        elif delivery.stage is Stage.PUBACK:
            raise Fault(wire.PROTOCOL_ERROR, f"PUBREC for the QoS 1 message {packet_id}")
        elif not accepted:
            self._finish(packet_id, delivery)
        else:
            delivery.stage = Stage.PUBCOMP
            if self.link is not None:
                self.link.send(wire.pubrel(packet_id))

    def _settle(self, packet_id: int, stage: Stage) -> None:
        delivery = self._inflight.get(packet_id)
        if delivery is None:
            self._counters.acknowledgements_unknown += 1
        elif delivery.stage is not stage:
            raise Fault(
                wire.PROTOCOL_ERROR, f"{stage.name} for {packet_id}, which waits for {delivery.stage.name}"
            )
        else:
            self._finish(packet_id, delivery)

    def _finish(self, packet_id: int, delivery: Delivery) -> None:
        del self._inflight[packet_id]
        self.bytes_held -= delivery.message.size_bytes
        self._holdings.release(delivery.message)
        self._window += delivery.on_wire
        if self._queue or self._repeat or self.feeders:
            self.pump()

    # --- connections come and go ----------------------------------------------------------------------

    def attach(self, link: Link) -> None:
        """A connection is there (after its CONNACK): repeat what the last one left open, then go on."""
        self.link = link
        self._window = min(link.receive_max, self._limits.inflight_max)
        self._repeat = deque(self._inflight)
        self.pump()

    def detach(self) -> None:
        """The connection is gone. Shared QoS 1 messages go back to their group; the rest waits here."""
        self.link = None
        self._window = 0
        self._repeat.clear()
        lost: dict[Feeder, list[Message]] = {}
        for packet_id, delivery in list(self._inflight.items()):
            delivery.on_wire = False
            if delivery.feeder is not None and delivery.stage is Stage.PUBACK:
                lost.setdefault(delivery.feeder, []).append(delivery.message)
                del self._inflight[packet_id]
                self._release(delivery.message)
        for feeder, messages in lost.items():
            self._counters.shared_redispatched += len(messages)
            feeder.take_back(messages)

    def discard(self) -> None:
        """The session ends: whatever it was not told is dropped, and counted."""
        self._counters.dropped_session_ended += len(self)
        for delivery in (*self._queue, *self._inflight.values()):
            self._release(delivery.message)
        self._queue.clear()
        self._inflight.clear()

    def pump(self) -> None:
        """Send what waits, as far as there is room; then ask the feeders for more."""
        link = self.link
        while link is not None and not link.congested:
            if self._repeat:
                if not self._repeat_next(link):
                    return
            elif self._queue and (self._window > 0 or self._queue[0].qos == 0):
                self._send_next(link)
            else:
                break
        if self.has_room:
            for feeder in self.feeders:
                feeder.feed()

    def _repeat_next(self, link: Link) -> bool:
        """Repeat the oldest open exchange; False when it has to wait for the window."""
        packet_id = self._repeat[0]
        delivery = self._inflight.get(packet_id)
        if delivery is not None and delivery.stage is Stage.PUBCOMP:
            link.send(wire.pubrel(packet_id))
        elif delivery is not None:
            if self._window <= 0:
                return False
            if self._send(link, delivery, packet_id, again=True):
                delivery.on_wire = True
                self._window -= 1
            else:
                del self._inflight[packet_id]
                self._release(delivery.message)
        self._repeat.popleft()
        return True

    def _send_next(self, link: Link) -> None:
        delivery = self._queue.popleft()
        message = delivery.message
        self._release(message)
        if message.expires_at is not None and message.expires_at <= self._clock():
            self._counters.dropped_expired += 1
        elif delivery.qos == 0:
            self._send(link, delivery, None)
        else:
            self._transmit(link, delivery)


def _alias_for(topic: str, aliases: dict[str, int], link: Link) -> tuple[int | None, bool]:
    """``(alias, is the topic spelled out)``: the first topics of a connection get the aliases, for good."""
    alias = aliases.get(topic)
    if alias is not None:
        return alias, False
    return (len(aliases) + 1, True) if len(aliases) < link.aliases_max else (None, True)
