"""What devices say: their writes, what they hold, and what they ask for. All of it is checked first.

A device may write keys that it shares or that nobody has, in its own name only: what it relays of others must
be known here already. A STRONG key is written by calls, never by a push.
"""

from dataclasses import dataclass

from cloud.sync.calls import Calls
from cloud.sync.events import Decided
from cloud.sync.fleet import Fleet
from cloud.sync.records import Sharing
from cloud.sync.weak import Weak
from cloud.sync.writer import Writer
from shared.core import Effect, Ignore
from shared.entries import level_of, stricter, unsound
from shared.journal import Journal
from shared.peers import Heard, Peer
from shared.sync import (
    DETAIL_CHARS_MAX,
    NAMES_MAX,
    PUSH_ENTRIES_MAX,
    RECEIVE,
    UNDECIDED,
    Ack,
    Call,
    ConsistencyLevel,
    Digest,
    Offer,
    Part,
    Pull,
    Push,
    Refusal,
    Setting,
    SyncMessage,
    Walk,
    is_name,
    reported_name,
    setting_of,
)
from shared.versions import CLOUD_ORIGIN, Entry, HybridClock, merged, seen


@dataclass(slots=True)
class Inbox:
    """Turns a device's message into changes of the journal, and into what is said to it."""

    journal: Journal
    clock: HybridClock
    fleet: Fleet
    writer: Writer
    calls: Calls
    weak: Weak

    def message(self, node: str, message: SyncMessage, unix_ms: int, now: float) -> list[Effect]:
        """A message on the device's sync topic."""
        peer = self.fleet.peer(node)
        if peer is None:
            return [Ignore(f"no room for {node}")]
        if message.life < peer.heard.life:
            return [Ignore(f"{node} speaks of boot {message.life}, and lives in {peer.heard.life}")]
        if message.life > peer.heard.life:
            peer.heard = Heard(message.life)
            peer.lane.online = False
        self.fleet.spoke(node, now)
        if isinstance(message.part, Ack) and message.to not in (0, self.fleet.term):
            return [Ignore(f"{node} acknowledges a push of term {message.to}")]
        match message.part:
            case Push() as push:
                return self._push(node, peer, push, unix_ms)
            case Call() as call:
                return self.calls.call(node, message.life, call, unix_ms, now)
            case Offer() as offer:
                return [self.fleet.say(node, peer.consider(offer, self.clock.peek(unix_ms)))]
            case part:
                return self._compared(node, peer, part, unix_ms, now)

    def _compared(self, node: str, peer: Peer, part: Part, unix_ms: int, now: float) -> list[Effect]:
        match part:
            case Ack() as ack:
                return self._acknowledged(node, peer, ack, now)
            case Digest() as digest:
                return self._digest(node, peer, digest, unix_ms, now)
            case Walk() as walk:
                return [self.fleet.say(node, part) for part in peer.walk(walk, now)]
            case Pull() as pull:
                return self._pull(node, peer, pull, now)
            case _:
                return [Ignore(f"{node} sends what only the cloud does")]

    def ask(self, node: str) -> list[Effect]:
        """Have a device say what it holds."""
        peer = self.fleet.peer(node)
        if peer is None:
            return []
        mine = peer.digest(asking=True, stamp=self.clock.latest, cleared=self.fleet.cleared)
        return [self.fleet.say(node, mine)]

    def setting(self, node: str, key: str, setting: Setting, unix_ms: int, now: float) -> list[Effect]:
        """A fact on ``reported/{key}``: as a push of that one entry."""
        if setting.entry.name != reported_name(node, key):
            return [Ignore(f"{node} reports {setting.entry.name[:80]!r} as {key}")]
        push = Push(setting.number, (setting.entry,))
        return self.message(node, SyncMessage(life=setting.life, part=push), unix_ms, now)

    # Its writes ---------------------------------------------------------------------------------------

    def _push(self, node: str, peer: Peer, push: Push, unix_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        refused: list[Refusal] = []
        if len(push.entries) > PUSH_ENTRIES_MAX:
            return [Ignore(f"{node} pushes {len(push.entries)} entries at once")]
        fresh = push.number == 0 or peer.heard.is_new(peer.heard.life, push.number)
        for entry in push.entries:
            problem = self._problem(node, entry, unix_ms)
            if problem is None:
                problem = self._gated(entry, effects)
            if problem is not None:
                refused.append(problem)
            elif level_of(entry) is ConsistencyLevel.WEAK:
                effects += self._weak(node, entry)
            elif fresh:
                effects += self._merge(node, entry, unix_ms)
        if push.number:
            ack = Ack(push.number, tuple(refused), stamp=self.clock.peek(unix_ms))
            self.journal.then(self.fleet.say(node, ack))
        return effects

    def _problem(self, node: str, entry: Entry, unix_ms: int) -> Refusal | None:
        name = entry.name if is_name(entry.name) else ""
        wrong = unsound(entry)
        if wrong:
            return Refusal(name, "unsound", wrong)
        setting = setting_of(name)
        if (setting is not None and setting[1] != node) or not self.fleet.shares(node, name):
            return Refusal(name, "not-shared", "the key belongs to others")
        before = self.journal.newest(name)
        if level_of(entry) is ConsistencyLevel.STRONG or (
            before is not None and stricter(level_of(before), level_of(entry))
        ):
            if before is not None and entry == before:
                return None
            return Refusal(name, "strong", "write it with level=STRONG: the cloud puts the writes in order")
        return self._foreign(node, entry, before or Entry(name), unix_ms)

    def _foreign(self, node: str, entry: Entry, before: Entry, unix_ms: int) -> Refusal | None:
        """Marks of others can't be newer here than what those others have told us."""
        for origin, mark in entry.vector.items():
            if origin != node and not seen(before.vector, origin, mark):
                return Refusal(entry.name, "foreign", f"a write of {origin} that it never sent")
        if before.traits[1] and entry.traits > before.traits:
            return Refusal(entry.name, "foreign", "level and strategy of a key are set by the cloud")
        stamps = [one.stamp for one in entry.writes] + [entry.traits[0]]
        if any(self.clock.is_ahead(stamp, unix_ms) for stamp in stamps):
            return Refusal(entry.name, "ahead", "its clock is too far ahead of the cloud's")
        if not self.fleet.has_room(entry.name, (node,)):
            return Refusal(entry.name, "no-room", "too many keys; erase some")
        return None

    def _gated(self, entry: Entry, effects: list[Effect]) -> Refusal | None:
        tag = self.fleet.sharing.get(entry.name, Sharing(())).tag
        decision = self.fleet.gate.allowed(CLOUD_ORIGIN, entry.name, tag, RECEIVE)
        effects.append(Decided(CLOUD_ORIGIN, entry.name, RECEIVE, decision))
        return (
            None if decision.allowed else Refusal(entry.name, "residency", decision.reason[:DETAIL_CHARS_MAX])
        )

    def _merge(self, node: str, entry: Entry, unix_ms: int) -> list[Effect]:
        for write in entry.writes:
            self.clock.hear(write.stamp)
        before = self.journal.newest(entry.name)
        after = entry if before is None else merged(before, entry)
        if before is None:
            self.fleet.share(entry.name, self.fleet.sharing_of_new(node, entry.name))
        if after is not before:
            self.writer.write(after, unix_ms, node if after == entry else "")
            return []
        return self.fleet.holds(node, entry.name) if after == entry else []

    def _weak(self, node: str, entry: Entry) -> list[Effect]:
        known = self.weak.values.get(entry.name)
        sharing = Sharing((node,)) if known is None else known[1]
        if node not in sharing.targets:
            return [Ignore(f"{entry.name} is not shared with {node}")]
        self.weak.put(entry, sharing)
        return self.writer.send_weak(entry, tuple(one for one in sharing.targets if one != node))[0]

    # What it holds, and asks for ----------------------------------------------------------------------

    def _acknowledged(self, node: str, peer: Peer, ack: Ack, now: float) -> list[Effect]:
        done = peer.acknowledged(ack, now)
        for one in [one for one in ack.refused[:NAMES_MAX] if one.code != UNDECIDED]:
            self.fleet.tasks.refused(node, one.name, f"{one.code}: {one.detail[:200]}")
        return self.fleet.tasks.acked(node, done)

    def _digest(self, node: str, peer: Peer, digest: Digest, unix_ms: int, now: float) -> list[Effect]:
        effects: list[Effect] = []
        reset = digest.cleared < self.fleet.floors.get(node, 0)
        if not reset and peer.same(digest):
            effects += self.fleet.tasks.acked(node, peer.lane.settle())
        elif not reset:
            effects += [self.fleet.say(node, part) for part in peer.compare(digest, now)]
            peer.lane.release([name for name, item in peer.lane.items.items() if item.held], now)
        if digest.asking:
            mine = peer.digest(
                asking=False, stamp=self.clock.peek(unix_ms), cleared=self.fleet.cleared, reset=reset
            )
            effects.append(self.fleet.say(node, mine))
            effects += self.fleet.asked_for_models(node)
            for entry in self.weak.shared_with(node):
                effects += self.writer.send_weak(entry, (node,), asked=True)[0]
        return effects

    def _pull(self, node: str, peer: Peer, pull: Pull, now: float) -> list[Effect]:
        names = pull.names[:NAMES_MAX]
        peer.repair(names, now)
        effects: list[Effect] = []
        for name in names:
            known = self.weak.values.get(name)
            if known is not None and node in known[1].targets:
                effects += self.writer.send_weak(known[0], (node,), asked=True)[0]
        return effects
