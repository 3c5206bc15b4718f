"""Who suffers in :mod:`tests.support.sync_faults`, and how it is watched."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from cloud.sync.core import Sync
from edge.sync.core import DeviceSync
from shared.messages import Message
from shared.sync import Required
from shared.topics import Address
from simulation.network import Network
from tests.support.linearizability import Get, Put
from tests.support.syncing import CloudDisk, CloudSite, DeviceSite

if TYPE_CHECKING:
    from tests.support.sync_faults import FaultyWorld


class Violation(AssertionError):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Parts:
    """What the world is built of; a mistake is put in here."""

    cloud: Callable[..., Sync] = Sync
    device: Callable[..., DeviceSync] = DeviceSync
    disk: Callable[[], CloudDisk] = CloudDisk


@dataclass
class Asked:
    """One operation of the history, until its end is known."""

    key: str
    what: Put | Get
    call: float
    by: str
    required: Required = Required.ALL
    end: float = inf
    result: Any = None
    gone: bool = False  # it certainly did not happen
    again: dict[str, Any] | None = None  # how to ask the same operation once more

    def finish(self, now: float, result: Any) -> None:
        if self.result is None and not self.gone:
            self.end, self.result = now, result


class Watched(Network):
    """Shows each message before it is sent."""

    watch: Callable[[Address[Any], Message], None] = staticmethod(lambda to, message: None)

    def publish(self, to: Address[Any], message: Message) -> None:
        self.watch(to, message)
        super().publish(to, message)


class Told(dict[Any, Any]):
    """A mapping that tells of each new entry."""

    def __init__(self, tell: Callable[[Any, Any], None]) -> None:
        self._tell = tell

    def setdefault(self, key: Any, value: Any = None) -> Any:
        if key not in self:
            self[key] = value
        return self[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._tell(key, value)


@dataclass
class Server:
    """The cloud that serves now, as a victim."""

    world: "FaultyWorld"

    @property
    def skew_ms(self) -> int:
        return self.world.cloud.skew_ms

    @skew_ms.setter
    def skew_ms(self, value: int) -> None:
        self.world.cloud.skew_ms = value

    def cut(self) -> None:
        cut(self.world.cloud)

    def mend(self) -> None:
        mend(self.world.cloud)

    def crash(self) -> None:
        self.world.cloud.crash()

    def revive(self) -> None:
        if not self.world.cloud.up:
            self.world.cloud.boot(self.world.parts.cloud)


@dataclass
class Device:
    """One device, as a victim."""

    world: "FaultyWorld"
    site: DeviceSite

    @property
    def skew_ms(self) -> int:
        return self.site.skew_ms

    @skew_ms.setter
    def skew_ms(self, value: int) -> None:
        self.site.skew_ms = value

    def cut(self) -> None:
        cut(self.site)

    def mend(self) -> None:
        mend(self.site)

    def crash(self) -> None:
        self.site.crash()

    def revive(self) -> None:
        if not self.site.up:
            self.world.forget_answers(self.site)
            self.site.boot(make=self.world.parts.device)


def cut(site: CloudSite | DeviceSite) -> None:
    if site.member is not None and site.member.up:
        site.member.disconnect()


def mend(site: CloudSite | DeviceSite) -> None:
    if site.member is not None and not site.member.up:
        site.member.connect()
