"""What happens to telemetry in the cloud, and what is to be done."""

from collections.abc import Mapping
from dataclasses import dataclass

from cloud.telemetry.store import Item, Outcome, Position, StreamKey
from shared.core import Failed, LinkDown, LinkUp, Tick, Work


@dataclass(frozen=True, slots=True)
class Arrived:
    """Items that came in one message of ``bytes``."""

    items: tuple[Item, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Reported:
    """A node said, in boot ``epoch``, what it holds; see :func:`cloud.telemetry.arrivals.listed_in`."""

    node: str
    epoch: int
    listed: Mapping[StreamKey, int]


@dataclass(frozen=True, slots=True)
class Stored:
    """A transaction is durable."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Looked:
    """The newest positions of some streams that had gaps."""

    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class Store(Work):
    """Write items in one transaction."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Gather(Work):
    """Wait a little for company: a transaction costs the same for one message and for ten."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Gathered:
    """That little while is over."""


@dataclass(frozen=True, slots=True)
class Look(Work):
    """Read the positions of streams anew: another worker may have closed their gaps."""

    keys: tuple[StreamKey, ...]


@dataclass(frozen=True, slots=True)
class LookAt(Work):
    """Read all positions of a node that said what it holds."""

    node: str
    listed: Mapping[StreamKey, int]


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A node's positions with something that will not come by itself."""

    unlisted: tuple[Position, ...]


Event = Arrived | Reported | Stored | Gathered | Looked | LookedAt | Tick | LinkUp | LinkDown | Failed
