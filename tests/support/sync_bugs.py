"""Mistakes that people really make in systems like this one, each put into the real cores."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from cloud.sync.core import Sync
from cloud.sync.events import MessageHeard as CloudMessage
from cloud.sync.events import Save
from cloud.sync.fleet import Fleet
from cloud.sync.inbox import Inbox
from cloud.sync.records import SyncTask
from cloud.sync.tasks import Tasks, Waiter
from cloud.sync.writer import Put, Writer
from edge.sync.core import DeviceSync
from edge.sync.events import MessageHeard as DeviceMessage
from shared.core import Effect, Publish
from shared.sync import ConsistencyLevel, Result, Status, SyncMessage
from shared.topics import APP_REPLY
from shared.versions import Entry, HybridClock
from simulation.faults import Fault
from tests.support.sync_victims import Parts
from tests.support.syncing import CloudDisk

# Too early ------------------------------------------------------------------------------------------


class DeviceAcknowledgesBeforeItsDisk(DeviceSync):
    """What waits for the save leaves at once."""

    def step(self, event: Any, now: float) -> list[Effect]:
        effects = super().step(event, now)
        for batch in (self.journal.next, self.journal.saving):
            if batch is not None:
                effects += batch.then
                batch.then = []
        return effects


class CloudAnswersBeforeItsDisk(Sync):
    """The application hears of its write while the save is under way."""

    def step(self, event: Any, now: float) -> list[Effect]:
        effects = super().step(event, now)
        return effects + (self.tasks.saved(now) if any(isinstance(one, Save) for one in effects) else [])


class CloudReadsAtOnce(Sync):
    """A STRONG read does not wait until the term is confirmed."""

    def step(self, event: Any, now: float) -> list[Effect]:
        effects = super().step(event, now)
        for batch in (self.journal.next, self.journal.saving):
            if batch is not None:
                effects += [one for one in batch.then if _is_answer(one)]
                batch.then = [one for one in batch.then if not _is_answer(one)]
        return effects


def _is_answer(effect: Effect) -> bool:
    if not isinstance(effect, Publish):
        return False
    message = effect.message
    return effect.to.topic is APP_REPLY or (
        isinstance(message, SyncMessage) and isinstance(message.part, Result)
    )


# Not fenced, not counted, not compared --------------------------------------------------------------


class DiskWithoutFence(CloudDisk):
    """Takes the saves of a cloud whose term is over."""

    def save(self, save: Save) -> object:
        return super().save(replace(save, term=self.term))


class TasksThatMiscount(Tasks):
    """One replica fewer is enough."""

    __slots__ = ()

    def _answered(self, task: SyncTask) -> bool:
        if task.level is ConsistencyLevel.STRONG and task.is_open:
            return len(task.acked) + 1 >= task.required.of(len(task.targets))
        return super()._answered(task)


class TasksThatPromiseAtTheDeadline(Tasks):
    """Too few in time is told as a success."""

    __slots__ = ()

    def _late(self, task_id: str, late: list[Waiter]) -> list[Effect]:
        super()._late(task_id, late)
        return [one.answer(self.tasks[task_id], Status.OK) for one in late]


class TasksThatForget(Tasks):
    """A repeated operation is a new one."""

    __slots__ = ()

    def __contains__(self, task_id: str) -> bool:
        return False


class WriterThatIgnoresRevisions(Writer):
    """Compare-and-set without the comparison."""

    __slots__ = ()

    def _stale(self, put: Put) -> int | None:
        return None


# Not merged, not remembered -------------------------------------------------------------------------


class FleetThatDropsTombstones(Fleet):
    """An erasure is forgotten as soon as it was done, whoever has not heard of it."""

    __slots__ = ()

    def _lacks(self, node: str, name: str) -> bool:
        return False

    def tick(self, now: float) -> list[Effect]:
        self.purge_at = now
        return super().tick(now)


class InboxWhereTheLastOneWins(Inbox):
    """Two writes that did not see each other: the later stamp takes all."""

    __slots__ = ()

    def _merge(self, node: str, entry: Entry, *rest: Any) -> list[Effect]:
        before = self.journal.newest(entry.name)
        if before is None:
            return super()._merge(node, entry, *rest)
        if _newest(before) < _newest(entry):
            self.journal.write(entry, node)
            return []
        return self.fleet.holds(node, entry.name)


def _newest(entry: Entry) -> int:
    return max((one.stamp for one in entry.writes), default=0)


class WallClock(HybridClock):
    """Believes the wall clock, also when it goes back."""

    __slots__ = ()

    def tick(self, unix_ms: int) -> int:
        self.latest = unix_ms << 16
        return self.latest


class DeviceThatTakesAnyAnswer(DeviceSync):
    """A result for an earlier boot, under a number that is used again."""

    def step(self, event: Any, now: float) -> list[Effect]:
        if isinstance(event, DeviceMessage):
            event = replace(event, message=msgspec.structs.replace(event.message, to=0))
        return super().step(event, now)


class CloudThatTakesAnyAnswer(Sync):
    """An acknowledgement for an earlier term."""

    def step(self, event: Any, now: float) -> list[Effect]:
        if isinstance(event, CloudMessage):
            event = replace(event, message=msgspec.structs.replace(event.message, to=0))
        return super().step(event, now)


def _device_with_one_epoch(name: str, life: int, chance: Any, **more: Any) -> DeviceSync:
    """The number of the boot is not kept, so dots are given twice."""
    return DeviceSync(name, 1, chance, **more)


# Put together ---------------------------------------------------------------------------------------


def _with(part: str, kind: type) -> Callable[..., Sync]:
    """The cloud with one of its parts replaced by a mistaken one of the same shape."""

    def make(*arguments: Any, **more: Any) -> Sync:
        core = Sync(*arguments, **more)
        getattr(core, part).__class__ = kind
        return core

    return make


def _device_with_wall_clock(*arguments: Any, **more: Any) -> DeviceSync:
    core = DeviceSync(*arguments, **more)
    core.clock.__class__ = WallClock
    return core


ALL_FAULTS = tuple(Fault)
BUGS: Mapping[str, tuple[Parts, tuple[Fault, ...]]] = {
    "a device acknowledges before its disk has it": (
        Parts(device=DeviceAcknowledgesBeforeItsDisk),
        (Fault.LOSS, Fault.CRASH, Fault.PARTITION),
    ),
    "the cloud answers before its disk has it": (
        Parts(cloud=CloudAnswersBeforeItsDisk),
        (Fault.OUTAGE, Fault.USURPER),
    ),
    "a STRONG read is answered without asking": (
        Parts(cloud=CloudReadsAtOnce),
        (Fault.USURPER, Fault.PARTITION),
    ),
    "a cloud whose term is over still writes": (Parts(disk=DiskWithoutFence), (Fault.USURPER,)),
    "a majority is one too few": (
        Parts(cloud=_with("tasks", TasksThatMiscount)),
        (Fault.PARTITION, Fault.CRASH),
    ),
    "too late is told as done": (
        Parts(cloud=_with("tasks", TasksThatPromiseAtTheDeadline)),
        (Fault.PARTITION, Fault.CRASH),
    ),
    "a repeated operation is done twice": (Parts(cloud=_with("tasks", TasksThatForget)), ALL_FAULTS),
    "compare-and-set does not compare": (
        Parts(cloud=_with("writer", WriterThatIgnoresRevisions)),
        (Fault.LOSS,),
    ),
    "tombstones are dropped at once": (
        Parts(cloud=_with("fleet", FleetThatDropsTombstones)),
        (Fault.PARTITION, Fault.CRASH),
    ),
    "the last one wins where both should": (
        Parts(cloud=_with("inbox", InboxWhereTheLastOneWins)),
        (Fault.PARTITION, Fault.LOSS),
    ),
    "the hybrid clock goes back": (
        Parts(cloud=_with("clock", WallClock), device=_device_with_wall_clock),
        (Fault.JUMP, Fault.LOSS),
    ),
    "a device takes an answer to an earlier boot": (
        Parts(device=DeviceThatTakesAnyAnswer),
        (Fault.CRASH, Fault.LOSS, Fault.PARTITION),
    ),
    "a device gives the same epoch twice": (
        Parts(device=_device_with_one_epoch),
        (Fault.CRASH, Fault.PARTITION),
    ),
}
