"""The real device process: a broker on the loopback, signed artifacts by chunk, two rounds and a kill -9."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from broker.bus import Delivery
from broker.connect import open_bus
from broker.embedded import BrokerConfig, EmbeddedBroker
from cloud.artifacts.blobs import BlobFolder
from cloud.artifacts.keys import public_hex, signed, signing_key
from cloud.artifacts.sender import Known, Sender
from cloud.artifacts.service import sender_service
from examples.digits.shards import HERE, write_shards
from shared import learning as fl
from shared.artifacts import make_manifest
from shared.codecs import decode, encode
from shared.config import BrokerSection
from shared.package import ModuleKind, unpack
from shared.parameters import decode_parameters
from shared.topics import LEARNER, MANIFEST, RECEIPT, ROUND, UPDATE
from shared.vectors import Layout, Vector, VectorFile, check_of, pack_vector
from shared.wire import decode as read
from shared.wire import encode as write
from tests.unit.edge.runtime.stories import story
from tests.unit.edge.training.device import until

RAW = fl.Codec(name=fl.CodecName.F32)


class Cloud:
    """Just enough of one: keys, a catalog, a sender, and rounds that a test opens by hand."""

    def __init__(self, folder: Path, url: str) -> None:
        self.key, self.blobs = signing_key(folder), BlobFolder(folder)
        self.bus = open_bus(BrokerSection(url=url), "main", "cloud")
        self.sender = sender_service(Sender(), self.bus, self.blobs, tick_s=0.05)
        self.learners: list[fl.Learner] = []
        self.parts: dict[int, list[fl.UpdatePart]] = {}
        self.bus.subscribe([LEARNER.filter, UPDATE.filter], self.heard)
        package = (HERE / "digits-train.shoal").read_bytes()
        initial = decode_parameters(unpack(package).parameters)
        self.layout = Layout.of(initial)
        self.vector = self.layout.flatten(initial)
        self.package = self.offer(package, "digits-train")

    def offer(self, data: bytes, name: str) -> str:
        manifest = signed(make_manifest(data, name=name, version="1", kind=ModuleKind.TENSOR), self.key)
        self.blobs.write(manifest.digest, 0, data)
        self.blobs.land(manifest.digest)
        self.sender.feed(Known.of(manifest))
        self.bus.publish(MANIFEST.at(artifact=manifest.digest).name, write(manifest), qos=1, retain=True)
        return manifest.digest

    def open_round(self, number: int, vector: Vector) -> None:
        data = encode(RAW, vector, None, np.random.default_rng()).data
        file = VectorFile(
            version=number,
            base=-1,
            codec="f32",
            n_params=self.layout.n_params,
            layout_hash=self.layout.hash,
            data=data,
        )
        model = fl.ModelRef(
            version=number,
            layout_hash=self.layout.hash,
            n_params=self.layout.n_params,
            check=check_of(vector),
            snapshot=self.offer(pack_vector(file), "digits-vector"),
        )
        fact = fl.RoundFact(
            job="digits",
            round=number,
            term=1,
            phase=fl.Phase.TRAINING,
            cohort=("edge-1",),
            package=self.package,
            model=model,
            plan=fl.TrainingPlan(source="digits", epochs=3, lr=0.1),
            codec=fl.Codec(),
            seed=1,
            budget_s=60.0,
        )
        self.bus.publish(ROUND.at(job="digits").name, write(fact), qos=1, retain=True)

    def heard(self, delivery: Delivery) -> None:
        ids = LEARNER.ids(delivery.topic)
        if ids is not None:
            self.learners.append(read(LEARNER, delivery.payload))
            return
        ids = UPDATE.ids(delivery.topic)
        assert ids is not None
        part, number = read(UPDATE, delivery.payload), int(ids["round"])
        self.parts.setdefault(number, []).append(part)
        receipt = fl.Receipt(round=number, digest=part.digest, status=fl.ReceiptStatus.ACCEPTED)
        self.bus.publish(RECEIPT.at(node=ids["node"], job=ids["job"]).name, write(receipt), qos=1)


async def started(folder: Path, url: str, key: str, shard: Path) -> asyncio.subprocess.Process:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")},
        "SHOAL_TRAINING_SOURCES": f"digits={shard}",
        "SHOAL_TRAINING_POWER": "ac",
        "SHOAL_DEVICE_BENCHMARK_S": "0.1",
    }
    command = ["-m", "edge", "--node", "edge-1", "--broker", url, "--data", str(folder), "--cloud-key", key]
    return await asyncio.create_subprocess_exec(sys.executable, *command, env=environ)


@story
async def test_a_device_process_learns_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    shard = write_shards(tmp_path / "shards", 4)[0]
    async with EmbeddedBroker(BrokerConfig(port=0)) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        cloud = Cloud(tmp_path / "cloud", url)
        tasks = [asyncio.create_task(cloud.bus.run()), asyncio.create_task(cloud.sender.run())]
        key = public_hex(cloud.key)
        device = await started(tmp_path / "edge-1", url, key, shard)
        try:
            await until(lambda: cloud.learners, 40)
            assert cloud.learners[0].power is fl.Power.AC
            samples = cloud.learners[0].sources["digits"].samples
            cloud.open_round(1, cloud.vector)
            await until(lambda: 1 in cloud.parts, 40)
            header = cloud.parts[1][0].header
            assert header is not None
            assert (header.weight, header.codec) == (samples, "int8")
            delta = decode(header.codec, cloud.parts[1][0].data, cloud.layout.n_params)
            learned = cloud.vector + delta
            await asyncio.sleep(0.5)  # the receipt has come
            device.send_signal(signal.SIGKILL)
            await device.wait()
            began = time.monotonic()
            device = await started(tmp_path / "edge-1", url, key, shard)
            cloud.open_round(2, learned)
            await until(lambda: 2 in cloud.parts, 40)
            assert time.monotonic() - began < 30
            second = cloud.parts[2][0].header
            assert second is not None
            assert second.metrics["loss"] < 0.9 * header.metrics["loss"]
            assert len(cloud.parts[1]) == 1, "round 1 was answered; it is not answered again"
            device.terminate()
            assert await device.wait() == 0
        finally:
            if device.returncode is None:
                device.kill()
                await device.wait()
            await cloud.bus.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
