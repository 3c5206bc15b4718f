"""Training bound to the bus, the disk, the examples and WebAssembly."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from broker.bus import Bus, Properties
from broker.service import Service, on
from edge.training.core import Training
from edge.training.events import (
    CancelTraining,
    Conditions,
    ConditionsRead,
    DropVersion,
    Event,
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
    SendPart,
    SettleUpdate,
    SourcesRead,
    Stored,
    Train,
    Trained,
    UnloadPackage,
    UpdateKey,
    round_arrived,
)
from edge.training.examples import Examples
from edge.training.sources import Counting, Kept, Source
from edge.training.trainer import Lesson, Outcome, Trainer, TrainingFailed, TrainingSession, generator_of
from edge.training.updates import Updates
from edge.training.versions import Versions
from shared.core import Failed
from shared.errors import ShoalError, Unavailable
from shared.learning import Codec, ModelRef, UpdateHeader, UpdatePart
from shared.topics import RECEIPT, ROUND, UPDATE
from shared.vectors import Vector
from shared.wire import encode as encode_message

log = logging.getLogger(__name__)

SEND_DEADLINE_S = 30.0
PREFIX = "training:"  # no model that answers requests can have such a name


class OpenSession(TrainingSession, Protocol):
    """A session that somebody has to close."""

    async def close(self) -> None:
        """Free its memory."""
        ...


class Host(Protocol):
    """The part of the WebAssembly runtime that training uses."""

    def names(self) -> tuple[str, ...]:
        """What is loaded."""
        ...

    async def load(self, name: str, source: bytes | Path) -> object:
        """Compile a package."""
        ...

    def unload(self, name: str) -> bool:
        """Let go of it."""
        ...

    async def open_session(self, name: str) -> OpenSession:
        """A private instance of it."""
        ...


Encode = Callable[[Codec, Vector, Vector | None, np.random.Generator], tuple[bytes, Vector | None]]


class Disk(NamedTuple):
    """Where training keeps things. ``done``, ``remember``: what the last boot knew of answered asks."""

    versions: Versions
    updates: Updates
    done: Callable[[], dict[str, str]]
    remember: Callable[[str, str], None]

    def keep(self) -> None:
        """What is in memory only reaches the disk. Blocks. Raises ``OSError``."""
        self.versions.keep()
        self.updates.keep()


def training_service(
    core: Training,
    bus: Bus,
    *,
    host: Host,
    disk: Disk,
    sources: dict[str, Source],
    encode: Encode,
    conditions: Callable[[], Conditions],
    require: Callable[[str], None],
    release: Callable[[str], None],
) -> Service[Event]:
    """Bind the core. ``require`` and ``release`` go to the artifacts of this device, which answer with
    ``Available`` or ``Unavailable``. What the disk holds is read here."""
    shell = _Shell(core.node, core.epoch, bus, host, disk, sources, encode)
    service: Service[Event] = Service(
        "training",
        core,
        bus,
        [
            on(ROUND, lambda ids, fact: round_arrived(core.node, ids["job"], fact)),
            on(RECEIPT, lambda ids, receipt: ReceiptArrived(ids["job"], receipt), node=core.node),
        ],
        do={
            Require: lambda effect: require(effect.digest),
            Release: lambda effect: release(effect.digest),
            CancelTraining: lambda effect: shell.stopped.add(effect.number),
            SettleUpdate: lambda effect: disk.updates.settle(effect.key, effect.accepted),
            RememberDone: lambda effect: disk.remember(effect.job, effect.ask),
            DropVersion: lambda effect: disk.versions.drop(effect.job, effect.version),
            ForgetJob: shell.forget,
            UnloadPackage: shell.unload,
        },
        work={
            ReadSources: shell.read_sources,
            ReadConditions: lambda _: ConditionsRead(conditions()),
            OpenModel: shell.open,
            Train: shell.train,
            SendPart: shell.send,
            KeepLearned: shell.keep,
        },
        tick_s=0.5,
    )
    service.feed(Restored(disk.updates.restore(time.time()), disk.versions.held(), disk.done()))
    return service


@dataclass(slots=True)
class _Shell:
    """Performs the pieces of work. ``stopped``: those that nobody waits for any more."""

    node: str
    epoch: int
    bus: Bus
    host: Host
    disk: Disk
    sources: dict[str, Source]
    encode: Encode
    stopped: set[int] = field(default_factory=set)
    counting: Counting = field(init=False)

    def __post_init__(self) -> None:
        self.counting = Counting(self.sources)

    async def read_sources(self, _: ReadSources) -> Event:
        known = SourcesRead(*await asyncio.to_thread(self.counting.count))
        for name, why in known.problems.items():
            log.debug("source %s can't be used: %s", name, why)
        return known

    async def open(self, work: OpenModel) -> Event:
        try:
            await asyncio.to_thread(self.disk.versions.open, work.job, work.model, Path(work.path), work.base)
        except (OSError, ShoalError) as error:
            return Failed(work, str(error))
        return ModelOpened(work.number)

    async def keep(self, work: KeepLearned) -> Event | None:
        try:
            await asyncio.to_thread(self.disk.keep)
        except OSError as error:
            return Failed(work, str(error))
        return None

    async def train(self, work: Train) -> Event:
        try:
            outcome, n_params = await self._learn(work)
            stored = await asyncio.to_thread(self._store, work, outcome, n_params)
        except (OSError, ShoalError) as error:
            if work.number not in self.stopped:
                log.warning("round %d of %s is not answered: %s", work.fact.round, work.job, error)
            return Failed(work, str(error))
        finally:
            self.stopped.discard(work.number)
        return Trained(work.number, stored)

    async def _learn(self, work: Train) -> tuple[Outcome, int]:
        started, fact = time.monotonic(), work.fact
        assert fact.plan is not None
        assert fact.model is not None
        name = PREFIX + fact.package
        if name not in self.host.names():
            await self.host.load(name, Path(work.package))
        source = self.sources.get(fact.plan.source)
        if source is None:
            raise TrainingFailed(f"there is no source {fact.plan.source!r}")
        examples, vector = await self._starting_point(source, work.job, fact.model)
        lesson = Lesson(
            task=fact.task,
            plan=fact.plan,
            lr=fact.plan.lr * fact.plan.lr_decay**fact.round,
            seed=self._seed(work),
            budget_s=work.budget_s - (time.monotonic() - started),
            layout_hash=fact.model.layout_hash,
        )
        session = await self.host.open_session(name)
        try:
            trainer = Trainer(session, examples, lesson, time.monotonic, lambda: work.number in self.stopped)
            return await trainer.run(vector), len(vector)
        finally:
            await session.close()

    async def _starting_point(self, source: Source, job: str, model: ModelRef) -> tuple[Examples, Vector]:
        """Examples and the model. Both in memory is the usual case, and needs no thread."""
        versions = self.disk.versions
        examples, vector = (
            source.at_hand() if isinstance(source, Kept) else None,
            versions.at_hand(job, model),
        )
        if examples is not None and vector is not None:
            return examples, vector
        return await asyncio.to_thread(lambda: (source.read(), versions.read(job, model)))

    def _store(self, work: Train, outcome: Outcome, n_params: int) -> Stored:
        """Encode the update and make it durable."""
        fact, codec, data, rest = work.fact, work.codec, b"", None
        assert fact.model is not None
        if outcome.delta is not None:
            before = self.disk.updates.rest(work.job, n_params) if codec.feedback else None
            generator = generator_of(f"encoding/{self._seed(work)}")
            data, rest = self.encode(codec, outcome.delta, before, generator)
            if rest is None and before is not None:  # all of it was said now
                rest = np.zeros_like(before)
        header = UpdateHeader(
            task=fact.task,
            version=fact.model.version,
            codec=codec.name,
            n_params=n_params,
            layout_hash=fact.model.layout_hash,
            size_bytes=len(data),
            digest=sha256(data).hexdigest(),
            weight=outcome.weight,
            steps=outcome.steps,
            train_s=round(outcome.train_s, 6),
            metrics=outcome.metrics,
        )
        stored = Stored(UpdateKey(work.job, fact.round, header.digest), header, work.ask)
        self.disk.updates.put(stored, data, rest)
        return stored

    def _seed(self, work: Train) -> str:
        return f"{work.fact.seed}/{work.job}/{work.fact.round}/{self.node}"

    async def send(self, work: SendPart) -> Event:
        """Publish one part and wait for the broker, but not for ever."""
        key, loop = work.key, asyncio.get_running_loop()
        acknowledged: asyncio.Future[None] = loop.create_future()

        def done() -> None:
            if not acknowledged.done():
                acknowledged.set_result(None)

        header, data = self.disk.updates.part(key, work.index)
        part = UpdatePart(
            epoch=self.epoch,
            digest=key.digest,
            index=work.index,
            count=work.count,
            header=header if work.index == 0 else None,
            data=data,
        )
        sent = self.bus.publish(
            UPDATE.at(node=self.node, job=key.job, round=str(key.round)).name,
            encode_message(part),
            qos=UPDATE.qos,
            properties=Properties(expiry_s=UPDATE.expiry_s),
            done=done,
        )
        if not sent:
            raise Unavailable("the outbox is full")
        async with asyncio.timeout(SEND_DEADLINE_S):
            await acknowledged
        return PartSent(key, work.index)

    def unload(self, effect: UnloadPackage) -> None:
        self.host.unload(PREFIX + effect.digest)

    def forget(self, effect: ForgetJob) -> None:
        self.disk.versions.forget(effect.job)
        self.disk.updates.forget(effect.job)
        self.disk.remember(effect.job, "")
