"""A device that learns, without its machine: the training core, its disk, and a shell on virtual time.

What its disk holds survives a crash. The vectors of global models are the same on every device, so that all
of them share one folder of files, and each remembers which of them it has.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from edge.training.core import Training
from edge.training.events import (
    Available,
    CancelTraining,
    Conditions,
    ConditionsRead,
    DropVersion,
    ForgetJob,
    KeepLearned,
    ModelOpened,
    OpenModel,
    PartSent,
    ReadConditions,
    ReadSources,
    ReceiptArrived,
    Release,
    RememberDone,
    Require,
    Restored,
    RoundArrived,
    SendPart,
    SettleUpdate,
    SourcesRead,
    Stored,
    Train,
    Trained,
    Unavailable,
    UnloadPackage,
    UpdateKey,
    round_arrived,
)
from edge.training.sources import Source
from edge.training.trainer import Lesson, Outcome, generator_of
from edge.training.updates import Updates
from edge.training.versions import Versions
from shared.codecs import encode
from shared.core import Effect, Failed, Tick
from shared.errors import ShoalError
from shared.learning import Phase, Receipt, RoundFact, Task, UpdateHeader, UpdatePart
from shared.topics import RECEIPT, ROUND, UPDATE
from shared.wire import encode as encode_message
from simulation.federation.artifacts import Artifacts
from simulation.federation.audit import Audit
from simulation.federation.gym import Gym
from simulation.federation.troubles import Drop, Fate, Nature, chance, spoiled
from simulation.network import Member, Network

BUSY_TICK_S, IDLE_TICK_S = 0.5, 25.0
READING_S, OPENING_S, ACK_S = 0.02, 0.05, 0.05
NO_LINK_S = 30.0  # until a part that nobody acknowledges has failed
REBOOT_S = (2.0, 20.0)


@dataclass(slots=True)
class Disk:
    """What a device keeps. ``versions``: job -> version -> check, of files in the folder that all share."""

    updates: Updates
    shared: Versions
    versions: dict[str, dict[int, str]] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)
    written_at: dict[UpdateKey, float] = field(default_factory=dict)

    def open(self, work: OpenModel) -> None:
        """See :meth:`edge.training.versions.Versions.open`."""
        held = self.versions.setdefault(work.job, {})
        if work.base >= 0 and work.base not in held:
            raise ShoalError(f"version {work.base} is not here")
        self.shared.open(work.job, work.model, Path(work.path), work.base)
        self.shared.keep()  # others may hold other versions
        held[work.model.version] = work.model.check

    def restore(self, now: float) -> Restored:
        """What a boot finds. Files know real time; the age of an update is virtual."""
        updates = tuple(
            Stored(one.key, one.header, one.ask, now - self.written_at.get(one.key, now))
            for one in self.updates.restore(0.0)
        )
        return Restored(updates, {job: dict(held) for job, held in self.versions.items()}, dict(self.done))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all devices share. ``fate``: of a device, in a job's round; ``count``: bytes that went up."""

    net: Network
    artifacts: Artifacts
    gym: Gym
    seed: int
    fate: Callable[[str, str, int], Fate]
    audit: Audit
    count: Callable[[int], None]


