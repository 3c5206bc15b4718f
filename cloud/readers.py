"""What operators can read, as functions over the capabilities' own views. Reads; never changes anything."""

from collections.abc import Callable, Mapping
from itertools import islice

from cloud.artifacts.catalog import Catalog
from cloud.balancer.core import Balancer
from cloud.facts import NodeStatus
from cloud.federated.views import LearningViews, NoSuchThing
from cloud.operator.core import NotThere, Reader
from cloud.registry import node as registered
from cloud.registry.core import Registry
from cloud.residency.service import Localisation
from cloud.residency.views import NoSuchRecord, page_of, proof_of, residency_view
from cloud.rollout.core import Rollout
from shared.messages import Query, QueryKind
from shared.views import (
    DeploymentView,
    Explanation,
    ModelOnNode,
    ModelView,
    NodeView,
    Overview,
)

PAGE_NODES = 500
LATEST = "last"
_REACHABLE = (NodeStatus.IDLE, NodeStatus.BUSY, NodeStatus.ERROR, NodeStatus.UNKNOWN)


class Readers:
    """Everything that :class:`cloud.operator.core.Operator` answers from. ``unix_s``: the wall clock.

    ``counters``: of the parts of the cloud, by name; the status and /metrics show them.
    """

    def __init__(
        self,
        fleet: str,
        term: int,
        registry: Registry,
        balancer: Balancer,
        catalog: Catalog,
        rollout: Rollout,
        learning: LearningViews,
        version: str,
        unix_s: Callable[[], float],
    ) -> None:
        self.counters: dict[str, Mapping[str, int]] = {}
        self._learning = learning
        self._fleet, self._term, self._version, self._unix_s = fleet, term, version, unix_s
        self._registry, self._balancer, self._catalog, self._rollout = registry, balancer, catalog, rollout

    def table(self) -> Mapping[QueryKind, Reader]:
        """Which function answers which kind of query."""
        return {
            QueryKind.NODES: self._nodes,
            QueryKind.NODE: lambda query: view(self._node(query.key)),
            QueryKind.OVERVIEW: lambda _: self._overview(),
            QueryKind.MODELS: lambda _: self._models(),
            QueryKind.DEPLOYMENTS: lambda _: self._deployments(),
            QueryKind.WHY: lambda query: self._why(query.key),
            QueryKind.STATUS: lambda _: self._status(),
            **{kind: _checked(reader) for kind, reader in self._learning.table().items()},
        }

    def epoch_of(self, node: str) -> int:
        """The boot that a command should reach. Raises :class:`NotThere` for a node that can't be reached."""
        fact = self._node(node).fact
        if fact.status not in _REACHABLE:
            raise NotThere("offline", f"{node} is {fact.status}: {self._node(node).why}")
        return fact.epoch

    def _node(self, name: str) -> registered.NodeView:
        found = self._registry.node(name)
        if found is None:
            raise NotThere("no-such-node", f"no node {name[:80]!r} has registered; 'shoal nodes' lists them")
        return found

    def _nodes(self, query: Query) -> list[NodeView]:
        names = sorted(found.fact.node for found in self._registry.nodes() if found.fact.node > query.after)
        return [view(self._node(name)) for name in islice(names, PAGE_NODES)]

    def _overview(self) -> Overview:
        totals = self._registry.overview()
        return Overview(
            fleet=self._fleet,
            term=self._term,
            nodes=totals.by_status,
            cores=totals.cores,
            memory_bytes=totals.memory_bytes,
            slots=totals.slots,
            in_flight=totals.in_flight,
            cpu_ratio_mean=totals.cpu_ratio_mean,
            models=totals.models_ready,
            requests={**self._balancer.counts, "waiting": self._balancer.waiting},
        )

    def _models(self) -> list[ModelView]:
        return list(self._catalog.models())

    def _deployments(self) -> list[DeploymentView]:
        return self._rollout.deployments()

    def _why(self, request: str) -> Explanation:
        latest = self._balancer.latest
        app, _, correlation = (
            (latest[0], "", latest[1]) if request == LATEST and latest else request.partition("/")
        )
        found = self._balancer.explain(app, correlation)
        if found is None:
            raise NotThere(
                "no-such-request", f"{request[:80]!r} is not among the newest requests of this cloud"
            )
        return found

    def _status(self) -> dict[str, object]:
        return {
            "fleet": self._fleet,
            "term": self._term,
            "version": self._version,
            "at_unix_s": self._unix_s(),
            "nodes": len(self._registry),
            "requests": {**self._balancer.counts, "waiting": self._balancer.waiting},
            "counters": {name: dict(counts) for name, counts in self.counters.items()},
        }


def _checked(reader: Reader) -> Reader:
    """What learning does not have is not there, in the operator's words."""

    def read(query: Query) -> object:
        try:
            return reader(query)
        except NoSuchThing as error:
            raise NotThere(error.code, str(error)) from None

    return read


def residency_table(residency: Localisation) -> Mapping[QueryKind, Reader]:
    """What can be read about where data may be, and of the log of it."""

    def page(query: Query) -> object:
        try:
            return page_of(residency.audit, int(query.key or 0))
        except ValueError:
            raise NotThere("bad-number", f"{query.key[:40]!r} is not the number of a record") from None

    def proof(query: Query) -> object:
        try:
            return proof_of(residency.audit, query.key)
        except NoSuchRecord as error:
            raise NotThere("no-such-record", str(error)) from None

    return {
        QueryKind.RESIDENCY: lambda _: residency_view(residency.core, residency.bus.withheld),
        QueryKind.AUDIT: page,
        QueryKind.PROOF: proof,
    }


def view(found: registered.NodeView) -> NodeView:
    """The registry's view of a node, as it travels."""
    fact = found.fact
    return NodeView(
        node=fact.node,
        status=fact.status,
        why=found.why,
        suspect=fact.suspect,
        draining=fact.draining,
        epoch=fact.epoch,
        address=fact.address,
        labels=dict(fact.labels),
        capabilities=fact.capabilities,
        slots=fact.slots,
        queue_depth=fact.queue_depth,
        in_flight=fact.in_flight,
        cpu_ratio=fact.cpu_ratio,
        memory_available_bytes=fact.memory_available_bytes,
        tasks=fact.tasks,
        models={
            name: ModelOnNode(digest=digest, state=state) for name, (digest, state) in fact.models.items()
        },
        last_heartbeat_age_s=found.heartbeat_age_s,
    )
