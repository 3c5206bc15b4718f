"""Updates that wait for their receipt. The bytes are on the disk; this decides what is sent when.

    DUE ──parts, a window at a time──> SENT ──a receipt──> settled
     └──── no receipt in time, a part that failed, the link came back ────┘        (backoff, doubled)

Only a receipt ends the duty to send: a PUBACK proves no more than that the broker saw a part. The window
keeps an update of many megabytes from standing before heartbeats and answers. At a bound the oldest update
is given up, and said to be; so is one that nobody has answered for ``keep_s``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from edge.training.events import PartSent, SendPart, SettleUpdate, Stored, UpdateKey
from shared.core import Effect, Ignore
from shared.learning import PART_BYTES, Receipt, ReceiptStatus

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """``window``: parts that the broker has not acknowledged; ``receipt_*_s``: how long a receipt is waited
    for before everything is sent again."""

    window: int = 4
    updates_max: int = 16
    bytes_max: int = 256 * MIB
    receipt_min_s: float = 5.0
    receipt_max_s: float = 300.0
    keep_s: float = 7 * 24 * 3600.0


@dataclass(slots=True)
class Waiting:
    """One update: ``todo`` are the parts to send in this pass, ``flying`` those under way."""

    stored: Stored
    expires: float
    wait_s: float
    due: float
    todo: list[int] = field(default_factory=list)
    flying: set[int] = field(default_factory=set)

    @property
    def count(self) -> int:
        """Parts of the whole: an evaluation has no bytes and still one part."""
        return max(1, -(-self.stored.header.size_bytes // PART_BYTES))


@dataclass(slots=True)
class Outbox:
    """``chance`` returns numbers in [0, 1): it spreads the repeats of a fleet."""

    chance: Callable[[], float]
    limits: OutboxLimits = field(default_factory=OutboxLimits)
    linked: bool = False
    waiting: dict[UpdateKey, Waiting] = field(default_factory=dict)  # the oldest first

    def add(self, stored: Stored, now: float) -> list[Effect]:
        """Send it as soon as there is a link; what no longer fits is given up."""
        expires = now + self.limits.keep_s - stored.age_s
        self.waiting[stored.key] = Waiting(stored, expires, self.limits.receipt_min_s, now)
        effects: list[Effect] = []
        while len(self.waiting) > self.limits.updates_max or (
            len(self.waiting) > 1 and self._bytes() > self.limits.bytes_max
        ):
            effects += self._give_up(next(iter(self.waiting)), "the outbox is full")
        return effects

    def receipt(self, job: str, receipt: Receipt) -> tuple[Stored | None, list[Effect]]:
        """The update that it ends, if there is one."""
        one = self.waiting.pop(UpdateKey(job, receipt.round, receipt.digest), None)
        if one is None:
            return None, [Ignore(f"a receipt of {job} for what does not wait")]
        accepted = receipt.status in (ReceiptStatus.ACCEPTED, ReceiptStatus.DUPLICATE)
        return one.stored, [SettleUpdate(one.stored.key, accepted)]

    def sent(self, event: PartSent, now: float) -> list[Effect]:
        """The broker has a part; with the last one begins the wait for the receipt."""
        one = self.waiting.get(event.key)
        if one is None or event.index not in one.flying:
            return [Ignore(f"part {event.index} of what does not wait")]
        one.flying.remove(event.index)
        if not one.todo and not one.flying:
            self._wait(one, now)
        return []

    def failed(self, work: SendPart, reason: str, now: float) -> list[Effect]:
        """A part did not get to the broker: begin again later."""
        one = self.waiting.get(work.key)
        if one is not None:
            one.flying.discard(work.index)
            one.todo.clear()
            if not one.flying:
                self._wait(one, now)
        return [Ignore(f"part {work.index} was not sent: {reason}")]

    def link(self, up: bool, now: float) -> list[Effect]:
        """Whoever waits for a receipt asks again at once: it may have been lost with the link."""
        self.linked = up
        for one in self.waiting.values():
            if up and not one.todo and not one.flying:
                one.due, one.wait_s = now, self.limits.receipt_min_s
        return []

    def tick(self, now: float) -> list[Effect]:
        """Give up what is too old."""
        old = [key for key, one in self.waiting.items() if now >= one.expires]
        return [effect for key in old for effect in self._give_up(key, "nobody answered")]

    def pump(self, now: float) -> list[Effect]:
        """Fill the window, the oldest update first."""
        effects: list[Effect] = []
        flying = sum(len(one.flying) for one in self.waiting.values())
        for key, one in self.waiting.items() if self.linked else ():
            if not one.todo and not one.flying and now >= one.due:
                one.todo = list(range(one.count))
            while one.todo and flying < self.limits.window:
                index = one.todo.pop(0)
                one.flying.add(index)
                flying += 1
                effects.append(SendPart(key, index, one.count))
        return effects

    def check(self) -> None:
        """Invariants."""
        assert len(self.waiting) <= self.limits.updates_max
        assert len(self.waiting) <= 1 or self._bytes() <= self.limits.bytes_max
        assert sum(len(one.flying) for one in self.waiting.values()) <= self.limits.window
        for key, one in self.waiting.items():
            assert key == one.stored.key
            assert not one.flying & set(one.todo)

    def _wait(self, one: Waiting, now: float) -> None:
        one.due = now + one.wait_s * (1 + 0.5 * self.chance())
        one.wait_s = min(2 * one.wait_s, self.limits.receipt_max_s)

    def _give_up(self, key: UpdateKey, reason: str) -> list[Effect]:
        del self.waiting[key]
        return [SettleUpdate(key, False), Ignore(f"the update of {key.job}, round {key.round}: {reason}")]

    def _bytes(self) -> int:
        return sum(one.stored.header.size_bytes for one in self.waiting.values())
