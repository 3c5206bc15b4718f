"""Which devices exist, and what the cloud may honestly say of each. Decides only; see ``service`` for I/O.

      presence, birth ──> UNKNOWN ──────heartbeat──────> IDLE <──> BUSY <──> ERROR      (live)
      (proves nothing      │   ^                              │        │
       about now)          │   └─── 3 heartbeats missed, ─────┤        └─ 3 missed while we watched: suspect
                           │        we were not watching      │
      enrolled by hand ──> OFFLINE <── its will, or 6 missed while we watched ──┘

Only a heartbeat proves that a node lives: a retained presence or birth may be as old as the broker. So a
cloud that starts or reconnects knows its nodes at once, but calls them UNKNOWN until they speak.

Silence is evidence only while we listen. ``watching_since`` is when our own link came up, or when our own
process last woke from a stall; a node is called OFFLINE by silence only if its six intervals lie wholly
after that. A blackout is therefore judged node by node when its heartbeats are missed, not all at once when
our link drops: a link that is back within two heartbeats changes nothing for anybody. An offline presence
of the current boot (``epoch``) is evidence by itself: the broker only says it when the device is gone.

Cost: a heartbeat touches one node. Each node that is not OFFLINE stands in one heap under the time when
its silence has to be judged; a heartbeat does not move it, and when its time comes it is either judged or
put back, so a tick costs one heap move per node per three intervals. Readers pay for a whole overview.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush
from math import inf
from typing import TypeVar

from msgspec.structs import replace

from cloud.facts import NodeChanged, NodeForgotten, NodeStatus
from cloud.registry.events import (
    BirthSeen,
    Enrol,
    Event,
    Forget,
    HeartbeatSeen,
    PresenceSeen,
    Recalled,
    Remember,
    ReportedSeen,
)
from cloud.registry.node import (
    LIVE,
    SILENT,
    UNBORN,
    Node,
    NodeView,
    answering,
    implausible_birth,
    implausible_heartbeat,
    implausible_models,
    view_of,
)
from cloud.registry.overview import Overview, overview_of
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.errors import InvalidTransition, LocalError
from shared.ids import is_id
from shared.messages import (
    Birth,
    Command,
    CommandVerb,
    Heartbeat,
    NodeState,
    Presence,
    ReportedModels,
)
from shared.topics import COMMAND

OFFLINE, UNKNOWN = NodeStatus.OFFLINE, NodeStatus.UNKNOWN
IDLE, BUSY, ERROR = NodeStatus.IDLE, NodeStatus.BUSY, NodeStatus.ERROR

START = frozenset({OFFLINE, UNKNOWN})
NEXT: Mapping[NodeStatus, frozenset[NodeStatus]] = {
    OFFLINE: frozenset({UNKNOWN, IDLE, BUSY, ERROR}),
    UNKNOWN: frozenset({OFFLINE, IDLE, BUSY, ERROR}),
    IDLE: frozenset({OFFLINE, UNKNOWN, BUSY, ERROR}),
    BUSY: frozenset({OFFLINE, UNKNOWN, IDLE, ERROR}),
    ERROR: frozenset({OFFLINE, UNKNOWN, IDLE, BUSY}),
}

NODES_MAX = 20_000
SUSPECT_AFTER = 3  # missed heartbeats
OFFLINE_AFTER = 6
STALL_S = 5.0  # ticks further apart than this mean that we slept, not that the nodes did
BIRTH_GRACE_S = 5.0  # a retained birth usually comes right behind the first heartbeat
ASK_AGAIN_S = 30.0
DUE_PER_NODE_MAX = 4
CALLER = "registry"


S = TypeVar("S", Presence, Birth, Heartbeat, ReportedModels)

_SAYS: Mapping[NodeState, NodeStatus] = {
    NodeState.IDLE: IDLE,
    NodeState.BUSY: BUSY,
    NodeState.ERROR: ERROR,
}


class Registry:
    """All nodes of a fleet. At ``nodes_max`` a stranger is ignored and counted in ``strangers``."""

    def __init__(self, nodes_max: int = NODES_MAX) -> None:
        self.nodes_max = nodes_max
        self.strangers = 0
        self.watching_since = inf  # infinite: we can't see
        self._nodes: dict[str, Node] = {}
        self._due: list[tuple[float, str]] = []
        self._counts: Counter[NodeStatus] = Counter()
        self._now = 0.0
        self._ticked_at: float | None = None
        self._asked = 0

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event at monotonic time ``now`` (seconds) and say what is to be done."""
        self._now = now
        match event:
            case HeartbeatSeen(name, heartbeat):
                return self._hear(name, heartbeat, implausible_heartbeat(heartbeat), self._beat)
            case Tick():
                return self._tick()
            case PresenceSeen(name, presence):
                return self._hear(name, presence, "", self._presence)
            case BirthSeen(name, birth):
                return self._hear(name, birth, implausible_birth(birth), self._birth)
            case ReportedSeen(name, reported):
                return self._hear(name, reported, implausible_models(reported), self._reported)
            case LinkUp() | LinkDown():
                self.watching_since = now if isinstance(event, LinkUp) else inf
                return []
            case _:
                return self._by_hand(event)

    # What nodes say ---------------------------------------------------------------------------------

    def _hear(
        self, name: str, said: S, implausible: str, take: Callable[[Node, S], list[Effect]]
    ) -> list[Effect]:
        """Fence by epoch, then take what was said."""
        if implausible:
            return [Ignore(f"{name[:80]} claims {implausible}")]
        node = self._nodes.get(name)
        if node is None:
            if not self._room_for(name):
                self.strangers += 1
                return [Ignore(f"no room for {name[:80]!r}: {len(self._nodes)} nodes known")]
            node = self._add(name, said.epoch, UNKNOWN, "new to us; no heartbeat yet", UNBORN)
        elif said.epoch < node.epoch:
            return [Ignore(f"{name}: epoch {said.epoch} is over; it is at {node.epoch}")]
        elif said.epoch > node.epoch:
            self._reborn(node, said.epoch)
        return take(node, said)

    def _beat(self, node: Node, beat: Heartbeat) -> list[Effect]:
        if beat.sequence <= node.heartbeat.sequence:
            return [Ignore(f"{node.id}: heartbeat {beat.sequence} was heard, or overtaken")]
        node.heartbeat, node.heartbeat_at, node.silent_since = beat, self._now, self._now
        node.suspect = False
        busy = beat.in_flight or beat.queue_depth
        status = _SAYS.get(beat.state) or (BUSY if busy else IDLE)  # draining is a wish, not a state
        if status is not node.status:
            self._enter(node, status, f"its heartbeat said {beat.state}")
        self._arm(node)
        return [NodeChanged(node.fact()), *self._ask_for_birth(node)]

    def _ask_for_birth(self, node: Node) -> list[Effect]:
        if node.born or self._now < node.ask_at:
            return []
        node.ask_at = self._now + ASK_AGAIN_S
        self._asked += 1
        to = COMMAND.at(node=node.id, verb=CommandVerb.ANNOUNCE)
        correlation = f"announce-{node.epoch}-{self._asked}"
        return [Publish(to, Command(correlation=correlation, budget_s=10.0, caller=CALLER, epoch=node.epoch))]

    def _presence(self, node: Node, presence: Presence) -> list[Effect]:
        if not presence.online:
            if node.status is OFFLINE:
                return []
            self._enter(node, OFFLINE, f"said offline ({presence.reason[:80] or 'no reason'})")
        elif node.status is OFFLINE:
            node.silent_since = self._now
            self._enter(node, UNKNOWN, "says it is back; no heartbeat yet")
            self._arm(node)
        elif node.status is not UNKNOWN:
            return []
        return [NodeChanged(node.fact())]

    def _birth(self, node: Node, birth: Birth) -> list[Effect]:
        news: list[Effect] = [Remember(node.id, birth)] if birth != node.birth else []
        node.birth, node.born = birth, True
        if node.status is not OFFLINE:
            self._arm(node)
        return [NodeChanged(node.fact()), *news]

    def _reported(self, node: Node, reported: ReportedModels) -> list[Effect]:
        node.models = {name: answering(one) for name, one in reported.models.items()}
        return [NodeChanged(node.fact())]

    # The passing of time ----------------------------------------------------------------------------

    def _tick(self) -> list[Effect]:
        if self._ticked_at is not None and self._now - self._ticked_at > STALL_S:
            self.watching_since = max(self.watching_since, self._now)
        self._ticked_at = self._now
        effects: list[Effect] = []
        while self._due and self._due[0][0] <= self._now:
            due, name = heappop(self._due)
            node = self._nodes.get(name)
            if node is None or node.due != due:  # forgotten, or armed anew for an earlier time
                continue
            node.due = inf
            if node.status is not OFFLINE:
                effects += self._judge(node)
        return effects

    def _judge(self, node: Node) -> list[Effect]:
        before = node.status, node.suspect
        silent_s = self._now - node.silent_since
        if self._now >= self._offline_at(node):
            self._enter(node, OFFLINE, f"silent for {silent_s:.1f} s while our own link was up")
        elif node.status in LIVE and self._now >= self._suspect_at(node):
            if self.watching_since > node.silent_since:
                self._enter(node, UNKNOWN, "our own link was down while it was silent")
            else:
                node.suspect = True
        if node.status is not OFFLINE:
            self._arm(node)
        return [NodeChanged(node.fact())] if (node.status, node.suspect) != before else []

    def _suspect_at(self, node: Node) -> float:
        return node.silent_since + SUSPECT_AFTER * node.birth.heartbeat_s

    def _offline_at(self, node: Node) -> float:
        return max(node.silent_since, self.watching_since) + OFFLINE_AFTER * node.birth.heartbeat_s

    def _arm(self, node: Node) -> None:
        """See that the node's silence is judged in time. Standing there too early is harmless."""
        if node.status in LIVE and not node.suspect:
            due = self._suspect_at(node)
        else:  # While we can't see, look again after a window.
            due = self._offline_at(node)
            due = due if due < inf else self._now + OFFLINE_AFTER * node.birth.heartbeat_s
        if due < node.due:
            node.due = due
            heappush(self._due, (due, node.id))
        if len(self._due) > DUE_PER_NODE_MAX * self.nodes_max:  # Somebody plays with its intervals.
            self._due = sorted((node.due, node.id) for node in self._nodes.values() if node.due < inf)

    # Coming, changing and going ---------------------------------------------------------------------

    def _enter(self, node: Node, status: NodeStatus, why: str) -> None:
        if status not in NEXT[node.status]:
            raise InvalidTransition(f"{node.id}: {node.status} -> {status}")
        self._counts[node.status] -= 1
        self._counts[status] += 1
        node.status, node.why, node.since = status, why, self._now
        if status not in LIVE:
            node.suspect = False

    def _reborn(self, node: Node, epoch: int) -> None:
        """A newer boot supersedes the older one. Its birth stands as the best guess until the next one."""
        node.epoch, node.born, node.suspect = epoch, False, False
        node.heartbeat, node.heartbeat_at, node.models = SILENT, None, {}
        node.silent_since, node.ask_at = self._now, self._now + BIRTH_GRACE_S
        if node.status is not UNKNOWN:
            self._enter(node, UNKNOWN, f"booted again (epoch {epoch}); no heartbeat yet")
        self._arm(node)

    def _add(self, name: str, epoch: int, status: NodeStatus, why: str, birth: Birth) -> Node:
        now = self._now
        node = Node(name, epoch, status, why, now, now, now + BIRTH_GRACE_S, birth=birth)
        self._nodes[name] = node
        self._counts[status] += 1
        if status is not OFFLINE:
            self._arm(node)
        return node

    def _by_hand(self, event: Event) -> list[Effect]:
        match event:
            case Recalled(name, birth):
                return self._recall(name, birth)
            case Enrol():
                return self._enrol(event)
            case Forget(name):
                return self._forget(name)
            case Failed(_, reason):
                return [Ignore(f"a node could not be kept in the store: {reason}")]
            case _:
                raise LocalError(f"nobody takes {type(event).__name__}")

    def _recall(self, name: str, birth: Birth) -> list[Effect]:
        """What the broker still has of it comes next; if nothing does, its silence is judged like any."""
        if name in self._nodes or not self._room_for(name):
            return [Ignore(f"{name[:80]!r} is known already, or there is no room")]
        node = self._add(
            name, birth.epoch, UNKNOWN, "known from before the cloud's start; no heartbeat yet", birth
        )
        return [NodeChanged(node.fact())]

    def _enrol(self, event: Enrol) -> list[Effect]:
        if event.node in self._nodes or not self._room_for(event.node):
            return [Ignore(f"{event.node[:80]!r} is known already, or there is no room")]
        birth = replace(UNBORN, address=event.address, capabilities=event.capabilities)
        return [NodeChanged(self._add(event.node, 0, OFFLINE, "enrolled; never heard", birth).fact())]

    def _forget(self, name: str) -> list[Effect]:
        node = self._nodes.get(name)
        if node is None:
            return [Ignore(f"{name[:80]!r} is not known")]
        if node.status is not OFFLINE:
            return [Ignore(f"{name} is {node.status}; only a node that is offline can be forgotten")]
        del self._nodes[name]
        self._counts[OFFLINE] -= 1
        return [NodeForgotten(name)]

    def _room_for(self, name: str) -> bool:
        return len(self._nodes) < self.nodes_max and is_id(name)

    # For readers ------------------------------------------------------------------------------------

    def __contains__(self, node: str) -> bool:
        return node in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def node(self, node: str) -> NodeView | None:
        """One node with its evidence, as of the last step."""
        found = self._nodes.get(node)
        return None if found is None else view_of(found, self._now)

    def nodes(self) -> Iterator[NodeView]:
        """Every node with its evidence, in the order in which they were first heard."""
        return (view_of(node, self._now) for node in self._nodes.values())

    def overview(self) -> Overview:
        """Totals of the fleet."""
        watched_s = self._now - self.watching_since if self.watching_since < inf else None
        return overview_of(self._nodes.values(), self._counts, watched_s, self.strangers)

    def check(self) -> None:
        """Assert every invariant. Tests and simulations call it after each step."""
        assert len(self._nodes) <= self.nodes_max
        assert len(self._due) <= DUE_PER_NODE_MAX * self.nodes_max
        assert +self._counts == Counter(node.status for node in self._nodes.values())
        waiting = set(self._due)
        for name, node in self._nodes.items():
            assert name == node.id
            assert node.status in LIVE or not node.suspect
            assert node.status not in LIVE or node.heartbeat_at is not None
            assert node.due == inf or (node.due, name) in waiting
            assert node.status is OFFLINE or node.due < inf  # nobody waits for ever
