"""A bus on aiomqtt: for MQTT 3.1.1 brokers and for websockets. The same contract, some of it weaker.

- MQTT 3.1.1 has no receive maximum: held acknowledgements slow the broker only at *its* limit of messages
  in flight (20 in Mosquitto). It has no subscription identifiers: topics are matched against the filters,
  and a broker that sends one copy per overlapping filter delivers each. No expiry, no refused PUBACK.
- paho knows what is in flight only as long as its connection lives: after a reconnect, unacknowledged
  messages are sent anew and not as duplicates of the old packets.
- Connecting runs in a thread of paho's: cancelled meanwhile, the attempt ends there at its own timeout.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import aiomqtt

from broker.backoff import Backoff
from broker.bus import NO_PROPERTIES, BusStats, Handler, Link, LinkWatcher, Properties, Subscription
from broker.dispatch import Acknowledger, Dispatcher
from broker.links import LinkState
from broker.names import Topics
from broker.options import LinkOptions
from broker.outbox import Outbox, Outgoing
from broker.paho import Callbacks, PahoConnection
from broker.publisher import Publisher
from broker.routes import Binding, Routes

log = logging.getLogger(__name__)

MQTT_5, MQTT_3_1_1 = 5, 4


class AiomqttBus:
    """See :class:`broker.bus.ConnectedBus`. ``protocol``: 5, or 4 for MQTT 3.1.1."""

    def __init__(
        self,
        options: LinkOptions,
        *,
        protocol: int = MQTT_5,
        websockets: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.stats = BusStats()
        self._options, self._v5, self._websockets = options, protocol == MQTT_5, websockets
        self._topics, self._routes, self._state = Topics(options.root), Routes(), LinkState()
        self._dispatcher = Dispatcher(options.root, self._routes, self.stats)
        outbox = Outbox(options.outbox_messages_max, options.outbox_bytes_max, self.stats)
        self._publisher = Publisher(outbox, self.stats, time.monotonic)
        self._backoff = Backoff(rng or random.Random())
        self._connection: PahoConnection | None = None
        self._acknowledger: Acknowledger[tuple[int, int]] = Acknowledger(lambda _: None)
        self._changes: dict[str, bool] = {}  # filter -> somebody listens; what the broker is to hear next
        self._changed, self._closing = asyncio.Event(), asyncio.Event()
        self._ended: asyncio.Future[None] | None = None
        self._packet_ids: dict[int, int] = {}  # paho's message id -> the publisher's packet id
        self._was_up = False

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
        self._topics.name(topic)
        return self._publisher.publish(topic, payload, qos, retain, properties, done)

    def subscribe(self, filters: Sequence[str], handler: Handler, *, qos: int = 1) -> Subscription:
        """See :meth:`broker.bus.Bus.subscribe`."""
        binding = Binding(tuple(filters), handler, qos, self._unbind)
        self._routes.add(binding)
        self._change(binding.filters, wanted=True)
        return binding

    def watch_link(self, watcher: LinkWatcher) -> Callable[[], None]:
        """See :meth:`broker.bus.Bus.watch_link`."""
        return self._state.watch(watcher)

    async def drained(self) -> None:
        """See :meth:`broker.bus.Bus.drained`."""
        await self._publisher.drained()

    def _unbind(self, binding: Binding) -> None:
        self._change(self._routes.remove(binding), wanted=False)

    def _change(self, filters: Sequence[str], *, wanted: bool) -> None:
        self._changes.update(dict.fromkeys(filters, wanted))
        self._changed.set()

    # The connection ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """See :meth:`broker.bus.ConnectedBus.run`."""
        self._ended = asyncio.get_running_loop().create_future()
        try:
            while not self._closing.is_set():
                alive_s, reason = await self._live()
                if self._closing.is_set():
                    return
                delay_s = self._backoff.ended(alive_s)
                log.warning("%s: %s; next attempt in %.1f s", self._options.client_id, reason, delay_s)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), delay_s)
                self.stats.reconnects += 1
        finally:
            self._ended.set_result(None)

    async def close(self) -> None:
        """See :meth:`broker.bus.ConnectedBus.close`."""
        self._closing.set()
        if self._ended is not None:
            await asyncio.wait([self._ended], timeout=self._options.connect_timeout_s)

    async def _live(self) -> tuple[float, str]:
        """One connection from its beginning to its end: how many seconds it was up, and why it ended."""
        up_at, reason = None, "stopped"
        connection = self._connection = self._new_connection()
        try:
            async with connection.opened():
                self._state.note("")
                await self._subscribe_all(connection)
                up_at = time.monotonic()
                self._up(connection)
                await _first_of(self._closing.wait(), connection.ended(), self._follow_changes(connection))
            reason = "closed"
        except (aiomqtt.MqttError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        finally:
            self._drop(reason)
        return (0.0 if up_at is None else time.monotonic() - up_at), reason

    def _new_connection(self) -> PahoConnection:
        # With a session that the broker keeps, only the first connection of this process may start clean.
        clean = self._options.clean_start and not (self._was_up and self._options.session_expiry_s)
        connection = PahoConnection(
            self._options,
            self._topics,
            Callbacks(self._received, self._published, self._congested),
            v5=self._v5,
            websockets=self._websockets,
            clean_start=clean,
        )
        self._acknowledger = Acknowledger(lambda ids: connection.acknowledge(*ids))
        return connection

    async def _subscribe_all(self, connection: PahoConnection) -> None:
        for pattern in self._routes.filters:
            self._changes[pattern] = True
        await self._apply_changes(connection)

    async def _follow_changes(self, connection: PahoConnection) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._apply_changes(connection)

    async def _apply_changes(self, connection: PahoConnection) -> None:
        while self._changes:
            pattern = next(iter(self._changes))
            if not self._changes.pop(pattern):
                await connection.unsubscribe(pattern)
            elif pattern in self._routes.filters:
                qos, identifier = self._routes.qos(pattern), self._routes.identify(pattern)
                refused = await connection.subscribe(pattern, qos, identifier)
                self._routes.answered(pattern, granted=not refused)
                if refused:
                    reason = f"the broker refused the subscription {pattern!r}: {refused}"
                    log.error("%s", reason)
                    self._state.note(reason)

    def _up(self, connection: PahoConnection) -> None:
        self._was_up = True
        where = f"{self._options.host}:{self._options.port}"
        log.info("%s: connected to %s", self._options.client_id, where)
        # Never as resumed: the new paho client does not know the old packet ids.
        self._publisher.connected(self._transmit, connection.window, resumed=False)
        self._state.set(Link(up=True, resumed=connection.resumed, reason=self._state.link.reason))

    def _drop(self, reason: str) -> None:
        self._connection = None
        self._publisher.disconnected()
        self._acknowledger.close()
        self._packet_ids.clear()
        self._state.set(Link(up=False, reason=reason))

    # Messages ---------------------------------------------------------------------------------------

    def _received(self, message: aiomqtt.Message) -> None:
        identifiers = getattr(message.properties, "SubscriptionIdentifier", ())
        payload = message.payload
        assert isinstance(payload, bytes)
        holds = self._dispatcher.dispatch(message.topic.value, payload, message.retain, identifiers)
        if message.qos:
            self._acknowledger.settle((message.mid, message.qos), holds)

    def _transmit(self, message: Outgoing, packet_id: int, duplicate: bool) -> bool:  # noqa: ARG002
        assert self._connection is not None
        message_id = self._connection.publish(message, time.monotonic())
        if message_id is not None and message.qos:
            self._packet_ids[message_id] = packet_id
        return message_id is not None

    def _published(self, message_id: int, refused: str) -> None:
        packet_id = self._packet_ids.pop(message_id, None)
        if packet_id is not None:
            self._publisher.acknowledged(packet_id, refused)

    def _congested(self, congested: bool) -> None:
        (self._publisher.pause if congested else self._publisher.resume)()


async def _first_of(*awaitables: Coroutine[Any, Any, object]) -> None:
    """Run all until the first one ends; raise what it raised."""
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
