"""Merging is a join of a lattice; what a person expects of a three-way merge follows from it."""

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.versions import (
    CLOUD_ORIGIN,
    Entry,
    HybridClock,
    conflicts_of,
    covers,
    fields_in,
    joined,
    merged,
    packed_entry,
    stamp_unix_ms,
    value_of,
    written,
)

ORIGINS = ("n1", "n2", "n3", CLOUD_ORIGIN)
FIELDS = ("a", "b", "c")
VALUES = (None, 0, 1, "x", [1], {"a": 1}, {"a": 2, "b": 1}, {"b": 1}, {"a": 1, "b": 1, "c": 1}, {})


class Replicas:
    """Every origin with its own entry of one key, and its own clock that may be wrong."""

    def __init__(self, name: str = "key") -> None:
        self.entries = {origin: Entry(name) for origin in ORIGINS}
        self.sequences = dict.fromkeys(ORIGINS, 0)
        self.clocks = {origin: HybridClock() for origin in ORIGINS}

    def write(self, origin: str, value: object, unix_ms: int) -> None:
        self.sequences[origin] += 1
        dot = (origin, 1, self.sequences[origin])
        stamp = self.clocks[origin].tick(unix_ms)
        fields = {} if value is None else fields_in(value)
        self.entries[origin] = written(self.entries[origin], dot, stamp, fields)

    def hear(self, origin: str, other: str) -> None:
        self.entries[origin] = merged(self.entries[origin], self.entries[other])


acts = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(ORIGINS), st.sampled_from(VALUES), st.integers(1_000, 5_000)),
    st.tuples(st.just("hear"), st.sampled_from(ORIGINS), st.sampled_from(ORIGINS)),
)
histories = st.lists(acts, max_size=25)
names = st.sampled_from(("key", "desired/n1/key", "reported/n1/key"))


def lived(name: str, history: list[tuple[object, ...]]) -> list[Entry]:
    replicas = Replicas(name)
    for what, *arguments in history:
        getattr(replicas, what)(*arguments)
    return list(replicas.entries.values())


def is_a_lattice(entries: list[Entry]) -> None:
    for one in entries:
        assert merged(one, one) is one
        for other in entries:
            both = merged(one, other)
            assert packed_entry(both) == packed_entry(merged(other, one))
            assert merged(both, one) is both
            assert merged(both, other) is both
            assert covers(both.vector, joined(one.vector, other.vector))
            for third in entries:
                assert merged(both, third) == merged(one, merged(other, third))


@settings(max_examples=150, deadline=None)
@given(names, histories)
def test_merge_is_commutative_associative_and_idempotent(name, history):
    is_a_lattice(lived(name, history))


@pytest.mark.long
@settings(max_examples=10_000, deadline=None)
@given(names, histories)
def test_merge_is_commutative_associative_and_idempotent_ten_thousand_times(name, history):
    is_a_lattice(lived(name, history))


@settings(max_examples=200, deadline=None)
@given(names, histories, st.randoms(use_true_random=False))
def test_whatever_arrives_how_often_in_which_order_ends_the_same(name, history, chance: Random):
    entries = lived(name, history)
    ends = set()
    for _ in range(3):
        order = entries * 2
        chance.shuffle(order)
        end = Entry(name)
        for one in order:
            end = merged(end, one)
        ends.add(packed_entry(end))
        assert value_of(end) is None or conflicts_of(end) is not None
    assert len(ends) == 1


@settings(max_examples=200, deadline=None)
@given(histories)
def test_a_write_that_saw_everything_leaves_no_conflict_and_shows(history):
    replicas = Replicas()
    for what, *arguments in history:
        getattr(replicas, what)(*arguments)
    for other in ORIGINS:
        replicas.hear("n1", other)
    replicas.write("n1", {"a": 7, "d": 8}, unix_ms=1)  # its clock is far behind
    for other in ORIGINS:
        replicas.hear(other, "n1")
        assert value_of(replicas.entries[other]) == {"a": 7, "d": 8}
        assert conflicts_of(replicas.entries[other]) == []


def shared(name: str = "key") -> Replicas:
    """Two that hold {"a": 1, "b": 1, "c": 1}."""
    replicas = Replicas(name)
    replicas.write(CLOUD_ORIGIN, {"a": 1, "b": 1, "c": 1}, 1_000)
    replicas.hear("n1", CLOUD_ORIGIN)
    return replicas


def met(replicas: Replicas) -> Entry:
    return merged(replicas.entries[CLOUD_ORIGIN], replicas.entries["n1"])


