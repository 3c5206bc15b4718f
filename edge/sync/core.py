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

import msgspec

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
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.entries import level_of, strategy_of, traits_of
from shared.errors import InvalidTransition
from shared.journal import Journal
from shared.lanes import Lane, LaneLimits
from shared.peers import Peer
from shared.sync import (
    ENTRY_BYTES_MAX,
    PUBLISH,
    UNDECIDED,
    VALUE_BYTES_MAX,
    Ack,
    Call,
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
    is_key,
    setting_of,
)
from shared.topics import REPORTED_KEY, SYNC_UP
from shared.versions import (
    DRIFT_MS_MAX,
    REPORTED_PREFIX,
    Entry,
    HybridClock,
    fields_in,
    fields_of,
    packed_entry,
    stamp_unix_ms,
    written,
)

KEYS_MAX = 10_000
BYTES_MAX = 64 << 20
WEAK_MAX = 1000
WAITING_MAX = 10_000
LINGER_S = 0.1
COMPARE_S = 30.0
PURGE_S = 60.0
TOMBSTONE_S = 7 * 24 * 3600.0
PRIORITY = 5
RESTAMPS_MAX = 3


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

    def __post_init__(self) -> None:
        lane = Lane(self.chance, LaneLimits(items_max=KEYS_MAX))
        self.peer = Peer(self.journal.replica, lane, set(), self.epoch, REPORTED_PREFIX)
        self.inbox = Inbox(self)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        effects = _HANDLERS[type(event)](self, event, now)
        if self.phase is Phase.READY and self.journal.next:
            effects.append(self._save())
        return effects + self._pump(now)

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
        code, detail = self._refusal(event)
        if code:
            return [Answer(event.ref, Outcome(status=Status.REFUSED, code=code, detail=detail))]
        before = self.weak.get(event.name) or self.journal.read(event.name)
        level = event.level or level_of(before)
        if level is ConsistencyLevel.STRONG:
            return self._call(event, now)
        if level is ConsistencyLevel.WEAK:
            return self._put_weak(event)
        return self._put_here(event, before)

    def _refusal(self, event: PutAsked) -> tuple[str, str]:
        """Why a write is not done at all."""
        setting = setting_of(event.name)
        if not (is_key(event.name) or (setting is not None and setting[1] == self.node)):
            return (
                "bad-key",
                f"{event.name[:80]!r} is not a key: a-z, 0-9 and . _ / -, not beginning reserved",
            )
        known = self.weak.get(event.name) or self.journal.newest(event.name)
        if known is not None and event.level not in (None, level_of(known)):
            return "level", f"the key is {level_of(known)}; a key keeps the level that it was made with"
        size = sum(map(len, event.fields.values()))
        if size > VALUE_BYTES_MAX:
            return "too-large", f"{size} bytes; the limit is {VALUE_BYTES_MAX}"
        replica = self.journal.replica
        full = len(replica.entries) >= KEYS_MAX or replica.size_bytes + size > BYTES_MAX
        if (full and known is None) or len(self.journal.next.then) >= WAITING_MAX:
            return "no-room", f"{len(replica.entries)} keys, {replica.size_bytes} bytes; erase some"
        return ("starting", "the replica is still being read") if self.phase is Phase.NEW else ("", "")

    def _put_here(self, event: PutAsked, before: Entry) -> list[Effect]:
        stamp = self.clock.tick(event.unix_ms - self.ahead_ms)
        self.sequence += 1
        after = written(before, (self.node, self.epoch, self.sequence), stamp, event.fields)
        strategy = event.strategy or strategy_of(before)
        if not before.traits[1]:
            traits = traits_of(ConsistencyLevel.EVENTUAL, strategy, 0)  # whatever the cloud says counts more
            after = msgspec.structs.replace(after, traits=traits)
        if len(packed_entry(after)) > ENTRY_BYTES_MAX:
            detail = "the value with its conflicts is over the limit; erase the key first"
            return [Answer(event.ref, Outcome(status=Status.REFUSED, code="too-large", detail=detail))]
        if after is not before:
            self._dirtied(after)
        self.journal.then(Answer(event.ref, Outcome(status=Status.OK)))
        return []

    def _dirtied(self, entry: Entry) -> None:
        self.dirty.add(entry.name)
        self.cleaned.discard(entry.name)
        self.journal.write(entry, self.node)

    def _put_weak(self, event: PutAsked) -> list[Effect]:
        stamp = self.clock.tick(event.unix_ms - self.ahead_ms)
        self.sequence += 1
        traits = traits_of(ConsistencyLevel.WEAK, event.strategy or SyncStrategy.PUSH, stamp)
        dot = (self.node, self.epoch, self.sequence)
        entry = msgspec.structs.replace(written(Entry(event.name), dot, stamp, event.fields), traits=traits)
        self.keep_weak(entry)
        answer = Answer(event.ref, Outcome(status=Status.OK))
        if not self.peer.lane.online:
            self.weak_dropped += 1
            return [answer, Changed(event.name)]
        return [self.say(Push(0, (entry,)), qos=0), answer, Changed(event.name)]

    def keep_weak(self, entry: Entry) -> None:
        """The last that arrived; at the bound the oldest goes."""
        self.weak.pop(entry.name, None)
        if not entry.erased:
            self.weak[entry.name] = entry
        if len(self.weak) > WEAK_MAX:
            del self.weak[next(iter(self.weak))]

    def _call(self, event: PutAsked, now: float) -> list[Effect]:
        packed = _whole(event.fields)
        call = Call(
            self.calls.next_sequence(),
            event.name,
            event.budget_s,
            value=packed,
            erase=packed is None,
            expected=event.expected,
            required=event.required,
        )
        return self.calls.add(event.ref, call, now)

    def _read(self, event: ReadAsked, now: float) -> list[Effect]:
        return self.calls.add(event.ref, Call(self.calls.next_sequence(), event.name, event.budget_s), now)

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

    # Refused, or to be fetched anew -------------------------------------------------------------------

    def hear_clock(self, stamp: int, unix_ms: int) -> None:
        """The cloud's clock: where ours is far ahead of it, we go by the cloud's from now on."""
        ahead_ms = unix_ms - stamp_unix_ms(stamp)
        self.ahead_ms = ahead_ms if ahead_ms > DRIFT_MS_MAX // 2 else 0

    def restamp(self, name: str, unix_ms: int, *, cloud_stamp: int = 0, alone: bool = False) -> bool:
        """Write our own value once more, in a form that the cloud takes. False: it was tried often enough.

        ``cloud_stamp``: our clock was ahead of this. ``alone``: as if nobody else had ever written it.
        """
        entry = self.journal.newest(name)
        if entry is None or self.restamped.get(name, 0) >= RESTAMPS_MAX:
            return False
        self.restamped[name] = self.restamped.get(name, 0) + 1
        if cloud_stamp:
            self.clock.set_back(cloud_stamp)
        stamp = self.clock.tick(unix_ms - self.ahead_ms)
        self.sequence += 1
        before = Entry(name) if alone else entry
        fields = fields_of(entry)
        after = written(before, (self.node, self.epoch, self.sequence), stamp, fields, anew=True)
        traits = (0, "", "") if alone else entry.traits
        self._dirtied(msgspec.structs.replace(after, traits=traits))
        return True

    def reset(self, cleared: int, unix_ms: int) -> list[Effect]:
        """Keep only what the cloud has not acknowledged; the next comparison brings the rest."""
        if cleared <= self.cleared:
            return [Ignore("a second word of the same reset")]
        self.cleared = cleared
        for name in list(self.journal.replica.entries):
            if name not in self.dirty:
                self.journal.forget(name)
            else:
                self.restamp(name, unix_ms, alone=True)
        self.journal.next.more = True
        self.compare_at = 0.0
        return []

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


def _whole(fields: Mapping[str, bytes]) -> bytes | None:
    """The packed value of which these are the fields; None: there is none."""
    if not fields:
        return None
    if set(fields) == {""}:
        return fields[""]
    value = {name: msgspec.msgpack.decode(one) for name, one in fields.items()}
    packed = msgspec.msgpack.encode(value)
    assert fields_in(value).keys() == fields.keys()
    return packed


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
