"""Edge node management: the documented names over the registry. It holds nothing of its own."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cloud.facts import NodeStatus
from cloud.registry.core import Registry
from cloud.registry.events import Enrol
from cloud.registry.node import NodeView
from shared.messages import Capabilities

EdgeNodeStatus = NodeStatus


@dataclass(frozen=True, slots=True)
class EdgeNode:
    """One device. ``last_heartbeat``: Unix seconds by the cloud's clock; None: none from this boot.

    ``current_tasks``: what it said it was doing at its last heartbeat. ``evidence``: why this status.
    """

    node_id: str
    address: str
    capabilities: Capabilities
    status: EdgeNodeStatus
    last_heartbeat: float | None
    current_tasks: tuple[str, ...]
    suspect: bool
    evidence: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {
            "node_id": self.node_id,
            "address": self.address,
            "capabilities": {
                name: getattr(self.capabilities, name) for name in self.capabilities.__struct_fields__
            },
            "status": self.status.value,
            "last_heartbeat": self.last_heartbeat,
            "current_tasks": list(self.current_tasks),
            "suspect": self.suspect,
            "evidence": self.evidence,
        }


class EdgeManager:
    """Reads one :class:`Registry`, and changes it only through ``feed`` (the service's, in production).

    ``unix_s``: the wall clock, used to show times to people.
    """

    def __init__(
        self, registry: Registry, feed: Callable[[object], None], unix_s: Callable[[], float]
    ) -> None:
        self._registry, self._feed, self._unix_s = registry, feed, unix_s

    def register_edge_node(self, node_id: str, address: str, capabilities: Capabilities) -> bool:
        """Put a node on the books before it has spoken; it stays OFFLINE until it does.

        False: it is known already, the registry is full, or ``node_id`` is not 1 to 64 of a-z, 0-9, '-'.
        """
        if node_id in self._registry:
            return False
        self._feed(Enrol(node_id, address, capabilities))
        return node_id in self._registry

    def edge_node(self, node_id: str) -> EdgeNode | None:
        """The node as a value; None when it is not known."""
        view = self._registry.node(node_id)
        return None if view is None else self._node(view)

    def get_edge_node_status(self, node_id: str) -> dict[str, Any] | None:
        """The fields of :class:`EdgeNode`; None when the node is not known."""
        node = self.edge_node(node_id)
        return None if node is None else node.as_dict()

    def get_all_edge_nodes(self) -> dict[str, dict[str, Any]]:
        """Node id -> the fields of :class:`EdgeNode`."""
        return {view.fact.node: self._node(view).as_dict() for view in self._registry.nodes()}

    def get_system_overview(self) -> dict[str, Any]:
        """The fields of :class:`cloud.registry.overview.Overview`."""
        return asdict(self._registry.overview())

    def _node(self, view: NodeView) -> EdgeNode:
        fact, age_s = view.fact, view.heartbeat_age_s
        return EdgeNode(
            node_id=fact.node,
            address=fact.address,
            capabilities=fact.capabilities,
            status=fact.status,
            last_heartbeat=None if age_s is None else self._unix_s() - age_s,
            current_tasks=fact.tasks,
            suspect=fact.suspect,
            evidence={
                "why": view.why,
                "epoch": fact.epoch,
                "status_age_s": view.status_age_s,
                "heartbeat_age_s": age_s,
                "heartbeats_missed": view.heartbeats_missed,
                "interval_s": view.interval_s,
                "agent_version": view.agent_version,
            },
        )
