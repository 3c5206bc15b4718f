"""The telemetry store in both databases, beside the one in memory that says what it means."""

import threading
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event

from cloud.store.database import StoreFailed
from cloud.store.store import Store
from cloud.store.tables import CHUNKS, LETTERS, POSITIONS
from cloud.store.telemetry import NARROW_S
from cloud.telemetry.ledger import exact
from cloud.telemetry.memory import MemoryTelemetry
from cloud.telemetry.store import BatchItem, Letter, Place, ReportItem, StreamKey
from shared.messages import Sample

KEY = StreamKey("berlin", 7, "machine")


def batch(first, count=1, key=KEY, at=None, span=0.0, dead=()):
    start = 1000.0 + first if at is None else at
    times = [start + span * place / max(1, count - 1) for place in range(count)]
    samples = msgspec.msgpack.encode([Sample(one, {"n": first + place}) for place, one in enumerate(times)])
    return BatchItem(key, first, count, times[0], times[-1], samples, 50.0 + first, dead)


def emptied(store):
    with store._database.transaction() as connection:
        for table in (POSITIONS, CHUNKS, LETTERS):
            connection.execute(delete(table))
    return store.telemetry


# The same as in memory ------------------------------------------------------------------------------

keys = st.builds(
    StreamKey, st.sampled_from(["a", "a-1", "b"]), st.sampled_from([0, 5, 6]), st.sampled_from(["s", "t"])
)
ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=3).map(
    lambda pairs: tuple((first, first + length) for first, length in pairs)
)
batches = st.builds(
    lambda key, first, count, at, span, dead: batch(
        first, count, key, at, span, tuple(one for one in dead if one < count)
    ),
    keys,
    st.integers(0, 40),
    st.integers(1, 6),
    st.sampled_from([0.0, 90.0, 100.0, 5000.0, 9e9]),
    st.sampled_from([0.0, 10.0, NARROW_S, NARROW_S + 1, 1e6]),
    st.sets(st.integers(0, 5), max_size=2),
)
reports = st.builds(ReportItem, keys, st.integers(0, 50), st.just(60.0), ranges, ranges)
dead_letters = st.builds(
    Letter,
    st.sampled_from(["a", "b"]),
    st.just("s"),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.just(1.0),
).map(lambda letter: replace(letter, reason=letter.reason.replace("\0", "")))
steps = st.one_of(
    st.tuples(st.just("ingest"), st.lists(st.one_of(batches, batches, reports, dead_letters), max_size=8)),
    st.tuples(
        st.just("trim"), st.sampled_from(["a", "b"]), st.sampled_from([0.0, 95.0, 6000.0]), st.integers(0, 9)
    ),
    st.tuples(st.just("trim_letters"), st.integers(0, 3), st.integers(1, 2)),
    st.tuples(st.just("retire"), st.sampled_from([0.0, 70.0, 200.0]), st.integers(1, 3)),
)


def took(telemetry, step):
    match step:
        case "ingest", items:
            return telemetry.ingest(items)
        case "trim", node, before, most, *at_once:
            return telemetry.trim(node, "s", before, most, *at_once)
        case "trim_letters", keep, limit:
            return telemetry.trim_letters(keep, limit)
        case "retire", before, limit:
            return telemetry.retire(before, limit)


def seen(telemetry):
    """Everything that can be asked, with letters without their numbers."""
    everything = [
        telemetry.chunks(node, stream, since, until, limit=1000)
        for node in ("a", "a-1", "b")
        for stream in ("s", "t")
        for since, until in ((0.0, 1e10), (95.0, 101.0), (4000.0, 6000.0), (0.0, 0.0))
    ]
    letters = [[replace(one, number=0) for one in telemetry.letters(node)] for node in ("", "a")]
    return telemetry.ledger(), telemetry.ledger("a"), set(telemetry.unsettled()), everything, letters


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(story=st.lists(steps, max_size=8))
def test_any_history_leaves_what_it_leaves_in_memory(store, story):
    real, fake = emptied(store), MemoryTelemetry()
    for step in story:
        assert took(real, step) == took(fake, step)
    assert seen(real) == seen(fake)
    assert all(map(exact, real.ledger()))


