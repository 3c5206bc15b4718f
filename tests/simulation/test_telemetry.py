"""Whatever happens on the way: produced == stored + dropped, nothing twice, nothing promised is lost."""

import copy
import random
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.telemetry import ledger
from cloud.telemetry.core import Ingest
from cloud.telemetry.ledger import exact
from cloud.telemetry.store import BatchItem, Position
from edge.telemetry.events import Durable, Forget
from edge.telemetry.keeping import Keeping
from edge.telemetry.limits import Limits
from edge.telemetry.stream import Stream
from shared.messages import Sample
from shared.ranges import Ranges
from tests.simulation.telemetry import GRADES, Disk, World

STREAMS = sorted(GRADES)
ACTIONS = st.one_of(
    st.tuples(st.just("record"), st.integers(0, 2)),
    st.tuples(st.just("record"), st.integers(0, 2)),
    st.tuples(st.just("work"), st.just(0)),
    st.tuples(st.just("commit"), st.integers(0, 5)),
    st.tuples(st.just("up"), st.integers(0, 20)),
    st.tuples(st.just("down"), st.integers(0, 20)),
    st.tuples(st.just("lose"), st.integers(0, 20)),
    st.tuples(st.just("repeat"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.integers(1, 20)),
    st.tuples(st.just("crash device"), st.integers(0, 2)),
    st.tuples(st.just("crash cloud"), st.integers(0, 1)),
    st.tuples(st.just("blink"), st.just(0)),
    st.tuples(st.just("disk"), st.integers(0, 1)),
)


def act(world: World, what: str, number: int) -> None:
    {
        "record": lambda: world.record(STREAMS[number]),
        "work": world.work_device,
        "commit": lambda: world.work_cloud(fails=number == 5),
        "up": lambda: world.deliver_up(number),
        "down": lambda: world.deliver_down(number),
        "lose": lambda: world.lose(number),
        "repeat": lambda: world.repeat(number),
        "wait": lambda: world.wait(number / 2),
        "crash device": lambda: world.crash_device(number),
        "crash cloud": lambda: world.crash_cloud(committed=bool(number)),
        "blink": world.blink,
        "disk": lambda: setattr(world.disk, "full", bool(number)),
    }[what]()


def stored(world: World) -> list[tuple[int, str, int, float]]:
    """Every sample in the store: epoch, stream, sequence, what it says."""
    found = []
    for (key, first), chunk in world.store._chunks.items():
        samples = msgspec.msgpack.decode(chunk.samples, type=list[Sample])
        assert len(samples) == chunk.end - first
        found += [
            (key.epoch, key.stream, first + place, one.values["x"]) for place, one in enumerate(samples)
        ]
    return found


def run(history: Sequence[tuple[str, int]], seed: int) -> World:
    """A history, then peace; everything that is promised is checked."""
    world = World(seed=seed)
    for what, number in history:
        act(world, what, number)
        held = sum(stream.bytes for stream in world.device.streams.values())
        assert held <= world.limits.bytes_max or world.device.keeping.discarding, "it grows over its cap"
    world.heal()
    rows = world.store.ledger()
    assert all(map(exact, rows))
    assert [row for row in rows if row.settled != row.produced or row.ahead] == [], "something is missing"
    assert all(row.produced == row.stored + row.dropped + row.lost + row.dead for row in rows)
    samples = stored(world)
    assert len({value for *_, value in samples}) == len(samples) == sum(row.stored for row in rows)
    unstored = world.promised - {one[:3] for one in samples}
    assert len(unstored) <= sum(row.dropped for row in rows), "promised, and neither stored nor dropped"
    return world


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTIONS, min_size=20, max_size=120), st.integers(0, 1000))
def test_the_ledger_is_exact_whatever_happened(history, seed):
    run(history, seed)


def random_history(seed: int) -> list[tuple[str, int]]:
    chance = random.Random(seed)
    often = ["record"] * 6 + ["work"] * 4 + ["commit"] * 3 + ["up"] * 4 + ["down"] * 3
    rare = ["lose", "repeat", "wait", "wait", "crash device", "crash cloud", "blink", "disk"]
    most = {"record": 2, "commit": 5, "wait": 20, "crash device": 2, "crash cloud": 1, "disk": 1}
    return [(what, chance.randint(0, most.get(what, 20))) for what in chance.choices(often + rare, k=150)]


def test_hundreds_of_long_histories():
    worlds = [run(random_history(seed), seed) for seed in range(200)]
    rows = [row for world in worlds for row in world.store.ledger()]
    for fate in ("stored", "dropped", "lost", "duplicates"):
        assert sum(getattr(row, fate) for row in rows) > 0, f"no history led to {fate}"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_thousands_of_long_histories():
    for seed in range(10_000, 30_000):
        run(random_history(seed), seed)


BUGS = {}


