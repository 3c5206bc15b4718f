"""The device's half of replicated keys: local reads and writes with no network, and the same state as the
cloud's when there is one.

    NEW ──restored──> READY ──something changed──> SAVING ──failed──> UNSAVED
                        └──────────saved────────────┘ └──────tick───────┘

    program ──put──> journal ──Save──> Saved ──> Answer, Changed, lane ──> Push / Offer / Setting
    cloud ──Push──> journal ──Save──> Saved ──> Ack, Changed

Nothing is answered, acknowledged or sent before it is on the device's own disk. An EVENTUAL write needs no
more than that. A STRONG one goes to the cloud as a call (:mod:`edge.sync.calls`); what the device holds of a
STRONG key is a copy. *Dirty* keys are those with writes that the cloud has not acknowledged; that is saved
too, so that a device which must fetch everything anew knows what is its own.

The device trusts the cloud: its clock (a refused stamp is set right by the cloud's), and its order of terms
(what an older term says is not heard).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from edge.sync.calls import Calls
from edge.sync.events import (
    Answer,
    Changed,
    CloudSeen,
    DesiredHeard,
    Event,
    MessageHeard,
    PutAsked,
    ReadAsked,
    Restored,
    Save,
    Saved,
)
from edge.sync.inbox import Inbox
from edge.sync.writer import KEYS_MAX, Writer
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.entries import level_of, strategy_of
from shared.errors import InvalidTransition
from shared.journal import Journal
from shared.lanes import Lane, LaneLimits
from shared.peers import Peer
from shared.sync import (
    PUBLISH,
    UNDECIDED,
    Ack,
    ConsistencyLevel,
    Gate,
    OpenGate,
    Outcome,
    Part,
    Push,
    Result,
    Setting,
    Status,
    SyncMessage,
    SyncStrategy,
    setting_of,
)
from shared.topics import REPORTED_KEY, SYNC_UP
from shared.versions import (
    DRIFT_MS_MAX,
    REPORTED_PREFIX,
    Entry,
    HybridClock,
    stamp_unix_ms,
)

WEAK_MAX = 1000
LINGER_S = 0.1
COMPARE_S = 30.0
PURGE_S = 60.0
TOMBSTONE_S = 7 * 24 * 3600.0
PRIORITY = 5


class Phase(StrEnum):
    """What this core waits for."""

    NEW = "new"
    READY = "ready"
    SAVING = "saving"
    UNSAVED = "unsaved"


NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.READY}),
    Phase.READY: frozenset({Phase.SAVING}),
    Phase.SAVING: frozenset({Phase.READY, Phase.UNSAVED}),
    Phase.UNSAVED: frozenset({Phase.SAVING}),
}


@dataclass(slots=True)
class DeviceSync:
    """One boot of one device. ``chance`` returns numbers in [0, 1).

    ``compare_s``: how often digests are compared; that is also the schedule of PULL.
    """

    node: str
    epoch: int
    chance: Callable[[], float]
    gate: Gate = field(default_factory=OpenGate)
    compare_s: float = COMPARE_S
    phase: Phase = Phase.NEW
    linked: bool = False
    cloud_there: bool = True
    term: int = 0
    cleared: int = 0
    sequence: int = 0
    journal: Journal = field(default_factory=Journal)
    clock: HybridClock = field(default_factory=HybridClock)
    ahead_ms: int = 0  # by how much our wall clock is known to be ahead of the cloud's
    calls: Calls = field(default_factory=Calls)
    weak: dict[str, Entry] = field(default_factory=dict)
    weak_dropped: int = 0
    dirty: set[str] = field(default_factory=set)
    cleaned: set[str] = field(default_factory=set)  # no longer dirty, and nobody has saved that yet
    tombstones: dict[str, float] = field(default_factory=dict)
    restamped: dict[str, int] = field(default_factory=dict)
    compare_at: float = 0.0
    purge_at: float = 0.0
    peer: Peer = field(init=False)
    inbox: Inbox = field(init=False)
    writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        lane = Lane(self.chance, LaneLimits(items_max=KEYS_MAX))
        self.peer = Peer(self.journal.replica, lane, set(), self.epoch, REPORTED_PREFIX)
        self.inbox = Inbox(self)
        self.writer = Writer(self)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        effects = _HANDLERS[type(event)](self, event, now)
        if self.phase is Phase.READY and self.journal.next:
            effects.append(self._save())
        return effects + self._pump(now)

    @property
    def is_restored(self) -> bool:
        """Whether the replica has been read from the disk."""
        return self.phase is not Phase.NEW

    # Reads --------------------------------------------------------------------------------------------

    def read(self, name: str) -> Entry | None:
        """The newest state here, WEAK ones included; None: nobody wrote it, or it is erased."""
        found = self.weak.get(name) or self.journal.newest(name)
        return None if found is None or found.erased else found

    # The store ----------------------------------------------------------------------------------------

    def _restored(self, event: Restored, now: float) -> list[Effect]:
        for entry in event.entries:
            self.journal.replica.put(entry)
            self.peer.names.add(entry.name)
            for write in entry.writes:
                self.clock.hear(write.stamp)
            if entry.erased:
                self.tombstones[entry.name] = now
        self.term, self.cleared = event.term, event.cleared
        for name in sorted(event.dirty & self.journal.replica.entries.keys()):
            self.dirty.add(name)
            self.peer.lane.add(name, PRIORITY, now)
        self._enter(Phase.READY)
        return []

    def _save(self) -> Save:
        batch = self.journal.take()
        clean, self.cleaned = frozenset(self.cleaned - batch.entries.keys()), set()
        self._enter(Phase.SAVING)
        return Save(
            tuple(batch.entries.values()),
            frozenset(self.dirty & batch.entries.keys()),
            clean,
            tuple(sorted(batch.forgotten)),
            self.term,
            self.cleared,
        )

    def _saved(self, _: Saved, now: float) -> list[Effect]:
        if self.phase is not Phase.SAVING:
            return [Ignore(f"Saved while {self.phase}")]
        self._enter(Phase.READY)
        batch = self.journal.saved()
        for name in batch.forgotten:
            if self.journal.newest(name) is None:
                self._forgotten(name)
        for name, entry in batch.entries.items():
            self.peer.names.add(name)
            if entry.erased:
                self.tombstones.setdefault(name, now)
            else:
                self.tombstones.pop(name, None)
            if name in self.dirty:
                self._send_later(entry, now)
        return [*batch.then, *(Changed(name) for name in batch.entries)]

    def _forgotten(self, name: str) -> None:
        self.peer.names.discard(name)
        self.peer.pulled.discard(name)
        self.peer.lane.drop(name)
        self.tombstones.pop(name, None)

    def _send_later(self, entry: Entry, now: float) -> None:
        strategy = strategy_of(entry)
        wait_s = LINGER_S if strategy is SyncStrategy.PUSH else 0.0
        self.peer.pulled.discard(entry.name)
        # What had to be written anew was asked for already.
        held = strategy is SyncStrategy.PULL and entry.name not in self.restamped
        self.peer.lane.add(entry.name, PRIORITY, now, wait_s=wait_s, held=held)

    def _failed(self, event: Failed, _: float) -> list[Effect]:
        effects: list[Effect] = [Ignore(f"{type(event.work).__name__} failed: {event.reason}")]
        if isinstance(event.work, Save) and self.phase is Phase.SAVING:
            self.journal.failed()
            self.cleaned |= event.work.clean
            self._enter(Phase.UNSAVED)
            detail = f"{event.reason}; it is in memory and will be tried again"
            lost = Outcome(status=Status.INDETERMINATE, code="not-saved", detail=detail[:500])
            told = [one for one in self.journal.next.then if isinstance(one, Answer)]
            self.journal.next.then = [one for one in self.journal.next.then if not isinstance(one, Answer)]
            effects += [Answer(one.ref, lost) for one in told]
        return effects

    # Programs on this device --------------------------------------------------------------------------

    def _put(self, event: PutAsked, now: float) -> list[Effect]:
        return self.writer.put(event, now)

    def _read(self, event: ReadAsked, now: float) -> list[Effect]:
        return self.writer.read(event, now)

    def keep_weak(self, entry: Entry) -> None:
        """The last that arrived; at the bound the oldest goes."""
        self.weak.pop(entry.name, None)
        if not entry.erased:
            self.weak[entry.name] = entry
        if len(self.weak) > WEAK_MAX:
            del self.weak[next(iter(self.weak))]

    # The cloud ----------------------------------------------------------------------------------------

    def _message(self, event: MessageHeard, now: float) -> list[Effect]:
        message = event.message
        stale = self._stale(message.life)
        if stale is not None:
            return [stale]
        if isinstance(message.part, Ack | Result) and message.to not in (0, self.epoch):
            return [Ignore(f"an answer to boot {message.to} of this device")]
        return self.inbox.part(message.part, event.unix_ms, now)

    def _desired(self, event: DesiredHeard, now: float) -> list[Effect]:
        setting, entry = event.setting, event.setting.entry
        stale = self._stale(setting.life)
        if stale is not None:
            return [stale]
        if setting_of(entry.name) != ("desired", self.node, event.key):
            return [Ignore(f"desired/{event.key} carries {entry.name[:80]!r}")]
        tags = {entry.name: setting.tag} if setting.tag else {}
        return self.inbox.part(Push(setting.number, (entry,), tags), event.unix_ms, now)

    def _stale(self, term: int) -> Ignore | None:
        if self.phase is Phase.NEW:
            return Ignore("the replica is still being read")
        if term < self.term:
            return Ignore(f"the cloud of term {term} is not heard any more: {self.term} serves")
        if term > self.term:
            # A new cloud has forgotten what it had still to tell us.
            self.term, self.compare_at = term, 0.0 if self.term else self.compare_at
        return None

    def _cloud(self, event: CloudSeen, now: float) -> list[Effect]:
        presence = event.presence
        if presence.term < self.term:
            return [Ignore(f"presence of an older term, {presence.term}")]
        before, self.cloud_there = self.cloud_there, presence.online
        newer, self.term = presence.term > self.term, presence.term
        if not presence.online:
            self.peer.lane.down()
            return []
        return self._connected(now) if newer or not before or not self.peer.lane.online else []

    def _link_up(self, _: LinkUp, now: float) -> list[Effect]:
        self.linked = True
        return self._connected(now)

    def _link_down(self, _: LinkDown, __: float) -> list[Effect]:
        self.linked = False
        self.peer.lane.down()
        return []

    def _connected(self, now: float) -> list[Effect]:
        """There is somebody to talk to, perhaps somebody new: compare, and say again what may be lost."""
        if not self.linked or not self.cloud_there or self.phase is Phase.NEW:
            return []
        self.say_again(now)
        return [self.compare(now)]

    def say_again(self, now: float) -> None:
        """What was said may have been lost."""
        if self.linked and self.cloud_there:
            self.peer.lane.up(now)
            self.calls.link_up()

    def compare(self, now: float) -> Effect:
        """Ask the cloud what it holds. The next time is spread, so that a fleet does not ask at once."""
        self.compare_at = now + self.compare_s * (0.75 + 0.5 * self.chance())
        digest = self.peer.digest(asking=True, stamp=self.clock.latest, cleared=self.cleared)
        return self.say(digest)

    def _pump(self, now: float) -> list[Effect]:
        if not self.peer.lane.online:
            return []
        effects: list[Effect] = [self.say(call) for call in self.calls.due(now)]
        for message in self.peer.pump(now, self._forbids, lambda _: b""):
            if isinstance(message, Setting):
                setting = setting_of(message.entry.name)
                assert setting is not None
                effects.append(Publish(REPORTED_KEY.at(node=self.node, key=setting[2]), message))
            else:
                effects.append(self.say(message))
        return effects

    def _forbids(self, name: str) -> str:
        decision = self.gate.allowed(self.node, name, b"", PUBLISH)
        if decision.allowed or decision.reason == UNDECIDED:
            return "" if decision.allowed else UNDECIDED
        return f"residency: {decision.reason}"

    def say(self, part: Part, qos: int | None = None) -> Effect:
        """One message to the cloud."""
        message = SyncMessage(life=self.epoch, part=part, to=self.term)
        return Publish(SYNC_UP.at(node=self.node), message, qos)

    def acknowledged(self, names: list[str]) -> None:
        """The cloud has the newest state of these on its disk."""
        for name in names:
            self.restamped.pop(name, None)
            if name in self.dirty:
                self.dirty.discard(name)
                self.cleaned.add(name)

    def hear_clock(self, stamp: int, unix_ms: int) -> None:
        """The cloud's clock: where ours is far ahead of it, we go by the cloud's from now on."""
        ahead_ms = unix_ms - stamp_unix_ms(stamp)
        self.ahead_ms = ahead_ms if ahead_ms > DRIFT_MS_MAX // 2 else 0

    def _tick(self, _: Tick, now: float) -> list[Effect]:
        effects = self.calls.expire(now)
        if self.phase is Phase.UNSAVED:
            effects.append(self._save())
        if self.cleaned:
            self.journal.next.more = True
        if now >= self.purge_at:
            self.purge_at = now + PURGE_S
            self._purge(now)
        if self.peer.lane.online:
            self.peer.lane.expire(now)
            if now >= self.compare_at:
                effects.append(self.compare(now))
        return effects

    def _purge(self, now: float) -> None:
        """Forget tombstones that the cloud has had for as long as anybody may be offline."""
        for name, since in list(self.tombstones.items()):
            entry = self.journal.newest(name)
            if entry is None or not entry.erased or name in self.dirty or now - since < TOMBSTONE_S:
                continue
            if level_of(entry) is not ConsistencyLevel.STRONG:
                self.journal.forget(name)

    def _enter(self, phase: Phase) -> None:
        if phase not in NEXT[self.phase]:
            raise InvalidTransition(f"{self.phase} -> {phase}")
        self.phase = phase

    def check(self) -> None:
        """Invariants. Tests and simulations call this after every step."""
        assert (self.journal.saving is not None) == (self.phase is Phase.SAVING)
        assert self.phase is not Phase.READY or not self.journal.next
        assert len(self.weak) <= WEAK_MAX
        assert not self.dirty & self.cleaned
        assert not self.peer.lane.online or (self.linked and self.cloud_there)
        self.journal.check()
        self.peer.check()
        self.calls.check()


_HANDLERS: Mapping[type[Any], Callable[[DeviceSync, Any, float], list[Effect]]] = {
    Restored: DeviceSync._restored,
    PutAsked: DeviceSync._put,
    ReadAsked: DeviceSync._read,
    MessageHeard: DeviceSync._message,
    DesiredHeard: DeviceSync._desired,
    CloudSeen: DeviceSync._cloud,
    Saved: DeviceSync._saved,
    Failed: DeviceSync._failed,
    LinkUp: DeviceSync._link_up,
    LinkDown: DeviceSync._link_down,
    Tick: DeviceSync._tick,
}
