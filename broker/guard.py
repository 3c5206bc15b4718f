"""A bus that looks at what is published before the broker does.

    publish ──judge──> PASS    nothing in it that needs a look, or it may go: to the bus at once
                       REFUSE  it goes nowhere; a retained topic is emptied, for an older version may be there
                       ticket  it may go once the decision is written down: held until :meth:`released`

It stands between every service and the bus, so that a mistake in a service sends nothing that may not be
sent. What is held keeps its order. While the link is down nothing is held and nothing that needs a look is
queued: the answer could be another one when the link is back, and whoever sends it tries again anyway.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.bus import NO_PROPERTIES, Bus, BusStats, Handler, Link, LinkWatcher, Properties, Subscription

log = logging.getLogger(__name__)

HELD_MAX = 4096
HELD_BYTES_MAX = 64 << 20
KEPT_BYTES_MAX = 128 << 20
PASS, REFUSE = 0, -1


class Judge(Protocol):
    """Who decides. Quick: it is asked for each message."""

    def judge(self, topic: str, payload: bytes) -> int:
        """:data:`PASS`, :data:`REFUSE`, or the ticket of a decision that is being written down."""
        ...

    def concerns(self, topic: str) -> bool:
        """Whether messages on this topic need a look at all."""
        ...

    def still(self, ticket: int) -> bool:
        """Whether a decision that was written down meanwhile holds now: data may have an end."""
        ...

    def may_stay(self, topic: str, payload: bytes) -> bool:
        """Whether what is retained there is still allowed."""
        ...


@dataclass(frozen=True, slots=True)
class _Held:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties
    done: Callable[[], None] | None


class GuardedBus:
    """A :class:`broker.bus.Bus` in front of another one."""

    def __init__(self, bus: Bus, judge: Judge) -> None:
        self.withheld = 0
        self.stats: BusStats = bus.stats
        self._bus, self._judge = bus, judge
        self._held: dict[int, list[_Held]] = {}
        self._held_count = self._held_bytes = 0
        self._kept: dict[str, bytes] = {}  # what we retained at the broker
        self._kept_bytes = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def link(self) -> Link:
        """Of the bus behind."""
        return self._bus.link

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
        """As the bus behind, for what may go. False: it went nowhere."""
        if not payload or not self._judge.concerns(topic):
            if retain and topic in self._kept:
                self._kept_bytes -= len(self._kept.pop(topic))
            return self._bus.publish(topic, payload, qos=qos, retain=retain, properties=properties, done=done)
        if not self._bus.link.up:
            self.stats.dropped_offline += 1
            return False
        ruling, one = self._judge.judge(topic, payload), _Held(topic, payload, qos, retain, properties, done)
        if ruling == REFUSE:
            return self._refuse(topic, retain)
        return self._send(one) if ruling == PASS else self._hold(ruling, one)

    def _send(self, one: _Held) -> bool:
        if one.retain:
            self._keep(one.topic, one.payload)
        return self._bus.publish(
            one.topic, one.payload, qos=one.qos, retain=one.retain, properties=one.properties, done=one.done
        )

    def _refuse(self, topic: str, retain: bool) -> bool:
        self.withheld += 1
        log.warning("withheld: the policy does not allow what was to be published on %s", topic)
        if retain:
            self.clear(topic)
        return False

    def _keep(self, topic: str, payload: bytes) -> None:
        """At the bound the oldest is forgotten: it can't be withdrawn before it is published again."""
        self._kept_bytes += len(payload) - len(self._kept.pop(topic, b""))
        self._kept[topic] = payload
        while self._kept_bytes > KEPT_BYTES_MAX:
            self._kept_bytes -= len(self._kept.pop(next(iter(self._kept))))

    def _hold(self, ticket: int, held: _Held) -> bool:
        if self._held_count >= HELD_MAX or self._held_bytes + len(held.payload) > HELD_BYTES_MAX:
            self.stats.dropped_full += 1
            return False
        self._held.setdefault(ticket, []).append(held)
        self._held_count += 1
        self._held_bytes += len(held.payload)
        self._empty.clear()
        return True

    def released(self, tickets: Iterable[int]) -> None:
        """These decisions are written down: what waited for them goes, if the link is still there."""
        for ticket in tickets:
            for one in self._held.pop(ticket, ()):
                self._held_count -= 1
                self._held_bytes -= len(one.payload)
                if not self._judge.still(ticket):
                    self._refuse(one.topic, one.retain)
                elif self._bus.link.up:
                    self._send(one)
                else:
                    self.stats.dropped_offline += 1
        if not self._held:
            self._empty.set()

    def judge_again(self) -> None:
        """The rules are other ones: what is retained may have to go, what is held is asked for anew."""
        for topic in [one for one, payload in self._kept.items() if not self._judge.may_stay(one, payload)]:
            self.clear(topic)
        held = [one for waiting in self._held.values() for one in waiting]
        self._held.clear()
        self._held_count = self._held_bytes = 0
        self._empty.set()
        for one in held:
            self.publish(
                one.topic,
                one.payload,
                qos=one.qos,
                retain=one.retain,
                properties=one.properties,
                done=one.done,
            )

    def clear(self, topic: str) -> None:
        """Take a retained message away from the broker, and out of what is held."""
        self._kept_bytes -= len(self._kept.pop(topic, b""))
        self._bus.publish(topic, b"", qos=1, retain=True)

    def subscribe(self, filters: Sequence[str], handler: Handler, *, qos: int = 1) -> Subscription:
        """As the bus behind."""
        return self._bus.subscribe(filters, handler, qos=qos)

    def watch_link(self, watcher: LinkWatcher) -> Callable[[], None]:
        """As the bus behind."""
        return self._bus.watch_link(watcher)

    async def drained(self) -> None:
        """Wait until everything that may go was acknowledged. Bound it with ``asyncio.timeout``."""
        await self._empty.wait()
        await self._bus.drained()
