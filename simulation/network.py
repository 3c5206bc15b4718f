"""A fleet in one thread: real cores, a fake network, a virtual clock, one seed.

    core ──Publish──> encode ──> [ retained ]──> loss, repetition, delay ──> decode ──> core

Nothing here is asyncio. Because cores only step, time is a number in a heap, and an hour of 500 devices
costs seconds. Every message passes through the wire format. A seed that fails once fails again the same way.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from shared.core import Clear, Core, Effect, Ignore, LinkDown, LinkUp, Publish
from shared.messages import Message
from shared.topics import Address, Topic
from shared.wire import decode, encode

ToEvent = Callable[[dict[str, str], Any], object]
Perform = Callable[[Effect], None]

AFTER_S = 1e-6


class Clock:
    """Virtual time and everything that is still to happen."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self._order = itertools.count()
        self._future: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def after(self, wait_s: float, do: Callable[..., None], *args: Any) -> None:
        """Call ``do(*args)`` in ``wait_s`` seconds."""
        heapq.heappush(self._future, (self.now + wait_s, next(self._order), do, args))

    def every(self, period_s: float, do: Callable[[], None]) -> None:
        """Call ``do()`` now and every ``period_s`` seconds."""
        do()
        self.after(period_s, self.every, period_s, do)

    def run(self, until: float) -> None:
        """Let time pass."""
        future = self._future
        while future and future[0][0] <= until:
            self.now, _, do, args = heapq.heappop(future)
            do(*args)
        self.now = until


class Member:
    """One program on the network: a core, what it subscribes to, and who performs its other effects.

    ``now``: what its own clock shows; the network's where it has none.
    """

    def __init__(
        self,
        net: "Network",
        name: str,
        core: Core[Any],
        perform: Perform,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.net, self.name, self.core, self.perform = net, name, core, perform
        self.now = now or (lambda: net.clock.now)
        self.up = False
        self.gone = False
        self.topics: list[tuple[Topic[Any], dict[str, str]]] = []

    def hears(self, topic: Topic[Any], to_event: ToEvent, **ids: str) -> None:
        """Subscribe. ``ids`` narrow the subscription to one value of one hole."""
        key = (topic.pattern, next(iter(ids.values()), ""))
        self.net.listeners.setdefault(key, []).append((self, topic, to_event))
        self.topics.append((topic, ids))

    def connect(self) -> None:
        """Retained messages come first; the link counts as up once the subscriptions stand."""
        self.up = True
        self.net.send_retained(self)
        self.feed(LinkUp(False))

    def disconnect(self) -> None:
        """Lose the link; the program lives on."""
        self.up = False
        self.feed(LinkDown())

    def kill(self) -> None:
        """Lose the program."""
        self.up, self.gone = False, True
        for listeners in (
            self.net.listeners[topic.pattern, next(iter(ids.values()), "")] for topic, ids in self.topics
        ):
            listeners[:] = [one for one in listeners if one[0] is not self]

    def feed(self, event: object) -> None:
        """Step the core and see to its effects."""
        if self.gone:
            return
        for effect in self.core.step(event, self.now()):
            if type(effect) is Publish:
                if self.up:
                    self.net.publish(effect.to, effect.message)
            elif type(effect) is Clear:
                self.net.retained.pop(effect.to.name, None)
            elif type(effect) is Ignore:
                self.net.counts["ignored"] += 1
            else:
                self.perform(effect)


class Network:
    """A broker and bad links: each delivery is lost, repeated and delayed on its own, and so reordered.

    ``delay_s``: least and most. ``ordered``: what is retained reaches a subscriber in the order in which it
    was published, as MQTT promises for one topic (5.0, section 4.6); what came after a message also comes
    after its repetition.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        loss: float = 0.05,
        repetition: float = 0.05,
        delay_s: tuple[float, float] = (0.01, 2.0),
        ordered: bool = False,
    ) -> None:
        self.clock, self.loss, self.repetition, self.delay_s = clock, loss, repetition, delay_s
        self.ordered = ordered
        self._last: dict[tuple[Member, str], float] = {}
        self.counts: Counter[str] = Counter()
        self.retained: dict[str, tuple[Address[Any], bytes]] = {}
        self.listeners: dict[tuple[str, str], list[tuple[Member, Topic[Any], ToEvent]]] = {}
        self._ids: dict[str, dict[str, str]] = {}

    def publish(self, to: Address[Any], message: Message) -> None:
        """Hand a message to the broker."""
        payload = encode(message)
        if to.topic.retain:
            self.retained[to.name] = (to, payload)
        self._route(to, payload)

    def send_retained(self, member: Member) -> None:
        """What a new subscription brings."""
        patterns = {topic.pattern for topic, _ in member.topics if topic.retain}
        for to, payload in list(self.retained.values()) if patterns else ():
            if to.topic.pattern in patterns:
                self._route(to, payload, only=member)

    def _route(self, to: Address[Any], payload: bytes, only: Member | None = None) -> None:
        ids = self._ids.get(to.name)
        if ids is None:
            ids = self._ids[to.name] = to.topic.ids(to.name) or {}
        for narrow in ("", *ids.values()):
            for member, topic, to_event in self.listeners.get((to.topic.pattern, narrow), ()):
                if only is None or only is member:
                    last = (member, to.name) if self.ordered and to.topic.retain else None
                    self._send(last, member, topic, to_event, ids, payload)

    def _send(self, last: tuple[Member, str] | None, *delivery: Any) -> None:
        chance = self.clock.random.random
        self.counts["sent"] += 1
        if chance() < self.loss:
            self.counts["lost"] += 1
            return
        self._schedule(last, delivery)
        if chance() < self.repetition:
            self.counts["repeated"] += 1
            self._schedule(last, delivery)

    def _schedule(self, last: tuple[Member, str] | None, delivery: tuple[Any, ...]) -> None:
        """``last``: after what was scheduled last under this key."""
        (least, most), clock = self.delay_s, self.clock
        wait_s = least + (most - least) * clock.random.random()
        if last is not None:
            wait_s = max(wait_s, self._last.get(last, 0.0) - clock.now + AFTER_S)
            self._last[last] = clock.now + wait_s
        clock.after(wait_s, self._deliver, *delivery)

    def _deliver(
        self, member: Member, topic: Topic[Any], to_event: ToEvent, ids: dict[str, str], payload: bytes
    ) -> None:
        if member.up:
            self.counts["delivered"] += 1
            member.feed(to_event(ids, decode(topic, payload)))
        else:
            self.counts["missed"] += 1
