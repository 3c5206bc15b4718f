"""Each sequence gets one fate, whatever comes when: compared with a set that remembers everything."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.telemetry.arrivals import SAMPLES_MAX, batch_items, letter, report_items
from cloud.telemetry.ledger import exact, gaps, missing, settle
from cloud.telemetry.memory import MemoryTelemetry
from cloud.telemetry.store import AHEAD_MAX, LETTER_BYTES_MAX, BatchItem, Letter, ReportItem, StreamKey
from shared.messages import Sample, StreamReport, StreamsReport, TelemetryBatch
from shared.ranges import size, subtract, union, within

KEY = StreamKey("n1", 7, "room")
RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


def batch(first: int, count: int, dead: tuple[int, ...] = (), key: StreamKey = KEY) -> BatchItem:
    samples = [Sample(float(number), {"x": float(number)}) for number in range(first, first + count)]
    packed = msgspec.msgpack.encode(samples)
    return BatchItem(key, first, count, float(first), float(first + count - 1), packed, 9.0, dead)


ITEMS = st.lists(
    st.one_of(
        st.builds(batch, st.integers(0, 30), st.integers(1, 8), st.just(())),
        st.builds(batch, st.integers(0, 30), st.just(5), st.sets(st.integers(0, 4)).map(tuple)),
        st.builds(
            lambda dropped, lost: ReportItem(KEY, 0, 9.0, union((), dropped), union((), lost)), RANGES, RANGES
        ),
    ),
    max_size=20,
)


@given(ITEMS, st.integers(1, 5))
def test_it_is_what_a_set_that_remembers_everything_says(items, together):
    store = MemoryTelemetry()
    fate: dict[int, str] = {}
    twice = 0
    for start in range(0, len(items), together):
        store.ingest(items[start : start + together])
    for item in items:
        if isinstance(item, ReportItem):
            for name, ranges in (("dropped", item.dropped), ("lost", item.lost)):
                for first, end in ranges:
                    for number in range(first, end):
                        fate.setdefault(number, name)
            continue
        for place in range(item.count):
            twice += item.first + place in fate
            fate.setdefault(item.first + place, "dead" if place in item.dead else "stored")

    for row in store.ledger():
        assert exact(row)
        counts = {name: sum(one == name for one in fate.values()) for name in ("stored", "dropped", "lost")}
        assert (row.stored, row.dropped, row.lost) == tuple(counts.values())
        assert row.duplicates == twice
        settled = union(((0, row.settled),), row.ahead)
        assert {number for first, end in settled for number in range(first, end)} == set(fate)
        assert size(missing(row)) == row.produced - len(fate)
        assert gaps(row) == within(missing(row), 0, row.ahead[-1][1] if row.ahead else 0)
    held = [
        (chunk.first + place, sample.values["x"])
        for chunk in store.chunks("n1", "room", 0.0, 1e9)
        for place, sample in enumerate(msgspec.msgpack.decode(chunk.samples, type=list[Sample]))
    ]
    assert sorted(held) == [(number, float(number)) for number in sorted(fate) if fate[number] == "stored"]


def test_a_chunk_of_a_partly_known_batch_says_when_its_own_samples_are():
    store = MemoryTelemetry()
    store.ingest([batch(0, 5)])
    (chunk,) = store.ingest([batch(2, 6)]).chunks
    assert (chunk.first, chunk.end, chunk.at_min_unix_s, chunk.at_max_unix_s) == (5, 8, 5.0, 7.0)


def test_a_stream_may_not_become_too_scattered():
    store = MemoryTelemetry()
    outcome = store.ingest([batch(2 * number + 1, 1) for number in range(AHEAD_MAX + 10)])
    assert outcome.refused == 10
    (row,) = store.ledger()
    assert len(row.ahead) == AHEAD_MAX
    assert exact(row)
    report = ReportItem(KEY, 0, 9.0, dropped=tuple((n, n + 1) for n in range(3000, 3400, 2)))
    store.ingest([report])
    assert store.ledger()[0].dropped == 0, "it is said again when the gaps are closed"
    store.ingest([batch(0, 2 * AHEAD_MAX), report])
    assert store.ledger()[0].dropped == 200


def test_samples_without_numbers_are_numbered_as_they_come():
    store, plain = MemoryTelemetry(), StreamKey("n1", 0, "room")
    store.ingest([batch(0, 2, key=plain), batch(0, 3, key=plain)])
    store.ingest([batch(40, 1, key=plain)])
    (row,) = store.ledger()
    assert (row.settled, row.stored, row.duplicates) == (6, 6, 0)


def test_settling_nothing_changes_nothing():
    assert settle({}, []).positions == ()
    letters = [Letter("n1", "room", "why", b"", 1.0)]
    assert settle({}, letters).letters == tuple(letters)


# From the network -----------------------------------------------------------------------------------------


def told(*samples: Sample, epoch: int = 7, first: int = 40):
    return batch_items("n1", "room", TelemetryBatch(epoch=epoch, first=first, samples=samples), 1000.0)


def test_a_batch_becomes_an_item_with_the_times_of_its_samples():
    (item,) = told(Sample(5.0, {"x": 1.0}), Sample(0.0, {"x": 2.0}), Sample(7.0, {"x": 3.0}))
    assert (item.key, item.first, item.count) == (KEY, 40, 3)
    assert (item.at_min_unix_s, item.at_max_unix_s) == (5.0, 1000.0)
    assert msgspec.msgpack.decode(item.samples, type=list[Sample])[1] == Sample(1000.0, {"x": 2.0})


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (Sample(1.0, {"x": float("nan")}), "not finite"),
        (Sample(1.0, {"x": float("inf")}), "not finite"),
        (Sample(1.0, {}), "0 fields"),
        (Sample(1.0, {str(number): 1.0 for number in range(65)}), "65 fields"),
        (Sample(1.0, {"": 1.0}), "no name"),
        (Sample(1.0, {"x" * 65: 1.0}), "no name"),
        (Sample(1.0, {"a\nb": 1.0}), "no name"),
        (Sample(-1.0, {"x": 1.0}), "time"),
        (Sample(float("nan"), {"x": 1.0}), "time"),
        (Sample(1e12, {"x": 1.0}), "time"),
    ],
)
def test_a_sample_that_does_not_fit_is_a_dead_letter_and_the_others_are_stored(bad, why):
    items = told(Sample(1.0, {"x": 1.0}), bad, Sample(3.0, {"x": 3.0}))
    store = MemoryTelemetry()
    store.ingest(items)
    (row,) = store.ledger()
    assert (row.stored, row.dead, exact(row)) == (2, 1, True)
    (dead,) = store.letters()
    assert why in dead.reason
    assert (dead.epoch, dead.first, dead.end) == (7, 41, 42)
    assert [chunk.at_max_unix_s for chunk in store.chunks("n1", "room", 0.0, 1e9)] == [1.0, 3.0]


def test_numbers_that_no_database_holds_and_batches_that_are_too_long_are_letters():
    one = Sample(1.0, {"x": 1.0})
    for items in (told(one, epoch=1 << 63), told(one, first=-1), told(*[one] * (SAMPLES_MAX + 1))):
        (item,) = items
        assert isinstance(item, Letter)
    assert told() == ()


def test_a_letter_is_readable_and_bounded():
    one = letter("n1", "room", "bad \x00\x1b[31m" + "x" * 1000, b"y" * 100_000, 1.0)
    assert one.reason.startswith("bad ??[31m")
    assert len(one.reason) == 500
    assert len(one.payload) == LETTER_BYTES_MAX


@given(
    st.lists(st.tuples(st.integers(-5, 2**63), st.integers(-5, 2**63)), max_size=5), st.integers(-5, 2**63)
)
def test_a_report_that_can_not_be_meant_is_left_out(ranges, epoch):
    one = StreamReport(epoch=epoch, stream="room", produced=10, dropped=tuple(ranges))
    items = report_items("n1", StreamsReport(epoch=7, streams=(one,)), 1.0)
    for item in items:
        assert item.key.epoch > 0
        assert all(0 <= first < end <= 1 << 62 for first, end in item.dropped)
    assert (
        report_items(
            "n1", StreamsReport(epoch=7, streams=(msgspec.structs.replace(one, stream="../x"),)), 1.0
        )
        == ()
    )


# Ranges ---------------------------------------------------------------------------------------------------


def members(ranges) -> set[int]:
    return {number for first, end in ranges for number in range(first, end)}


@given(RANGES, RANGES, st.integers(0, 40), st.integers(0, 40))
def test_ranges_are_sets(ours, theirs, first, end):
    normal = union((), ours)
    assert members(normal) == members(ours)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(normal))
    assert members(union(normal, theirs)) == members(ours) | members(theirs)
    assert members(subtract(normal, theirs)) == members(ours) - members(theirs)
    assert members(within(normal, first, end)) == members(ours) & set(range(first, end))
    assert size(normal) == len(members(ours))
