"""The coordinator on a bus, with its thread and a disk that really syncs; devices and operators over MQTT."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.ask import Asker
from broker.bus import Delivery
from broker.memory import MemoryBroker, MemoryBus
from cloud.federated.core import Coordinator
from cloud.federated.executor import Executor
from cloud.federated.service import learning_service
from cloud.federated.views import LearningViews, NoSuchThing
from cloud.learning.client import LearningClient
from shared.core import Work
from shared.errors import Refused
from shared.learning import JobFact, ModelRef, Phase, Receipt, ReceiptStatus, RoundFact
from shared.messages import CloudPresence, Query, QueryKind
from shared.topics import CLOUD, JOB, LEARNER, RECEIPT, ROUND, UPDATE
from shared.wire import decode, encode
from tests.unit.cloud.federated.world import (
    JOB_NAME,
    SERVE,
    TRAIN,
    Shelf,
    digest_of,
    learner,
    spec,
    update,
)


async def soon(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


class Disk(Executor):
    """Says what it was given at once; while it is not ``free``, it is at it."""

    def __init__(self, *given) -> None:
        super().__init__(*given)
        self.batches: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()

    def perform(self, works: Sequence[Work]) -> list[object]:
        self.batches.append([type(work).__name__ for work in works])
        assert self.free.wait(20)
        return super().perform(works)


class Cloud:
    """One process of the cloud, as far as learning needs it."""

    def __init__(self, broker: MemoryBroker, folder: Path, term: int = 1) -> None:
        self.bus, self.core = MemoryBus(broker), Coordinator(term, time.time() - time.monotonic())
        shelf = Shelf({digest_of(one): one for one in (TRAIN, SERVE)})
        self.executor = Disk(folder, shelf, lambda one: one, time.perf_counter)
        self.executor.open()
        self.offered: set[str] = set()
        self.service = learning_service(
            self.core,
            self.bus,
            self.executor,
            lambda manifest, _: self.offered.add(manifest.digest),
            self.offered.discard,
        )
        self.views = LearningViews(self.core, time.monotonic)

    async def __aenter__(self) -> "Cloud":
        self.task = asyncio.create_task(self.service.run())
        self.bus.connect()
        await soon(lambda: self.core.steering.ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.executor.close()


class Device:
    """Answers every round that asks it, and keeps what it heard."""

    def __init__(self, broker: MemoryBroker, name: str, *, answers: bool = True) -> None:
        self.name, self.answers, self.bus = name, answers, MemoryBus(broker)
        self.receipts: list[Receipt] = []
        self.rounds: list[RoundFact] = []
        self.bus.connect()
        self.bus.subscribe([ROUND.filter], self._round)
        self.bus.subscribe([RECEIPT.filter_for(node=name)], self._receipt)
        self.bus.publish(LEARNER.at(node=name).name, encode(learner()), qos=1, retain=True)

    def _round(self, delivery: Delivery) -> None:
        fact = decode(ROUND, delivery.payload) if delivery.payload else None
        if fact is not None and self.name in fact.cohort:
            self.rounds.append(fact)
            if self.answers:
                self.send(fact)

    def _receipt(self, delivery: Delivery) -> None:
        self.receipts.append(decode(RECEIPT, delivery.payload))

    def send(self, fact: RoundFact) -> None:
        for part in update(self.name, fact):
            to = UPDATE.at(node=self.name, job=fact.job, round=str(fact.round))
            self.bus.publish(to.name, encode(part), qos=1)


def operator(broker: MemoryBroker) -> LearningClient:
    bus = MemoryBus(broker)
    bus.connect()
    return LearningClient(bus, "app", Asker(bus, "app", "c"), lambda: 10.0)


def job_fact(broker: MemoryBroker) -> JobFact | None:
    payload = broker.retained.get(JOB.at(job=JOB_NAME).name)
    return decode(JOB, payload) if payload else None


def test_a_job_over_the_bus_from_its_creation_to_its_last_round(tmp_path):
    async def story():
        broker = MemoryBroker()
        devices = [Device(broker, name) for name in "abc"]
        async with Cloud(broker, tmp_path) as cloud:
            await soon(lambda: len(cloud.core.fleet.learners) == 3)
            client = operator(broker)
            view = await client.create(spec(evaluate_every=1))
            assert (view.spec, view.round) == (spec(evaluate_every=1), 1)
            await soon(lambda: cloud.core.jobs[JOB_NAME].state.closed)
            await soon(lambda: job_fact(broker).phase is Phase.COMPLETED)
            for device in devices:
                assert [one.status for one in device.receipts] == [ReceiptStatus.ACCEPTED] * 6
            rows = cloud.views.rounds(JOB_NAME)
            assert [(row.round, row.accepted, row.version) for row in rows] == [
                (1, 3, 1),
                (2, 3, 2),
                (3, 3, 3),
            ]
            assert all(0 < row.aggregate_s <= row.wall_s < 20 for row in rows)
            assert job_fact(broker).at_unix_s == pytest.approx(time.time(), abs=30)
            await client.delete(JOB_NAME)
            assert not [name for name in broker.retained if name.startswith("all/")]
            assert not cloud.offered

    asyncio.run(story())


def test_updates_that_arrive_together_share_one_sync(tmp_path):
    async def story():
        broker = MemoryBroker()
        devices = [Device(broker, name, answers=False) for name in "abc"]
        async with Cloud(broker, tmp_path) as cloud:
            await soon(lambda: len(cloud.core.fleet.learners) == 3)
            await operator(broker).create(spec(rounds=1))
            await soon(lambda: all(device.rounds for device in devices))
            disk = cloud.executor
            disk.batches.clear()
            disk.free.clear()
            for device in devices:
                device.send(device.rounds[0])
            await soon(lambda: len(cloud.core.jobs[JOB_NAME].round.judging) == 3)
            disk.free.set()
            await soon(lambda: all(device.receipts for device in devices))
            assert disk.batches[:2] == [["Judge"], ["Judge", "Judge"]]

    asyncio.run(story())


def test_a_cloud_that_was_killed_goes_on_where_it_was(tmp_path):
    async def story():
        broker = MemoryBroker()
        devices = [Device(broker, name, answers=name != "c") for name in "abc"]
        async with Cloud(broker, tmp_path) as first:
            await soon(lambda: len(first.core.fleet.learners) == 3)
            await operator(broker).create(spec(rounds=1))
            await soon(lambda: all(device.receipts for device in devices[:2]))
        async with Cloud(broker, tmp_path, term=2) as second:
            await soon(lambda: job_fact(broker).term == 2)
            assert job_fact(broker).accepted == 2
            devices[2].send(devices[2].rounds[-1])
            await soon(lambda: second.core.jobs[JOB_NAME].state.closed)
            assert [one.status for one in devices[0].receipts] == ["accepted", "duplicate"], "it asked again"

    asyncio.run(story())


def test_nonsense_on_the_topics_is_counted_and_nothing_else(tmp_path):
    async def story():
        broker = MemoryBroker()
        Device(broker, "a")
        async with Cloud(broker, tmp_path) as cloud:
            await soon(lambda: "a" in cloud.core.fleet.learners)
            stranger = MemoryBus(broker)
            stranger.connect()
            before = cloud.service.counts["unreadable"]
            (part,) = update("a", _fact())
            for name, payload in (
                (UPDATE.at(node="a", job="digits", round="1").name, b"\xc1"),
                (UPDATE.at(node="a", job="digits", round="one").name, encode(part)),
                (UPDATE.at(node="a", job="digits", round="9" * 60).name, encode(part)),
                (UPDATE.at(node="a", job="digits", round="1").name, b"x" * (UPDATE.bytes_max + 1)),
                (LEARNER.at(node="b").name, b"\x80"),
            ):
                stranger.publish(name, payload, qos=1)
            await soon(lambda: cloud.service.counts["unreadable"] == before + 5)
            assert not cloud.task.done()

    asyncio.run(story())


def _fact() -> RoundFact:
    ref = ModelRef(version=0, layout_hash="l", n_params=40, check="c", snapshot="s")
    return RoundFact(job=JOB_NAME, round=1, term=1, phase=Phase.TRAINING, model=ref)


def test_a_later_cloud_on_the_same_bus_silences_this_one(tmp_path):
    async def story():
        broker = MemoryBroker()
        async with Cloud(broker, tmp_path) as cloud:
            other = MemoryBus(broker)
            other.connect()
            other.publish(CLOUD.at().name, encode(CloudPresence(online=True, term=9)), qos=1, retain=True)
            await soon(lambda: cloud.core.fenced)

    asyncio.run(story())


def test_what_can_be_read_while_a_round_is_under_way(tmp_path):
    async def story():
        broker = MemoryBroker()
        devices = [Device(broker, name, answers=False) for name in "abc"]
        async with Cloud(broker, tmp_path) as cloud:
            await soon(lambda: len(cloud.core.fleet.learners) == 3)
            client, views = operator(broker), cloud.views
            with pytest.raises(Refused, match="no-such-job"):
                await client.stop("nobody")
            await client.create(spec())
            await soon(lambda: all(device.rounds for device in devices))
            devices[0].send(devices[0].rounds[0])
            await soon(lambda: devices[0].receipts)
            view = views.round(f"{JOB_NAME}/1")
            assert {row.client: row.status for row in view.clients} == {
                "a": "accepted",
                "b": "asked",
                "c": "asked",
            }
            assert (view.row.phase, view.row.accepted, view.row.asked) == ("training", 1, 3)
            assert views.rounds(JOB_NAME) == [], "none is over"
            assert [one.spec.job for one in views.jobs()] == [JOB_NAME]
            assert views.job(JOB_NAME).phase == "training"
            first = views.learners()[0]
            assert (first.client, first.jobs, first.accepted) == ("a", (JOB_NAME,), 1)
            assert [one.client for one in views.learners("a")] == ["b", "c"]
            for key in ("nobody/1", f"{JOB_NAME}/2", f"{JOB_NAME}/x", f"{JOB_NAME}/{10**30}", JOB_NAME, ""):
                with pytest.raises(NoSuchThing):
                    views.round(key)

    asyncio.run(story())


def test_every_kind_of_query_about_learning_has_a_reader(tmp_path):
    table = LearningViews(Coordinator(1), lambda: 0.0).table()
    kinds = {QueryKind.JOBS, QueryKind.JOB, QueryKind.ROUNDS, QueryKind.ROUND, QueryKind.LEARNERS}
    assert set(table) == kinds
    query = Query(correlation="c", budget_s=1.0, kind=QueryKind.LEARNERS, after="z")
    assert table[QueryKind.LEARNERS](query) == []
    with pytest.raises(NoSuchThing, match="there is no job"):
        table[QueryKind.ROUNDS](Query(correlation="c", budget_s=1.0, kind=QueryKind.ROUNDS, key="x"))