class Device:
    """Boots, crashes, and boots again with a newer epoch."""

    def __init__(
        self, around: Surroundings, node: str, nature: Nature, disk: Disk, sources: dict[str, Source]
    ) -> None:
        self.around, self.node, self.nature, self.disk, self.sources = around, node, nature, disk, sources
        self.clock, self.epoch = around.net.clock, 0
        self.random = chance(around.seed, "device", node)
        self.core: Training
        self._member: Member
        self._stopped: set[int] = set()
        self._fates: dict[str, int] = {}  # job -> the last round that was looked up
        self._late: dict[tuple[str, int], float] = {}
        self._next_wake = 0.0

    def boot(self) -> None:
        """Start a new boot with what the disk holds."""
        self.epoch += 1
        self._stopped.clear()
        self.core = Training(self.node, self.epoch, self.random.random)
        self._member = Member(self.around.net, self.node, self.core, self._perform, self._now)
        self._member.hears(ROUND, self._round)
        self._member.hears(RECEIPT, self._receipt, node=self.node)
        self._member.feed(self.disk.restore(self.clock.now))
        self._member.connect()
        self._next_wake = self.clock.now
        self._wake(self.epoch)

    def crash(self) -> None:
        """Die: what was under way is lost, what is on the disk is not."""
        if not self._member.gone:
            self._member.kill()
            self.clock.after(self.random.uniform(*REBOOT_S), self.boot)

    def lose_link(self) -> None:
        """Live on without a broker for a while."""
        if self._member.up:
            self._member.disconnect()
            self.clock.after(self.random.uniform(*REBOOT_S), self._reconnect, self.epoch)

    def _reconnect(self, epoch: int) -> None:
        if epoch == self.epoch and not self._member.gone:
            self._member.connect()

    def _now(self) -> float:
        """What this device's clock shows."""
        return self.nature.clock_s + (1 + self.nature.drift) * self.clock.now

    # What it hears --------------------------------------------------------------------------------------

    def _round(self, ids: dict[str, str], fact: RoundFact) -> RoundArrived:
        event = round_arrived(self.node, ids["job"], fact)
        if event.asked and fact.phase is Phase.TRAINING:
            self._meet_fate(fact)
            self._hurry()
        return event

    def _meet_fate(self, fact: RoundFact) -> None:
        """Once in each round."""
        if self._fates.get(fact.job, -1) >= fact.round:
            return
        self._fates[fact.job] = fact.round
        fate = self.around.fate(self.node, fact.job, fact.round)
        if fate.late and fact.task is Task.TRAIN:
            self._late = {(fact.job, fact.round): fate.late * fact.budget_s}
        if fate.dropped is not None:
            lose = self.crash if fate.dropped is Drop.CRASH else self.lose_link
            self.clock.after(fate.at, self._at_epoch, self.epoch, lose)

    def _receipt(self, ids: dict[str, str], receipt: Receipt) -> ReceiptArrived:
        self.around.audit.told(self.node, receipt)
        return ReceiptArrived(ids["job"], receipt)

    # Time -----------------------------------------------------------------------------------------------

    def _wake(self, epoch: int) -> None:
        """Tick often while there is something to do, seldom else."""
        if epoch != self.epoch or self._member.gone or self.clock.now < self._next_wake:
            return
        self._feed(Tick())
        self._plan(BUSY_TICK_S if self._busy() else IDLE_TICK_S)

    def _hurry(self) -> None:
        if self._next_wake > self.clock.now + BUSY_TICK_S:
            self._plan(BUSY_TICK_S)

    def _plan(self, wait_s: float) -> None:
        self._next_wake = self.clock.now + wait_s
        self.clock.after(wait_s, self._wake, self.epoch)

    def _busy(self) -> bool:
        core = self.core
        waits = core.machine.conditions is None or core.machine.sources is None
        return waits or bool(core.outbox.waiting) or any(job.active for job in core.jobs.values())

    def _later(self, wait_s: float, event: object) -> None:
        """An answer, if this boot lives so long."""
        self.clock.after(wait_s, self._at_epoch, self.epoch, self._feed, event)

    def _at_epoch(self, epoch: int, do: Callable[..., None], *args: object) -> None:
        if epoch == self.epoch and not self._member.gone:
            do(*args)

    def _feed(self, event: object) -> None:
        self._member.feed(event)

    # What it does ---------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Require(digest):
                self._fetch(digest)
            case CancelTraining(number):
                self._stopped.add(number)
            case OpenModel() | Train() | SendPart():
                self._work(effect)
            case ReadSources():
                counts = {name: source.read().counts for name, source in self.sources.items()}
                self._later(READING_S, SourcesRead(counts))
            case ReadConditions():
                self._later(READING_S, ConditionsRead(Conditions()))
            case Release() | UnloadPackage():
                pass  # artifacts are in the cloud's folder, packages in the gym
            case _:
                self._keep(effect)

    def _keep(self, effect: Effect) -> None:
        """What goes to the disk."""
        match effect:
            case SettleUpdate(key, accepted):
                self.disk.updates.settle(key, accepted)
                self.disk.written_at.pop(key, None)
            case RememberDone(job, ask):
                self.disk.done[job] = ask
            case DropVersion(job, version):
                self.disk.versions.get(job, {}).pop(version, None)
            case ForgetJob(job):
                self.disk.versions.pop(job, None)
                self.disk.updates.forget(job)
                self.disk.done.pop(job, None)
            case KeepLearned():
                self.disk.updates.keep()
            case _:
                raise AssertionError(f"nothing performs {effect}")

    def _work(self, work: OpenModel | Train | SendPart) -> None:
        match work:
            case OpenModel(number):
                try:
                    self.disk.open(work)
                except (OSError, ShoalError) as error:
                    self._later(OPENING_S, Failed(work, str(error)))
                else:
                    self._later(OPENING_S, ModelOpened(number))
            case Train():
                self._train(work)
            case SendPart():
                self._send(work)

    def _fetch(self, digest: str) -> None:
        size = self.around.artifacts.size(digest)
        wait_s = size / self.nature.bytes_per_s + 2 * ACK_S
        self.clock.after(wait_s, self._at_epoch, self.epoch, self._fetched, digest)

    def _fetched(self, digest: str) -> None:
        path = self.around.artifacts.fetched(digest) if self._member.up else None
        self._feed(Available(digest, str(path)) if path else Unavailable(digest, "it is not offered"))

    def _train(self, work: Train) -> None:
        """The answer is computed now, and told when this device would have it."""
        fact, around = work.fact, self.around
        assert fact.plan is not None
        assert fact.model is not None
        lesson = Lesson(
            task=fact.task,
            plan=fact.plan,
            lr=fact.plan.lr * fact.plan.lr_decay**fact.round,
            seed=self._seed(work),
            budget_s=work.budget_s,
            layout_hash=fact.model.layout_hash,
        )
        try:
            vector = self.disk.shared.read(work.job, fact.model)
            examples, package = self.sources[fact.plan.source].read(), Path(work.package).read_bytes()
        except (OSError, ShoalError) as error:
            self._later(OPENING_S, Failed(work, str(error)))
            return
        outcome, seconds, problem = around.gym.train(
            fact.package, package, examples, lesson, vector, self.nature.step_s
        )
        if outcome is None:
            self._later(seconds, Failed(work, problem))
        else:
            self.clock.after(seconds, self._at_epoch, self.epoch, self._trained, work, outcome)

    def _trained(self, work: Train, outcome: Outcome) -> None:
        if work.number in self._stopped:
            self._stopped.discard(work.number)
            self._feed(Failed(work, "cancelled"))
            return
        stored = self._store(work, outcome)
        self.disk.written_at[stored.key] = self.clock.now
        self._feed(Trained(work.number, stored))

    def _store(self, work: Train, outcome: Outcome) -> Stored:
        """As the device's service does (edge/training/service.py), with a lie where this device lies."""
        fact, updates, codec, data, rest = work.fact, self.disk.updates, work.codec, b"", None
        assert fact.model is not None
        if outcome.delta is not None:
            before = updates.rest(work.job, fact.model.n_params) if codec.feedback else None
            delta = spoiled(self.nature.poison, outcome.delta)
            data, rest = encode(codec, delta, before, generator_of(f"encoding/{self._seed(work)}"))
            if rest is None and before is not None:
                rest = np.zeros_like(before)
        header = UpdateHeader(
            task=fact.task,
            version=fact.model.version,
            codec=codec.name,
            n_params=fact.model.n_params,
            layout_hash=fact.model.layout_hash,
            size_bytes=len(data),
            digest=sha256(data).hexdigest(),
            weight=outcome.weight,
            steps=outcome.steps,
            train_s=round(outcome.train_s, 6),
            metrics=outcome.metrics,
        )
        stored = Stored(UpdateKey(work.job, fact.round, header.digest), header, work.ask)
        updates.put(stored, data, rest)
        self.around.audit.sent(self.node, fact.round, codec.name, header.digest, data)
        return stored

    def _seed(self, work: Train) -> str:
        return f"{work.fact.seed}/{work.job}/{work.fact.round}/{self.node}"

    def _send(self, work: SendPart) -> None:
        if not self._member.up:
            self._later(NO_LINK_S, Failed(work, "no link"))
            return
        try:
            header, data = self.disk.updates.part(work.key, work.index)
        except ShoalError as error:
            self._later(ACK_S, Failed(work, str(error)))
            return
        first = header if work.index == 0 else None
        key = work.key
        part = UpdatePart(
            epoch=self.epoch, digest=key.digest, index=work.index, count=work.count, header=first, data=data
        )
        wait_s = len(data) / self.nature.bytes_per_s + self._late.get((key.job, key.round), 0.0)
        self.clock.after(wait_s, self._at_epoch, self.epoch, self._sent, work, part)

    def _sent(self, work: SendPart, part: UpdatePart) -> None:
        """The broker has it, which does not say that the cloud gets it."""
        if not self._member.up:
            self._feed(Failed(work, "no link"))
            return
        key = work.key
        to = UPDATE.at(node=self.node, job=key.job, round=str(key.round))
        self.around.count(len(encode_message(part)))
        self.around.net.publish(to, part)
        self._feed(PartSent(key, work.index))
