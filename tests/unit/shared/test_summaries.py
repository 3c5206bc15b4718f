"""Two replicas find every difference, and find out cheaply that there is none."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.lanes import Lane
from shared.peers import Heard, Peer
from shared.summaries import Replica
from shared.sync import Digest, Pull, Push, Walk
from shared.versions import Entry, fields_in, packed_entry, written
from shared.wire import packed

CLOUD, DEVICE = "@", "n1"


def entry(name: str, value: object, origin: str, sequence: int) -> Entry:
    return written(Entry(name), (origin, 1, sequence), sequence, fields_in(value))


class Side:
    """One side of the conversation, on whose disk everything is at once."""

    def __init__(self, origin: str) -> None:
        self.origin, self.replica = origin, Replica()
        self.peer = Peer(
            self.replica,
            Lane(lambda: 0.5, online=True),
            set(),
            1,
            "desired/" if origin == CLOUD else "reported/",
        )

    def hold(self, *entries: Entry) -> None:
        for one in entries:
            self.replica.put(one)
            self.peer.names.add(one.name)

    def hears(self, part: object) -> list[object]:
        match part:
            case Push(entries=entries):
                for one in entries:
                    self.replica.merge(one)
                    self.peer.names.add(one.name)
            case Digest():
                parts = self.peer.compare(part, 0.0)
                return parts + ([self.peer.digest(asking=False, stamp=0)] if part.asking else [])
            case Walk():
                return self.peer.walk(part, 0.0)
            case Pull(names=names):
                self.peer.repair(names, 0.0)
        return []

    def sends(self) -> list[Push]:
        return [one for one in self.peer.pump(0.0, lambda _: "", lambda _: b"") if isinstance(one, Push)]


def round_of(device: Side, cloud: Side, lose: float = 0.0, chance: Random | None = None) -> int:
    """One round of anti-entropy, to its end; the bytes that moved."""
    moved = 0
    waiting: list[tuple[Side, object]] = [(cloud, device.peer.digest(asking=True, stamp=0))]
    while waiting:
        to, part = waiting.pop(0)
        moved += len(bytes(packed(part)))
        if chance is not None and chance.random() < lose:
            continue
        other = device if to is cloud else cloud
        waiting += [(other, answer) for answer in to.hears(part)]
        for side, its_peer in ((device, cloud), (cloud, device)):
            side.peer.lane.flights.clear()
            waiting += [(its_peer, push) for push in side.sends()]
    return moved


def same(device: Side, cloud: Side) -> bool:
    return device.peer.tree().root == cloud.peer.tree().root


writes = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 3), st.sampled_from(["cloud", "device", "both"])),
    max_size=80,
)


def two_sides(history: list[tuple[int, int, str]]) -> tuple[Side, Side]:
    device, cloud = Side(DEVICE), Side(CLOUD)
    for sequence, (key, value, where) in enumerate(history, 1):
        origin = DEVICE if where == "device" else CLOUD
        one = entry(f"k{key}", value, origin, sequence)
        for side in (device, cloud):
            if where == "both" or side.origin == origin:
                side.hold(one)
    return device, cloud


@settings(max_examples=150, deadline=None)
@given(writes)
def test_two_rounds_make_any_two_replicas_the_same(history):
    device, cloud = two_sides(history)
    for _ in range(2):
        round_of(device, cloud)
    assert same(device, cloud)
    assert {name: packed_entry(one) for name, one in device.replica.entries.items()} == {
        name: packed_entry(one) for name, one in cloud.replica.entries.items()
    }


@pytest.mark.parametrize("seed", range(5))
def test_what_was_lost_in_the_middle_is_found_by_the_tree_though_the_vectors_agree(seed):
    chance = Random(seed)
    device, cloud = Side(DEVICE), Side(CLOUD)
    entries = [entry(f"k{number}", number, CLOUD, number) for number in range(1, 501)]
    cloud.hold(*entries)
    device.hold(*(one for one in entries if chance.random() < 0.97 or one.name == "k500"))
    assert device.peer.tree().vector == cloud.peer.tree().vector
    assert not same(device, cloud)
    moved = round_of(device, cloud)
    assert same(device, cloud)
    assert moved < sum(len(packed_entry(one)) for one in entries) / 2


def test_equal_replicas_find_out_in_two_messages():
    entries = [entry(f"k{number}", number, CLOUD, number) for number in range(1, 1001)]
    device, cloud = Side(DEVICE), Side(CLOUD)
    device.hold(*entries)
    cloud.hold(*entries)
    assert cloud.peer.same(device.peer.digest(asking=True, stamp=0))
    assert round_of(device, cloud) < 300


@settings(max_examples=100, deadline=None)
@given(writes, st.integers(0, 60))
def test_a_root_changes_with_any_entry_and_not_with_the_order(history, victim):
    device, _ = two_sides(history)
    shuffled = Side(DEVICE)
    shuffled.hold(*reversed(list(device.replica.entries.values())))
    assert same(device, shuffled)
    if f"k{victim}" in device.replica:
        shuffled.hold(entry(f"k{victim}", "other", DEVICE, 10_000))
        assert not same(device, shuffled)


@given(st.lists(st.integers(1, 400), max_size=300))
def test_a_number_is_new_once(numbers):
    heard, seen = Heard(1), set()
    for number in numbers:
        new = heard.is_new(1, number)
        assert not (new and number in seen)
        if number > heard.upto - 256:
            assert new or number in seen or number <= heard.upto
        seen.add(number)
        assert len(heard.beyond) <= 256


def test_messages_of_an_earlier_life_are_not_new_and_a_new_life_begins_anew():
    heard = Heard()
    assert heard.is_new(5, 1)
    assert heard.is_new(6, 1)
    assert not heard.is_new(5, 2)
    assert not heard.is_new(6, 1)
    assert heard.mark == (6, 1)
