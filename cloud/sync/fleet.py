"""Who shares what, and the lane to each of them: what the sync core holds of its devices.

A key belongs to the nodes that an application named, or to the device that made it. Nobody else may write or
see it. A tombstone is kept until every target has it, or for the longest time that a device may be offline;
a device that missed one that was forgotten has to fetch everything anew (its *floor*).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from cloud.sync.events import Decided, DeployModel
from cloud.sync.records import NodeMemory, Record, Sharing, SyncKind, SyncTask
from cloud.sync.tasks import Tasks
from shared.core import Clear, Effect, Ignore, Publish
from shared.entries import level_of, strategy_of
from shared.journal import Journal
from shared.lanes import Lane, LaneLimits
from shared.messages import ModelState
from shared.parcels import head_of
from shared.peers import Heard, Peer
from shared.sync import (
    PUBLISH,
    SELECT,
    UNDECIDED,
    ConsistencyLevel,
    Gate,
    Part,
    Setting,
    SyncMessage,
    SyncStrategy,
    setting_of,
)
from shared.topics import DESIRED_KEY, SYNC_DOWN
from shared.versions import DESIRED_PREFIX

KEYS_MAX = 200_000
NODE_KEYS_MAX = 10_000
BYTES_MAX = 1 << 30
PEERS_MAX = 20_000
LINGER_S = 0.1
OFFLINE_S_MAX = 7 * 24 * 3600.0
PURGE_S = 60.0
PRIORITY_STRONG = 9


@dataclass(slots=True)
class Fleet:
    """``linked``: our own link. ``active``: peers whose lanes changed in this step."""

    term: int
    chance: Callable[[], float]
    gate: Gate
    journal: Journal
    tasks: Tasks
    limits: LaneLimits = field(default_factory=LaneLimits)
    linked: bool = False
    silent: bool = False
    sharing: dict[str, Sharing] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    called: dict[str, Heard] = field(default_factory=dict)  # the operations of each node
    tombstones: dict[str, float] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    cleared: int = 0
    models: dict[str, tuple[str, frozenset[str]]] = field(
        default_factory=dict
    )  # task -> model, held back for
    active: set[str] = field(default_factory=set)
    unsaved: set[str] = field(default_factory=set)
    saving: set[str] = field(default_factory=set)
    purge_at: float = 0.0

    # Who shares what ----------------------------------------------------------------------------------

    def peer(self, node: str) -> Peer | None:
        """The conversation with a node; None: there are too many nodes."""
        found = self.peers.get(node)
        if found is None and len(self.peers) < PEERS_MAX:
            lane = Lane(self.chance, self.limits)
            found = Peer(self.journal.replica, lane, set(), self.term, DESIRED_PREFIX)
            self.peers[node] = found
        return found

    def share(self, name: str, sharing: Sharing) -> None:
        """From now on the key belongs to these."""
        self.sharing[name] = sharing
        for node in sharing.targets:
            peer = self.peer(node)
            if peer is not None:
                peer.names.add(name)

    def unshare(self, name: str) -> None:
        """The key is forgotten."""
        for node in self.sharing.pop(name, Sharing(())).targets:
            peer = self.peers.get(node)
            if peer is not None:
                peer.names.discard(name)
                peer.pulled.discard(name)
                peer.lane.drop(name)
        self.tombstones.pop(name, None)

    def has_room(self, name: str, nodes: Iterable[str]) -> bool:
        """Whether these may share one more key."""
        if name in self.sharing:
            return True
        known = (self.peers.get(node) for node in nodes)
        small = self.journal.replica.size_bytes < BYTES_MAX
        return (
            small
            and len(self.sharing) < KEYS_MAX
            and all(one is None or len(one.names) < NODE_KEYS_MAX for one in known)
        )

    def shares(self, node: str, name: str) -> bool:
        """Whether the node may see and write the key."""
        sharing = self.sharing.get(name)
        return sharing is None or node in sharing.targets

    def selected(
        self, name_for: Callable[[str], str], tag: bytes, nodes: Iterable[str]
    ) -> tuple[dict[str, str], list[Effect]]:
        """Which of these may have it: node -> why not (empty: it may), and what is to be audited.

        ``name_for``: what each of them would have; configuration is of a node.
        """
        reasons: dict[str, str] = {}
        effects: list[Effect] = []
        for node in nodes:
            decision = self.gate.allowed(node, name_for(node), tag, SELECT)
            reasons[node] = "" if decision.allowed else decision.reason or "not allowed there"
            effects.append(Decided(node, name_for(node), SELECT, decision))
        return reasons, effects

    def sharing_of_new(self, node: str, name: str) -> Sharing:
        """Who shares a key that this device has made: itself, and of a part whoever shares the whole."""
        whole = self.sharing.get(head_of(name) or "")
        return whole if whole is not None and node in whole.targets else Sharing((node,))

    def restore(
        self, records: Iterable[Record], nodes: Mapping[str, NodeMemory], cleared: int, now: float
    ) -> list[Effect]:
        """What the store held. What is not surely everywhere goes into the lanes again."""
        self.cleared = cleared
        for node, memory in nodes.items():
            self.called[node] = Heard(memory.life, memory.upto, set(memory.beyond))
            self.floors[node] = memory.floor
        for record in records:
            self.share(record.entry.name, record.sharing)
            if record.entry.erased:
                self.distribute(record.entry.name, now)
        for node, name in self.tasks.moving:
            peer = self.peer(node)
            if peer is not None and name in self.journal.replica:
                peer.lane.add(name, self.sharing[name].priority, now, held=self._is_held(name))
        open_models = [
            task for task in self.tasks.tasks.values() if task.kind is SyncKind.MODEL and task.is_open
        ]
        return [effect for task in open_models for effect in self.deploy_model(task)]

    # What goes where ----------------------------------------------------------------------------------

    def distribute(self, name: str, now: float, source: str = "") -> None:
        """The durable state of a key is new: every target but ``source``, which sent it, is to have it."""
        entry, sharing = self.journal.replica.entries[name], self.sharing[name]
        if entry.erased:
            self.tombstones.setdefault(name, now)
        else:
            self.tombstones.pop(name, None)
        strong = level_of(entry) is ConsistencyLevel.STRONG
        lingers = not strong and strategy_of(entry) is SyncStrategy.PUSH
        for node in sharing.targets:
            peer = self.peer(node)
            if peer is None or node == source:
                continue
            peer.pulled.discard(name)
            priority = PRIORITY_STRONG if strong else sharing.priority
            wait_s = LINGER_S if lingers else 0.0
            peer.lane.add(name, priority, now, wait_s=wait_s, held=self._is_held(name))
            self.active.add(node)

    def _is_held(self, name: str) -> bool:
        return strategy_of(self.journal.replica.entries[name]) is SyncStrategy.PULL

    def holds(self, node: str, name: str) -> list[Effect]:
        """The node showed that it has the newest state of a key."""
        self.peers[node].lane.drop(name)
        return self.tasks.acked(node, [name])

    def pump(self, now: float) -> list[Effect]:
        """Everything that may leave now, of the lanes that were touched."""
        effects: list[Effect] = []
        if self.linked and not self.silent:
            for node in sorted(self.active):
                effects += self._pump(node, self.peers[node], now)
        self.active.clear()
        return effects

    def _pump(self, node: str, peer: Peer, now: float) -> list[Effect]:
        effects: list[Effect] = []

        def forbids(name: str) -> str:
            decision = self.gate.allowed(node, name, self.sharing[name].tag, PUBLISH)
            effects.append(Decided(node, name, PUBLISH, decision))
            if decision.allowed or decision.reason == UNDECIDED:
                return "" if decision.allowed else UNDECIDED
            self.tasks.refused(node, name, f"residency: {decision.reason}")
            return f"residency: {decision.reason}"

        for message in peer.pump(now, forbids, self.tag_of):
            if isinstance(message, Setting):
                setting = setting_of(message.entry.name)
                assert setting is not None
                effects.append(Publish(DESIRED_KEY.at(node=node, key=setting[2]), message))
            else:
                effects.append(self.say(node, message))
        return effects

    def tag_of(self, name: str) -> bytes:
        """The residency tag that the writer of a key gave, packed."""
        return self.sharing[name].tag if name in self.sharing else b""

    def say(self, node: str, part: Part, qos: int | None = None) -> Effect:
        """One message to a node."""
        peer = self.peers.get(node)
        message = SyncMessage(life=self.term, part=part, to=peer.heard.life if peer else 0)
        return Publish(SYNC_DOWN.at(node=node), message, qos)

    # Models -------------------------------------------------------------------------------------------

    def deploy_model(self, task: SyncTask) -> list[Effect]:
        """The model of a task goes to its targets: now, or (PULL) to each one when it asks."""
        held = frozenset(task.targets) if task.sync_type is SyncStrategy.PULL else frozenset()
        self.models[task.task_id] = (task.key, held)
        return [] if held else [DeployModel(task.task_id, task.key, task.targets)]

    def asked_for_models(self, node: str) -> list[Effect]:
        """The node compares on its schedule: what was held back for it may go."""
        effects: list[Effect] = []
        for task_id, (model, held) in self.models.items():
            if node in held:
                self.models[task_id] = (model, held - {node})
                effects.append(DeployModel(task_id, model, (node,)))
        return effects

    def models_seen(self, node: str, models: Mapping[str, tuple[str, ModelState]]) -> list[Effect]:
        """What a node says it holds."""
        ready = {digest for digest, state in models.values() if state is ModelState.READY}
        effects: list[Effect] = []
        for task_id in list(self.models) if ready else ():
            task = self.tasks.tasks.get(task_id)
            if task is None:
                del self.models[task_id]
            elif task.digest in ready:
                effects += self.tasks.acked(node, [f"model/{task_id}"])
        return effects

    # Coming and going ---------------------------------------------------------------------------------

    def spoke(self, node: str, now: float) -> None:
        """Whoever speaks is there."""
        peer = self.peers[node]
        self.active.add(node)
        if not peer.lane.online:
            peer.lane.up(now)

    def see(self, node: str, reachable: bool, offline: bool, now: float) -> None:
        """What the registry says of a node."""
        peer = self.peers.get(node)
        if peer is None:
            return
        if offline:
            peer.lane.down()
        elif reachable and not peer.lane.online and peer.heard.life:
            peer.lane.up(now)
            self.active.add(node)

    def forget(self, node: str) -> None:
        """The node is off the books: nothing waits for it. Its keys stay its own, should it come back."""
        peer = self.peers.get(node)
        self.active.discard(node)
        if peer is not None:
            for name in peer.names:
                self.tasks.refused(node, name, "the node was taken off the books")
            # The numbers go on: an acknowledgement that is still on its way must not mean another message.
            peer.lane = Lane(self.chance, self.limits, number=peer.lane.number)
            peer.heard = Heard()
            peer.pulled.clear()

    def link(self, up: bool, now: float) -> None:
        """Our own link: while it is down nobody is late, and what flew is sent again."""
        self.linked = up
        for node, peer in self.peers.items():
            if up and peer.lane.online and peer.lane.items:
                peer.lane.up(now)
                self.active.add(node)

    def fall_silent(self) -> None:
        """A newer term serves: say nothing any more."""
        self.silent = True

    def tick(self, now: float) -> list[Effect]:
        """Late acknowledgements, pauses that are over, and now and then tombstones."""
        for node, peer in self.peers.items():
            if peer.lane.items:
                self.active.add(node)
                for name in peer.lane.expire(now) if self.linked else ():
                    self.tasks.refused(node, name, peer.lane.dead[name].reason)
        if now < self.purge_at:
            return []
        self.purge_at = now + PURGE_S
        return self._purge(now)

    def _purge(self, now: float) -> list[Effect]:
        """Forget the tombstones that everybody has; and those that are too old, which moves floors."""
        effects: list[Effect] = []
        for name, since in list(self.tombstones.items()):
            entry = self.journal.newest(name)
            if entry is None or not entry.erased or level_of(entry) is ConsistencyLevel.STRONG:
                continue  # the revision of a STRONG key must never start again
            behind = [node for node in self.sharing[name].targets if self._lacks(node, name)]
            if behind and now - since < OFFLINE_S_MAX:
                continue
            self.cleared += 1
            for node in behind:
                self.floors[node] = self.cleared
                self.unsaved.add(node)
            self.journal.forget(name)
            effects += self._cleared_fact(name)
        return effects

    def _lacks(self, node: str, name: str) -> bool:
        peer = self.peers.get(node)
        return peer is not None and (name in peer.lane.items or name in peer.lane.dead)

    def _cleared_fact(self, name: str) -> list[Effect]:
        setting = setting_of(name)
        if setting is None or setting[0] != DESIRED_PREFIX[:-1]:
            return [Ignore(f"the tombstone of {name} is forgotten")]
        return [Clear(DESIRED_KEY.at(node=setting[1], key=setting[2]))]

    # The store ----------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether the memory of some node is to be saved."""
        return bool(self.unsaved)

    def take(self) -> dict[str, NodeMemory]:
        """What the next save has to write."""
        self.saving, self.unsaved = self.unsaved, set()
        return {node: self._memory(node) for node in sorted(self.saving)}

    def _memory(self, node: str) -> NodeMemory:
        heard = self.called.get(node) or Heard()
        return NodeMemory(heard.life, heard.upto, tuple(sorted(heard.beyond)), self.floors.get(node, 0))

    def saved(self) -> None:
        """It is durable."""
        self.saving = set()

    def give_back(self) -> None:
        """The save failed."""
        self.unsaved |= self.saving
        self.saving = set()

    def widened(self, name: str, targets: Iterable[str], priority: int, tag: bytes) -> Sharing:
        """Who shares a key when these are added."""
        before = self.sharing.get(name)
        if before is None:
            return Sharing(tuple(dict.fromkeys(targets)), priority, tag)
        together = tuple(dict.fromkeys((*before.targets, *targets)))
        return msgspec.structs.replace(before, targets=together, priority=priority, tag=tag or before.tag)

    def check(self) -> None:
        """Invariants."""
        assert self.sharing.keys() >= self.journal.replica.entries.keys()
        assert len(self.peers) <= PEERS_MAX
        for peer in self.peers.values():
            peer.check()
            assert peer.names <= self.sharing.keys()
