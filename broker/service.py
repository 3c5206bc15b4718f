"""The one loop every process runs: take an event, step the core, perform the effects in order.

    bus ──delivery──> decode ──event──> core.step(event, now) ──effects──> publish / perform / work
                                  ^                                             │
                                  └───────── the answer of a piece of work ─────┘

The loop is synchronous: a delivery is decoded, stepped and answered inside the bus's callback, with no
queue and no task switch between, which is what makes a request cost microseconds. Only :class:`Work` runs
aside, as a named task, and its answer comes back as an event. At ``work_max`` pieces of work in flight the
service asks the bus to withhold acknowledgements, and so the broker's receive maximum slows the senders.

A bug (any exception out of a core, or a move that its table forbids) stops the service: ``run`` raises, and
the story (the last 256 steps, in the form of a test transcript) is logged.
"""

import asyncio
import inspect
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Generic, TypeVar

from broker.bus import NO_PROPERTIES, Bus, Delivery, Link, Properties, Subscription
from shared.core import Clear, Core, Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick, Work
from shared.errors import LocalError, RemoteError
from shared.messages import Message, Request
from shared.topics import M, Topic
from shared.wire import decode, encode

log = logging.getLogger(__name__)
E = TypeVar("E")

Do = Callable[[Any], None]
DoWork = Callable[[Any], Any]  # returns an event, None, or an awaitable of either

STORY_STEPS = 256
_ROUTES_CACHED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Route(Generic[E]):
    """Deliveries on a topic become events of a core."""

    topic: Topic[Any]
    to_event: Callable[[dict[str, str], Any], E]
    filter: str | None
    qos: int = 1


def on(topic: Topic[M], to_event: Callable[[dict[str, str], M], E], **ids: str) -> Route[E]:
    """A route whose two ends the type checker has compared. ``ids`` narrow the subscription."""
    return Route(topic, to_event, topic.filter_for(**ids))


def overheard(topic: Topic[M], to_event: Callable[[dict[str, str], M], E], **ids: str) -> Route[E]:
    """As :func:`on` but at QoS 0: for what is addressed to somebody else, and may be missed now and then.

    It costs no acknowledgement, which is a fifth of the whole price of a request and its answer.
    """
    return Route(topic, to_event, topic.filter_for(**ids), qos=0)


def on_demand(topic: Topic[M], to_event: Callable[[dict[str, str], M], E]) -> Route[E]:
    """A route that is subscribed only where and while :meth:`Service.listen` asks for it."""
    return Route(topic, to_event, None)


