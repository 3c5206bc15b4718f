"""What the cloud's capabilities tell each other inside the process.

They never import one another's cores: the registry *says* that a node changed, and whoever places work
*hears* it. ``cloud/__main__`` does the wiring.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from shared.messages import Capabilities, ModelState


class NodeStatus(StrEnum):
    """What the cloud holds true of a node. UNKNOWN: the cloud itself was blind, and judges nobody."""

    OFFLINE = "offline"
    IDLE = "idle"
    BUSY = "busy"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class NodeFact:
    """Everything that placement may look at. ``models``: name -> (digest, state), as reported.

    ``suspect``: heartbeats are missing, but not enough of them to call the node offline.
    """

    node: str
    epoch: int
    status: NodeStatus
    suspect: bool = False
    draining: bool = False
    address: str = ""
    capabilities: Capabilities = Capabilities(cores=1, memory_bytes=0)
    labels: dict[str, str] = field(default_factory=dict)
    slots: int = 1
    queue_depth: int = 0
    in_flight: int = 0
    cpu_ratio: float = 0.0
    memory_available_bytes: int = 0
    tasks: tuple[str, ...] = ()
    models: dict[str, tuple[str, ModelState]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """The registry holds something new to be true of a node (also at each heartbeat)."""

    fact: NodeFact
