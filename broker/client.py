"""The bus of one client on a network, whatever library carries its packets.

                       ┌────────── ClientBus: run, back off, close ──────────┐
    publish ──> Publisher ─────┐                               ┌── Subscriber <── subscribe, close
                               ├──> Wire <── packets ──> broker┘
    handlers <── Dispatcher <──┘

Publisher, Subscriber and Routes are the client's half of the session and outlive connections. A
:class:`Wire` knows packets and one connection at a time; there are two, on the ``mqtt5`` codec and on
aiomqtt.

Subscribe before ``run`` when the session is kept by the broker: what waited there arrives right after the
connect, and a message without a handler is acknowledged and gone (counted as unroutable).
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from broker.backoff import Backoff
from broker.bus import NO_PROPERTIES, BusStats, Handler, Link, LinkWatcher, Properties, Subscription
from broker.dispatch import Dispatcher, Holds
from broker.links import LinkState
from broker.names import Topics
from broker.options import LinkOptions
from broker.outbox import Outbox, Outgoing
from broker.publisher import Publisher
from broker.routes import Binding, Routes
from broker.subscriber import Asking, Subscriber
from shared.errors import Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the broker said in CONNACK. ``window``: how many QoS 1 messages it takes unacknowledged."""

    resumed: bool
    window: int
    identifiers: bool


@dataclass(frozen=True, slots=True)
class Ears:
    """What a wire tells its bus. Packet ids are the publisher's and those that the wire gave itself."""

    received: Callable[[str, bytes, bool, Sequence[int]], Holds | None]  # full topic, payload, retained, ids
    published: Callable[[int, str], None]  # packet id, why it was refused or ""
    subscribed: Callable[[int, str], None]  # same, of SUBACK and UNSUBACK
    congested: Callable[[bool], None]


class Wire(Asking, Protocol):
    """Packets of one connection at a time."""

    async def open(self, *, clean_start: bool) -> Welcome:
        """Connect. Raises ``OSError`` or :class:`Unavailable` with the reason."""
        ...

    async def ended(self) -> str:
        """Wait until the connection is lost; returns why."""
        ...

    def transmit(self, message: Outgoing, packet_id: int, duplicate: bool) -> bool:
        """Send. False: it has more bytes than the broker takes, and was not sent."""
        ...

    async def close(self) -> None:
        """Say goodbye, so that the broker forgets the will, and close."""
        ...

    async def drop(self, reason: str) -> None:
        """Close without a word, if it is not closed. Nothing is sent or told after that."""
        ...


class ClientBus:
    """See :class:`broker.bus.ConnectedBus`. ``clock``: monotonic seconds; ``rng``: spreads reconnects.

    Raises ``ValueError`` for a will whose topic MQTT can't carry.
    """

    def __init__(
        self,
        options: LinkOptions,
        wire: Callable[[LinkOptions, Topics, Ears], Wire],
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = BusStats()
        self._options, self._clock = options, clock
        self._topics, self._routes, self._state = Topics(options.root), Routes(), LinkState()
        if options.will is not None:
            self._topics.name(options.will.topic)  # a bad one would fail every connect
        outbox = Outbox(options.outbox_messages_max, options.outbox_bytes_max, self.stats)
        self._publisher = Publisher(outbox, self.stats, clock)
        self._subscriber = Subscriber(self._routes, self._state.note)
        self._backoff = Backoff(rng or random.Random())
        dispatcher = Dispatcher(options.root, self._routes, self.stats)
        ears = Ears(
            dispatcher.dispatch, self._publisher.acknowledged, self._subscriber.answered, self._congested
        )
        self._wire = wire(options, self._topics, ears)
        self._was_up = False
        self._opening: asyncio.Timeout | None = None
        self._closing, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()

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
        # Checked before it is queued: a bad one would end every connection that tries to send it.
        return self._publisher.publish(self._topics.name(topic), payload, qos, retain, properties, done)

    def subscribe(self, filters: Sequence[str], handler: Handler, *, qos: int = 1) -> Subscription:
        """See :meth:`broker.bus.Bus.subscribe`."""
        binding = Binding(tuple(dict.fromkeys(filters)), handler, qos, self._unbind)
        self._routes.add(binding)
        self._subscriber.listen(binding.filters)
        return binding

    def watch_link(self, watcher: LinkWatcher) -> Callable[[], None]:
        """See :meth:`broker.bus.Bus.watch_link`."""
        return self._state.watch(watcher)

    async def drained(self) -> None:
        """See :meth:`broker.bus.Bus.drained`."""
        await self._publisher.drained()

    def _unbind(self, binding: Binding) -> None:
        self._subscriber.forget(self._routes.remove(binding))

    def _congested(self, congested: bool) -> None:
        (self._publisher.pause if congested else self._publisher.resume)()

    # The connection ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """See :meth:`broker.bus.ConnectedBus.run`."""
        self._idle.clear()
        try:
            while not self._closing.is_set():
                alive_s, reason = await self._live()
                if self._closing.is_set():
                    return
                delay_s = self._backoff.ended(alive_s)
                log.warning("%s: %s; next attempt in %.1f s", self._options.client_id, reason, delay_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._closing.wait()
                self.stats.reconnects += 1
        finally:
            self._idle.set()

    async def close(self) -> None:
        """See :meth:`broker.bus.ConnectedBus.close`."""
        self._closing.set()
        if self._opening is not None:
            self._opening.reschedule(0.0)  # whom we do not know yet we owe no goodbye
        elif self._state.link.up:
            await self._wire.close()
        await self._idle.wait()

    async def _live(self) -> tuple[float, str]:
        """One connection from its beginning to its end: how many seconds it was up, and why it ended."""
        up_at, reason = None, "stopped"
        try:
            async with asyncio.timeout(self._options.connect_timeout_s) as self._opening:
                # With a session that the broker keeps, only our first connection may start clean.
                kept = self._was_up and self._options.session_expiry_s > 0
                welcome = await self._wire.open(clean_start=self._options.clean_start and not kept)
                self._state.note("")
                subscribed = self._subscriber.connected(self._wire, identifiers=welcome.identifiers)
                await self._unless_lost(subscribed)
            self._opening, up_at = None, self._clock()
            if self._closing.is_set():  # asked to close in the very turn in which we were let in
                await self._wire.close()
                return 0.0, reason
            self._up(welcome)
            reason = await self._wire.ended()
        except TimeoutError:
            reason = f"no answer within {self._options.connect_timeout_s:g} s"
        except (OSError, Unavailable) as error:
            reason = str(error)
        finally:
            self._opening = None
            self._publisher.disconnected()
            self._subscriber.disconnected()
            await self._wire.drop(reason)
            self._state.set(Link(up=False, reason=reason))
        return (0.0 if up_at is None else self._clock() - up_at), reason

    def _up(self, welcome: Welcome) -> None:
        options, self._was_up = self._options, True
        resumed = " (session resumed)" if welcome.resumed else ""
        log.info("%s: connected to %s:%d%s", options.client_id, options.host, options.port, resumed)
        # What waited goes first: what the watchers publish is newer.
        self._publisher.connected(self._wire.transmit, welcome.window, resumed=welcome.resumed)
        self._state.set(Link(up=True, resumed=welcome.resumed, reason=self._state.link.reason))

    async def _unless_lost(self, answer: "asyncio.Future[T]") -> T:
        """The answer, or :class:`Unavailable` when the connection ends first."""
        ended = asyncio.create_task(self._wire.ended(), name="connection")
        try:
            await asyncio.wait((answer, ended), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise Unavailable(ended.result())
            return answer.result()
        finally:
            ended.cancel()
