"""Large values in parts: whole or not there at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.parcels import (
    FIELD,
    PARCEL_BYTES_MAX,
    PART_BYTES,
    cut,
    head_of,
    in_turns,
    parcel_in,
    parcels_of,
    part_name,
    part_names,
    together,
)
from shared.sync import is_key
from shared.versions import Entry, fields_in, written


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4 * PART_BYTES), st.integers(0, 255))
def test_what_was_cut_comes_together_and_not_without_every_part(size, byte):
    packed = bytes([byte]) * size
    head, parts = cut("room/picture", packed)
    parcel = parcel_in(head)
    assert parcel is not None
    assert all(is_key(name) and head_of(name) == "room/picture" for name in parts)
    assert together("room/picture", parcel, parts.get) == packed
    for name in parts:
        assert together("room/picture", parcel, {**parts, name: b"other"}.get) is None
        assert together("room/picture", parcel, {**parts, name: None}.get) is None


def test_a_value_beyond_the_bound_says_what_to_do():
    with pytest.raises(ValueError, match="as a model package"):
        cut("k", bytes(PARCEL_BYTES_MAX + 1))
    assert len(cut("k", bytes(PARCEL_BYTES_MAX))[1]) == -(-PARCEL_BYTES_MAX // PART_BYTES)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": 1},
        {FIELD: 1},
        {FIELD: {"digest": "x" * 64, "size_bytes": 1, "parts": 1}},
        {FIELD: {"digest": "a" * 64, "size_bytes": 10**12, "parts": 10**8}},
        {FIELD: {"digest": "a" * 64, "size_bytes": 1, "parts": 999}},
        {FIELD: {"digest": "a" * 64, "size_bytes": 1, "parts": 1}, "other": 1},
    ],
)
def test_nothing_else_is_taken_for_a_head(value):
    assert parcel_in(value) is None


def test_an_entry_refers_to_its_parcels_also_in_conflict():
    head = cut("k", bytes(100_000))[0]
    entry = written(Entry("k"), ("n1", 1, 1), 1, fields_in(head))
    (parcel,) = parcels_of(entry)
    assert parcel == parcel_in(head)
    assert parcels_of(written(entry, ("n1", 1, 2), 2, fields_in(1))) == set()
    assert list(part_names("k", parcel)) == [
        part_name("k", parcel.digest, 0),
        part_name("k", parcel.digest, 1),
    ]


def test_parts_are_sent_a_few_at_a_time():
    assert [len(some) for some in in_turns(f"k{number}" for number in range(20))] == [8, 8, 4]