def bug(plant: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    BUGS[plant.__name__] = plant
    return plant


@bug
def the_cloud_acknowledges_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    take = Ingest._take

    def hasty(self: Ingest, items, size, now):
        acks = [
            Position(item.key, settled=item.first + item.count, produced=item.first + item.count)
            for item in items
            if isinstance(item, BatchItem)
        ]
        return [*take(self, items, size, now), *self._acks(acks, {})]

    patch.setattr(Ingest, "_take", hasty)


@bug
def the_store_forgets_what_it_has_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "_known", lambda position: ((0, 0),))


@bug
def the_device_sends_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    record = Keeping.record

    def hasty(self: Keeping, name, sample, now):
        effects = record(self, name, sample, now)
        stream = self.streams[self.epoch, name]
        stream.durable = stream.produced
        return [*effects, Durable(stream.id, 0, stream.produced)]

    patch.setattr(Keeping, "record", hasty)


@bug
def a_boot_without_memory_gets_the_number_of_the_one_before(patch: pytest.MonkeyPatch) -> None:
    def boot(self: World) -> None:
        self.epoch, self.disk = 0, Disk()
        ours(self)

    ours = World.boot
    patch.setattr(World, "boot", boot)


@bug
def nobody_sends_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stream, "expired", lambda self, now: False)
    patch.setattr(Stream, "asked", lambda self, missing, now: None)


@bug
def what_was_dropped_is_not_reported(patch: pytest.MonkeyPatch) -> None:
    report = Stream.report
    patch.setattr(Stream, "report", lambda self: msgspec.structs.replace(report(self), dropped=()))
    patch.setattr(Stream, "asked", lambda self, missing, now: None)


@bug
def the_disk_forgets_what_is_not_acknowledged(patch: pytest.MonkeyPatch) -> None:
    def forget(self: Disk, effect: Forget) -> None:
        self.pieces[effect.id] = []

    patch.setattr(Disk, "forget", forget)


@bug
def a_report_settles_what_is_still_under_way(patch: pytest.MonkeyPatch) -> None:
    """And takes it back when it arrives: the ledger counts it twice."""

    def known(position: Position) -> Ranges:
        return ((0, position.settled - position.dropped), *position.ahead)

    patch.setattr(ledger, "_known", known)


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name, monkeypatch):
    BUGS[name](monkeypatch)
    assert any(fails(seed) for seed in range(200))


def fails(seed: int) -> bool:
    try:
        run(random_history(seed), seed)
    except AssertionError:
        return True
    return False


def test_what_was_recorded_before_a_quiet_night_is_all_there():
    world = World(Limits(bytes_max=10_000))
    for number in range(60):
        world.record(STREAMS[number % 2])
    world.heal()
    assert sum(row.stored for row in world.store.ledger()) == 60
    assert not any(row.dropped or row.lost for row in world.store.ledger())


@pytest.mark.parametrize("seed", [1234, 1488, 1522, 2265, 3262, 3470, 15166])
def test_a_history_that_once_lost_something(seed):
    """A report of an earlier boot that was overtaken says that something is held which is long gone; a look
    that failed; a batch of which only a part was asked for again."""
    run(random_history(seed), seed)


def test_a_device_that_lost_its_disk_owns_up_and_the_gap_is_closed():
    world = World()
    for _ in range(8):
        world.record("room")
    for _ in range(4):
        world.work_device()
    world.wait(0.5)
    assert len(world.up) > 2
    world.deliver_up(len(world.up) - 1)  # the last batch overtakes the others, which never arrive
    world.work_cloud()
    world.up.clear()
    world.disk.pieces.clear()
    world.crash_device(0)
    world.heal()
    (row,) = world.store.ledger()
    assert row.lost > 0
    assert row.produced == row.stored + row.lost


def test_a_cloud_restored_from_a_backup_knows_what_it_lost():
    world = World(Limits(bytes_max=10_000))
    for _ in range(10):
        world.record("room")
    world.heal()
    backup = copy.deepcopy(world.store)
    for _ in range(10):
        world.record("room")
    world.heal()
    world.store = backup
    world.start_cloud()
    for _ in range(10):
        world.record("room")
    world.heal()
    (row,) = world.store.ledger()
    assert (row.produced, row.stored, row.lost) == (30, 20, 10)
    assert exact(row)


def test_two_workers_may_get_the_same_message():
    world = World(Limits(bytes_max=10_000))
    other = World()
    other.store = world.store
    for number in range(60):
        world.record("room")
        world.work_device()
        world.repeat(number)
        if number % 2 and world.up:  # the other worker hears a copy of what this one will hear
            other.up.append(world.up[0])
            other.deliver_up(0)
            other.work_cloud()
    world.heal()
    (row,) = world.store.ledger()
    assert (row.produced, row.stored, row.dropped, row.lost) == (60, 60, 0, 0)
    assert row.duplicates > 0
    assert len(stored(world)) == 60
