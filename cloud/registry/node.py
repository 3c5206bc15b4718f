"""What the registry remembers of one node, and the views of it that others read."""

from dataclasses import dataclass, field
from math import inf

from cloud.facts import NodeFact, NodeStatus
from shared.ids import is_id
from shared.messages import (
    Birth,
    Capabilities,
    Heartbeat,
    ModelState,
    NodeState,
    ReportedModel,
    ReportedModels,
)

HEARTBEAT_S_RANGE = (0.5, 3600.0)
SLOTS_MAX = 4096
MODELS_MAX = 256
LIVE = frozenset({NodeStatus.IDLE, NodeStatus.BUSY, NodeStatus.ERROR})

SILENT = Heartbeat(epoch=0, sequence=-1, state=NodeState.IDLE)
UNBORN = Birth(epoch=0, agent_version="", capabilities=Capabilities(cores=0, memory_bytes=0))


@dataclass(slots=True, eq=False)
class Node:
    """One device. Times are monotonic seconds of the cloud's own clock.

    ``birth``: the newest known; ``born``: it is of this boot. ``heartbeat``: the newest of this boot.
    ``silent_since``: from when its silence counts: its last heartbeat, or when we first heard of this boot.
    ``due``: when its silence is judged next; infinite while it is offline and nothing is awaited.
    """

    id: str
    epoch: int
    status: NodeStatus
    why: str
    since: float
    silent_since: float
    ask_at: float
    due: float = inf
    suspect: bool = False
    birth: Birth = UNBORN
    born: bool = False
    heartbeat: Heartbeat = SILENT
    heartbeat_at: float | None = None
    models: dict[str, tuple[str, ModelState]] = field(default_factory=dict)

    def fact(self) -> NodeFact:
        """What placement may look at."""
        birth, beat = self.birth, self.heartbeat
        return NodeFact(
            self.id,
            self.epoch,
            self.status,
            self.suspect,
            beat.state is NodeState.DRAINING,
            birth.address,
            birth.capabilities,
            birth.labels,
            birth.slots,
            beat.queue_depth,
            beat.in_flight,
            beat.cpu_ratio,
            beat.memory_available_bytes,
            beat.tasks,
            self.models,
            beat.sequence,
        )


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node with the evidence for its status. Ages in seconds at the registry's last step."""

    fact: NodeFact
    why: str
    status_age_s: float
    heartbeat_age_s: float | None
    heartbeats_missed: int
    interval_s: float
    agent_version: str


def view_of(node: Node, now: float) -> NodeView:
    """The node as of ``now``."""
    return NodeView(
        fact=node.fact(),
        why=node.why,
        status_age_s=now - node.since,
        heartbeat_age_s=None if node.heartbeat_at is None else now - node.heartbeat_at,
        heartbeats_missed=int((now - node.silent_since) / node.birth.heartbeat_s),
        interval_s=node.birth.heartbeat_s,
        agent_version=node.birth.agent_version,
    )


def answering(one: ReportedModel) -> tuple[str, ModelState]:
    """What requests get: the old version is READY while a new one is on its way."""
    if one.serving:
        return one.serving, ModelState.READY
    return one.digest, one.state


def implausible_birth(birth: Birth) -> str:
    """Why a birth can't be true, or nothing. Comparisons are written so that NaN fails them."""
    low, high = HEARTBEAT_S_RANGE
    able = birth.capabilities
    if not low <= birth.heartbeat_s <= high:
        return f"a heartbeat every {birth.heartbeat_s} s; {low} to {high} is possible"
    if not 1 <= birth.slots <= SLOTS_MAX:
        return f"{birth.slots} slots; 1 to {SLOTS_MAX} are possible"
    if not (able.cores >= 1 and able.memory_bytes >= 0 and 0 <= able.wasm_gflops < inf):
        return "capabilities that no machine has"
    return ""


def implausible_heartbeat(beat: Heartbeat) -> str:
    """Why a heartbeat can't be true, or nothing."""
    counts = min(beat.queue_depth, beat.in_flight, beat.memory_available_bytes, beat.sequence)
    if counts < 0:
        return "a negative count"
    if not (0 <= beat.cpu_ratio <= 1 and 0 <= beat.memory_ratio <= 1):
        return f"cpu {beat.cpu_ratio}, memory {beat.memory_ratio}: ratios are 0 to 1"
    return ""


def implausible_models(reported: ReportedModels) -> str:
    """Why a report can't be used, or nothing. A model's name becomes part of a topic."""
    if len(reported.models) > MODELS_MAX:
        return f"{len(reported.models)} models; at most {MODELS_MAX} are kept per node"
    bad = next((name for name in reported.models if not is_id(name)), None)
    return "" if bad is None else f"{bad[:80]!r} can't name a model"
