"""What the devices of these stories say."""

from cloud.facts import NodeChanged, NodeStatus
from cloud.registry.core import Registry
from cloud.registry.events import BirthSeen, HeartbeatSeen, PresenceSeen, ReportedSeen
from shared.core import LinkUp, Tick
from shared.messages import (
    Birth,
    Capabilities,
    Heartbeat,
    ModelState,
    NodeState,
    Presence,
    ReportedModel,
    ReportedModels,
)
from tests.transcript import shown

ABLE = Capabilities(cores=4, memory_bytes=1 << 30, wasm_gflops=2.0)


def presence(node: str, epoch: int = 1, *, online: bool = True, reason: str = "") -> PresenceSeen:
    return PresenceSeen(node, Presence(epoch=epoch, online=online, reason=reason))


def birth(node: str, epoch: int = 1, *, heartbeat_s: float = 10.0, slots: int = 2) -> BirthSeen:
    return BirthSeen(
        node,
        Birth(
            epoch=epoch,
            agent_version="0.1",
            address=f"{node}.lan",
            capabilities=ABLE,
            slots=slots,
            heartbeat_s=heartbeat_s,
        ),
    )


def beat(
    node: str,
    sequence: int,
    epoch: int = 1,
    *,
    state: NodeState = NodeState.IDLE,
    in_flight: int = 0,
    cpu_ratio: float = 0.25,
) -> HeartbeatSeen:
    message = Heartbeat(
        epoch=epoch,
        sequence=sequence,
        state=state,
        in_flight=in_flight,
        cpu_ratio=cpu_ratio,
        memory_available_bytes=1 << 29,
    )
    return HeartbeatSeen(node, message)


def reported(node: str, *models: str, epoch: int = 1, state: ModelState = ModelState.READY) -> ReportedSeen:
    held = {name: ReportedModel(digest="d1", state=state) for name in models}
    return ReportedSeen(node, ReportedModels(epoch=epoch, version=1, models=held))


def watching(nodes_max: int = 100) -> Registry:
    """A registry whose own link is up since time 0."""
    core = Registry(nodes_max)
    core.step(LinkUp(False), 0.0)
    core.step(Tick(), 0.0)
    return core


def status(core: Registry, node: str) -> NodeStatus:
    view = core.node(node)
    assert view is not None
    return view.fact.status


def told(thing: object) -> str:
    """Events in full; of a fact only what this core decides."""
    if not isinstance(thing, NodeChanged):
        return shown(thing)
    fact = thing.fact
    suspect = " (suspect)" if fact.suspect else ""
    return f"NodeChanged: {fact.node} epoch {fact.epoch} is {fact.status}{suspect}"
