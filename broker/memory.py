"""A broker in a dictionary: the promises of :mod:`broker.bus` with none of the network.

For tests, simulations and demos in one process. Deliveries go through the event loop, one by one, so that
a publisher never runs a receiver's code inside its own call: what tests see is what a network would do.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from broker.bus import NO_PROPERTIES, BusStats, Delivery, Handler, Link, LinkWatcher, Properties, Will
from broker.links import LinkState
from broker.outbox import Outbox, Outgoing
from shared.filters import matches

log = logging.getLogger(__name__)

_OUTBOX_BYTES_MAX = 32 << 20


class MemoryBroker:
    """What the buses of one process share: retained messages and who listens."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.buses: list[MemoryBus] = []

    def route(self, topic: str, payload: bytes, retain: bool) -> None:
        """Hand a message to every bus that is connected, and keep it when retained."""
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for bus in self.buses:
            bus.deliver(Delivery(topic, payload))


class _Subscription:
    def __init__(self, bus: "MemoryBus", filters: Sequence[str], handler: Handler) -> None:
        self.bus, self.filters, self.handler = bus, filters, handler

    def close(self) -> None:
        if self in self.bus.subscriptions:
            self.bus.subscriptions.remove(self)


class MemoryBus:
    """One client of a :class:`MemoryBroker`. ``disconnect`` and ``connect`` play the network.

    ``clock``: monotonic seconds; what expires while it waits for :meth:`connect` is dropped.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        will: Will | None = None,
        receive_max: int = 64,
        outbox_max: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = BusStats()
        self.subscriptions: list[_Subscription] = []
        self._broker, self._will, self._receive_max, self._clock = broker, will, receive_max, clock
        self._state = LinkState()
        self._outbox = Outbox(outbox_max, _OUTBOX_BYTES_MAX, self.stats)
        self._number = 0
        self._arriving: deque[tuple[_Subscription, Delivery]] = deque()
        self._holds: list[asyncio.Future[None]] = []  # one per unacknowledged message
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def link(self) -> Link:
        """The state of the connection now."""
        return self._state.link

    def connect(self) -> None:
        """Come up: subscriptions stand, the outbox leaves, watchers hear of it."""
        self._broker.buses.append(self)
        for subscription in self.subscriptions:
            self._send_retained(subscription)
        # Before the watchers: what they publish is newer than what waited.
        while (message := self._outbox.take(self._clock())) is not None:
            self._send(message)
        self._idle.set()
        self._state.set(Link(up=True))

    def disconnect(self, *, cleanly: bool = False) -> None:
        """Go down; the will is published unless we said goodbye."""
        self._broker.buses.remove(self)
        self._arriving.clear()
        self._holds.clear()
        self._state.set(Link(up=False, reason="disconnected"))
        if self._will is not None and not cleanly:
            self._broker.route(self._will.topic, self._will.payload, self._will.retain)

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
        """See :class:`broker.bus.Bus`."""
        expires_at = None if properties.expiry_s is None else self._clock() + properties.expiry_s
        self._number += 1
        message = Outgoing(topic, payload, qos, retain, properties, done, expires_at, self._number)
        if self._state.link.up:
            self._send(message)
            return True
        if qos == 0:
            self.stats.dropped_offline += 1
            return True
        queued = self._outbox.put(message)
        if queued:
            self._idle.clear()
        return queued

    def subscribe(self, filters: Sequence[str], handler: Handler, *, qos: int = 1) -> _Subscription:  # noqa: ARG002
        """See :class:`broker.bus.Bus`."""
        subscription = _Subscription(self, tuple(filters), handler)
        self.subscriptions.append(subscription)
        if self._state.link.up:
            self._send_retained(subscription)
        return subscription

    def watch_link(self, watcher: LinkWatcher) -> Callable[[], None]:
        """See :class:`broker.bus.Bus`."""
        return self._state.watch(watcher)

    async def drained(self) -> None:
        """See :class:`broker.bus.Bus`."""
        await self._idle.wait()

    def deliver(self, delivery: Delivery) -> None:
        """Give a message to every subscription that it matches."""
        for subscription in self.subscriptions:
            if any(matches(one, delivery.topic) for one in subscription.filters):
                self._later(subscription, delivery)

    def _send(self, message: Outgoing) -> None:
        self.stats.published += 1
        self._broker.route(message.topic, message.payload, message.retain)
        if message.done is not None:
            asyncio.get_running_loop().call_soon(message.done)

    def _send_retained(self, subscription: _Subscription) -> None:
        for topic, payload in self._broker.retained.items():
            if any(matches(one, topic) for one in subscription.filters):
                self._later(subscription, Delivery(topic, payload, retained=True))

    def _later(self, subscription: _Subscription, delivery: Delivery) -> None:
        self._arriving.append((subscription, delivery))
        asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        while self._arriving and len(self._holds) < self._receive_max:
            subscription, delivery = self._arriving.popleft()
            if subscription not in self.subscriptions:
                continue
            self.stats.received += 1
            hold = self._handled(subscription, delivery)
            if hold is not None:
                self._holds.append(hold)
                hold.add_done_callback(self._release)

    def _handled(self, subscription: _Subscription, delivery: Delivery) -> "asyncio.Future[None] | None":
        try:
            return subscription.handler(delivery)
        except Exception:
            self.stats.handler_errors += 1
            log.exception("a handler failed on a message on %s", delivery.topic)
            return None

    def _release(self, hold: "asyncio.Future[None]") -> None:
        if hold in self._holds:  # not one of an earlier connection
            self._holds.remove(hold)
            self._pump()
