"""The one place where the cloud writes: every application's write, and every STRONG write of a device.

    put ──seen before?──> its task's answer
        ──may nobody have it?──> CANCELLED, nothing is sent
        ──STRONG and stale?──> CONFLICT with the revision as it is
        ──otherwise──> the next state of the key goes to the journal; its task waits for save and targets

All STRONG writes of a key pass here one after the other, compared with the newest state whether durable or
not: what a write was built on is journaled before it, or together with it, or neither is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from cloud.sync.events import Decided
from cloud.sync.fleet import Fleet
from cloud.sync.records import Sharing, SyncKind, SyncTask, TaskStatus
from cloud.sync.tasks import Tasks, Waiter
from cloud.sync.weak import Weak
from shared.core import Effect
from shared.entries import level_of, strategy_of, traits_of
from shared.journal import Journal
from shared.parcels import parcels_of, part_names
from shared.sync import (
    ENTRY_BYTES_MAX,
    PUBLISH,
    TARGETS_MAX,
    VALUE_BYTES_MAX,
    ConsistencyLevel,
    Offer,
    Offered,
    Push,
    Required,
    Status,
    SyncStrategy,
    setting_of,
)
from shared.versions import (
    CLOUD_ORIGIN,
    Entry,
    HybridClock,
    Write,
    packed_entry,
    written,
)

WAITING_MAX = 10_000
BUDGET_S_MAX = 600.0


@dataclass(frozen=True, slots=True)
class Put:
    """One write that somebody asks for. ``fields`` empty: erase. ``kind`` CONFIG: of each target its own."""

    task_id: str
    source: str
    key: str
    fields: Mapping[str, bytes] = field(repr=False)
    unix_ms: int
    waiter: Waiter
    kind: SyncKind = SyncKind.DATA
    level: ConsistencyLevel | None = None
    strategy: SyncStrategy | None = None
    targets: tuple[str, ...] = ()
    required: Required = Required.ALL
    expected: int = -1
    priority: int = 5
    tag: bytes = b""

    @property
    def names(self) -> tuple[str, ...]:
        """The entries that it writes."""
        if self.kind is SyncKind.CONFIG:
            return tuple(map(self.name_for, self.targets))
        return (self.key,)

    def name_for(self, node: str) -> str:
        """The entry that a target is to have."""
        return f"desired/{node}/{self.key}" if self.kind is SyncKind.CONFIG else self.key


class Refusal(Exception):
    """Why a write is not done. Definite: nothing happened."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


