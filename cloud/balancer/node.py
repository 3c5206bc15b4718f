"""What the balancer knows of one node: what it sent there, what came back, and how fast.

Load. The balancer's own requests in flight are counted exactly. A heartbeat also counts what others sent, but
seconds late, so the two are never added: ``others`` is what the heartbeat reports *beyond the most* that we
had there since the heartbeat before. Under our own traffic alone it is therefore 0, however late the report.

Speed. Service time per (node, model) and round trip per node are exponentially weighted means. Before the
first answer, service time is guessed from the device's own benchmark and what the model cost elsewhere. An
estimate that got no new sample between two heartbeats becomes 10 % more hopeful, and the next sample replaces
it: so one unlucky answer neither banishes a node for ever, nor has every request refused as hopeless.

Strikes. A request that stays silent far beyond its expected completion is three strikes, one that expires
is one; an answer clears them, a heartbeat forgives one. From ``STRIKES_MAX`` on the node is *silent*: used
only when nothing else is left. So a node that heartbeats but swallows requests gets a trial now and then,
ever more rarely.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cloud.balancer.score import Standing, standing_of
from cloud.facts import NodeFact, NodeStatus
from shared.config import BalancerSection
from shared.messages import InferCommand
from shared.topics import Address

if TYPE_CHECKING:
    from cloud.balancer.index import ModelIndex
    from cloud.balancer.request import Pending

ALPHA = 0.2  # weight of the newest sample
HOPE = 0.9  # times the estimate, per heartbeat without a sample
ROUND_TRIP_S = 0.002  # until measured
STRIKES_MAX = 3
STRIKES_KEPT = 9


@dataclass(slots=True, eq=False)
class Held:
    """One model on one node. ``reason``: why a hard filter excludes it. ``place`` < 0: not in the order."""

    node: Node
    index: ModelIndex
    to: Address[InferCommand]
    place: int = -1
    reason: str = ""
    standing: Standing | None = None
    service_s: float | None = None
    fresh: bool = False  # there was a sample since the last heartbeat
    stale: bool = False  # there was none between the last two

    def weigh(self, weights: BalancerSection) -> Standing:
        """How the node stands now."""
        node = self.node
        fact = node.fact
        return standing_of(
            fact.node,
            self.service_s if self.service_s is not None else self._guess_s(),
            node.round_trip_s,
            node.load,
            fact.slots,
            fact.suspect,
            node.strikes >= STRIKES_MAX,
            weights,
        )

    def learn(self, service_s: float) -> None:
        """Take one measured service time."""
        known = self.service_s
        if known is None or self.stale:
            self.service_s = service_s
        else:
            self.service_s = known + ALPHA * (service_s - known)
        self.fresh, self.stale = True, False
        self.index.learn(service_s * self.node.gflops)

    def age(self) -> None:
        """A heartbeat has passed."""
        self.stale = not self.fresh
        if self.stale:
            self.service_s = HOPE * (self._guess_s() if self.service_s is None else self.service_s)
        self.fresh = False

    def _guess_s(self) -> float:
        return self.index.gflop / self.node.gflops


@dataclass(slots=True, eq=False)
class Node:
    """One node as the balancer sees it."""

    fact: NodeFact
    held: dict[str, Held] = field(default_factory=dict)
    requests: dict[tuple[str, str], Pending] = field(default_factory=dict)
    peak: int = 0
    others: int = 0
    strikes: int = 0
    round_trip_s: float = ROUND_TRIP_S
    fresh: bool = False
    stale: bool = True

    @property
    def load(self) -> int:
        """Requests on the node, ours and others'."""
        return len(self.requests) + self.others

    @property
    def gflops(self) -> float:
        """The device's own benchmark; 1 where it has none."""
        return self.fact.capabilities.wasm_gflops or 1.0

    def add(self, key: tuple[str, str], pending: Pending) -> None:
        """A request was sent there."""
        self.requests[key] = pending
        self.peak = max(self.peak, len(self.requests))

    def heartbeat(self) -> None:
        """Fresh evidence in ``fact``: see the module's text on load, speed and strikes."""
        fact = self.fact
        reported = fact.in_flight + fact.queue_depth
        if fact.status is NodeStatus.BUSY and reported == 0:
            reported = 1  # busy with something that is not a request
        self.others = max(0, reported - self.peak)
        self.peak = len(self.requests)
        self.strikes = max(0, self.strikes - 1)
        self.stale = not self.fresh
        if self.stale:
            self.round_trip_s *= HOPE
        self.fresh = False
        for held in self.held.values():
            held.age()

    def learn(self, round_trip_s: float, *, alone: bool) -> None:
        """Take one measured round trip. Behind other requests (not ``alone``) it has waiting in it, and so
        can only show that the estimate was too high."""
        if self.stale:
            self.round_trip_s = round_trip_s
        elif alone or round_trip_s < self.round_trip_s:
            self.round_trip_s += ALPHA * (round_trip_s - self.round_trip_s)
        self.fresh, self.stale = True, False

    def strike(self, count: int) -> None:
        """It owes an answer."""
        self.strikes = min(STRIKES_KEPT, self.strikes + count)
