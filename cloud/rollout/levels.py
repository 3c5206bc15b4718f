"""What each node should hold, at four levels; each level follows the one before it.

    wanted ──differs: unsaved──> saved ──news: unpublished──> told ──report is older: again──> reported

Nothing here is an event to be lost: a node that is behind on a level is marked, and the mark stays until it
is not. Sets are dictionaries, so that the same story always has the same order.

Versions only grow. They go above what we saved, and above what the device says it has seen: it may remember
more than a store that was lost.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from cloud.facts import NodeFact, NodeStatus
from cloud.rollout.events import NodeDesired
from cloud.rollout.rules import RULES_MAX, RuleBook, desired
from cloud.rollout.targets import Target
from shared.messages import DesiredModel, DesiredModels, ReportedModels

NODES_MAX = 20_000
BATCH_MAX = 500  # nodes in one transaction, and nodes told in one step: neither disk nor outbox is overrun
NUDGE_S = 60.0
VERSION_MAX = 2**53  # a report beyond it is nonsense, and must not become our next version

_REACHABLE = frozenset({NodeStatus.IDLE, NodeStatus.BUSY, NodeStatus.ERROR})


@dataclass(slots=True)
class Levels:
    """Every node that the registry ever named, and every node that has saved orders."""

    nodes: dict[str, NodeFact] = field(default_factory=dict)
    wanted: dict[str, dict[str, DesiredModel]] = field(default_factory=dict)
    saved: dict[str, DesiredModels] = field(default_factory=dict)
    reported: dict[str, ReportedModels] = field(default_factory=dict)
    unsaved: dict[str, None] = field(default_factory=dict)
    unpublished: dict[str, None] = field(default_factory=dict)
    told_at: dict[str, float] = field(default_factory=dict)

    # What is wanted ---------------------------------------------------------------------------------

    def see_node(self, fact: NodeFact, rules: RuleBook) -> str:
        """Take what the registry says. Returns why not, or nothing. Cheap when the labels are the same."""
        known = self.nodes.get(fact.node)
        if known is None and len(self.nodes) >= NODES_MAX:
            return f"no room for {fact.node}: {NODES_MAX} nodes are known"
        self.nodes[fact.node] = fact
        if known is None or known.labels != fact.labels:
            self.want(fact.node, rules)
        return ""

    def forget(self, node: str) -> None:
        """Off the books. Its saved orders stay, so that its versions go on growing if it ever comes back."""
        if self.nodes.pop(node, None) is not None:
            del self.wanted[node]
        for level in (self.unsaved, self.told_at, self.reported):
            level.pop(node, None)

    def want(self, node: str, rules: RuleBook) -> None:
        """Work out all that a known node is to hold."""
        self.wanted[node] = rules.wanted(node, self.nodes[node].labels)
        self._mark(node)

    def matching(self, target: Target) -> list[str]:
        """The known nodes that a target means, sorted."""
        if not (target.everyone or target.selectors):
            return sorted(node for node in target.nodes if node in self.nodes)
        return sorted(node for node, fact in self.nodes.items() if target.matches(node, fact.labels))

    def want_model(self, model: str, target: Target, rules: RuleBook) -> None:
        """A rule of a model came, changed or went: what follows for each node that it means."""
        for node in self.matching(target):
            rule = rules.governing(model, node, self.nodes[node].labels)
            models = self.wanted[node]
            if rule is not None:
                models[model] = desired(rule)
            else:
                models.pop(model, None)
            self._mark(node)

    def _mark(self, node: str) -> None:
        if self._must_save(node):
            self.unsaved[node] = None
        else:
            self.unsaved.pop(node, None)

    def _must_save(self, node: str) -> bool:
        if node not in self.nodes:
            return False  # its labels are unknown after a restart; its saved orders stand until it shows up
        if node not in self.saved:
            return bool(self.wanted[node])
        saved = self.saved[node]
        # A device ignores orders older than it has seen, so those must go out under a newer version.
        return self.wanted[node] != saved.models or self._seen(node) > saved.version

    def _seen(self, node: str) -> int:
        return self.reported[node].version if node in self.reported else 0

    # What is saved ----------------------------------------------------------------------------------

    def restore(self, saved: Iterable[NodeDesired]) -> None:
        """What the store held. Everyone is told again: the broker may have started empty."""
        self.saved = {one.node: one.desired for one in saved}
        self.tell_everyone()

    def batch(self) -> tuple[NodeDesired, ...]:
        """Some of what is unsaved, with its next version. The marks go over to whoever saves it."""
        batch = tuple(islice(self.unsaved, BATCH_MAX))
        for node in batch:
            del self.unsaved[node]
        return tuple(NodeDesired(node, self._next(node)) for node in batch)

    def _next(self, node: str) -> DesiredModels:
        last = self.saved[node].version if node in self.saved else 0
        version = max(last, self._seen(node)) + 1
        return DesiredModels(version=version, models=dict(self.wanted[node]))

    def confirm(self, batch: Iterable[NodeDesired]) -> None:
        """A batch is durable. What changed in the meantime is marked again."""
        for one in batch:
            self.saved[one.node] = one.desired
            self.unpublished[one.node] = None
            self._mark(one.node)

    def give_back(self, batch: Iterable[NodeDesired]) -> None:
        """A batch was not saved, or perhaps it was: it stays to be saved."""
        self.unsaved.update((one.node, None) for one in batch if one.node in self.nodes)

    # What is told -----------------------------------------------------------------------------------

    def tell_everyone(self) -> None:
        """Every saved order goes out again."""
        self.unpublished.update((node, None) for node in self.saved)

    def tell(self, now: float) -> list[NodeDesired]:
        """Some of what is unpublished, to be published now."""
        nodes = tuple(islice(self.unpublished, BATCH_MAX))
        for node in nodes:
            del self.unpublished[node]
            self.told_at[node] = now
        return [NodeDesired(node, self.saved[node]) for node in nodes]

    def nudge(self, now: float) -> None:
        """Mark who was told a while ago, can be reached, and reports older orders: the message was lost."""
        for node, told_at in self.told_at.items():
            if now - told_at >= NUDGE_S and self._behind(node):
                self.unpublished[node] = None

    def _behind(self, node: str) -> bool:
        fact = self.nodes.get(node)
        return fact is not None and fact.status in _REACHABLE and self._seen(node) < self.saved[node].version

    # What is reported -------------------------------------------------------------------------------

    def see_report(self, node: str, report: ReportedModels) -> str:
        """Take what a device says. Returns why not, or nothing."""
        if not 0 <= report.version < VERSION_MAX or len(report.models) > RULES_MAX:
            return f"{node} reports what nobody can have ordered"
        if node not in self.reported and len(self.reported) >= NODES_MAX:
            return f"no room for the report of {node}"
        self.reported[node] = report
        self._mark(node)
        return ""

    def check(self, rules: RuleBook, saving: Mapping[str, DesiredModels]) -> None:
        """Invariants. ``saving``: the batch that is under way."""
        assert self.wanted.keys() == self.nodes.keys()
        assert self.unsaved.keys() <= self.nodes.keys()
        assert self.unpublished.keys() | self.told_at.keys() <= self.saved.keys()
        for node, fact in self.nodes.items():
            assert self.wanted[node] == rules.wanted(node, fact.labels)
            assert node in self.unsaved or node in saving or not self._must_save(node)
        for node, orders in saving.items():
            assert node not in self.saved or orders.version > self.saved[node].version