boots = st.lists(  # batches of two boots of one device that follow each other, as they nearly always do
    st.tuples(st.sampled_from([5, 6]), st.integers(1, 4), st.sampled_from([0.0, 1e4])), min_size=2, max_size=9
)
retention = st.lists(
    st.one_of(
        st.tuples(
            st.just("trim"),
            st.just("a"),
            st.sampled_from([0.0, 1004.0, 9e9]),
            st.integers(0, 12),
            st.integers(1, 4),
        ),
        st.tuples(st.just("retire"), st.sampled_from([51.0, 9e9]), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=8,
)


def following(arrivals):
    ends = {5: 0, 6: 0}
    for epoch, count, span in arrivals:
        yield batch(ends[epoch], count, StreamKey("a", epoch, "s"), span=span)
        ends[epoch] += count


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(arrivals=boots, steps=retention)
def test_retention_takes_what_it_takes_in_memory(store, arrivals, steps):
    real, fake = emptied(store), MemoryTelemetry()
    items = list(following(arrivals))
    assert real.ingest(items) == fake.ingest(items)
    for step in steps:
        assert took(real, step) == took(fake, step)
    assert seen(real) == seen(fake)


# One by one -----------------------------------------------------------------------------------------


def test_the_group_is_made_once_and_is_the_same_for_every_process(store, url):
    group = store.telemetry.telemetry_group()
    other = Store.open(url)
    assert other.telemetry.telemetry_group() == group
    other.close()
    assert len(group) == 16
    assert int(group, 16) > 0


def test_pages_follow_each_other_without_a_gap(store):
    items = [batch(n, span=s, at=1000.0 + n % 7) for n, s in zip(range(40), [0.0, 1e5] * 20, strict=True)]
    for item in items:  # one by one: a chunk for each
        store.telemetry.ingest([item])
    pages, place = [], None
    while page := store.telemetry.chunks("berlin", "machine", 0.0, 1e9, place, limit=7):
        pages += page
        place = Place(page[-1].at_min_unix_s, page[-1].key.epoch, page[-1].first)
    assert sorted(one.first for one in pages) == list(range(40))
    assert [one.at_min_unix_s for one in pages] == sorted(one.at_min_unix_s for one in pages)
    ledger, after = [], None
    store.telemetry.ingest([batch(0, key=StreamKey(node, 1, "s")) for node in ("a", "a-b", "ab", "b-")])
    while page := store.telemetry.ledger(after=after, limit=2):
        ledger += page
        after = page[-1].key
    assert [one.key for one in ledger] == sorted(one.key for one in ledger)
    assert len(ledger) == 5


def test_a_question_about_one_hour_looks_at_little_more_than_that_hour(store, engine_name):
    store.telemetry.ingest([batch(n, at=n * 600.0, span=60.0, count=2) for n in range(0, 2000, 2)])
    with store._database.snapshot() as connection:
        explain = "EXPLAIN QUERY PLAN" if engine_name == "sqlite" else "EXPLAIN"
        if engine_name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # few rows: it would rather read all
        plans = []

        def listen(_, cursor, statement, parameters, *__):
            if statement.startswith("SELECT telemetry_chunks"):
                cursor.execute(f"{explain} {statement}", parameters)
                plans.append(str(cursor.fetchall()))

        engine = store._database._engine
        event.listen(engine, "before_cursor_execute", listen)
        try:
            store.telemetry.chunks("berlin", "machine", 600_000.0, 603_600.0)
        finally:
            event.remove(engine, "before_cursor_execute", listen)
    assert len(plans) == 2
    for plan in plans:
        assert "at_min_unix_s" in plan, plan
        assert "SCAN telemetry_chunks" not in plan
        assert "Seq Scan" not in plan
        assert "TEMP B-TREE" not in plan  # the index gives the order
        assert "Sort" not in plan


def test_many_workers_may_hand_in_the_same_batches_at_once(store, url):
    """Each sample is stored once, whoever brings it, and every count adds up."""
    stores = [Store.open(url) for _ in range(4)]
    keys = [StreamKey(f"n{n}", 1, "s") for n in range(5)]
    failures = []

    def work(one, turn):
        try:
            for first in range(0, 60, 3):
                one.telemetry.ingest([batch(first, 3, key=key) for key in keys[turn:] + keys[:turn]])
        except StoreFailed as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(one, turn)) for turn, one in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for position in store.telemetry.ledger():
        assert (position.stored, position.settled, position.duplicates) == (60, 60, 180)
    for key in keys:
        held = store.telemetry.chunks(key.node, "s", 0.0, 1e9, limit=1000)
        assert [one.first for one in held] == list(range(0, 60, 3))
    for one in stores:
        one.close()


def test_a_batch_that_the_database_refuses_takes_nothing_with_it(store):
    store.telemetry.ingest([batch(0)])
    before = store.telemetry.ledger()
    with pytest.raises(StoreFailed):
        store.telemetry.ingest([batch(1), batch(2**63)])
    assert store.telemetry.ledger() == before
    assert len(store.telemetry.chunks("berlin", "machine", 0.0, 1e12)) == 1


def test_the_largest_numbers_and_the_strangest_times_are_kept(store):
    key = KEY._replace(epoch=2**63 - 1)
    store.telemetry.ingest([batch(2**62, key=key, at=-1e300, span=0.0), batch(2**62 + 1, key=key, at=1e300)])
    assert [one.at_min_unix_s for one in store.telemetry.chunks("berlin", "machine", -1e308, 1e308)] == [
        -1e300,
        1e300,
    ]