@dataclass(slots=True)
class Writer:
    """``sequence``: of the cloud's writes in this term."""

    term: int
    journal: Journal
    clock: HybridClock
    tasks: Tasks
    fleet: Fleet
    weak: Weak
    sequence: int = 0

    def put(self, put: Put, now: float) -> list[Effect]:
        """Do it, or say why not."""
        if put.task_id in self.tasks:
            return self.tasks.repeated(put.task_id, put.waiter)
        try:
            return self._begin(self._completed(put), now)
        except Refusal as refusal:
            task = msgspec.structs.replace(_task(put), code=refusal.code, detail=refusal.detail)
            return [put.waiter.answer(task, Status.REFUSED)]

    # May it be done? ----------------------------------------------------------------------------------

    def _completed(self, put: Put) -> Put:
        """With the level, strategy and targets that the key has, where the writer did not say."""
        if not self.tasks.room or len(self.journal.next.then) >= WAITING_MAX:
            raise Refusal("overloaded", "too many writes wait; try again")
        if len(put.targets) > TARGETS_MAX:
            raise Refusal("bad-request", f"{len(put.targets)} targets; the limit is {TARGETS_MAX}")
        level, strategy, targets = put.level, put.strategy, put.targets
        for name in put.names:
            before = self.journal.newest(name) or self.weak.get(name)
            if before is not None:
                level = self._same_level(name, level, before)
                strategy = strategy or strategy_of(before)
                targets = targets or self._targets_of(name)
        level = level or ConsistencyLevel.EVENTUAL
        if put.expected >= 0 and level is not ConsistencyLevel.STRONG:
            raise Refusal("bad-request", "compare-and-set needs a STRONG key")
        size = sum(map(len, put.fields.values()))
        if size > VALUE_BYTES_MAX:
            raise Refusal(
                "too-large",
                f"{size} bytes; the limit is {VALUE_BYTES_MAX}: send a model or a package instead",
            )
        if not all(self.fleet.has_room(name, targets) for name in put.names):
            raise Refusal("no-room", "too many keys; erase some")
        return _replaced(put, level, strategy or SyncStrategy.PUSH, targets)

    def _same_level(self, name: str, level: ConsistencyLevel | None, before: Entry) -> ConsistencyLevel:
        known = level_of(before)
        if level is not None and level is not known:
            raise Refusal("level", f"{name} is {known}; a key keeps the level that it was made with")
        return known

    def _targets_of(self, name: str) -> tuple[str, ...]:
        if name in self.fleet.sharing:
            return self.fleet.sharing[name].targets
        return self.weak.values[name][1].targets if name in self.weak.values else ()

    # Do it --------------------------------------------------------------------------------------------

    def _begin(self, put: Put, now: float) -> list[Effect]:
        reasons, audit = self.fleet.selected(put.name_for, put.tag or self._tag(put), put.targets)
        allowed = tuple(node for node, reason in reasons.items() if not reason)
        refused = {node: reason for node, reason in reasons.items() if reason}
        task = msgspec.structs.replace(_task(put), targets=allowed)
        if put.targets and not allowed:
            detail = "; ".join(f"{node}: {reason}" for node, reason in sorted(refused.items())[:5])
            task = msgspec.structs.replace(
                task, status=TaskStatus.CANCELLED, refused=refused, code="cancelled", detail=detail
            )
            self.tasks.begin(task, put.waiter)
            return audit
        put = _replaced(put, put.level, put.strategy, allowed)
        if put.level is ConsistencyLevel.WEAK:
            return audit + self._put_weak(put, task, now)
        stale = self._stale(put)
        if stale is not None:
            detail = f"the key is at revision {stale}, not {put.expected}: read it again"
            task = msgspec.structs.replace(
                task, status=TaskStatus.CONFLICT, revision=stale, code="conflict", detail=detail
            )
            self.tasks.begin(task, put.waiter)
            return audit
        after = [self._next(name, put) for name in put.names]
        for entry in after:
            own = (setting_of(entry.name) or ("", "", ""))[1]
            targets = (own,) if own else allowed
            self.fleet.share(entry.name, self.fleet.widened(entry.name, targets, put.priority, put.tag))
            self.write(entry, put.unix_ms)
        revision = max((entry.revision for entry in after), default=0)
        self.tasks.begin(msgspec.structs.replace(task, revision=revision), put.waiter)
        return audit

    def _tag(self, put: Put) -> bytes:
        sharing = self.fleet.sharing.get(put.names[0]) if put.names else None
        return b"" if sharing is None else sharing.tag

    def _stale(self, put: Put) -> int | None:
        """A revision that is not the expected one; None: all are, or it does not matter."""
        if put.expected < 0:
            return None
        revisions = (self.journal.read(name).revision for name in put.names)
        return next((one for one in revisions if one != put.expected), None)

    def _next(self, name: str, put: Put) -> Entry:
        """The state of one key after the write."""
        assert put.level is not None
        assert put.strategy is not None
        before, stamp = self.journal.read(name), self.clock.tick(put.unix_ms)
        self.sequence += 1
        if put.level is ConsistencyLevel.STRONG:
            after = self._next_revision(before, stamp, put.fields)
        else:
            after = written(before, (CLOUD_ORIGIN, self.term, self.sequence), stamp, put.fields)
        if (put.level, put.strategy) != (level_of(before), strategy_of(before)) or not before.traits[1]:
            traits = traits_of(put.level, put.strategy, stamp)
            after = msgspec.structs.replace(after, traits=traits)
        if len(packed_entry(after)) > ENTRY_BYTES_MAX:
            raise Refusal("too-large", "the value with its conflicts is over the limit; erase the key first")
        return after

    def write(self, after: Entry, unix_ms: int, source: str = "") -> None:
        """The next state of a key. Parts that it refers to no more are erased: they were only for it."""
        before = self.journal.read(after.name)
        self.journal.write(after, source)
        for parcel in parcels_of(before) - parcels_of(after):
            for name in part_names(after.name, parcel):
                part = self.journal.newest(name)
                if part is not None and not part.erased:
                    self.journal.write(self._erased(part, unix_ms))

    def _erased(self, part: Entry, unix_ms: int) -> Entry:
        stamp = self.clock.tick(unix_ms)
        self.sequence += 1
        if level_of(part) is ConsistencyLevel.STRONG:
            return self._next_revision(part, stamp, {})
        return written(part, (CLOUD_ORIGIN, self.term, self.sequence), stamp, {})

    def _next_revision(self, before: Entry, stamp: int, fields: Mapping[str, bytes]) -> Entry:
        """A STRONG key has one writer, this one, and so nothing to merge: the new state replaces the old."""
        write = Write(CLOUD_ORIGIN, self.term, self.sequence, stamp, dict(fields))
        return Entry(
            before.name,
            (write,) if fields else (),
            {CLOUD_ORIGIN: (self.term, self.sequence)},
            before.traits,
            before.revision + 1,
        )

    def _put_weak(self, put: Put, task: SyncTask, now: float) -> list[Effect]:
        effects: list[Effect] = []
        missed: list[str] = []
        for name in put.names:
            own = (setting_of(name) or ("", "", ""))[1]
            targets = (own,) if own else put.targets
            entry = self._weak_entry(name, put)
            self.weak.put(entry, Sharing(targets, put.priority, put.tag or self._tag(put)))
            sent, away = self.send_weak(entry, targets)
            effects += sent
            missed += away
        detail = (
            f"handed to the broker; dropped for {', '.join(missed)}" if missed else "handed to the broker"
        )
        task = msgspec.structs.replace(task, status=TaskStatus.DONE, detail=detail)
        self.tasks.remember(task, now)
        return [*effects, put.waiter.answer(task, Status.OK)]

    def _weak_entry(self, name: str, put: Put) -> Entry:
        assert put.level is not None
        assert put.strategy is not None
        stamp = self.clock.tick(put.unix_ms)
        self.sequence += 1
        return msgspec.structs.replace(
            written(Entry(name), (CLOUD_ORIGIN, self.term, self.sequence), stamp, put.fields),
            traits=traits_of(put.level, put.strategy, stamp),
        )

    def send_weak(
        self, entry: Entry, targets: tuple[str, ...], *, asked: bool = False
    ) -> tuple[list[Effect], list[str]]:
        """Hand a WEAK value to the broker: QoS 0, once. Returns also who is not there to hear it.

        PULL waits until it is ``asked`` for, HYBRID tells that there is something.
        """
        effects: list[Effect] = []
        missed: list[str] = []
        strategy = strategy_of(entry)
        for node in targets:
            if strategy is SyncStrategy.PULL and not asked:
                continue
            peer = self.fleet.peer(node)
            there = peer is not None and peer.lane.online and self.fleet.linked
            if not there or not self._may_be_published(node, entry.name, effects):
                self.weak.dropped[node] += 1
                missed.append(node)
            elif strategy is SyncStrategy.HYBRID and not asked:
                offered = Offered(entry.name, b"", len(packed_entry(entry)))
                effects.append(self.fleet.say(node, Offer(0, (offered,)), qos=0))
            else:
                tag = self._weak_tag(entry.name)
                push = Push(0, (entry,), {entry.name: tag} if tag else {})
                effects.append(self.fleet.say(node, push, qos=0))
        return effects, missed

    def _weak_tag(self, name: str) -> bytes:
        return self.weak.values[name][1].tag if name in self.weak.values else b""

    def _may_be_published(self, node: str, name: str, effects: list[Effect]) -> bool:
        decision = self.fleet.gate.allowed(node, name, self._weak_tag(name), PUBLISH)
        effects.append(Decided(node, name, PUBLISH, decision))
        return decision.allowed

    # Models -------------------------------------------------------------------------------------------

    def model(self, task: SyncTask, tag: bytes, waiter: Waiter) -> list[Effect]:
        """A model travels as an artifact; what is decided here is who may have it, and when it starts."""
        if not self.tasks.room:
            return [waiter.answer(_because(task, "overloaded", "too many tasks; try again"), Status.REFUSED)]
        reasons, audit = self.fleet.selected(lambda _: f"model/{task.key}", tag, task.targets)
        allowed = tuple(node for node, reason in reasons.items() if not reason)
        refused = {node: reason for node, reason in reasons.items() if reason}
        if not allowed:
            task = _because(task, "cancelled", "no target may have the model")
            self.tasks.begin(
                msgspec.structs.replace(task, status=TaskStatus.CANCELLED, targets=(), refused=refused),
                waiter,
            )
            return audit
        task = msgspec.structs.replace(task, targets=allowed)
        self.tasks.begin(task, waiter)
        return audit + self.fleet.deploy_model(task)


def _because(task: SyncTask, code: str, detail: str) -> SyncTask:
    return msgspec.structs.replace(task, code=code, detail=detail)


def _replaced(
    put: Put,
    level: ConsistencyLevel | None,
    strategy: SyncStrategy | None,
    targets: tuple[str, ...],
) -> Put:
    return replace(put, level=level, strategy=strategy, targets=targets)


def _task(put: Put) -> SyncTask:
    return SyncTask(
        task_id=put.task_id,
        sync_type=put.strategy or SyncStrategy.PUSH,
        level=put.level or ConsistencyLevel.EVENTUAL,
        kind=put.kind,
        key=put.key,
        source=put.source,
        targets=put.targets,
        required=put.required,
        priority=put.priority,
        created_at_unix_ms=put.unix_ms,
    )
