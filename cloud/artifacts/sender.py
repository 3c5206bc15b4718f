"""Sends each chunk once for all who wait for it.

    Want(n1, 0..4) ─┐
    Want(n2, 2..6) ─┼─> pass of the digest:  0:{n1} 1:{n1} 2:{n1,n2} ... ──window──> SendChunk ─> ChunkSent
    Want(n3, 0..4) ─┘                        (oldest ask first)

Chunks are published to everybody, so what counts is which chunks are wanted, not by how many: a thousand
devices that start together cost one pass. A chunk counts as served once it was handed out; who missed it
asks again. While a chunk is on its way, and for ``resend_s`` after, a further ask for it is dropped when
the node waited already, since it was listening and hears that one; else devices that move in step would
have everything sent twice. A node that asks for the first time may just have missed it: its ask is kept
for ``later``, which is ``missed_s`` after, so that all who just missed it share one more sending. That is
no tick of the clock but a wake-up of its own: a round of learning waits for its slowest device.

Who asks first for an artifact is seldom alone: devices that heard of it together ask within milliseconds.
The first chunk waits ``gather_s`` for them; sending it twice would cost every one of them more than that.
Where it is known how many were told to fetch it, the wait ends with the last of them.

At most ``window`` chunks are unacknowledged by the broker, so that control traffic on the same connection
waits behind 8 x 96 KiB at the most. Artifacts take turns, chunk by chunk. Who waits is kept per node only
to bound what one node can ask for, and to forget a node that went away.
"""

from dataclasses import dataclass, field
from math import inf

from shared.artifacts import chunk_count, indexes_in
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Tick, Work
from shared.errors import Unreadable
from shared.messages import Manifest, Want

EARLY_S = 0.002  # a timer may ring so much before its time


@dataclass(frozen=True, slots=True)
class Known:
    """The catalog holds this artifact; it has ``chunks`` chunks of ``chunk_bytes``. ``readers``: so many
    nodes are about to ask for it; 0: nobody knows."""

    digest: str
    chunks: int
    chunk_bytes: int
    readers: int = 0

    @classmethod
    def of(cls, manifest: Manifest, readers: int = 0) -> "Known":
        """What the sender needs of a manifest."""
        return cls(manifest.digest, chunk_count(manifest), manifest.chunk_bytes, readers)


@dataclass(frozen=True, slots=True)
class Retired:
    """The artifact is no longer sent."""

    digest: str


@dataclass(frozen=True, slots=True)
class WantSeen:
    """A device asks for chunks; with no ranges it says that it needs nothing more."""

    node: str
    want: Want


@dataclass(frozen=True, slots=True)
class ChunkSent:
    """The broker has acknowledged the chunk."""

    digest: str
    index: int


@dataclass(frozen=True, slots=True)
class SendChunk(Work):
    """Publish one chunk. Answer: ChunkSent, or Failed after a deadline that the shell keeps."""

    digest: str
    index: int
    chunk_bytes: int


