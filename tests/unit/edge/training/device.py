"""A device that learns, without its machine: the real training service, session and disk on a bus in memory,
and a coordinator that a test drives by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np

from broker.bus import Delivery
from broker.memory import MemoryBroker, MemoryBus
from edge.runtime import Limits, ModuleHost
from edge.training import core as training
from edge.training.core import Training
from edge.training.events import Available, Conditions, Unavailable
from edge.training.outbox import OutboxLimits
from edge.training.service import Disk, training_service
from edge.training.sources import NpzFile
from edge.training.updates import Updates
from edge.training.versions import Versions
from shared import learning as fl
from shared.codecs import decode, encode
from shared.topics import RECEIPT, ROUND, find
from shared.vectors import Layout, Vector, VectorFile, check_of, pack_vector
from shared.wire import decode as read
from shared.wire import encode as write

NODE = "n1"
RAW = fl.Codec(name=fl.CodecName.F32)


class Cloud:
    """Says what a test tells it to, and keeps the updates it heard: (job, round) -> [parts]."""

    def __init__(self, broker: MemoryBroker, package: bytes, initial: dict[str, np.ndarray], folder: Path):
        self.bus, self.folder = MemoryBus(broker), folder
        self.layout = Layout.of(initial)
        self.artifacts: dict[str, bytes] = {}
        self.package = self.offer(package)
        self.parts: dict[tuple[str, int], list[fl.UpdatePart]] = {}
        self.learners: list[fl.Learner] = []
        self.refs: dict[int, fl.ModelRef] = {}
        self.vectors: dict[int, Vector] = {}
        self.answer: Callable[[str, int, fl.UpdatePart], fl.Receipt | None] = accept
        self.publish_version(self.layout.flatten(initial))
        self.bus.connect()
        self.bus.subscribe(["node/+/up/#"], self._heard)

    def offer(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        self.artifacts[digest] = data
        return digest

    def publish_version(self, vector: Vector) -> fl.ModelRef:
        version, layout, delta = len(self.vectors), self.layout, ""
        if version:
            gap = vector - self.vectors[version - 1]
            vector = self.vectors[version - 1] + gap  # what both ways to it give, to the bit
            delta = self.offer(self._file(version, version - 1, gap))
        self.vectors[version] = vector
        self.refs[version] = fl.ModelRef(
            version=version,
            layout_hash=layout.hash,
            n_params=layout.n_params,
            check=check_of(vector),
            snapshot=self.offer(self._file(version, -1, vector)),
            delta=delta,
            base=version - 1 if delta else -1,
        )
        return self.refs[version]

    def _file(self, version: int, base: int, data: Vector) -> bytes:
        n_params, layout_hash = self.layout.n_params, self.layout.hash
        file = VectorFile(
            version=version,
            base=base,
            codec="f32",
            n_params=n_params,
            layout_hash=layout_hash,
            data=encode(RAW, data, None, np.random.default_rng()).data,
        )
        return pack_vector(file)

    def fact(self, number: int, *, version: int | None = None, **changed: object) -> fl.RoundFact:
        fields: dict[str, object] = {
            "job": "digits",
            "round": number,
            "term": 1,
            "phase": fl.Phase.TRAINING,
            "cohort": (NODE,),
            "package": self.package,
            "model": self.refs[len(self.refs) - 1 if version is None else version],
            "plan": fl.TrainingPlan(source="small", epochs=2, lr=0.1),
            "codec": RAW,
            "budget_s": 30.0,
        }
        return fl.RoundFact(**{**fields, **changed})

    def say(self, fact: fl.RoundFact) -> None:
        self.bus.publish(ROUND.at(job=fact.job).name, write(fact), qos=1, retain=True)

    def header(self, number: int, job: str = "digits") -> fl.UpdateHeader:
        header = self.parts[job, number][0].header
        assert header is not None
        return header

    def data(self, number: int, job: str = "digits") -> bytes:
        return b"".join(part.data for part in self.parts[job, number])

    def delta(self, number: int) -> Vector:
        return decode(self.header(number).codec, self.data(number), self.layout.n_params)

    def _heard(self, delivery: Delivery) -> None:
        topic, ids = find(delivery.topic)
        message = read(topic, delivery.payload)
        if isinstance(message, fl.Learner):
            self.learners.append(message)
        if isinstance(message, fl.UpdatePart):
            key = ids["job"], int(ids["round"])
            self.parts.setdefault(key, []).append(message)
            receipt = self.answer(*key, message)
            if receipt is not None:
                self.bus.publish(RECEIPT.at(node=ids["node"], job=ids["job"]).name, write(receipt), qos=1)


def accept(job: str, number: int, part: fl.UpdatePart) -> fl.Receipt | None:
    """After the last part."""
    if part.index < part.count - 1:
        return None
    return fl.Receipt(round=number, digest=part.digest, status=fl.ReceiptStatus.ACCEPTED)


def silence(job: str, number: int, part: fl.UpdatePart) -> fl.Receipt | None:
    """A coordinator that is down."""
    return None


class Device:
    """One boot. ``conditions``: what its machine says."""

    def __init__(self, broker: MemoryBroker, cloud: Cloud, folder: Path, host: ModuleHost, data: Path):
        self.bus, self.cloud, self.folder = MemoryBus(broker), cloud, folder
        self.done: dict[str, str] = {}
        self.required: list[str] = []
        self.released: list[str] = []
        limits = training.Limits(
            fetch_retry_min_s=0.1, outbox=OutboxLimits(receipt_min_s=0.3, receipt_max_s=0.3)
        )
        self.core = Training(NODE, 7, lambda: 0.0, limits=limits)
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        self.updates = Updates(folder / "updates")
        self.versions = Versions(folder / "versions", decode)
        disk = Disk(self.versions, self.updates, self._done, self._remember)
        self.service = training_service(
            self.core,
            self.bus,
            host=host,
            disk=disk,
            sources={"small": NpzFile(data, 0.2, "small")},
            encode=encode,
            conditions=Conditions,
            require=self._require,
            release=self.released.append,
        )

    def _done(self) -> dict[str, str]:
        path = self.folder / "done"
        return {"digits": path.read_text()} if path.exists() and path.read_text() else {}

    def _remember(self, job: str, ask: str) -> None:
        (self.folder / "done").write_text(ask)

    def _require(self, digest: str) -> None:
        self.required.append(digest)
        path = self.folder / "blobs" / digest
        if digest in self.cloud.artifacts:
            path.write_bytes(self.cloud.artifacts[digest])
            self.service.feed(Available(digest, str(path)))
        else:
            self.service.feed(Unavailable(digest, "no manifest"))


class Stage:
    """Where a story plays: one coordinator, one device at a time."""

    def __init__(self, folder: Path, package: bytes, initial: dict[str, np.ndarray], data: Path) -> None:
        self.folder, self.data, self.broker = folder, data, MemoryBroker()
        self.cloud = Cloud(self.broker, package, initial, folder)

    @asynccontextmanager
    async def device(self) -> AsyncIterator[Device]:
        """From boot to the end of the process."""
        async with ModuleHost(limits=Limits(deadline_s=10)) as host:
            device = Device(self.broker, self.cloud, self.folder / "device", host, self.data)
            device.bus.connect()
            running = asyncio.create_task(device.service.run())
            try:
                yield device
                device.core.check()
            finally:
                device.bus.disconnect()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def until(true: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait for it."""
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.01)