def test_changes_of_different_fields_are_both_kept():
    replicas = shared()
    replicas.write("n1", {"a": 2, "b": 1, "c": 1}, 2_000)
    replicas.write(CLOUD_ORIGIN, {"a": 1, "b": 3, "d": 4}, 2_000)
    assert value_of(met(replicas)) == {"a": 2, "b": 3, "d": 4}
    assert conflicts_of(met(replicas)) == []


def test_of_two_changes_of_one_field_the_later_shows_and_the_other_is_kept():
    replicas = shared()
    replicas.write("n1", {"a": 2, "b": 1, "c": 1}, 2_001)
    replicas.write(CLOUD_ORIGIN, {"a": 3, "b": 1, "c": 1}, 2_000)
    (conflict,) = conflicts_of(met(replicas))
    assert (conflict.field, conflict.won.origin, [one.origin for one in conflict.lost]) == (
        "a",
        "n1",
        [CLOUD_ORIGIN],
    )
    assert value_of(met(replicas)) == {"a": 2, "b": 1, "c": 1}


@pytest.mark.parametrize(("name", "winner"), [("desired/n1/x", CLOUD_ORIGIN), ("reported/n1/x", "n1")])
def test_desired_state_is_the_clouds_and_reported_state_the_devices(name, winner):
    for late in ("n1", CLOUD_ORIGIN):
        replicas = shared(name)
        for origin in ("n1", CLOUD_ORIGIN):
            replicas.write(origin, {"a": origin, "b": 1, "c": 1}, 9_000 if origin == late else 2_000)
        assert value_of(met(replicas))["a"] == winner


def test_the_loser_of_a_preference_still_wins_when_it_had_seen_the_other():
    replicas = shared("desired/n1/x")
    replicas.write("n1", {"a": "override", "b": 1, "c": 1}, 500)
    assert value_of(met(replicas))["a"] == "override"


def test_an_edit_survives_a_concurrent_deletion_and_a_deletion_that_saw_it_does_not_spare_it():
    replicas = shared()
    replicas.write(CLOUD_ORIGIN, None, 3_000)
    replicas.write("n1", {"a": 5, "b": 1, "c": 1}, 2_000)
    assert value_of(met(replicas)) == {"a": 5}
    replicas.hear(CLOUD_ORIGIN, "n1")
    replicas.write(CLOUD_ORIGIN, None, 3_001)
    assert met(replicas).erased
    assert value_of(met(replicas)) is None


def test_a_whole_value_and_a_map_that_met_show_the_later_one():
    for late in ("n1", CLOUD_ORIGIN):
        replicas = shared()
        for origin, value in (("n1", [1, 2]), (CLOUD_ORIGIN, {"z": 1})):
            replicas.write(origin, value, 9_000 if origin == late else 2_000)
        assert value_of(met(replicas)) == ([1, 2] if late == "n1" else {"z": 1})


def test_a_put_of_what_is_there_already_is_no_write():
    replicas = shared()
    before = replicas.entries["n1"]
    replicas.write("n1", {"a": 1, "b": 1, "c": 1}, 9_000)
    assert replicas.entries["n1"] is before


def test_equal_values_are_equal_in_whatever_order_a_map_was_built():
    assert fields_in({"a": {"x": 1, "y": 2}}) == fields_in({"a": {"y": 2, "x": 1}})
    for no_value in ({"a": object()}, {1: "a"}, {"a": {1: 2}}):
        with pytest.raises(TypeError):
            fields_in(no_value)
    assert fields_in({"": "a"}).keys() == {""}
    assert msgspec.msgpack.decode(fields_in({})[""]) == {}


def test_a_hybrid_clock_is_monotone_and_follows_whom_it_hears():
    clock = HybridClock()
    stamps = [clock.tick(ms) for ms in (5_000, 5_000, 4_000, 1, 6_000)]
    assert stamps == sorted(set(stamps))
    assert stamp_unix_ms(stamps[-1]) == 6_000
    clock.hear(stamps[-1] + 10)
    assert clock.tick(6_000) == stamps[-1] + 11


def test_a_stamp_too_far_ahead_is_told_apart_from_one_that_is_merely_late():
    clock, other = HybridClock(drift_ms_max=1_000), HybridClock()
    clock.tick(10_000)
    assert not clock.is_ahead(other.tick(11_000), unix_ms=10_000)
    assert clock.is_ahead(other.tick(11_001), unix_ms=10_000)
    assert not clock.is_ahead(other.tick(1), unix_ms=11_000)
    # After our own clock was set back, what it said before is still no future.
    assert not clock.is_ahead(clock.tick(10_000), unix_ms=0)
