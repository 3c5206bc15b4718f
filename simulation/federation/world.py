"""Everybody together: one coordinator, so many devices, one seed.

    with World(setting, package, examples, scratch) as world:
        world.run(told)

The same setting tells the same story, to the last bit of the model: what is drawn by chance comes from the
seed, time is a number, and nothing waits for a real clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from cloud.federated import versions
from cloud.federated.records import JobState
from edge.training.examples import Examples
from edge.training.updates import Updates
from edge.training.versions import Versions
from shared.codecs import decode
from shared.core import Effect
from shared.errors import ShoalError
from shared.learning import JobSpec, ModelRef, Phase, RoundRow, RoundView
from shared.messages import Reply, ReplyStatus
from shared.topics import APP_REPLY
from simulation.federation.artifacts import Artifacts
from simulation.federation.audit import Audit
from simulation.federation.coordinator import APP, Cloud, Place
from simulation.federation.device import Device, Disk, Surroundings
from simulation.federation.gym import Gym
from simulation.federation.shares import deal
from simulation.federation.troubles import Nature, Troubles, fate, natures
from simulation.network import Clock, Member, Network

BOOT_S = 10.0  # within which devices come up
DELAY_S = (0.005, 0.1)
LOSS = 0.01  # of deliveries, where anything goes wrong at all
STEP_S = 1.0
SETTLE_S = 400.0  # until every receipt that was lost has been asked for again
ROUND_S_MAX = 3600.0  # of virtual time: a job that stands still for so long is stuck
VERSIONS_SHARED_MAX = 24

Told = Callable[[RoundRow], None]


class Stuck(ShoalError):
    """The job came to no end. The message says where it stands."""


class Refused(ShoalError):
    """The coordinator did not take the job. The message says why."""


@dataclass(slots=True)
class Operator:
    """Who asked for the job: see :class:`shared.core.Core`."""

    refused: str = ""

    def step(self, event: object, _now: float) -> list[Effect]:
        """Hear the reply."""
        if isinstance(event, Reply) and event.status is not ReplyStatus.OK:
            self.refused = event.detail or event.code
        return []

    def check(self) -> None:
        """There is nothing to check."""


class Packages(NamedTuple):
    """The training package, and the one that gets the learned parameters; empty: none."""

    train: bytes
    serve: bytes = b""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What is played. ``spec``: of the job, without digests of packages; ``alpha``: evenness of the deal."""

    spec: JobSpec
    devices: int
    seed: int = 0
    alpha: float = 0.5
    troubles: Troubles = Troubles()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came out.

    ``digest``: SHA-256 of the model's parameters; ``model``: of the package that serves them; ``accuracy``:
    on the examples that no device has; ``artifacts_max``: on offer at a time; ``stale``: updates that
    count and started from an older version; ``complaints``: of the audit, which should have none.
    """

    job: str
    devices: int
    seed: int
    phase: str
    detail: str
    version: int
    digest: str
    model: str
    accuracy: float
    virtual_s: float
    kills: int
    bytes_up: int
    bytes_down: int
    artifacts_max: int
    rounds: tuple[RoundRow, ...]
    receipts: dict[str, int]
    stale: int
    network: dict[str, int]
    complaints: tuple[str, ...]


class World:
    """Use ``with``: it holds threads and a lock. ``examples``: of all devices together; ``test``: whose
    held-out ones say how good the model is; ``scratch``: an empty folder."""

    def __init__(
        self,
        setting: Setting,
        packages: Packages,
        examples: Examples,
        test: Examples,
        scratch: Path,
    ) -> None:
        self.setting, self.scratch, self._packages, self._test = setting, scratch, packages, test
        troubles, seed = setting.troubles, setting.seed
        self.clock = Clock(seed)
        loss = LOSS if troubles != Troubles() else 0.0
        self.net = Network(
            self.clock, loss=loss, repetition=troubles.duplicate, delay_s=DELAY_S, ordered=True
        )
        self.gym = Gym()
        self.artifacts = Artifacts(scratch / "packages")
        self.spec = msgspec.structs.replace(
            setting.spec,
            package=self.artifacts.offer(packages.train),
            serve=self.artifacts.offer(packages.serve) if packages.serve else "",
        )
        self.audit = Audit(scratch / "cloud")
        self.devices = self._devices(examples, natures(troubles, seed, names(setting.devices)))
        place = Place(
            self.net, scratch / "cloud", self.artifacts, self.audit, tuple(self.devices), seed, self._moved
        )
        self.cloud = Cloud(place)
        self.operator = Operator()
        self._listen()
        self.bytes_up, self._moved_at = 0, 0.0
        self.state: JobState | None = None
        self.views: dict[int, RoundView] = {}
        self._told: Told | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cloud.close()
        self.gym.close()

    def run(self, told: Told | None = None) -> Outcome:
        """From the first boot to the last receipt. ``told``: hears of each round that is over.

        Raises :class:`Refused` and :class:`Stuck`.
        """
        self._told = told
        self.cloud.boot()
        for device in self.devices.values():
            self.clock.after(device.random.uniform(0, BOOT_S), device.boot)
        self.clock.after(2 * BOOT_S, self.cloud.create, self.spec)
        while not self._over():
            if self.operator.refused:
                raise Refused(self.operator.refused)
            if self.clock.now - self._moved_at > ROUND_S_MAX:
                state = self.state
                what = f"round {state.round} is {state.phase}: {state.detail}" if state else "there is no job"
                raise Stuck(f"{what}; nothing has moved for {ROUND_S_MAX:g} virtual seconds")
            self.clock.run(self.clock.now + STEP_S)
        ended = self.clock.now
        self.clock.run(ended + SETTLE_S)
        for device in self.devices.values():
            device.core.check()
        return self._outcome(ended)

    def _listen(self) -> None:
        member = Member(self.net, APP, self.operator, lambda _: None)
        member.hears(APP_REPLY, lambda _ids, reply: reply, app=APP)
        member.connect()

    def _over(self) -> bool:
        state = self.state
        return state is not None and (state.closed or (state.phase is Phase.ERROR and self._given_up()))

    def _given_up(self) -> bool:
        """Whether only a person can help: it failed as often as it may."""
        return self.clock.now - self._moved_at > ROUND_S_MAX / 2

    def _devices(self, examples: Examples, found: dict[str, Nature]) -> dict[str, Device]:
        setting, shared = self.setting, Versions(self.scratch / "versions", decode)
        around = Surroundings(
            net=self.net,
            artifacts=self.artifacts,
            gym=self.gym,
            seed=setting.seed,
            fate=lambda node, job, number: fate(setting.troubles, setting.seed, node, job, number),
            audit=self.audit,
            count=self._sent,
        )
        shares = deal(examples, setting.devices, setting.alpha, setting.seed)
        return {
            node: Device(
                around,
                node,
                nature,
                Disk(Updates(self.scratch / "devices" / node), shared),
                {setting.spec.plan.source: share},
            )
            for (node, nature), share in zip(found.items(), shares, strict=True)
        }

    def _sent(self, size: int) -> None:
        self.bytes_up += size

    def _moved(self, state: JobState | None, ended: RoundView | None) -> None:
        """The coordinator's journal has one more entry."""
        self._moved_at = self.clock.now
        if ended is not None:
            self.views[ended.row.round] = ended
            if self._told is not None:
                self._told(ended.row)
            self._tidy()
        if state is not None:
            begun = self.state is None or state.round > self.state.round
            self.state = state
            if begun and state.round and self.setting.troubles.kill:
                self.cloud.doom(max(1.0, self._usual_s()))

    def _usual_s(self) -> float:
        walls = [view.row.wall_s for view in self.views.values()]
        return 1.2 * max(walls[-3:], default=self.spec.deadline_s_min)

    def _tidy(self) -> None:
        """Of the vectors that devices share, the newest are kept."""
        known = sorted(self.scratch.glob("versions/*/*.f32"), key=lambda path: int(path.name.split("-")[0]))
        for path in known[:-VERSIONS_SHARED_MAX]:
            path.unlink()

    def _ref(self) -> ModelRef:
        assert self.state is not None
        return self.state.version.ref

    def _outcome(self, ended: float) -> Outcome:
        state, ref = self.state, self._ref()
        assert state is not None
        model = versions.load(self.scratch / "cloud" / "jobs" / self.spec.job, ref)
        accuracy = self.gym.accuracy(
            self.spec.package, self._packages.train, self._test, model.x, ref.layout_hash
        )
        return Outcome(
            job=self.spec.job,
            devices=self.setting.devices,
            seed=self.setting.seed,
            phase=state.phase,
            detail=state.detail,
            version=ref.version,
            digest=ref.check,
            model=state.model,
            accuracy=accuracy,
            virtual_s=round(ended, 3),
            kills=self.cloud.kills,
            bytes_up=self.bytes_up,
            bytes_down=self.artifacts.sent_bytes,
            artifacts_max=self.artifacts.most,
            rounds=tuple(view.row for _, view in sorted(self.views.items())),
            receipts=dict(sorted(self.audit.receipts.items())),
            stale=self.audit.stale,
            network=dict(sorted(self.net.counts.items())),
            complaints=self.audit.close(),
        )


def names(devices: int) -> list[str]:
    """Of the devices."""
    return [f"edge-{number:04d}" for number in range(1, devices + 1)]


def story(outcome: Outcome) -> str:
    """SHA-256 of everything that came out: equal for equal settings."""
    return sha256(msgspec.msgpack.encode(outcome)).hexdigest()
