"""The nodes and, for each model, their order. Answers "where?" and, when nowhere, "why not?"."""

from collections.abc import Mapping
from math import inf

from cloud.balancer.index import ModelIndex
from cloud.balancer.node import Held, Node
from cloud.balancer.score import Standing, why_not
from cloud.facts import NodeFact
from shared.config import BalancerSection
from shared.messages import InferAsk
from shared.topics import INFER

Evidence = tuple[tuple[Standing, ...], Mapping[str, int], int]


class Fleet:
    """Bounded by what the registry admits: nodes, and models per node."""

    def __init__(self, weights: BalancerSection) -> None:
        self.nodes: dict[str, Node] = {}
        self.models: dict[str, ModelIndex] = {}
        self._weights = weights

    # Nodes come, change and go ----------------------------------------------------------------------

    def hear(self, fact: NodeFact) -> Node:
        """Take what the registry says of a node."""
        node = self.nodes.get(fact.node)
        if node is None:
            node = self.nodes[fact.node] = Node(fact)
            node.heartbeat()
            self._stock(node)
        else:
            before, node.fact = node.fact, fact
            if fact.models is not before.models:
                self._stock(node)
            if fact.epoch != before.epoch:
                node.strikes = 0
            if (fact.epoch, fact.heartbeat) != (before.epoch, before.heartbeat):
                node.heartbeat()
        self._filter(node)
        self.rank(node)
        return node

    def forget(self, name: str) -> Node | None:
        """Take a node off the books; None when it was not on them."""
        node = self.nodes.pop(name, None)
        if node is not None:
            for model in list(node.held):
                self._unstock(node, model)
        return node

    def rank(self, node: Node) -> None:
        """The node stands differently from now on, for each model it holds."""
        for held in node.held.values():
            held.index.touch(held)

    def settle(self) -> None:
        """Weigh anew what has changed, so that no choice has to do much of it."""
        for index in self.models.values():
            index.settle()

    def _filter(self, node: Node) -> None:
        """Apply the hard filters. Their answer changes only with what the registry says."""
        for model, held in node.held.items():
            held.index.filter(held, why_not(node.fact, model))

    def _stock(self, node: Node) -> None:
        """Bring the indexes in line with the models that the node reports."""
        for model in [model for model in node.held if model not in node.fact.models]:
            self._unstock(node, model)
        for model in node.fact.models:
            if model not in node.held:
                index = self.models.get(model)
                if index is None:
                    index = self.models[model] = ModelIndex(model, self._weights)
                held = Held(node, index, INFER.at(node=node.fact.node, model=model))
                node.held[model] = index.nodes[node.fact.node] = held

    def _unstock(self, node: Node, model: str) -> None:
        held = node.held.pop(model)
        held.index.remove(held)
        if not held.index.nodes:
            del self.models[model]

    # Where? -----------------------------------------------------------------------------------------

    def best(self, model: str, budget_s: float, only: str = "", avoid: Node | None = None) -> Held | None:
        """The node that should answer, if one can within ``budget_s``."""
        index = self.models.get(model)
        if index is None:
            return None
        if not only:
            return index.best(budget_s, avoid)
        index.settle()
        held = index.nodes.get(only)
        if held is None or held.reason or held.standing is None or held.standing.expected_s > budget_s:
            return None
        return held

    def evidence(self, model: str) -> Evidence:
        """What a choice is made from: the first few, the excluded by reason, how many lack the model."""
        index = self.models.get(model)
        if index is None:
            return (), {}, len(self.nodes)
        return index.top(), index.excluded, len(self.nodes) - len(index.nodes)

    def why_nowhere(self, ask: InferAsk) -> tuple[str, str]:
        """Code and detail of the refusal when :meth:`best` found nothing."""
        index = self.models.get(ask.model)
        if index is None:
            return "no-such-model", f"none of {len(self.nodes)} nodes holds {ask.model[:64]!r}"
        held = self.best(ask.model, inf, ask.node)
        if held is not None and held.standing is not None:
            needs_s, name = held.standing.expected_s, held.standing.node
            return "no-capacity", f"the best node, {name}, needs {needs_s:.3g} s of {ask.budget_s:.3g} s"
        if ask.node:
            held = index.nodes.get(ask.node)
            return "no-node", f"{ask.node[:64]}: {held.reason if held else 'not known to hold the model'}"
        counts = {**index.excluded, "without the model": len(self.nodes) - len(index.nodes)}
        return "no-node", ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)

    def check(self) -> None:
        """Assert every invariant."""
        for name, node in self.nodes.items():
            assert name == node.fact.node
            assert node.held.keys() == node.fact.models.keys()
            assert len(node.requests) <= node.peak
        for model, index in self.models.items():
            assert index.nodes
            assert index.model == model
            index.check()
