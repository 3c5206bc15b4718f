"""The sending half of an MQTT session. It outlives connections; a bus lends it the current one.

    publish ──> outbox ──(window)──> in flight ──PUBACK──> done
                  ^                      │
                  └── session lost ──────┤
                                         └── session resumed: the same packet ids again, as duplicates

A message goes straight into flight while the window (the broker's receive maximum) has room and nothing
older waits; so the order of publishing is the order on the wire, whatever happened in between.
"""

import asyncio
import logging
from collections.abc import Callable
from itertools import count

from broker.bus import NO_PROPERTIES, BusStats, Properties
from broker.outbox import Outbox, Outgoing

log = logging.getLogger(__name__)

WINDOW_MAX = 1024  # bounds what is in flight, whatever a broker offers
PACKET_ID_MAX = 0x7FFF  # the upper half belongs to SUBSCRIBE and UNSUBSCRIBE

Transmit = Callable[[Outgoing, int, bool], bool]  # (message, packet id, duplicate) -> could it be sent at all


class Publisher:
    """Outbox, window, packet ids and re-sending. ``clock``: monotonic seconds."""

    def __init__(self, outbox: Outbox, stats: BusStats, clock: Callable[[], float]) -> None:
        self._outbox, self._stats, self._clock = outbox, stats, clock
        self._in_flight: dict[int, Outgoing] = {}
        self._transmit: Transmit | None = None
        self._window = 0
        self._paused = False
        self._last_id = 0
        self._numbers = count(1)
        self._last_number = 0
        self._drains: list[tuple[int, asyncio.Future[None]]] = []

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        properties: Properties = NO_PROPERTIES,
        done: Callable[[], None] | None = None,
    ) -> bool:
        """Send now or queue. False: the outbox is full."""
        message = Outgoing(topic, payload, qos, retain, properties, done)
        if qos == 0:
            self._send_or_drop(message)
            return True
        if properties.expiry_s is not None:
            message.expires_at = self._clock() + properties.expiry_s
        self._last_number = message.number = next(self._numbers)
        if self._has_room() and not self._outbox:
            self._send(message)
            return True
        return self._outbox.put(message)

    def connected(self, transmit: Transmit, window: int, *, resumed: bool) -> None:
        """A connection stands: repeat (session resumed) or send anew what nobody acknowledged."""
        self._transmit, self._window, self._paused = transmit, min(window, WINDOW_MAX), False
        unacknowledged, self._in_flight = self._in_flight, {}
        if resumed:
            for packet_id, message in unacknowledged.items():
                self._send(message, packet_id, duplicate=True)
        else:
            self._outbox.requeue(unacknowledged.values())
        self._pump()

    def disconnected(self) -> None:
        """The connection is gone. What is in flight stays there until the next one."""
        self._transmit = None

    def pause(self) -> None:
        """The transport is congested: QoS 1 waits in the outbox, QoS 0 is dropped and counted."""
        self._paused = True

    def resume(self) -> None:
        """The transport has room again."""
        self._paused = False
        self._pump()

    def acknowledged(self, packet_id: int, refused: str = "") -> None:
        """PUBACK. ``refused``: the broker's reason when it did not take the message."""
        message = self._in_flight.pop(packet_id, None)
        if message is None:
            return
        if refused:
            self._stats.refused += 1
            log.warning("the broker refused a message on %s: %s", message.topic, refused)
        elif message.done is not None:
            _tell(message)
        if self._outbox:
            self._pump()
        elif self._drains:
            self._settle_drains()

    async def drained(self) -> None:
        """Wait until everything published so far was acknowledged, replaced by a newer fact, or expired."""
        if self._oldest() is None:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drains.append((self._last_number, future))
        await future

    def _has_room(self) -> bool:
        return self._transmit is not None and not self._paused and len(self._in_flight) < self._window

    def _send_or_drop(self, message: Outgoing) -> None:
        if self._transmit is None:
            self._stats.dropped_offline += 1
        elif self._paused:
            self._stats.dropped_congested += 1
        elif self._transmit(message, 0, False):
            self._stats.published += 1
            if message.done is not None:
                asyncio.get_running_loop().call_soon(_tell, message)
        else:
            self._too_large(message)

    def _send(self, message: Outgoing, packet_id: int = 0, *, duplicate: bool = False) -> None:
        assert self._transmit is not None
        packet_id = packet_id or self._free_id()
        self._in_flight[packet_id] = message
        if self._transmit(message, packet_id, duplicate):
            self._stats.published += not duplicate
        else:
            del self._in_flight[packet_id]
            self._too_large(message)

    def _too_large(self, message: Outgoing) -> None:
        # It would end the connection, be queued again, and end the next one.
        self._stats.refused += 1
        log.error(
            "%d bytes for %s are more than the broker takes; dropped", len(message.payload), message.topic
        )

    def _pump(self) -> None:
        now = self._clock()
        while self._has_room() and (message := self._outbox.take(now)) is not None:
            self._send(message)
        if self._drains:
            self._settle_drains()

    def _free_id(self) -> int:
        packet_id = self._last_id % PACKET_ID_MAX + 1
        while packet_id in self._in_flight:
            packet_id = packet_id % PACKET_ID_MAX + 1
        self._last_id = packet_id
        return packet_id

    def _oldest(self) -> int | None:
        if self._in_flight:
            return next(iter(self._in_flight.values())).number
        return self._outbox.oldest

    def _settle_drains(self) -> None:
        oldest = self._oldest()
        for number, future in self._drains:
            if not future.done() and (oldest is None or oldest > number):
                future.set_result(None)
        self._drains = [(number, future) for number, future in self._drains if not future.done()]


def _tell(message: Outgoing) -> None:
    assert message.done is not None
    try:
        message.done()
    except Exception:
        log.exception("the callback of a message on %s failed", message.topic)
