"""Questions about telemetry: the right points for any range and interval, and nothing a store can't bear."""

import asyncio
from collections import defaultdict
from math import floor

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.memory import MemoryBroker, MemoryBus
from cloud.client import Fleet
from cloud.history import query
from cloud.history.core import READING_MAX, AskArrived, Found, History, Read
from cloud.history.query import series
from cloud.history.service import answer, history_service, key_of, name_of
from cloud.telemetry.memory import MemoryTelemetry
from cloud.telemetry.store import BatchItem, StreamKey
from shared.core import Failed, LinkUp, Publish, Tick
from shared.errors import Refused
from shared.messages import ReplyStatus, Sample
from shared.telemetry import TelemetryAsk, TelemetryKind

FOREVER = 1e12


def put(
    store: MemoryTelemetry,
    *samples: tuple[float, float],
    first: int = 0,
    epoch: int = 7,
    stream: str = "room",
):
    """Samples (time, value) of one batch."""
    packed = msgspec.msgpack.encode([Sample(at, {"x": value}) for at, value in samples])
    times = [at for at, _ in samples]
    key = StreamKey("n1", epoch, stream)
    store.ingest([BatchItem(key, first, len(samples), min(times), max(times), packed, 1.0)])


BATCHES = st.lists(
    st.lists(st.tuples(st.integers(0, 60).map(float), st.integers(-5, 5).map(float)), min_size=1, max_size=6),
    max_size=12,
)


def filled(batches) -> tuple[MemoryTelemetry, list[tuple[float, float]]]:
    store, first = MemoryTelemetry(), 0
    for number, batch in enumerate(batches):
        put(store, *batch, first=first, epoch=1 + number % 3)
        first += len(batch)
    return store, [sample for batch in batches for sample in batch]


@settings(deadline=None)
@example([[(1.0, 0.0)], [(0.0, 0.0), (0.0, 0.0)]], 0, 2, 1)
@given(BATCHES, st.integers(0, 60), st.integers(0, 60), st.integers(1, 20))
def test_single_samples_are_all_found_page_by_page(batches, since, until, limit):
    store, everything = filled(batches)
    found, begin = [], float(since)
    for _ in range(200):
        page = series(store, "n1", "room", begin, float(until), 0.0, limit)
        found += [(point.at_unix_s, point.values["x"][1]) for point in page.points]
        begin = page.next_unix_s
        if not begin:
            break
    assert [at for at, _ in found] == sorted(at for at, _ in found)
    assert sorted(found) == sorted(one for one in everything if since <= one[0] < until)


@settings(deadline=None)
@given(
    BATCHES,
    st.integers(0, 60),
    st.integers(0, 60),
    st.sampled_from([0.5, 1.0, 7.0, 100.0]),
    st.integers(1, 9),
)
def test_intervals_are_what_a_naive_loop_makes_of_them(batches, since, until, every_s, limit):
    store, everything = filled(batches)
    expected: dict[int, list[float]] = defaultdict(list)
    for at, value in everything:
        if since <= at < until:
            expected[floor(at / every_s)].append(value)
    page = series(store, "n1", "room", float(since), float(until), every_s, limit)
    numbers = sorted(expected)
    assert [point.at_unix_s for point in page.points] == [number * every_s for number in numbers[:limit]]
    for point, number in zip(page.points, numbers, strict=False):
        values = expected[number]
        least, mean, most = point.values["x"]
        assert (point.count, least, most) == (len(values), min(values), max(values))
        assert mean == pytest.approx(sum(values) / len(values))
    assert page.next_unix_s == (numbers[limit] * every_s if len(numbers) > limit else 0.0)


def test_more_chunks_than_a_page_are_read_on(monkeypatch):
    monkeypatch.setattr(query, "PAGE_CHUNKS", 3)
    store, everything = filled([[(float(n), 1.0)] for n in range(50)])
    assert len(series(store, "n1", "room", 0.0, FOREVER, 0.0, 1000).points) == len(everything)


def test_a_question_that_would_read_for_ever_is_answered_in_part(monkeypatch):
    monkeypatch.setattr(query, "SCANNED_MAX", 20)
    store, _ = filled([[(float(n), 1.0), (n + 0.5, 1.0)] for n in range(50)])
    page = series(store, "n1", "room", 0.0, FOREVER, 1.0, 1000)
    assert all(point.count == 2 for point in page.points), "only whole intervals"
    assert page.next_unix_s == page.points[-1].at_unix_s + 1.0