@dataclass(frozen=True, slots=True)
class Wake(Work):
    """Let so much time pass. Answer: Woken."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Woken:
    """It has passed."""


Event = Known | Retired | WantSeen | ChunkSent | Woken | Failed | Tick | LinkUp | LinkDown


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """``window``: chunks that the broker has not acknowledged; ``asked_max``: chunks one node waits for."""

    window: int = 6
    resend_s: float = 0.5
    missed_s: float = 0.02
    gather_s: float = 0.01
    waiter_deadline_s: float = 60.0
    artifacts_max: int = 10_000
    passes_max: int = 256
    nodes_max: int = 16_384
    asked_max: int = 128


@dataclass(slots=True)
class Waiter:
    """One node in one pass: until when, and for which chunks it waits."""

    deadline: float
    chunks: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Pass:
    """One artifact that somebody waits for. ``wanted``: index -> who, in the order of asking; ``later``:
    the same for chunks that were sent a moment ago, and for all before ``gathered_at``."""

    gathered_at: float
    wanted: dict[int, set[str]] = field(default_factory=dict)
    later: dict[int, set[str]] = field(default_factory=dict)
    waiters: dict[str, Waiter] = field(default_factory=dict)
    flying: set[int] = field(default_factory=set)
    sent_at: dict[int, float] = field(default_factory=dict)

    def add(self, node: str, index: int, *, later: bool) -> None:
        """The node waits for the chunk."""
        where = self.later if later else self.wanted
        where.setdefault(index, set()).add(node)
        self.waiters[node].chunks.add(index)

    def drop(self, node: str) -> None:
        """Forget the node, and the chunks that nobody else wants."""
        for index in self.waiters.pop(node).chunks:
            where = self.wanted if index in self.wanted else self.later
            where[index].remove(node)
            if not where[index]:
                del where[index]

    def just_sent(self, index: int, now: float, resend_s: float) -> bool:
        """Whether the chunk is on its way, or was a moment ago."""
        return index in self.flying or now - self.sent_at.get(index, -inf) < resend_s

    def ripen(self, now: float, resend_s: float) -> None:
        """What was sent a moment ago no longer was."""
        if now < self.gathered_at - EARLY_S:
            return
        ripe = [index for index in self.later if not self.just_sent(index, now, resend_s)]
        for index in ripe:
            self.wanted[index] = self.later.pop(index)

    def hand_out(self) -> int:
        """The chunk that was wanted first is on its way to all who wait for it."""
        index = next(iter(self.wanted))
        for node in self.wanted.pop(index):
            self.waiters[node].chunks.remove(index)
        self.flying.add(index)
        return index

    def tidy(self, now: float, resend_s: float) -> bool:
        """Forget what is long sent; True when nothing is left to remember."""
        self.sent_at = {index: at for index, at in self.sent_at.items() if now - at < resend_s}
        return not (self.wanted or self.later or self.waiters or self.flying or self.sent_at)


@dataclass(slots=True)
class Sender:
    """Turns the wants of all devices into a paced stream of chunks."""

    limits: SenderLimits = field(default_factory=SenderLimits)
    linked: bool = False
    known: dict[str, Known] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)  # of which a chunk may still be on its way
    passes: dict[str, Pass] = field(default_factory=dict)  # in turn: the first one sends next
    flying: int = 0
    waking: bool = False

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        for one in self.passes.values():
            one.ripen(now, self.limits.missed_s)
        match event:
            case Known():
                said = self._learn(event)
            case Retired(digest):
                said = self._retire(digest)
            case WantSeen(node, want):
                said = self._seen(node, want, now)
            case ChunkSent(digest, index):
                said = self._flown(digest, index)
                self.passes[digest].sent_at[index] = now
            case Failed(SendChunk(digest=digest, index=index), reason):
                said = [*self._flown(digest, index), Ignore(f"chunk {index} was not sent: {reason}")]
            case LinkUp() | LinkDown():
                self.linked, said = isinstance(event, LinkUp), []
            case Woken():
                self.waking, said = False, []
            case _:
                said = self._tick(now)
        return [*said, *self._send(), *self._wake(now)]

    def check(self) -> None:
        """Invariants."""
        assert self.flying == sum(len(one.flying) for one in self.passes.values()) <= self.limits.window
        assert len(self.passes) <= self.limits.passes_max
        assert sum(len(one.waiters) for one in self.passes.values()) <= self.limits.nodes_max
        assert self.retired <= self.passes.keys()
        for digest, one in self.passes.items():
            pairs = {(n, node) for n, nodes in (*one.wanted.items(), *one.later.items()) for node in nodes}
            assert pairs == {(index, node) for node, who in one.waiters.items() for index in who.chunks}
            assert all(one.wanted.values()), "a chunk is wanted by somebody"
            assert all(0 <= index < self.known[digest].chunks for index, _ in pairs)
            assert not one.wanted.keys() & (one.flying | one.later.keys())
            assert all(len(who.chunks) <= self.limits.asked_max for who in one.waiters.values())

    def _learn(self, known: Known) -> list[Effect]:
        if known.digest not in self.known and len(self.known) >= self.limits.artifacts_max:
            return [Ignore(f"{len(self.known)} artifacts are known; {known.digest[:8]} can't be sent")]
        self.known[known.digest] = known
        self.retired.discard(known.digest)
        return []

    def _retire(self, digest: str) -> list[Effect]:
        one = self.passes.get(digest)
        if one is None:
            self.known.pop(digest, None)
            return []
        self.retired.add(digest)
        for node in tuple(one.waiters):
            one.drop(node)
        return []

    def _seen(self, node: str, want: Want, now: float) -> list[Effect]:
        known = self.known.get(want.digest)
        if known is None or want.digest in self.retired:
            return [Ignore(f"{node} wants an unknown artifact")]
        if not want.ranges:
            return self._left(node, want.digest)
        try:
            indexes = indexes_in(want.ranges, known.chunks)
        except Unreadable as error:
            return [Ignore(f"{node} wants nonsense: {error}")]
        if not self._has_room(node, want.digest):
            return [Ignore(f"too many artifacts or nodes are waited for; {node} will ask again")]
        one = self.passes.setdefault(want.digest, Pass(now + self.limits.gather_s))
        new = node not in one.waiters
        waiter = one.waiters.setdefault(node, Waiter(0.0))
        waiter.deadline = now + self.limits.waiter_deadline_s
        if len(one.waiters) == known.readers:
            one.gathered_at = min(one.gathered_at, now)
            one.ripen(now, self.limits.missed_s)
        return self._ask(one, node, new, indexes, now)

    def _left(self, node: str, digest: str) -> list[Effect]:
        one = self.passes.get(digest)
        if one is None or node not in one.waiters:
            return [Ignore(f"{node} did not wait")]
        one.drop(node)
        return []

    def _has_room(self, node: str, digest: str) -> bool:
        one = self.passes.get(digest)
        if one is not None and node in one.waiters:
            return True
        nodes = sum(len(one.waiters) for one in self.passes.values())
        return nodes < self.limits.nodes_max and (
            one is not None or len(self.passes) < self.limits.passes_max
        )

    def _ask(self, one: Pass, node: str, new: bool, indexes: list[int], now: float) -> list[Effect]:
        has, resend_s = one.waiters[node].chunks, self.limits.resend_s
        asked = [n for n in indexes if n not in has and (new or not one.just_sent(n, now, resend_s))]
        early = now < one.gathered_at - EARLY_S
        fresh = [(index, early or one.just_sent(index, now, self.limits.missed_s)) for index in asked]
        room = self.limits.asked_max - len(has)
        for index, later in fresh[:room]:
            one.add(node, index, later=later)
        over = len(fresh) - room
        return [Ignore(f"{node} wants {over} chunks more than it may wait for")] if over > 0 else []

    def _flown(self, digest: str, index: int) -> list[Effect]:
        self.passes[digest].flying.remove(index)
        self.flying -= 1
        return []

    def _tick(self, now: float) -> list[Effect]:
        for digest, one in tuple(self.passes.items()):
            for node in [node for node, who in one.waiters.items() if now >= who.deadline]:
                one.drop(node)
            if one.tidy(now, self.limits.resend_s):
                del self.passes[digest]
                if digest in self.retired:
                    self.retired.remove(digest)
                    del self.known[digest]
        return []

    def _send(self) -> list[Effect]:
        """Fill the window; each artifact in turn gives its oldest wanted chunk."""
        effects: list[Effect] = []
        while self.linked and self.flying < self.limits.window:
            digest = next((digest for digest, one in self.passes.items() if one.wanted), None)
            if digest is None:
                break
            one = self.passes[digest] = self.passes.pop(digest)  # to the end of the turn
            self.flying += 1
            effects.append(SendChunk(digest, one.hand_out(), self.known[digest].chunk_bytes))
        return effects

    def _wake(self, now: float) -> list[Effect]:
        """Somebody waits for the moment when a chunk is sent once more."""
        if self.waking or not any(one.later for one in self.passes.values()):
            return []
        self.waking = True
        gathering = any(now < one.gathered_at for one in self.passes.values())
        return [Wake(self.limits.gather_s if gathering else self.limits.missed_s)]
