"""What the registry hears."""

from dataclasses import dataclass

from shared.core import Failed, LinkDown, LinkUp, Tick, Work
from shared.messages import Birth, Capabilities, Heartbeat, Presence, ReportedModels


@dataclass(frozen=True, slots=True)
class PresenceSeen:
    """The device, or the broker in its name."""

    node: str
    presence: Presence


@dataclass(frozen=True, slots=True)
class BirthSeen:
    """What the device can do."""

    node: str
    birth: Birth


@dataclass(frozen=True, slots=True)
class HeartbeatSeen:
    """The device lives."""

    node: str
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class ReportedSeen:
    """Which models the device holds."""

    node: str
    reported: ReportedModels


@dataclass(frozen=True, slots=True)
class Recalled:
    """The store knew this node before the cloud stopped."""

    node: str
    birth: Birth


@dataclass(frozen=True, slots=True)
class Remember(Work):
    """Keep what a node said of itself, so that one that never returns is missed after a restart too."""

    node: str
    birth: Birth


@dataclass(frozen=True, slots=True)
class Enrol:
    """An operator names a node that has not spoken yet."""

    node: str
    address: str
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Forget:
    """An operator takes a node that is offline off the books."""

    node: str


Event = (
    PresenceSeen
    | BirthSeen
    | HeartbeatSeen
    | ReportedSeen
    | Recalled
    | Enrol
    | Forget
    | Failed
    | Tick
    | LinkUp
    | LinkDown
)
