"""Old samples go a step at a time, each stream by its own rule, and the ledger still knows of them."""

import asyncio
from dataclasses import replace

import msgspec

from broker.memory import MemoryBroker, MemoryBus
from cloud.telemetry.memory import MemoryTelemetry
from cloud.telemetry.retention import (
    DAY_S,
    STEP,
    Keep,
    Listed,
    ListStreams,
    Policy,
    Retention,
    Retire,
    Trim,
    TrimLetters,
    Trimmed,
)
from cloud.telemetry.service import policy_of, retention_service
from cloud.telemetry.store import BatchItem, StreamKey
from shared.config import parse
from shared.core import Failed, Tick
from shared.messages import Sample
from tests.contract.worlds import until

POLICY = Policy(
    Keep(30.0),
    grades={"bulk": Keep(1.0, 1000), "critical": Keep(365.0)},
    streams={"room": Keep(7.0)},
    letters=5,
    every_s=600.0,
)
NOW = 1_000_000_000.0


def test_a_round_is_one_step_after_the_other():
    core = Retention(POLICY)
    assert core.step(Tick(), 0.0) == []
    assert core.step(Tick(), 60.0) == [ListStreams()]
    assert core.step(Tick(), 61.0) == [], "one thing at a time"
    streams = (("n1", "raw", "bulk"), ("n1", "room", "bulk"), ("n2", "alarm", "critical"))
    core.step(Listed(streams, NOW), 61.0)
    raw = Trim("n1", "raw", NOW - DAY_S, 1000)
    assert core.step(Tick(), 62.0) == [raw]
    core.step(Trimmed(raw, STEP), 62.1)
    assert core.step(Tick(), 63.0) == [raw], "there was more"
    core.step(Trimmed(raw, 3), 63.1)
    rest = [Trim("n1", "room", NOW - 7 * DAY_S, 0), Trim("n2", "alarm", NOW - 365 * DAY_S, 0)]
    for work in (*rest, TrimLetters(5), Retire(NOW - 365 * DAY_S)):
        assert core.step(Tick(), 64.0) == [work]
        core.step(Trimmed(work, 0), 64.1)
    assert core.step(Tick(), 600.0) == []
    assert core.step(Tick(), 660.0) == [ListStreams()]
    assert core.deleted == STEP + 3


def test_a_store_that_fails_ends_the_round_and_the_next_one_comes():
    core = Retention(POLICY)
    core.step(Tick(), 0.0)
    core.step(Tick(), 60.0)
    core.step(Failed(ListStreams(), "locked"), 61.0)
    assert core.step(Tick(), 659.0) == []
    assert core.step(Tick(), 660.0) == [ListStreams()]
    assert core.failures == 1


def test_old_samples_leave_the_store_and_the_ledger_keeps_its_counts():
    async def story() -> None:
        store, bus = MemoryTelemetry(), MemoryBus(MemoryBroker())
        bus.connect()
        key = StreamKey("n1", 7, "room")
        for number in range(20):
            at = NOW - number * DAY_S
            packed = msgspec.msgpack.encode([Sample(at, {"x": 1.0})])
            store.ingest([BatchItem(key, number, 1, at, at, packed, at)])
        core = replace(Retention(POLICY), next_round=0.0)
        service = retention_service(core, bus, store, unix_s=lambda: NOW)
        running = asyncio.create_task(service.run())
        await until(lambda: core.deleted == 12)
        running.cancel()
        assert len(store.chunks("n1", "room", 0.0, NOW + 1)) == 8
        assert store.ledger()[0].stored == 20

    asyncio.run(story())


def test_the_policy_is_what_is_configured():
    config = parse(
        """
        [retention]
        every_s = 60.0
        letters = 100
        [retention.default]
        days = 10
        [retention.grades.bulk]
        days = 1
        samples = 5000
        [retention.streams.room]
        days = 2
        """,
        {},
    )
    policy = policy_of(config.retention)
    assert policy.of("room", "bulk") == Keep(2.0)
    assert policy.of("raw", "bulk") == Keep(1.0, 5000)
    assert policy.of("raw", "normal") == Keep(10.0)
    assert (policy.letters, policy.every_s) == (100, 60.0)
