"""The models a device holds: what the cloud desires, what is here, and how one becomes the other.

    desired --> FETCHING --landed--> LOADING --loaded--> READY
                   |   \\________________|________________/   a new digest is desired: from the start
                   +-----> FAILED <-----+                    (retried: backoff, reconnect, next desired)

Desired state is a level, not an event: each DesiredModels names the whole set, and the core compares it
with what is here. One model is a *slot*; one artifact on its way is a :class:`~edge.artifacts.fetch.Fetch`,
which several slots may wait for.

The choice a reader would question: a slot's state is about the version *desired*, while ``serving`` is
what the runtime answers with. An old version keeps answering through the fetch, the load and a failure of
the new one, and its blob (``good``) is kept until the new one is READY. One load per name is in flight at
a time, because the later of two loads must be the one that stays.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf

from edge.artifacts.events import (
    BlobLost,
    DesiredArrived,
    Event,
    Loaded,
    LoadModule,
    Released,
    Remember,
    Remembered,
    Required,
    Restored,
    UnloadModule,
    Verified,
    VerifyBlob,
    Version,
)
from edge.artifacts.fetch import FetchLimits
from edge.artifacts.fetches import Fetches
from edge.artifacts.loans import Loans
from edge.artifacts.shelf import Shelf
from shared.artifacts import is_digest, is_version
from shared.core import Effect, Failed, Ignore, LinkUp, Publish, Tick
from shared.errors import InvalidTransition
from shared.ids import is_id
from shared.messages import DesiredModel, DesiredModels, ModelState, ReportedModel, ReportedModels
from shared.topics import MIB, REPORTED

FETCHING, LOADING, READY, FAILED = ModelState

# A slot may start over in the state that it is in, when another digest is desired meanwhile.
NEXT: Mapping[ModelState, frozenset[ModelState]] = {
    FETCHING: frozenset({FETCHING, LOADING, READY, FAILED}),  # READY: back to what still answers
    LOADING: frozenset({FETCHING, LOADING, READY, FAILED}),  # FETCHING: the blob was lost
    READY: frozenset({FETCHING, LOADING}),
    FAILED: frozenset({FETCHING, LOADING, READY}),  # READY: a load that came after its deadline
}

REASON_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and deadlines of a device's models."""

    fetch: FetchLimits = field(default_factory=FetchLimits)
    models_max: int = 64
    disk_bytes_max: int = 2048 * MIB
    grace_s: float = 3600.0
    load_deadline_s: float = 120.0
    retry_min_s: float = 5.0
    retry_max_s: float = 600.0
    report_s: float = 2.0


@dataclass(slots=True)
class Slot:
    """One model: the version desired and how far it is; ``serving``: what answers meanwhile."""

    name: str
    desired: Version
    state: ModelState
    reason: str = ""
    deadline: float = inf  # LOADING: when it is given up; FAILED: when it is tried again
    tries: int = 0
    good: Version | None = None
    serving: Version | None = None
    memory_bytes: int = 0


