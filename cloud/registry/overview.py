"""The fleet in a few numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloud.facts import NodeStatus
from cloud.registry.node import LIVE, Node
from shared.messages import ModelState, NodeState


@dataclass(frozen=True, slots=True)
class Overview:
    """Totals over the live nodes (idle, busy, error), beside the count of every status.

    ``models_ready``: on how many live nodes each model can answer. ``watched_s``: for how long our own
    link has been up without a break; None while it is down. ``strangers``: messages from nodes that there
    was no room for.
    """

    nodes: int
    by_status: dict[str, int]
    suspect: int
    draining: int
    cores: int
    memory_bytes: int
    memory_available_bytes: int
    slots: int
    in_flight: int
    queue_depth: int
    cpu_ratio_mean: float
    models_ready: dict[str, int]
    watched_s: float | None
    strangers: int


def overview_of(
    nodes: Iterable[Node], counts: Mapping[NodeStatus, int], watched_s: float | None, strangers: int
) -> Overview:
    """Add up. ``counts``: nodes per status."""
    live = [node for node in nodes if node.status in LIVE]
    beats = [node.heartbeat for node in live]
    ready = Counter(
        name for node in live for name, (_, state) in node.models.items() if state is ModelState.READY
    )
    return Overview(
        nodes=sum(counts.values()),
        by_status={status.value: counts.get(status, 0) for status in NodeStatus},
        suspect=sum(node.suspect for node in live),
        draining=sum(beat.state is NodeState.DRAINING for beat in beats),
        cores=sum(node.birth.capabilities.cores for node in live),
        memory_bytes=sum(node.birth.capabilities.memory_bytes for node in live),
        memory_available_bytes=sum(beat.memory_available_bytes for beat in beats),
        slots=sum(node.birth.slots for node in live),
        in_flight=sum(beat.in_flight for beat in beats),
        queue_depth=sum(beat.queue_depth for beat in beats),
        cpu_ratio_mean=sum(beat.cpu_ratio for beat in beats) / len(beats) if beats else 0.0,
        models_ready=dict(ready),
        watched_s=watched_s,
        strangers=strangers,
    )
