"""A broker in a dictionary: the promises of :mod:`broker.bus` with none of the network.

For tests, simulations and demos in one process. Deliveries go through the event loop, one by one, so that
a publisher never runs a receiver's code inside its own call: what tests see is what a network would do.
"""

import asyncio
from collections.abc import Callable, Sequence

from broker.bus import NO_PROPERTIES, BusStats, Delivery, Handler, Link, LinkWatcher, Properties, Will
from shared.filters import matches


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
    """One client of a :class:`MemoryBroker`. ``disconnect`` and ``connect`` play the network."""

    def __init__(
        self, broker: MemoryBroker, *, will: Will | None = None, receive_max: int = 64, outbox_max: int = 1000
    ) -> None:
        self.stats = BusStats()
        self.subscriptions: list[_Subscription] = []
        self._broker, self._will, self._receive_max, self._outbox_max = broker, will, receive_max, outbox_max
        self._watchers: list[LinkWatcher] = []
        self._link = Link(up=False)
        self._outbox: dict[object, tuple[str, bytes, bool, Callable[[], None] | None]] = {}
        self._waiting: list[tuple[_Subscription, Delivery]] = []
        self._held = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def link(self) -> Link:
        """The state of the connection now."""
        return self._link

    def connect(self) -> None:
        """Come up: subscriptions stand, watchers hear of it, the outbox leaves."""
        self._broker.buses.append(self)
        for subscription in self.subscriptions:
            self._send_retained(subscription)
        self._set(Link(up=True))
        waiting, self._outbox = self._outbox, {}
        for topic, payload, retain, done in waiting.values():
            self._send(topic, payload, retain, done)
        self._idle.set()

    def disconnect(self, *, cleanly: bool = False) -> None:
        """Go down; the will is published unless we said goodbye."""
        self._broker.buses.remove(self)
        self._waiting.clear()
        self._set(Link(up=False, reason="disconnected"))
        if self._will is not None and not cleanly:
            self._broker.route(self._will.topic, self._will.payload, self._will.retain)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,  # noqa: ARG002 (nothing here would read them)
        done: Callable[[], None] | None = None,
    ) -> bool:
        """See :class:`broker.bus.Bus`."""
        if self._link.up:
            self._send(topic, payload, retain, done)
            return True
        if qos == 0:
            self.stats.dropped_offline += 1
            return True
        key: object = topic if retain else object()
        if key not in self._outbox and len(self._outbox) >= self._outbox_max:
            self.stats.dropped_full += 1
            return False
        self._outbox.pop(key, None)
        self._outbox[key] = (topic, payload, retain, done)
        self._idle.clear()
        return True

    def subscribe(self, filters: Sequence[str], handler: Handler, *, qos: int = 1) -> _Subscription:  # noqa: ARG002
        """See :class:`broker.bus.Bus`."""
        subscription = _Subscription(self, tuple(filters), handler)
        self.subscriptions.append(subscription)
        if self._link.up:
            self._send_retained(subscription)
        return subscription

    def watch_link(self, watcher: LinkWatcher) -> Callable[[], None]:
        """See :class:`broker.bus.Bus`."""
        self._watchers.append(watcher)
        if self._link.up:
            watcher(self._link)
        return lambda: self._watchers.remove(watcher)

    async def drained(self) -> None:
        """See :class:`broker.bus.Bus`."""
        await self._idle.wait()

    def deliver(self, delivery: Delivery) -> None:
        """Give a message to every subscription that it matches."""
        for subscription in self.subscriptions:
            if any(matches(one, delivery.topic) for one in subscription.filters):
                self._later(subscription, delivery)

    def _set(self, link: Link) -> None:
        self._link = link
        for watcher in tuple(self._watchers):
            watcher(link)

    def _send(self, topic: str, payload: bytes, retain: bool, done: Callable[[], None] | None) -> None:
        self.stats.published += 1
        self._broker.route(topic, payload, retain)
        if done is not None:
            asyncio.get_running_loop().call_soon(done)

    def _send_retained(self, subscription: _Subscription) -> None:
        for topic, payload in self._broker.retained.items():
            if any(matches(one, topic) for one in subscription.filters):
                self._later(subscription, Delivery(topic, payload, retained=True))

    def _later(self, subscription: _Subscription, delivery: Delivery) -> None:
        self._waiting.append((subscription, delivery))
        asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        while self._waiting and self._held < self._receive_max:
            subscription, delivery = self._waiting.pop(0)
            if subscription not in self.subscriptions:
                continue
            self.stats.received += 1
            hold = subscription.handler(delivery)
            if hold is not None:
                self._held += 1
                hold.add_done_callback(self._release)

    def _release(self, _: "asyncio.Future[None]") -> None:
        self._held -= 1
        self._pump()
