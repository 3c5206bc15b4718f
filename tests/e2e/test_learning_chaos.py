"""Real processes in trouble: the cloud dies by SIGKILL in every round, and a device in every second one.

The simulation plays thousands of such rounds (tests/simulation/test_learning.py); here the disk, the broker
and the processes are real.
"""

import asyncio
import hashlib
import random
import signal
import tomllib

import msgspec
import pytest

from cloud.client import Fleet
from cloud.local.processes import LocalFleet, LocalProcess
from examples.digits.shards import write_shards
from shared.learning import JobSpec, JobView, Phase, ReceiptStatus
from tests.e2e.fleets import EXAMPLE, FAST, operated, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

DEVICES, ROUNDS = 6, 8
JOB_S_MAX = 400.0
LATEST_S = 1.5  # after a round was opened, when the cloud is killed


def learning_fleet(folder) -> LocalFleet:
    nodes = {f"edge-{number}": FAST for number in range(1, DEVICES + 1)}
    shards = write_shards(folder / "shards", DEVICES)
    training = {node: {"sources": {"digits": str(shard)}} for node, shard in zip(nodes, shards, strict=True)}
    return LocalFleet(folder / "fleet", nodes, training=training)


async def specification(fleet: Fleet) -> JobSpec:
    given = tomllib.loads((EXAMPLE / "learn.toml").read_text())
    for name in ("package", "serve"):
        package = (EXAMPLE / given[name]).read_bytes()
        await fleet.upload(package)
        given[name] = hashlib.sha256(package).hexdigest()
    changes = {"rounds": ROUNDS, "clients": DEVICES, "quorum": 3, "stop": {}, "deadline_s_max": 20.0}
    return msgspec.convert({**given, **changes}, JobSpec)


async def restarted(process: LocalProcess) -> None:
    process.signal(signal.SIGKILL)
    await process.wait()
    await process.start()


async def killing(fleet: Fleet, local: LocalFleet, name: str, chance: random.Random) -> int:
    """Kill until the job is done; how often the cloud died."""
    killed, kills = 0, 0
    with fleet.learning.watch(name) as news:
        while True:
            fact = (await news.get()).fact
            assert fact is not None
            if fact.phase is Phase.COMPLETED:
                return kills
            if fact.round > killed and fact.phase is Phase.TRAINING:
                killed, kills = fact.round, kills + 1
                await asyncio.sleep(chance.uniform(0, LATEST_S))
                if fact.round % 2:
                    await restarted(chance.choice(list(local.devices.values())))
                await restarted(local.cloud)


async def learned(folder, seed: int | None) -> tuple[JobView, int]:
    """The job at its end, and how often the cloud was killed on the way; ``seed`` None: never."""
    local = learning_fleet(folder)
    async with operated(local) as fleet, asyncio.timeout(JOB_S_MAX):
        await until("everybody can learn", lambda: everybody(fleet))
        spec = await specification(fleet)
        await fleet.learning.create(spec)
        kills = await killing(fleet, local, spec.job, random.Random(seed)) if seed is not None else 0
        if seed is None:
            await done(fleet, spec.job)
        await until("the cloud is back", lambda: answers(fleet))
        rows = await fleet.learning.rounds(spec.job)
        assert [(row.round, row.version) for row in rows] == [(n, n) for n in range(1, ROUNDS + 1)]
        for row in rows:
            clients = (await fleet.learning.round(spec.job, row.round)).clients
            accepted = [one.client for one in clients if one.status == ReceiptStatus.ACCEPTED]
            assert len(accepted) == len(set(accepted)) == row.accepted >= spec.quorum
        return await fleet.learning.job(spec.job), kills


async def everybody(fleet: Fleet) -> bool:
    return len(await fleet.learning.learners()) == DEVICES


async def answers(fleet: Fleet) -> bool:
    return bool(await fleet.learning.jobs())


async def done(fleet: Fleet, name: str) -> None:
    with fleet.learning.watch(name) as news:
        while (fact := (await news.get()).fact) is None or fact.phase is not Phase.COMPLETED:
            pass


def test_the_cloud_dies_in_every_round_and_the_model_is_as_good(tmp_path):
    clean, _ = asyncio.run(learned(tmp_path / "clean", None))
    troubled, kills = asyncio.run(learned(tmp_path / "troubled", 1))
    assert kills >= ROUNDS - 2
    assert clean.version == troubled.version == ROUNDS
    assert troubled.metrics["accuracy"] > clean.metrics["accuracy"] - 0.03  # of some two hundred digits
    assert troubled.model, "there is a model to deploy"
