"""What waits to be sent to one peer, and what is on its way: one lane per node, so that nobody waits for
somebody else's bad link.

    add ──> WAITING ──take──> FLYING ──ack──> gone
               ^ │              │
               │ └─ HELD ─release┤              HELD: waits until the peer asks for it
               └──no ack in time─┘──too often──> dead letters

An item is a name, never a value: whoever sends looks up what is newest, so requests for the same key merge by
themselves. Only an acknowledgement of the very state that was sent ends the duty; a key that changed
meanwhile waits again. The order is by priority, and an item gains one for every ``AGEING_S`` that it waits.
An item that is refused, or not acknowledged ``attempts_max`` times by a peer that is there, becomes a dead
letter: kept, shown, and out of the way of the others. Repeats are spread by full jitter (Brooker, 2015).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

AGEING_S = 10.0
PRIORITY_MAX = 9
DEFER_S = 0.5


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """``window``: messages that are not acknowledged yet. ``backoff_*_s``: bounds of the pause."""

    window: int = 8
    batch_max: int = 256
    items_max: int = 100_000
    dead_max: int = 1000
    attempts_max: int = 8
    ack_s: float = 5.0
    backoff_s: float = 1.0
    backoff_s_max: float = 300.0


@dataclass(slots=True)
class Item:
    """One name. ``change`` grows whenever there is something newer to send; ``flying``: the number of the
    message that carries it, and which change that was."""

    name: str
    priority: int
    since: float
    due: float
    change: int = 1
    attempts: int = 0
    held: bool = False
    flying: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What was given up for this peer, and why."""

    name: str
    reason: str
    attempts: int
    at: float


@dataclass(slots=True)
class Lane:
    """``chance`` returns numbers in [0, 1). ``online``: whether silence of the peer is its own fault."""

    chance: Callable[[], float]
    limits: LaneLimits = field(default_factory=LaneLimits)
    online: bool = False
    number: int = 0
    items: dict[str, Item] = field(default_factory=dict)
    flights: dict[int, tuple[float, tuple[str, ...]]] = field(default_factory=dict)
    dead: dict[str, DeadLetter] = field(default_factory=dict)
    dropped: int = 0

    def add(self, name: str, priority: int, now: float, *, wait_s: float = 0.0, held: bool = False) -> bool:
        """Something newer is to be sent. False: the lane is full."""
        self.dead.pop(name, None)
        item = self.items.get(name)
        if item is None:
            if len(self.items) >= self.limits.items_max:
                self.dropped += 1
                return False
            self.items[name] = Item(name, priority, now, now + wait_s, held=held)
            return True
        item.change += 1
        item.priority = max(item.priority, priority)
        item.attempts = 0
        item.due = min(item.due, now + wait_s)
        item.held = item.held and held
        return True

    def release(self, names: Iterable[str], now: float) -> None:
        """The peer asked for these."""
        for name in names:
            item = self.items.get(name)
            if item is not None:
                item.held, item.due = False, now

    def due(self, now: float) -> list[str]:
        """What may be sent now, the most urgent first, at most a batch."""
        if not self.online or len(self.flights) >= self.limits.window:
            return []
        ready = [
            item for item in self.items.values() if item.flying is None and not item.held and item.due <= now
        ]
        ready.sort(key=lambda item: -(item.priority + (now - item.since) / AGEING_S))
        return [item.name for item in ready[: self.limits.batch_max]]

    def sent(self, names: Iterable[str], now: float) -> int:
        """These leave together now. Returns the number under which they are acknowledged."""
        self.number += 1
        together = tuple(names)
        for name in together:
            item = self.items[name]
            item.flying = (self.number, item.change)
        self.flights[self.number] = (now + self.limits.ack_s, together)
        return self.number

    def acknowledged(
        self,
        number: int,
        refused: Iterable[tuple[str, str]],
        pull: Iterable[str],
        now: float,
        later: Iterable[str] = (),
    ) -> list[str]:
        """The peer has the message ``number``. Returns the names that it now holds in their newest state.

        ``refused``: (name, reason) of what it did not take; that becomes a dead letter. ``pull``: what it
        was only offered and wants. ``later``: what it can't decide about yet.
        """
        _, names = self.flights.pop(number, (0.0, ()))
        reasons, wanted, undecided = dict(refused), frozenset(pull), frozenset(later)
        done = []
        for name in names:
            item = self.items.get(name)
            if item is None or item.flying is None or item.flying[0] != number:
                continue
            newest = item.flying[1] == item.change
            item.flying = None
            if name in wanted:
                item.due = now
            elif name in undecided:
                self.defer(name, now)
            elif name in reasons and newest:
                self.bury(name, reasons[name], now)
            elif newest:
                del self.items[name]
                done.append(name)
        return done

    def bury(self, name: str, reason: str, now: float) -> None:
        """Give it up; at the bound the oldest dead letter is forgotten."""
        item = self.items.pop(name, None)
        self.dead[name] = DeadLetter(name, reason, 0 if item is None else item.attempts, now)
        while len(self.dead) > self.limits.dead_max:
            del self.dead[next(iter(self.dead))]

    def defer(self, name: str, now: float) -> None:
        """It can't be said yet whether this may be sent: look again after a pause."""
        item = self.items[name]
        item.due = now + DEFER_S * (1 + self.chance())

    def settle(self) -> list[str]:
        """The peer showed that it holds all there is: whatever is not on its way is done."""
        done = [name for name, item in self.items.items() if item.flying is None]
        for name in done:
            del self.items[name]
        return done

    def drop(self, name: str) -> None:
        """It need not be sent any more."""
        self.items.pop(name, None)
        self.dead.pop(name, None)

    def expire(self, now: float) -> list[str]:
        """Flights that nobody acknowledged in time are over. Returns the names that died of it."""
        late = [number for number, (deadline, _) in self.flights.items() if now >= deadline]
        died = []
        for number in late:
            _, names = self.flights.pop(number)
            for name in names:
                if self._missed(name, number, now):
                    died.append(name)
        return died

    def _missed(self, name: str, number: int, now: float) -> bool:
        item = self.items.get(name)
        if item is None or item.flying is None or item.flying[0] != number:
            return False
        item.flying = None
        item.attempts += self.online
        if item.attempts >= self.limits.attempts_max:
            self.bury(name, f"not acknowledged {item.attempts} times", now)
            return True
        pause_s = min(self.limits.backoff_s_max, self.limits.backoff_s * 2**item.attempts)
        item.due = now + pause_s * self.chance()
        return False

    def up(self, now: float) -> None:
        """The peer is there (again): what waited need not wait longer, what flew is lost or repeated."""
        self.online = True
        self.flights.clear()
        for item in self.items.values():
            item.flying, item.attempts, item.due = None, 0, min(item.due, now)

    def down(self) -> None:
        """The peer is gone; what waits goes on waiting."""
        self.online = False

    def check(self) -> None:
        """Invariants."""
        assert len(self.items) <= self.limits.items_max
        assert len(self.dead) <= self.limits.dead_max
        assert len(self.flights) <= self.limits.window + self.limits.batch_max
        assert not self.items.keys() & self.dead.keys()
        for item in self.items.values():
            assert item.flying is None or item.flying[0] in self.flights