@dataclass(slots=True)
class Models:
    """Makes the device hold what is desired. ``chance`` returns numbers in [0, 1)."""

    node: str
    epoch: int
    chance: Callable[[], float]
    limits: Limits = field(default_factory=Limits)
    version: int = 0
    slots: dict[str, Slot] = field(default_factory=dict)
    loads: dict[str, LoadModule] = field(default_factory=dict)
    shelf: Shelf = field(init=False)
    fetches: Fetches = field(init=False)
    loans: Loans = field(init=False)
    changed: bool = False
    told_at: float = -inf
    told_have: int = 0
    told_tenths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.limits.disk_bytes_max, self.limits.grace_s)
        self.fetches = Fetches(self.node, self.limits.fetch, self.shelf, self.chance)
        self.loans = Loans(self.fetches, self.shelf)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        effects = self._decide(event, now)
        if self.changed:
            self.shelf.sort(self._needed(), now)
        return [*effects, *self._tell(now)]

    def _decide(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Restored():
                return self._restored(event, now)
            case DesiredArrived(desired):
                return self._desired(desired, now)
            case Loaded():
                return self._loaded(event, now)
            case BlobLost():
                return self._blob_lost(event, now)
            case Failed(LoadModule() as work, reason):
                return self._load_failed(work, reason, now)
            case Required() | Released() | Verified() | Failed(VerifyBlob()):
                return self._lending(event, now)
            case Tick():
                return [*self._artifact(event, now), *self._tick(now)]
            case LinkUp():
                return [*self._artifact(event, now), *self._link_up(now)]
            case _:
                return self._artifact(event, now)

    def check(self) -> None:
        """Invariants."""
        assert len(self.slots) <= self.limits.models_max
        assert self._awaited() == self.fetches.going.keys(), "a fetch for each that waits, none for nobody"
        for slot in self.slots.values():
            _check_slot(slot)
            assert slot.state is not LOADING or slot.name in self.loads
        assert not self.shelf.garbage.keys() & self._needed()
        self.fetches.check()
        self.loans.check()

    # What is desired ------------------------------------------------------------------------------------

    def _restored(self, event: Restored, now: float) -> list[Effect]:
        """Boot with no network: load what is here, the version that was ready last before none at all."""
        self.version = event.version
        self.shelf.restore(event.blobs, event.parts)
        effects: list[Effect] = []
        for name, saved in sorted(event.models.items())[: self.limits.models_max]:
            slot = self.slots[name] = Slot(name, saved.desired, FETCHING, good=saved.good)
            fall_back = saved.desired.digest not in event.blobs and saved.good is not None
            if fall_back and saved.good is not None and saved.good.digest in event.blobs:
                effects += self._load(slot, saved.good, now)
            else:
                effects += self._begin(slot, now)
        self.changed = True
        return effects

    def _desired(self, desired: DesiredModels, now: float) -> list[Effect]:
        if desired.version < self.version:
            return [Ignore(f"desired version {desired.version}; {self.version} is known")]
        nonsense = self._nonsense(desired)
        if nonsense:  # Half of a broken set is worse than the last whole one.
            return [Ignore(f"desired version {desired.version}: {nonsense}")]
        self.version, self.changed = desired.version, True
        effects: list[Effect] = []
        for name in sorted(self.slots.keys() - desired.models.keys()):
            effects += self._remove(name)
        for name, model in sorted(desired.models.items()):
            effects += self._want(name, model, now)
        return [*effects, *self.fetches.keep_only(self._awaited()), self._remember()]

    def _nonsense(self, desired: DesiredModels) -> str | None:
        if len(desired.models) > self.limits.models_max:
            return f"{len(desired.models)} models; this device holds at most {self.limits.models_max}"
        for name, model in desired.models.items():
            if not (is_id(name) and is_digest(model.digest) and is_version(model.version)):
                return f"unusable name, digest or version of {name[:64]!r}"
        return None

    def _want(self, name: str, model: DesiredModel, now: float) -> list[Effect]:
        wanted, slot = Version(model.digest, model.version), self.slots.get(name)
        if slot is None:
            slot = self.slots[name] = Slot(name, wanted, FETCHING)
        elif slot.desired.digest == wanted.digest:
            slot.desired = wanted
            return self._begin(slot, now) if slot.state is FAILED else []
        slot.desired, slot.tries = wanted, 0
        return self._begin(slot, now)

    def _remove(self, name: str) -> list[Effect]:
        slot = self.slots.pop(name)
        return [UnloadModule(name)] if slot.serving is not None else []

    def _remember(self) -> Remember:
        saved = {name: Remembered(slot.desired, slot.good) for name, slot in sorted(self.slots.items())}
        return Remember(self.version, saved)

    # One model ------------------------------------------------------------------------------------------

    def _begin(self, slot: Slot, now: float) -> list[Effect]:
        """Take the shortest way to the desired version."""
        digest = slot.desired.digest
        if slot.name in self.loads:  # Its answer decides how to go on.
            return self._enter(slot, LOADING, now + self.limits.load_deadline_s)
        if slot.serving is not None and slot.serving.digest == digest:
            return self._ready(slot)
        if digest in self.shelf.blobs:
            return self._load(slot, slot.desired, now)
        return self._enter(slot, FETCHING, inf, *self.fetches.seek(digest, now))

    def _load(self, slot: Slot, version: Version, now: float) -> list[Effect]:
        work = self.loads[slot.name] = LoadModule(slot.name, version.digest, version.version)
        return self._enter(slot, LOADING, now + self.limits.load_deadline_s, work)

    def _loaded(self, event: Loaded, now: float) -> list[Effect]:
        work = self.loads.pop(event.name)
        slot = self.slots.get(event.name)
        if slot is None:  # It was removed while it loaded.
            return [UnloadModule(event.name)]
        slot.serving, slot.memory_bytes = Version(work.digest, work.version), event.memory_bytes
        self.changed = True
        if work.digest == slot.desired.digest:
            return self._ready(slot)
        return [] if slot.state is FAILED else self._begin(slot, now)

    def _ready(self, slot: Slot) -> list[Effect]:
        slot.good, slot.serving, slot.tries = slot.desired, slot.desired, 0
        return self._enter(slot, READY, inf, self._remember())

    def _load_failed(self, work: LoadModule, reason: str, now: float) -> list[Effect]:
        del self.loads[work.name]
        slot = self.slots.get(work.name)
        if slot is None:
            return [Ignore(f"{work.name} did not load and is not desired")]
        if work.digest != slot.desired.digest:
            return [] if slot.state is FAILED else self._begin(slot, now)
        effects = [] if slot.state is FAILED else self._fail(slot, reason, now)
        return [*effects, *self._fall_back(slot)]

    def _fall_back(self, slot: Slot) -> list[Effect]:
        """With nothing in service (a boot), the last good version answers for the failed one."""
        good = slot.good
        if slot.serving is not None or good is None or good.digest not in self.shelf.blobs:
            return []
        if good.digest == slot.desired.digest:
            return []
        self.loads[slot.name] = LoadModule(slot.name, good.digest, good.version)
        return [self.loads[slot.name]]

    def _blob_lost(self, event: BlobLost, now: float) -> list[Effect]:
        del self.loads[event.name]
        self.shelf.forget(event.digest)
        slot = self.slots.get(event.name)
        if slot is None or slot.state is FAILED:
            return [Ignore(f"the blob of {event.name} was lost; nobody waits for it")]
        return self._begin(slot, now)

    def _fail(self, slot: Slot, reason: str, now: float) -> list[Effect]:
        slot.tries += 1
        delay_s = min(self.limits.retry_min_s * 2 ** min(slot.tries - 1, 20), self.limits.retry_max_s)
        effects = self._enter(slot, FAILED, now + delay_s * (1 + 0.5 * self.chance()))
        slot.reason = reason[:REASON_CHARS_MAX] or "no reason was given"
        return effects

    def _enter(self, slot: Slot, state: ModelState, deadline: float, *effects: Effect) -> list[Effect]:
        if state not in NEXT[slot.state]:
            raise InvalidTransition(f"model {slot.name}: {slot.state} -> {state}")
        slot.state, slot.deadline, slot.reason, self.changed = state, deadline, "", True
        return list(effects)

    # Artifacts, time and link ---------------------------------------------------------------------------

    def _artifact(self, event: Event, now: float) -> list[Effect]:
        """Let the fetches go on; whoever waited for one that is over goes on too."""
        effects, ended = self.fetches.step(event, now)
        for end in ended:
            effects += self.loans.ended(end)
            for slot in self._waiting_for(end.digest):
                effects += self._fail(slot, end.reason, now) if end.reason else self._begin(slot, now)
        return effects

    def _lending(self, event: Required | Released | Verified | Failed, now: float) -> list[Effect]:
        if isinstance(event, Failed):
            assert isinstance(event.work, VerifyBlob)
            effects = self.loans.failed(event, event.work.digest)
        else:
            effects = self.loans.step(event, now)
        effects += self.fetches.keep_only(self._awaited())
        self.shelf.sort(self._needed(), now)
        if isinstance(event, Released) and event.digest in self.shelf.garbage:
            effects += self.fetches.delete([event.digest])
        return effects

    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for slot in tuple(self.slots.values()):
            if now >= slot.deadline:
                effects += self._overdue(slot, now)
        self.shelf.sort(self._needed(), now)
        return [*effects, *self.fetches.delete(self.shelf.expired(now))]

    def _overdue(self, slot: Slot, now: float) -> list[Effect]:
        if slot.state is LOADING:
            return self._fail(slot, f"still loading after {self.limits.load_deadline_s:g} s", now)
        return self._begin(slot, now)

    def _link_up(self, now: float) -> list[Effect]:
        """State is sent again, and what failed for want of a link is tried again."""
        self.changed = True
        failed = [slot for slot in self.slots.values() if slot.state is FAILED]
        return [effect for slot in failed for effect in self._begin(slot, now)]

    def _waiting_for(self, digest: str) -> list[Slot]:
        waiting = (slot for slot in self.slots.values() if slot.state is FETCHING)
        return [slot for slot in waiting if slot.desired.digest == digest]

    def _awaited(self) -> set[str]:
        return self._fetching() | self.loans.awaited()

    def _fetching(self) -> set[str]:
        return {slot.desired.digest for slot in self.slots.values() if slot.state is FETCHING}

    def _needed(self) -> set[str]:
        """Digests whose bytes must stay: desired, in service, last known good, just being loaded, or lent."""
        slots = self.slots.values()
        versions = [v for slot in slots for v in (slot.desired, slot.serving, slot.good) if v is not None]
        loading = {work.digest for work in self.loads.values()}
        return {one.digest for one in versions} | loading | self.loans.stages.keys()

    # What the cloud is told -----------------------------------------------------------------------------

    def _tell(self, now: float) -> list[Effect]:
        """Report each change of state at once, progress at each tenth or every ``report_s``."""
        have, tenths = self.fetches.progress(self._fetching())
        much = tenths != self.told_tenths or now - self.told_at >= self.limits.report_s
        if not self.changed and (have == self.told_have or not much):
            return []
        self.changed, self.told_at, self.told_have, self.told_tenths = False, now, have, tenths
        reported = {name: self._report(slot) for name, slot in sorted(self.slots.items())}
        message = ReportedModels(epoch=self.epoch, version=self.version, models=reported)
        return [Publish(REPORTED.at(node=self.node), message)]

    def _report(self, slot: Slot) -> ReportedModel:
        fetch = self.fetches.going.get(slot.desired.digest) if slot.state is FETCHING else None
        size = self.shelf.blobs.get(slot.desired.digest, 0)
        return ReportedModel(
            digest=slot.desired.digest,
            version=slot.desired.version,
            state=slot.state,
            serving=slot.serving.digest if slot.serving else "",
            reason=_reason(slot),
            bytes_have=fetch.bytes_have if fetch else size,
            bytes_total=fetch.size_bytes if fetch else size,
            memory_bytes=slot.memory_bytes,
        )


def _reason(slot: Slot) -> str:
    if slot.serving is None or slot.serving.digest == slot.desired.digest:
        return slot.reason
    answers = f"version {slot.serving.version} keeps answering"
    return f"{slot.reason}; {answers}" if slot.reason else answers


def _check_slot(slot: Slot) -> None:
    assert (slot.state is FAILED) is bool(slot.reason)
    assert (slot.deadline < inf) is (slot.state in (LOADING, FAILED))  # a fetch has its own deadline
    if slot.state is READY:
        assert slot.serving == slot.good == slot.desired
    assert slot.serving is not None or slot.memory_bytes == 0