def test_fields_come_and_go():
    store = MemoryTelemetry()
    packed = msgspec.msgpack.encode([Sample(1.0, {"a": 1.0}), Sample(2.0, {"a": 3.0, "b": 5.0})])
    store.ingest([BatchItem(StreamKey("n1", 7, "room"), 0, 2, 1.0, 2.0, packed, 1.0)])
    (point,) = series(store, "n1", "room", 0.0, FOREVER, 60.0, 9).points
    assert point.values == {"a": (1.0, 2.0, 3.0), "b": (5.0, 5.0, 5.0)}


# The core -------------------------------------------------------------------------------------------------


def ask(kind: TelemetryKind = TelemetryKind.SERIES, **fields) -> TelemetryAsk:
    if kind is TelemetryKind.SERIES:
        fields = {"node": "n1", "stream": "room", **fields}
    return TelemetryAsk(correlation="c1", budget_s=1.0, kind=kind, **fields)


@pytest.mark.parametrize(
    "bad",
    [
        ask(node="Node"),
        ask(node=""),
        ask(stream="a/b"),
        ask(limit=0),
        ask(limit=5001),
        ask(every_s=-1.0),
        ask(every_s=float("nan")),
        ask(since_unix_s=float("inf")),
        ask(until_unix_s=float("nan")),
        ask(TelemetryKind.LEDGER, limit=1001),
        ask(TelemetryKind.LETTERS, node="../x"),
    ],
)
def test_a_question_without_sense_is_refused_at_once(bad):
    (effect,) = History().step(AskArrived("app", bad), 0.0)
    assert isinstance(effect, Publish)
    assert (effect.message.status, effect.message.code) == (ReplyStatus.REFUSED, "bad-request")


def test_only_so_many_questions_are_read_at_once():
    core = History()
    for _ in range(READING_MAX):
        assert isinstance(core.step(AskArrived("app", ask()), 0.0)[0], Read)
    (refusal,) = core.step(AskArrived("app", ask()), 0.0)
    assert refusal.message.code == "overloaded"
    (reply,) = core.step(Found("app", "c1", msgspec.Raw(b"\xc0")), 0.0)
    assert (reply.message.correlation, reply.message.status) == ("c1", ReplyStatus.OK)
    assert isinstance(core.step(AskArrived("app", ask()), 0.0)[0], Read)
    (failed,) = core.step(Failed(Read("app", ask()), "disk"), 0.0)
    assert failed.message.code == "not-stored"
    (big,) = core.step(Found("app", "c1", msgspec.Raw(bytes(2 << 20))), 0.0)
    assert big.message.code == "too-large"
    assert core.step(Tick(), 0.0) == core.step(LinkUp(False), 0.0) == []
    core.check()


def test_the_ledger_comes_in_pages():
    store = MemoryTelemetry()
    for number in range(7):
        put(store, (1.0, 1.0), stream=f"s{number}")
    seen, after = [], ""
    while True:
        page = answer(store, ask(TelemetryKind.LEDGER, limit=3, after=after))
        seen += [row.stream for row in page.rows]
        after = page.next
        if not after:
            break
    assert seen == [f"s{number}" for number in range(7)]
    assert key_of(name_of(StreamKey("n1", 7, "room"))) == StreamKey("n1", 7, "room")
    assert key_of("") is key_of("n1/x/room") is key_of("n1/7/") is None


def test_over_the_bus_with_the_applications_client():
    async def story() -> None:
        broker, store = MemoryBroker(), MemoryTelemetry()
        put(store, (1.0, 1.0), (2.0, 2.0))
        ours, theirs = MemoryBus(broker), MemoryBus(broker)
        service = asyncio.create_task(history_service(History(), ours, store).run())
        ours.connect()
        theirs.connect()
        await asyncio.sleep(0)
        fleet = Fleet(theirs, "app", budget_s=2.0)
        assert [point.at_unix_s for point in (await fleet.telemetry("n1", "room")).points] == [1.0, 2.0]
        (row,) = await fleet.ledger()
        assert (row.stored, row.exact) == (2, True)
        assert await fleet.letters() == []
        with pytest.raises(Refused, match="bad-request"):
            await fleet.telemetry("n1", "room", limit=0)
        fleet.close()
        service.cancel()

    asyncio.run(story())
