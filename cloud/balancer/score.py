"""How good a node is for a request: pure functions over measured evidence.

The expected completion of one more request on a node is

    service + service x load / slots + round trip        [seconds]
    (what the  (what stands before  (what the
     node can)  it there)            network costs)

Each term times its weight of the configuration is the *cost*; a suspect node's cost is multiplied by its
penalty. Nodes are compared by kind first (idle, working, silent) and then by cost.

Costs are compared in steps of 2^(1/8), about 9 %: measurements are no better than that, and nodes on one step
share the work in turn instead of all of it going to the luckiest. So the chosen node's cost is at
most 9 % above the lowest of its kind, and the order is an integer, which makes an index of it cheap.
"""

from enum import IntEnum
from math import log2

import msgspec

from cloud.facts import NodeFact, NodeStatus
from shared.config import BalancerSection
from shared.messages import ModelState

STEPS_PER_DOUBLING = 8
STEPS = 256  # of each kind: from 1 microsecond to over an hour
FASTEST_S = 1e-6
MEMORY_BYTES_MIN = 16 << 20  # less than this free, and the next request may be the one that kills it

_PLACEABLE = frozenset({NodeStatus.IDLE, NodeStatus.BUSY})


class Kind(IntEnum):
    """What is compared first. A silent node did not answer when it should have: the last resort."""

    IDLE = 0
    WORKING = 1
    SILENT = 2


_IDLE, _WORKING, _SILENT = (int(kind) * STEPS for kind in Kind)


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How one node stands for one model. ``place`` orders nodes: lower is better."""

    node: str
    place: int
    cost_s: float
    expected_s: float
    service_s: float
    round_trip_s: float
    load: int
    slots: int
    suspect: bool

    @property
    def kind(self) -> Kind:
        """What kind of candidate it is."""
        return Kind(self.place // STEPS)


def standing_of(
    node: str,
    service_s: float,
    round_trip_s: float,
    load: int,
    slots: int,
    suspect: bool,
    silent: bool,
    weights: BalancerSection,
) -> Standing:
    """Weigh the evidence. ``load``: requests that are on the node already."""
    ahead_s = service_s * load / slots
    cost_s = weights.capability * service_s + weights.load * ahead_s + weights.latency * round_trip_s
    if suspect:
        cost_s *= weights.suspect_penalty**weights.state
    if silent:
        first = _SILENT
    elif load == 0 and not suspect and weights.state > 0:
        first = _IDLE
    else:
        first = _WORKING
    place = first + step_of(cost_s)
    expected_s = service_s + ahead_s + round_trip_s
    return Standing(node, place, cost_s, expected_s, service_s, round_trip_s, load, slots, suspect)


def step_of(cost_s: float) -> int:
    """The step on the logarithmic scale: 0 to ``STEPS`` - 1."""
    if cost_s <= FASTEST_S:
        return 0
    return min(int(log2(cost_s / FASTEST_S) * STEPS_PER_DOUBLING), STEPS - 1)


def why_not(fact: NodeFact, model: str) -> str:
    """The hard filter that excludes a node, or nothing."""
    if fact.status not in _PLACEABLE:
        return fact.status.value
    if fact.draining:
        return "draining"
    if 0 < fact.memory_available_bytes < MEMORY_BYTES_MIN:
        return "out of memory"
    held = fact.models.get(model)
    if held is None:
        return "model absent"
    return "" if held[1] is ModelState.READY else f"model {held[1].value}"
