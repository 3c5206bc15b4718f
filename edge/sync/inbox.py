"""What the cloud says: other replicas' writes, what it holds, the results of our calls."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.sync.events import Changed
from shared.core import Effect, Ignore
from shared.entries import level_of, unsound
from shared.sync import (
    DETAIL_CHARS_MAX,
    NAMES_MAX,
    PUSH_ENTRIES_MAX,
    RECEIVE,
    UNDECIDED,
    Ack,
    ConsistencyLevel,
    Digest,
    Offer,
    Part,
    Pull,
    Push,
    Refusal,
    Result,
    Walk,
    fitting,
    is_name,
    setting_of,
)
from shared.versions import CLOUD_ORIGIN, Entry, merged

if TYPE_CHECKING:
    from edge.sync.core import DeviceSync


@dataclass(slots=True)
class Inbox:
    """Turns a message of the cloud into changes of the journal, and into what is said back."""

    core: "DeviceSync"

    def part(self, part: Part, unix_ms: int, now: float) -> list[Effect]:
        """One message."""
        match part:
            case Push() as push:
                return self._push(push)
            case Result() as result:
                return self.core.calls.answered(result)
            case Offer() as offer:
                return self._offer(offer)
            case Ack() as ack:
                return self._acknowledged(ack, unix_ms, now)
            case Digest() as digest:
                return self._digest(digest, unix_ms, now)
            case Walk() as walk:
                return [self.core.say(part) for part in self.core.peer.walk(walk, now)]
            case Pull() as pull:
                return self._pull(pull, now)
            case _:
                return [Ignore("the cloud sends what only devices do")]

    # Writes of others ---------------------------------------------------------------------------------

    def _push(self, push: Push) -> list[Effect]:
        core, effects = self.core, list[Effect]()
        refused: list[Refusal] = []
        if len(push.entries) > PUSH_ENTRIES_MAX:
            return [Ignore(f"{len(push.entries)} entries at once")]
        if any(self._undecided(entry, push) for entry in push.entries):
            return self._not_yet(push)
        fresh = push.number == 0 or core.peer.heard.is_new(core.term, push.number)
        for entry in push.entries:
            problem = self._problem(entry, push.tags.get(entry.name, b""))
            if problem is not None:
                refused.append(problem)
            elif level_of(entry) is ConsistencyLevel.WEAK:
                core.keep_weak(entry)
                effects.append(Changed(entry.name))
            elif fresh:
                self._merge(entry)
        if push.number:
            core.journal.then(core.say(Ack(push.number, tuple(refused), stamp=core.clock.latest)))
        return effects

    def _not_yet(self, push: Push) -> list[Effect]:
        """Nobody has told us yet what may be here: the cloud is to send it again."""
        if not push.number:
            return [Ignore("a WEAK value before the policy was told")]
        refused = tuple(Refusal(_called(entry), UNDECIDED) for entry in push.entries)
        return [self.core.say(Ack(push.number, refused, stamp=self.core.clock.latest))]

    def _undecided(self, entry: Entry, push: Push) -> bool:
        tag = push.tags.get(entry.name, b"")
        decision = self.core.gate.allowed(self.core.node, entry.name[:200], tag, "")  # not a decision yet
        return not decision.allowed and decision.reason == UNDECIDED

    def _problem(self, entry: Entry, tag: bytes) -> Refusal | None:
        wrong = unsound(entry)
        setting = setting_of(entry.name)
        if wrong or (setting is not None and setting[1] != self.core.node):
            return Refusal(_called(entry), "unsound", wrong or "the configuration of another node")
        decision = self.core.gate.allowed(self.core.node, entry.name, tag, RECEIVE)
        return (
            None if decision.allowed else Refusal(entry.name, "residency", decision.reason[:DETAIL_CHARS_MAX])
        )

    def _merge(self, entry: Entry) -> None:
        core = self.core
        for write in entry.writes:
            core.clock.hear(write.stamp)
        before = core.journal.newest(entry.name)
        if before is None:
            after = entry
        elif level_of(entry) is ConsistencyLevel.STRONG:
            after = entry if _is_newer(entry, before) else before
            core.acknowledged([entry.name])  # what we wrote without asking does not count
        else:
            after = merged(before, entry)
        if after is not before:
            core.journal.write(after, CLOUD_ORIGIN)
        if after == entry:
            core.acknowledged([entry.name])
            core.peer.lane.drop(entry.name)

    # What it holds, and asks for ----------------------------------------------------------------------

    def _offer(self, offer: Offer) -> list[Effect]:
        core = self.core
        if not offer.number:  # WEAK: nobody waits for an answer
            return [core.say(Pull(fitting(one.name for one in offer.entries)), qos=0)]
        return [core.say(core.peer.consider(offer, core.clock.latest))]

    def _acknowledged(self, ack: Ack, unix_ms: int, now: float) -> list[Effect]:
        core = self.core
        core.hear_clock(ack.stamp, unix_ms)
        core.acknowledged(core.peer.acknowledged(ack, now))
        for one in ack.refused[:NAMES_MAX]:
            if one.code == "ahead" and one.name in core.dirty:
                core.writer.restamp(one.name, unix_ms, cloud_stamp=ack.stamp)
            elif one.code == "foreign" and one.name in core.dirty:
                core.writer.restamp(one.name, unix_ms, alone=True)
        return [Ignore(f"{one.name} is refused: {one.code}: {one.detail}") for one in ack.refused[:5]]

    def _digest(self, digest: Digest, unix_ms: int, now: float) -> list[Effect]:
        core = self.core
        core.hear_clock(digest.stamp, unix_ms)
        if digest.asking:
            core.say_again(now)  # it asks because it could not listen before
        if digest.reset:
            return core.writer.reset(digest.cleared, unix_ms)
        effects: list[Effect] = []
        if core.peer.same(digest):
            core.acknowledged(core.peer.lane.settle())
            if digest.cleared > core.cleared:
                core.cleared = digest.cleared
                core.journal.next.more = True
        else:
            effects += [core.say(part) for part in core.peer.compare(digest, now)]
            held = [name for name, item in core.peer.lane.items.items() if item.held]
            core.peer.lane.release(held, now)
        if digest.asking:
            mine = core.peer.digest(asking=False, stamp=core.clock.latest, cleared=core.cleared)
            effects.append(core.say(mine))
        return effects

    def _pull(self, pull: Pull, now: float) -> list[Effect]:
        self.core.peer.repair(pull.names[:NAMES_MAX], now)
        return []


def _called(entry: Entry) -> str:
    """Its name, where it is one."""
    return entry.name if is_name(entry.name) else ""


def _is_newer(entry: Entry, before: Entry) -> bool:
    """STRONG states stand in one row: by term, and by number within it."""
    if level_of(before) is not ConsistencyLevel.STRONG:
        return True
    return entry.vector.get(CLOUD_ORIGIN, (0, 0)) > before.vector.get(CLOUD_ORIGIN, (0, 0))
