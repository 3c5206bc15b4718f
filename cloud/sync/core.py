"""Keeps keys the same on the cloud and on the devices that share them, as strictly as each key asks.

    NEW ──tick──> LOADING ──restored──> READY ──something changed──> SAVING ──failed──> UNSAVED
     └───failed──────┘                    └──────────saved────────────┘ └──────tick───────┘
                                                       any save ──a newer term──> FENCED

    application ──Asked──┐                             ┌──> lane of each target ──> Push, Offer, Setting
    device ──Call────────┼──> journal ──Save──> Saved ─┤
    device ──Push────────┘                             └──> Ack, reply

Everything goes through one journal: nothing is sent, acknowledged or read before the save that holds it.
That save fails for a cloud of an older term, so it is also the fence: of two clouds only the newer one
writes, and only it answers STRONG reads, which wait for a save (of nothing, if need be) that confirms it.

STRONG writes of a key stand in one row here, each with the next revision; a write is a success when it is
journaled and enough targets have it on their disks. At the deadline it is INDETERMINATE: it stays in the
lanes and may land later. EVENTUAL writes are merged (:mod:`shared.versions`). WEAK values live in memory
(:mod:`cloud.sync.weak`). Lanes are memory too: what a device lacks after a restart of the cloud, the next
comparison of digests finds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cloud.facts import NodeChanged, NodeForgotten, NodeStatus
from cloud.sync import asks
from cloud.sync.calls import Calls
from cloud.sync.events import (
    Asked,
    DeployModel,
    Event,
    Fenced,
    Load,
    MessageHeard,
    ModelDeployed,
    ReportedHeard,
    Restored,
    Save,
    Saved,
)
from cloud.sync.fleet import PEERS_MAX, Fleet
from cloud.sync.inbox import Inbox
from cloud.sync.records import Record
from cloud.sync.tasks import Tasks
from cloud.sync.weak import Weak
from cloud.sync.writer import Writer
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Tick
from shared.errors import InvalidTransition
from shared.journal import Journal
from shared.sync import Gate, OpenGate
from shared.versions import HybridClock


class Phase(StrEnum):
    """What this core waits for."""

    NEW = "new"
    LOADING = "loading"
    READY = "ready"
    SAVING = "saving"
    UNSAVED = "unsaved"
    FENCED = "fenced"


NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.LOADING}),
    Phase.LOADING: frozenset({Phase.READY, Phase.NEW}),
    Phase.READY: frozenset({Phase.SAVING}),
    Phase.SAVING: frozenset({Phase.READY, Phase.UNSAVED, Phase.FENCED}),
    Phase.UNSAVED: frozenset({Phase.SAVING}),
    Phase.FENCED: frozenset(),
}

_CLOSED = (Phase.NEW, Phase.LOADING, Phase.FENCED)


@dataclass(slots=True)
class Sync:
    """One per cloud and term. ``chance`` returns numbers in [0, 1); ``gate`` says what may go where."""

    term: int
    chance: Callable[[], float]
    gate: Gate = field(default_factory=OpenGate)
    phase: Phase = Phase.NEW
    newer_term: int = 0
    knocked: set[str] = field(default_factory=set)  # who spoke before we had read our store
    journal: Journal = field(default_factory=Journal)
    clock: HybridClock = field(default_factory=HybridClock)
    tasks: Tasks = field(default_factory=Tasks)
    weak: Weak = field(default_factory=Weak)
    fleet: Fleet = field(init=False)
    writer: Writer = field(init=False)
    inbox: Inbox = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.term, self.chance, self.gate, self.journal, self.tasks)
        self.writer = Writer(self.term, self.journal, self.clock, self.tasks, self.fleet, self.weak)
        self.inbox = Inbox(self.journal, self.clock, self.fleet, self.writer, Calls(self.writer), self.weak)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        effects = _HANDLERS[type(event)](self, event, now)
        if self.phase is Phase.READY and self.dirty:
            effects.append(self._save())
        return effects + self.fleet.pump(now)

    @property
    def dirty(self) -> bool:
        """Whether something is to be saved."""
        return bool(self.journal.next) or self.tasks.dirty or self.fleet.dirty

    @property
    def closed(self) -> str:
        """Why nothing can be asked now; empty: it can."""
        if self.phase is Phase.FENCED:
            return f"this cloud's term {self.term} is over; term {self.newer_term} serves"
        return "the cloud is still reading its store; try again" if self.phase in _CLOSED else ""

    # The store ----------------------------------------------------------------------------------------

    def _restored(self, event: Restored, now: float) -> list[Effect]:
        if self.phase is not Phase.LOADING:
            return [Ignore(f"Restored while {self.phase}")]
        self.clock.hear(event.stamp)
        for record in event.records:
            self.journal.replica.put(record.entry)
            for write in record.entry.writes:
                self.clock.hear(write.stamp)
        self.tasks.restore(event.tasks, now)
        self._enter(Phase.READY)
        effects = self.fleet.restore(event.records, event.nodes, event.cleared, now)
        knocked, self.knocked = sorted(self.knocked), set()
        return effects + [effect for node in knocked for effect in self.inbox.ask(node)]

    def _save(self) -> Save:
        batch = self.journal.take()
        tasks, tasks_forgotten = self.tasks.take()
        self._enter(Phase.SAVING)
        return Save(
            self.term,
            tuple(Record(entry, self.fleet.sharing[name]) for name, entry in batch.entries.items()),
            tuple(sorted(batch.forgotten)),
            tasks,
            tasks_forgotten,
            self.fleet.take(),
            self.fleet.cleared,
            self.clock.latest,
        )

    def _saved(self, _: Saved, now: float) -> list[Effect]:
        if self.phase is not Phase.SAVING:
            return [Ignore(f"Saved while {self.phase}")]
        self._enter(Phase.READY)
        batch = self.journal.saved()
        self.fleet.saved()
        for name in batch.forgotten:
            if self.journal.newest(name) is None:
                self.fleet.unshare(name)
        for name in batch.entries:
            self.fleet.distribute(name, now, source=batch.sources.get(name, ""))
        return self.tasks.saved(now) + batch.then

    def _failed(self, event: Failed, now: float) -> list[Effect]:
        match event.work:
            case Load() if self.phase is Phase.LOADING:
                self._enter(Phase.NEW)
            case Save() if self.phase is Phase.SAVING:
                self.journal.failed()
                self.tasks.give_back()
                self.fleet.give_back()
                self._enter(Phase.UNSAVED)
            case DeployModel(task_id) if task_id in self.tasks:
                return self.tasks.failed(task_id, "not-deployed", event.reason, now)
        return [Ignore(f"{type(event.work).__name__} failed: {event.reason}")]

    def _fenced(self, event: Fenced, _: float) -> list[Effect]:
        if self.phase is not Phase.SAVING:
            return [Ignore(f"Fenced while {self.phase}")]
        self.newer_term = event.term
        self._enter(Phase.FENCED)
        self.fleet.fall_silent()
        return [Ignore(self.closed)]

    # The fleet ----------------------------------------------------------------------------------------

    def _message(self, event: MessageHeard, now: float) -> list[Effect]:
        if self.closed:
            if self.phase is not Phase.FENCED and len(self.knocked) < PEERS_MAX:
                self.knocked.add(event.node)
            return [Ignore(self.closed)]
        return self.inbox.message(event.node, event.message, event.unix_ms, now)

    def _reported(self, event: ReportedHeard, now: float) -> list[Effect]:
        if self.closed:
            return [Ignore(self.closed)]
        return self.inbox.setting(event.node, event.key, event.setting, event.unix_ms, now)

    def _node(self, event: NodeChanged, now: float) -> list[Effect]:
        fact = event.fact
        reachable = fact.status in (NodeStatus.IDLE, NodeStatus.BUSY, NodeStatus.ERROR)
        self.fleet.see(fact.node, reachable, fact.status is NodeStatus.OFFLINE, now)
        return self.fleet.models_seen(fact.node, fact.models)

    def _forgotten(self, event: NodeForgotten, _: float) -> list[Effect]:
        self.fleet.forget(event.node)
        return []

    def _link_up(self, _: LinkUp, now: float) -> list[Effect]:
        self.fleet.link(True, now)
        return []

    def _link_down(self, _: LinkDown, now: float) -> list[Effect]:
        self.fleet.link(False, now)
        return []

    # The applications ---------------------------------------------------------------------------------

    def _asked(self, event: Asked, now: float) -> list[Effect]:
        return asks.answer(self, event, now)

    def _deployed(self, event: ModelDeployed, _: float) -> list[Effect]:
        self.tasks.deployed(event.task_id, event.digest)
        return []

    def _tick(self, _: Tick, now: float) -> list[Effect]:
        effects = self.tasks.expire(now)
        if self.phase is Phase.NEW:
            self._enter(Phase.LOADING)
            effects.append(Load())
        elif self.phase is Phase.UNSAVED:
            effects.append(self._save())
        if not self.closed:
            effects += self.fleet.tick(now)
        return effects

    def _enter(self, phase: Phase) -> None:
        if phase not in NEXT[self.phase]:
            raise InvalidTransition(f"{self.phase} -> {phase}")
        self.phase = phase

    def check(self) -> None:
        """Invariants. Tests and simulations call this after every step."""
        assert (self.journal.saving is not None) == (self.phase in (Phase.SAVING, Phase.FENCED))
        assert self.phase is not Phase.READY or not self.dirty
        self.journal.check()
        self.tasks.check()
        self.fleet.check()
        self.weak.check()


_HANDLERS: Mapping[type[Any], Callable[[Sync, Any, float], list[Effect]]] = {
    Restored: Sync._restored,
    Asked: Sync._asked,
    MessageHeard: Sync._message,
    ReportedHeard: Sync._reported,
    NodeChanged: Sync._node,
    NodeForgotten: Sync._forgotten,
    Saved: Sync._saved,
    Fenced: Sync._fenced,
    ModelDeployed: Sync._deployed,
    Failed: Sync._failed,
    LinkUp: Sync._link_up,
    LinkDown: Sync._link_down,
    Tick: Sync._tick,
}
