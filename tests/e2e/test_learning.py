"""A fleet of real processes learns to read digits, and processes die on the way."""

import asyncio
import hashlib
import signal
import tomllib

import msgspec
import numpy as np
import pytest

from cloud.client import Fleet
from cloud.local.processes import LocalFleet
from examples.digits.shards import write_shards
from shared.learning import JobFact, JobSpec, JobView, Phase
from tests.e2e.fleets import EXAMPLE, FAST, digits, on_mosquitto, operated, ready, until

pytestmark = pytest.mark.timeout(150)

DEVICES = 4
ACCURACY_MIN = 0.85
WAIT_S_MAX = 60.0


def learning_fleet(folder) -> LocalFleet:
    """Every device has its own, uneven share of the digits."""
    nodes = {f"edge-{number}": FAST for number in range(1, DEVICES + 1)}
    shards = write_shards(folder / "shards", DEVICES)
    training = {node: {"sources": {"digits": str(shard)}} for node, shard in zip(nodes, shards, strict=True)}
    return LocalFleet(folder / "fleet", nodes, training=training)


async def job(fleet: Fleet, **changes) -> JobSpec:
    """The example's job, a little smaller; its packages are uploaded."""
    given = tomllib.loads((EXAMPLE / "learn.toml").read_text())
    for name in ("package", "serve"):
        package = (EXAMPLE / given[name]).read_bytes()
        await fleet.upload(package)
        given[name] = hashlib.sha256(package).hexdigest()
    plan = {**given["plan"], "epochs": 10}
    settings = {"clients": DEVICES, "quorum": 2, "rounds": 12, "stop": {}, "plan": plan}
    return msgspec.convert({**given, **settings, **changes}, JobSpec)


async def everybody_can_learn(fleet: Fleet) -> bool:
    return len(await fleet.learning.learners()) == DEVICES


async def seen(fleet: Fleet, name: str, holds) -> JobFact:
    """The first news of the job that is as wanted."""
    async with asyncio.timeout(WAIT_S_MAX):
        with fleet.learning.watch(name) as news:
            while True:
                fact = (await news.get()).fact
                if fact is not None and holds(fact):
                    return fact


async def ended(fleet: Fleet, name: str) -> JobView:
    await seen(fleet, name, lambda fact: fact.phase is Phase.COMPLETED)
    return await fleet.learning.job(name)


async def restarted(process) -> None:
    process.signal(signal.SIGKILL)
    await process.wait()
    await process.start()


def test_a_fleet_learns_the_digits_and_serves_what_it_learned(tmp_path):
    async def story():
        async with operated(learning_fleet(tmp_path)) as fleet:
            await until("everybody can learn", lambda: everybody_can_learn(fleet))
            spec = await job(fleet)
            await fleet.learning.create(spec)
            view = await ended(fleet, spec.job)
            assert view.metrics["accuracy"] > ACCURACY_MIN
            assert (view.model_version, view.version) == ("2", spec.rounds)

            await fleet.deploy("digits", "all")
            nodes = [f"edge-{number}" for number in range(1, DEVICES + 1)]
            await until("the learned model answers everywhere", lambda: ready(fleet, "digits", *nodes))
            images, _ = digits(500)
            with np.load(EXAMPLE / "heldout.npz", allow_pickle=False) as file:
                labels = file["labels"]
            answer = await fleet.infer("digits", images[:500], budget_s=10.0)
            assert (answer.outputs[0].argmax(axis=1) == labels).mean() > ACCURACY_MIN

            rounds = await fleet.learning.rounds(spec.job)
            assert [row.round for row in rounds] == list(range(1, spec.rounds + 1))
            assert all(row.accepted >= spec.quorum and row.bytes_up > 0 for row in rounds)
            last = await fleet.learning.round(spec.job, spec.rounds)
            assert sum(client.status == "accepted" for client in last.clients) == rounds[-1].accepted

    asyncio.run(story())


@pytest.mark.mosquitto
def test_it_learns_over_a_mosquitto_with_the_access_rules_of_production(tmp_path):
    async def story():
        async with operated(on_mosquitto(learning_fleet(tmp_path))) as fleet:
            await until("everybody can learn", lambda: everybody_can_learn(fleet))
            spec = await job(fleet, rounds=3)
            await fleet.learning.create(spec)
            view = await ended(fleet, spec.job)
            assert (view.version, view.model_version) == (3, "2")
            assert all(row.accepted == DEVICES for row in await fleet.learning.rounds(spec.job))

    asyncio.run(story())


def test_cloud_and_devices_die_in_the_middle_of_rounds_and_the_job_ends_all_the_same(tmp_path):
    """The cloud is killed while answers come in, and again while it makes a version; a device in between."""

    async def story():
        local = learning_fleet(tmp_path)
        async with operated(local) as fleet:
            await until("everybody can learn", lambda: everybody_can_learn(fleet))
            spec = await job(fleet, deadline_s_max=15.0)
            await fleet.learning.create(spec)

            await seen(fleet, spec.job, lambda fact: fact.round >= 2 and fact.accepted >= 1)
            await restarted(local.cloud)
            resumed = await seen(fleet, spec.job, lambda fact: fact.round >= 2 and fact.accepted >= 1)
            assert resumed.version >= 1

            await seen(fleet, spec.job, lambda fact: fact.round >= 4 and fact.phase is Phase.TRAINING)
            await restarted(local.devices["edge-2"])

            await seen(fleet, spec.job, lambda fact: fact.round >= 6 and fact.phase is Phase.AGGREGATING)
            await restarted(local.cloud)

            view = await ended(fleet, spec.job)
            assert (view.version, view.detail) == (spec.rounds, f"all {spec.rounds} rounds are done")
            assert view.metrics["accuracy"] > ACCURACY_MIN
            rows = await fleet.learning.rounds(spec.job)
            assert [row.version for row in rows] == list(range(1, spec.rounds + 1)), (
                "no round twice, none left out"
            )
            for row in rows:
                clients = (await fleet.learning.round(spec.job, row.round)).clients
                assert sum(client.status == "accepted" for client in clients) == row.accepted <= DEVICES

    asyncio.run(story())
