"""The coordinator with its real disk, and devices that make up what they learned: one thread, no network.

What a device says is a function of its name and the round, so two worlds with the same seed must come to the
same model, whatever happened on the way. Work is performed when a test lets it, and a crash is a new
coordinator and a new executor on the same folder.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from cloud.facts import NodeChanged, NodeFact, NodeStatus
from cloud.federated.core import Coordinator
from cloud.federated.events import (
    LearnAsked,
    LearnerSeen,
    ModelAdded,
    Offer,
    PartArrived,
    Withdraw,
)
from cloud.federated.executor import Executor
from shared.abi import Abi, Function, Parameters, encode_section
from shared.codecs import decode, encode
from shared.core import Clear, Effect, Ignore, LinkDown, LinkUp, Publish, Tick, Work
from shared.learning import (
    PART_BYTES,
    Codec,
    CodecName,
    JobFact,
    JobSpec,
    JobView,
    LearnAsk,
    Learner,
    LearnVerb,
    Phase,
    Receipt,
    RoundFact,
    Source,
    Task,
    TrainingPlan,
    UpdateHeader,
    UpdatePart,
)
from shared.messages import Reply, ReplyStatus
from shared.package import Package, PackageInfo, pack, unpack
from shared.parameters import decode_parameters, encode_parameters
from shared.topics import JOB, MANIFEST, ROUND
from shared.vectors import F32, Layout, Vector, check_of, unpack_vector
from shared.wire import unpacked

SHAPES = {"0.bias": (8,), "0.weight": (8, 4)}
LAYOUT = Layout.of({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})
RAW = Codec(name=CodecName.F32)
JOB_NAME = "digits"


def parameters(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def package(name: str, *functions: str, seed: int = 0, **tensors: np.ndarray) -> bytes:
    """A package whose module has no code: the cloud only looks at what it says of itself."""
    abi = Abi(
        version=1,
        memory_bytes=1 << 16,
        functions=tuple(Function(one, (), ()) for one in functions),
        parameters=Parameters(0, 0, "", ()),
    )
    module = b"\0asm\x01\0\0\0" + encode_section(abi)
    blob = encode_parameters(tensors or parameters(seed))
    return pack(Package(info=PackageInfo(name=name), modules={1: module}, parameters=blob))


TRAIN = package("digits-train", "train_step", "evaluate", seed=1)
SERVE = package("digits", "run", seed=2)


def digest_of(data: bytes) -> str:
    return sha256(data).hexdigest()


def spec(**changes: object) -> JobSpec:
    """Three of three clients, three rounds, no evaluation."""
    settings: dict[str, object] = {
        "job": JOB_NAME,
        "package": digest_of(TRAIN),
        "plan": TrainingPlan(source="digits"),
        "rounds": 3,
        "clients": 3,
        "quorum": 2,
        "over_select": 1.0,
        "deadline_s_min": 5.0,
        "deadline_s_max": 60.0,
        "evaluate_every": 0,
        "seed": 7,
        "version_name": "digits",
    }
    return JobSpec(**{**settings, **changes})  # type: ignore[arg-type]


def learner(samples: int = 100, held_out: int = 20, **changes: object) -> Learner:
    source = Source(samples=samples, held_out=held_out)
    return Learner(**{"epoch": 1, "sources": {"digits": source}, "room": 1, **changes})  # type: ignore[arg-type]


def learned(client: str, number: int, size: float = 0.05) -> Vector:
    """The change [n] that this client finds in this round."""
    seed = int.from_bytes(sha256(f"{client}/{number}".encode()).digest()[:8], "big")
    return (np.random.default_rng(seed).standard_normal(LAYOUT.n_params) * size).astype(F32)


def measured(version: int) -> dict[str, float]:
    """What every client finds of this version, over its 20 held-out examples."""
    return {"loss": 20.0 / version, "hits": min(10.0 + version, 20.0), "count": 20.0}


def weight_of(client: str) -> int:
    return 50 + int.from_bytes(sha256(client.encode()).digest()[:1], "big")


def update(client: str, fact: RoundFact, delta: Vector | None = None, **header: object) -> list[UpdatePart]:
    """The parts of an honest answer to the round; ``header`` overrides what it claims."""
    assert fact.model is not None
    train = fact.task is Task.TRAIN
    data, codec = b"", fact.codec
    if train:
        change = learned(client, fact.round) if delta is None else delta
        codec_rng = np.random.default_rng(len(client))
        data = encode(msgspec.structs.replace(codec, feedback=False), change, None, codec_rng).data
    metrics = (
        {} if train else {"loss": 10.0 / fact.model.version, "hits": 10.0 + fact.model.version, "count": 20.0}
    )
    claims: dict[str, object] = {
        "task": fact.task,
        "version": fact.model.version,
        "codec": codec.name.value,
        "n_params": fact.model.n_params,
        "layout_hash": fact.model.layout_hash,
        "size_bytes": len(data),
        "digest": digest_of(data),
        "weight": weight_of(client) if train else 20,
        "steps": 5 if train else 0,
        "train_s": 0.5 if train else 0.0,
        "metrics": metrics,
    }
    return parts(UpdateHeader(**{**claims, **header}), data)  # type: ignore[arg-type]


def parts(header: UpdateHeader, data: bytes) -> list[UpdatePart]:
    count = max(1, -(-len(data) // PART_BYTES))
    return [
        UpdatePart(
            epoch=1,
            digest=header.digest,
            index=index,
            count=count,
            header=header if index == 0 else None,
            data=data[index * PART_BYTES : (index + 1) * PART_BYTES],
        )
        for index in range(count)
    ]


@dataclass
class Shelf:
    """The packages of a catalog that takes everything."""

    packages: dict[str, bytes] = field(default_factory=dict)
    offered: list[str] = field(default_factory=list)

    def read(self, digest: str) -> bytes:
        try:
            return self.packages[digest]
        except KeyError:
            raise FileNotFoundError(digest) from None

    def offer(self, made: bytes) -> str:
        self.packages[digest_of(made)] = made
        self.offered.append(digest_of(made))
        return digest_of(made)


Sent = list[tuple[str, Receipt]]


@dataclass
class World:
    """``retained``: the newest fact on each topic. ``works``: what the core wants done and nobody did yet."""

    folder: Path
    clients: tuple[str, ...] = ("a", "b", "c")
    term: int = 1
    now: float = 0.0
    shelf: Shelf = field(default_factory=lambda: Shelf({digest_of(one): one for one in (TRAIN, SERVE)}))
    retained: dict[str, object] = field(default_factory=dict)
    receipts: Sent = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    works: deque[Work] = field(default_factory=deque)
    sendable: set[str] = field(default_factory=set)
    facts: list[JobFact] = field(default_factory=list)
    asked: list[RoundFact] = field(default_factory=list)
    synced: set[int] = field(default_factory=set)
    on_work: Callable[[Work, str], None] = lambda work, when: None
    core: Coordinator = field(init=False)
    executor: Executor = field(init=False)

    def __post_init__(self) -> None:
        self.boot()

    def boot(self) -> None:
        """A process of the cloud begins; the broker and the disk are as they were left."""
        self.core, self.works = Coordinator(self.term), deque()
        self.executor = Executor(self.folder, self.shelf, lambda one: one, lambda: self.now, sync=self.sync)
        self.executor.open()
        self.sendable.clear()
        self.feed(Tick(), LinkUp(False))
        for client in self.clients:
            self.feed(LearnerSeen(client, learner()))
        self.works_done()

    def sync(self, descriptor: int) -> None:
        """What the disk does when it is told that something must last: nothing, but it remembers."""
        self.synced.add(os.fstat(descriptor).st_ino)

    def unsynced(self) -> Iterator[Path]:
        """Versions that a power cut would take."""
        for path in self.folder.glob("jobs/*/version-*.state"):
            if path.stat().st_ino not in self.synced:
                yield path

    def crash(self) -> None:
        """Whatever was in memory is gone."""
        self.executor.close()
        self.term += 1
        self.boot()

    def feed(self, *events: object) -> None:
        for event in events:
            effects = self.core.step(event, self.now)  # type: ignore[arg-type]
            self.core.check()
            for effect in effects:
                self.perform(effect)

    def tick(self, seconds: float = 1.0, *, work: bool = True) -> None:
        self.now += seconds
        self.feed(Tick())
        if work:
            self.works_done()

    def work_one(self) -> None:
        """The oldest piece of work is done, and its answer heard."""
        work = self.works.popleft()
        self.on_work(work, "before")
        (answer,) = self.executor.perform([work])
        self.on_work(work, "after")
        if answer is not None:
            self.feed(answer)

    def works_done(self) -> None:
        while self.works:
            self.work_one()

    def perform(self, effect: Effect) -> None:
        match effect:
            case Publish(to, message):
                self._published(to.name, message)
            case Clear(to):
                self.retained.pop(to.name, None)
            case Offer(manifest):
                self.sendable.add(manifest.digest)
            case Withdraw(digest):
                self.sendable.discard(digest)
            case Work():
                self.works.append(effect)
            case Ignore(reason):
                self.ignored.append(reason)
            case _:
                raise AssertionError(f"nobody performs {effect}")

    def _published(self, name: str, message: object) -> None:
        match message:
            case Receipt():
                self.receipts.append((name.split("/")[1], message))
            case Reply():
                self.replies.append(message)
            case _:
                self.retained[name] = message
        if isinstance(message, JobFact):
            self.facts.append(message)
        if isinstance(message, RoundFact) and message.model is not None:
            self.asked.append(message)

    # What tests do ---------------------------------------------------------------------------------

    def ask(self, verb: LearnVerb, job: str = JOB_NAME, made: JobSpec | None = None) -> Reply | None:
        """The reply, if it came at once or with the work."""
        before, correlation = len(self.replies), f"r{len(self.replies)}"
        request = LearnAsk(correlation=correlation, budget_s=10.0, verb=verb, job=job, spec=made)
        self.feed(LearnAsked("app", request))
        self.works_done()
        return self.replies[-1] if len(self.replies) > before else None

    def create(self, **changes: object) -> JobView:
        made = spec(**changes)
        reply = self.ask(LearnVerb.CREATE, made.job, made)
        assert reply is not None
        assert reply.status is ReplyStatus.OK, reply.detail
        return unpacked(reply.body, JobView)

    def fact(self, job: str = JOB_NAME) -> RoundFact:
        found = self.retained[ROUND.at(job=job).name]
        assert isinstance(found, RoundFact)
        return found

    def asked_in(self, number: int) -> RoundFact:
        """What was asked in this round."""
        return next(fact for fact in self.asked if fact.round == number)

    def job_fact(self, job: str = JOB_NAME) -> JobFact:
        found = self.retained[JOB.at(job=job).name]
        assert isinstance(found, JobFact)
        return found

    def send(
        self, client: str, fact: RoundFact | None = None, *, work: bool = True, **claims: object
    ) -> Sent:
        """One client answers the round; the receipts that it got."""
        before = len(self.receipts)
        answered = fact or self.fact()
        for part in update(client, answered, **claims):  # type: ignore[arg-type]
            self.feed(PartArrived(client, answered.job, answered.round, part))
        if work:
            self.works_done()
        return self.receipts[before:]

    def feed_learners(self, said: Learner) -> None:
        """All clients say the same of themselves."""
        for client in self.clients:
            self.feed(LearnerSeen(client, said))

    def feed_parts(self, client: str, sent: Iterable[UpdatePart]) -> None:
        """Parts for the open round."""
        fact = self.fact()
        for part in sent:
            self.feed(PartArrived(client, fact.job, fact.round, part))
        self.works_done()

    def everybody(self, clients: Iterable[str] | None = None) -> None:
        """The whole cohort answers."""
        fact = self.fact()
        for client in clients or fact.cohort:
            self.send(client, fact)

    def run(self, rounds_max: int = 50) -> None:
        """Rounds, until nothing is asked any more."""
        for _ in range(rounds_max):
            self.deliver_models()
            if self.state().closed:
                return
            if self.fact().phase is Phase.TRAINING:
                self.everybody()
            self.tick(0.1)
        raise AssertionError(f"not over after {rounds_max} turns: {self.state()}")

    def deliver_models(self) -> None:
        """The catalog says that it holds what it was given."""
        while self.shelf.offered:
            self.feed(ModelAdded("digits", "2", self.shelf.offered.pop(0)))
            self.works_done()

    def state(self, job: str = JOB_NAME):
        return self.core.jobs[job].state

    def vector(self, job: str = JOB_NAME) -> Vector:
        """The newest version, as a device without any gets it."""
        return self.downloaded(self.state(job).version.ref.snapshot)

    def downloaded(self, digest: str, base: Vector | None = None) -> Vector:
        """What a device makes of an artifact, for which there must be a manifest and somebody to send it."""
        assert MANIFEST.at(artifact=digest).name in self.retained
        assert digest in self.sendable
        data = (self.executor.artifacts / f"{digest}.shoal").read_bytes()
        assert digest_of(data) == digest
        file = unpack_vector(data)
        vector = decode(file.codec, file.data, file.n_params)
        return vector if base is None else base + vector

    def online(self, node: str, status: NodeStatus = NodeStatus.IDLE, **facts: object) -> None:
        self.feed(NodeChanged(NodeFact(node=node, epoch=1, status=status, **facts)))  # type: ignore[arg-type]

    def cut(self, seconds: float) -> None:
        """The link is away for so long."""
        self.feed(LinkDown())
        self.tick(seconds)
        self.feed(LinkUp(True))
        self.works_done()


def served(made: bytes) -> dict[str, np.ndarray]:
    """The parameters in a package."""
    return decode_parameters(unpack(made).parameters)


def statuses(sent: Sent) -> list[str]:
    """``client: status reason`` of each receipt."""
    return [f"{client}: {one.status.value} {one.reason}".strip() for client, one in sent]


def same_bits(one: Vector, other: Vector) -> bool:
    return check_of(one) == check_of(other)