class Service(Generic[E]):
    """Binds one core to the world. Holds no domain state and makes no domain decision."""

    def __init__(
        self,
        name: str,
        core: Core[Any],
        bus: Bus,
        routes: Sequence[Route[E]],
        *,
        do: Mapping[type[Effect], Do] | None = None,
        work: Mapping[type[Work], DoWork] | None = None,
        tick_s: float = 1.0,
        work_max: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.core = name, core
        self.story: deque[tuple[float, object, list[Effect]]] = deque(maxlen=STORY_STEPS)
        self.counts: Counter[str] = Counter()
        self._bus, self._routes = bus, routes
        self._do: dict[type[Effect], Do] = {Publish: self._publish, Clear: self._clear, Ignore: self._ignore}
        self._do.update(do or {})
        self._work = dict(work or {})
        self._tick_s, self._work_max, self._clock = tick_s, work_max, clock
        self._known: dict[str, tuple[Route[E], dict[str, str]] | None] = {}
        self._events: deque[object] = deque()
        self._stepping = False
        self._working: set[asyncio.Task[None]] = set()
        self._room: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Serve until cancelled. Raises whatever the core raised."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        subscriptions = [self._bus.subscribe(self._filters(qos), self._deliver, qos=qos) for qos in (1, 0)]
        unwatch = self._bus.watch_link(self._linked)
        ticks = loop.create_task(self._ticks(), name=f"{self.name}: ticks")
        try:
            await self._stopped
        finally:
            ticks.cancel()
            unwatch()
            for subscription in subscriptions:
                subscription.close()
            for task in self._working:
                task.cancel()
            await asyncio.gather(ticks, *self._working, return_exceptions=True)

    def _filters(self, qos: int) -> list[str]:
        return [route.filter for route in self._routes if route.filter is not None and route.qos == qos]

    def listen(self, *filters: str) -> Subscription:
        """Subscribe to more; what arrives goes through the routes."""
        return self._bus.subscribe(filters, self._deliver)

    def feed(self, event: object) -> None:
        """Take one event. Events raised while a step is performed wait for their turn."""
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                self._step(self._events.popleft())
        except Exception as error:
            self._crash(error)
        finally:
            self._stepping = False

    def _step(self, event: object) -> None:
        now = self._clock()
        effects = self.core.step(event, now)
        self.story.append((now, event, effects))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s < %s", self.name, event)
            for effect in effects:
                log.debug("%s > %s", self.name, effect)
        for effect in effects:
            do = self._do.get(type(effect))
            if do is not None:
                do(effect)
            elif isinstance(effect, Work):
                self._start(effect)
            else:
                raise LocalError(f"{self.name}: nothing performs {type(effect).__name__}")

    def _crash(self, error: Exception) -> None:
        self._events.clear()
        log.error("%s stopped: %r\n%s", self.name, error, self.told())
        if self._stopped is None or self._stopped.done():
            raise error
        self._stopped.set_exception(error)

    def told(self) -> str:
        """The story so far, in the form of a test transcript."""
        lines = []
        for now, event, effects in self.story:
            lines.append(f"{now:>10.3f}  {event}")
            lines += [f"            -> {effect}" for effect in effects]
        return "\n".join(lines)

    # From the world ---------------------------------------------------------------------------------

    def _deliver(self, delivery: Delivery) -> asyncio.Future[None] | None:
        self.counts["received"] += 1
        found = self._route(delivery.topic)
        if found is None or not delivery.payload:  # an empty payload clears a retained fact
            self.counts["unroutable"] += 1
            return None
        route, ids = found
        if delivery.retained and not route.topic.retain:
            self.counts["stale"] += 1  # somebody retained a happening: it says nothing about now
            return None
        try:
            event = route.to_event(ids, decode(route.topic, delivery.payload))
        except RemoteError as error:
            self.counts["unreadable"] += 1
            log.warning("%s: unreadable message on %s: %s", self.name, delivery.topic, error)
            return None
        self.feed(event)
        return self._hold()

    def _route(self, name: str) -> tuple[Route[E], dict[str, str]] | None:
        if name in self._known:
            return self._known[name]
        found = None
        for route in self._routes:
            ids = route.topic.ids(name)
            if ids is not None:
                found = route, ids
                break
        if len(self._known) >= _ROUTES_CACHED_MAX:
            self._known.clear()
        self._known[name] = found
        return found

    def _hold(self) -> asyncio.Future[None] | None:
        if len(self._working) < self._work_max:
            return None
        if self._room is None or self._room.done():
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def _linked(self, link: Link) -> None:
        self.feed(LinkUp(link.resumed) if link.up else LinkDown())

    async def _ticks(self) -> None:
        while True:
            self.feed(Tick())
            await asyncio.sleep(self._tick_s)

    # To the world -----------------------------------------------------------------------------------

    def _publish(self, effect: Publish[Any]) -> None:
        topic, message = effect.to.topic, effect.message
        payload = encode(message)
        if len(payload) > topic.bytes_max:
            raise LocalError(f"{len(payload)} bytes for {effect.to}; the limit is {topic.bytes_max}")
        sent = self._bus.publish(
            effect.to.name,
            payload,
            qos=topic.qos if effect.qos is None else effect.qos,
            retain=topic.retain,
            properties=properties_of(topic, message),
        )
        self.counts["published" if sent else "outbox full"] += 1
        if not sent:
            log.warning("%s: the outbox is full; dropped a message for %s", self.name, effect.to)

    def _clear(self, effect: Clear[Any]) -> None:
        self._bus.publish(effect.to.name, b"", qos=effect.to.topic.qos, retain=True)

    def _ignore(self, effect: Ignore) -> None:
        self.counts["ignored"] += 1
        log.debug("%s: ignored: %s", self.name, effect.reason)

    def _start(self, work: Work) -> None:
        perform = self._work.get(type(work))
        if perform is None:
            raise LocalError(f"{self.name}: nothing performs {type(work).__name__}")
        try:
            answer = perform(work)
        except Exception as error:  # The core decides what it means.
            answer = Failed(work, f"{type(error).__name__}: {error}")
        if hasattr(answer, "__await__"):  # inspect.isawaitable asks an abstract class: ten times as slow
            task = asyncio.ensure_future(self._wait(work, answer))
            task.set_name(f"{self.name}: {type(work).__name__}")
            self._working.add(task)
            task.add_done_callback(partial(self._worked, answer))
        elif answer is not None:
            self._events.append(answer)

    async def _wait(self, work: Work, answer: Awaitable[object]) -> None:
        try:
            event = await answer
        except Exception as error:  # The core decides what it means.
            event = Failed(work, f"{type(error).__name__}: {error}")
        if event is not None:
            self.feed(event)

    def _worked(self, answer: Awaitable[object], task: asyncio.Task[None]) -> None:
        if inspect.iscoroutine(answer):
            answer.close()  # one that was cancelled before it began would complain that nobody awaited it
        self._working.discard(task)
        if self._room is not None and not self._room.done() and len(self._working) < self._work_max:
            self._room.set_result(None)


def properties_of(topic: Topic[Any], message: Message) -> Properties:
    """What an MQTT 5 broker should know: how long the message is worth keeping, and for whom it waits."""
    if isinstance(message, Request):
        return Properties(
            expiry_s=max(1, int(message.budget_s + 0.999)), correlation=message.correlation.encode()
        )
    return _expiring(topic.expiry_s)


@cache
def _expiring(expiry_s: int | None) -> Properties:
    return NO_PROPERTIES if expiry_s is None else Properties(expiry_s=expiry_s)
