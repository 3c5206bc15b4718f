"""What the cloud's capabilities tell each other inside the process.

They never import one another's cores: the registry *says* that a node changed, and whoever places work
*hears* it. ``cloud/__main__`` does the wiring. A fact is an effect of the core that says it and an event of
the cores that hear it, which is why it is an :class:`Effect`.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from shared.core import Effect
from shared.messages import Capabilities, ModelState


class NodeStatus(StrEnum):
    """What the cloud holds true of a node. UNKNOWN: nobody can say, as when the cloud itself was blind."""

    OFFLINE = "offline"
    IDLE = "idle"
    BUSY = "busy"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class NodeFact:
    """Everything that placement may look at. ``models``: name -> what answers requests, and its state.

    ``suspect``: heartbeats are missing, but not enough of them to call the node offline.
    ``heartbeat``: sequence of the last heartbeat heard; the same number means the same evidence.
    ``memory_available_bytes``: 0 where the node did not say.
    """

    node: str
    epoch: int
    status: NodeStatus
    suspect: bool = False
    draining: bool = False
    address: str = ""
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(cores=1, memory_bytes=0))
    labels: dict[str, str] = field(default_factory=dict)
    slots: int = 1
    queue_depth: int = 0
    in_flight: int = 0
    cpu_ratio: float = 0.0
    memory_available_bytes: int = 0
    tasks: tuple[str, ...] = ()
    models: dict[str, tuple[str, ModelState]] = field(default_factory=dict)
    heartbeat: int = -1


@dataclass(frozen=True, slots=True)
class NodeChanged(Effect):
    """The registry holds something new to be true of a node (also at each heartbeat)."""

    fact: NodeFact


@dataclass(frozen=True, slots=True)
class NodeForgotten(Effect):
    """An operator took a node off the books. It comes back only by speaking again."""

    node: str


NodeNews = NodeChanged | NodeForgotten
