"""The nodes of one model in the order of their standing, so that a choice does not look at all of them.

    places   0 ............ 255 | 256 ......... 511 | 512 ......... 767
             idle, by cost      | working, by cost  | silent, by cost
    mask     one bit per place that has a node in it; the lowest set bit is the best place
    queue    the nodes on one place, in turn: first in, first chosen

Moving a node is two dictionary operations and a bit; choosing is finding the lowest set bit. Both cost the
same at ten nodes and at ten thousand. A node that changes is only noted (``touch``) and weighed when the next
choice needs the order, so that a request and its answer cost one weighing, and models that nobody asks
for cost none. Excluded nodes are counted by reason as they come and go.
"""

from collections import Counter, OrderedDict

from cloud.balancer.node import ALPHA, Held, Node
from cloud.balancer.score import STEPS, Standing
from shared.config import BalancerSection

GFLOP = 0.02  # a request's work until one was measured: 20 ms on a device of 1 GFLOP/s
SHOWN_MAX = 3


class ModelIndex:
    """Every node that reports the model, placed or excluded. ``gflop``: the work of one request."""

    def __init__(self, model: str, weights: BalancerSection) -> None:
        self.model = model
        self.nodes: dict[str, Held] = {}
        self.gflop = GFLOP
        self.excluded: dict[str, int] = {}  # replaced, never changed: old choices still refer to it
        self._weights = weights
        self._measured = False
        self._touched: dict[Held, None] = {}  # a set whose order does not depend on addresses
        self._mask = 0
        self._queues: dict[int, OrderedDict[str, Held]] = {}

    def learn(self, gflop: float) -> None:
        """Take one measurement of what a request costs."""
        self.gflop = self.gflop + ALPHA * (gflop - self.gflop) if self._measured else gflop
        self._measured = True

    def touch(self, held: Held) -> None:
        """What the node's standing follows from has changed."""
        self._touched[held] = None

    def settle(self) -> None:
        """Bring the order up to date."""
        for held in self._touched:
            if not held.reason:
                self._put(held)
        self._touched.clear()

    def filter(self, held: Held, reason: str) -> None:
        """Take a node out of the choice and count why, or let it in again (no reason)."""
        if held.reason != reason:
            counts = dict(self.excluded)
            if held.reason:
                counts[held.reason] -= 1
            if reason:
                counts[reason] = counts.get(reason, 0) + 1
            self.excluded = {reason: count for reason, count in counts.items() if count}
            held.reason = reason
        if reason:
            self._leave(held)

    def remove(self, held: Held) -> None:
        """The node no longer reports the model."""
        self.filter(held, "")
        self._leave(held)
        self._touched.pop(held, None)
        del self.nodes[held.node.fact.node]

    def last(self, held: Held) -> None:
        """It was chosen: the others on its place are next."""
        self._queues[held.place].move_to_end(held.node.fact.node)

    def best(self, budget_s: float, avoid: Node | None = None) -> Held | None:
        """The node to choose: the best place whose first node can answer within ``budget_s``."""
        self.settle()
        mask = self._mask
        while mask:
            place = (mask & -mask).bit_length() - 1
            held = self._first(place, avoid)
            if held is None:
                mask &= mask - 1
            elif held.standing is not None and held.standing.expected_s <= budget_s:
                return held
            else:  # The rest of its kind is slower still.
                end = (place // STEPS + 1) * STEPS
                mask = mask >> end << end
        return None

    def top(self) -> tuple[Standing, ...]:
        """The standings of the first few in order."""
        self.settle()
        found: list[Standing] = []
        mask = self._mask
        while mask:
            low = mask & -mask
            for held in self._queues[low.bit_length() - 1].values():
                if held.standing is not None:
                    found.append(held.standing)
                if len(found) == SHOWN_MAX:
                    return tuple(found)
            mask ^= low
        return tuple(found)

    def _first(self, place: int, avoid: Node | None) -> Held | None:
        for held in self._queues[place].values():
            if held.node is not avoid:
                return held
        return None

    def _put(self, held: Held) -> None:
        """Place a node where its standing belongs. On the same place it keeps its turn."""
        held.standing = standing = held.weigh(self._weights)
        place = standing.place
        if held.place == place:
            return
        self._leave(held)
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = OrderedDict()
        queue[standing.node] = held
        held.place = place
        self._mask |= 1 << place

    def _leave(self, held: Held) -> None:
        place = held.place
        if place < 0:
            return
        queue = self._queues[place]
        del queue[held.node.fact.node]
        if not queue:
            self._mask ^= 1 << place
        held.place = -1

    def check(self) -> None:
        """Assert every invariant."""
        placed = {name: place for place, queue in self._queues.items() for name in queue}
        reasons = Counter(held.reason for held in self.nodes.values() if held.reason)
        assert reasons == self.excluded
        assert placed.keys() <= self.nodes.keys()
        for name, held in self.nodes.items():
            assert held.index is self
            assert held.node.fact.node == name
            assert placed.get(name, -1) == held.place
            assert held.place < 0 or not held.reason
            if held not in self._touched and not held.reason:
                assert held.standing is not None
                assert held.standing.place == held.place
                # A guess moves with the model's measured work; it is looked at again when the node is.
                assert held.service_s is None or held.standing == held.weigh(self._weights)
        assert self._mask == sum(1 << place for place, queue in self._queues.items() if queue)
