"""Chunks, manifests and ranges."""

from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.artifacts import (
    RANGES_MAX,
    check_manifest,
    chunk_count,
    chunk_digest,
    chunk_index,
    indexes_in,
    is_digest,
    make_manifest,
    ranges_of,
    runs_on,
    signed_bytes,
)
from shared.errors import Unreadable
from shared.messages import Manifest
from shared.package import ModuleKind
from shared.topics import CHUNK_BYTES

DATA = bytes(range(256)) * 1000


def manifest_of(data: bytes = DATA, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    return make_manifest(data, name="digits", version="1", kind=ModuleKind.PLAIN, chunk_bytes=chunk_bytes)


@given(st.sets(st.integers(0, 400)), st.integers(1, 80))
def test_ranges_name_the_lowest_missing_chunks_and_no_other(missing, ranges_max):
    ranges = ranges_of(missing, ranges_max)
    assert len(ranges) <= ranges_max
    named = [index for start, stop in ranges for index in range(start, stop)]
    assert named == sorted(missing)[: len(named)]
    if len(ranges) < ranges_max:
        assert set(named) == missing


@given(st.sets(st.integers(0, 400)))
def test_ranges_that_a_device_sends_are_read_as_the_same_chunks(missing):
    ranges = ranges_of(missing)
    assert indexes_in(ranges, 401) == sorted(missing)[: len(indexes_in(ranges, 401))]


@given(st.lists(st.tuples(st.integers(-3, 30), st.integers(-3, 30)), max_size=5).map(tuple))
def test_any_ranges_from_the_network_are_read_within_bounds_or_refused(ranges):
    try:
        indexes = indexes_in(ranges, 20)
    except Unreadable:
        return
    assert indexes == sorted(set(indexes))
    assert all(0 <= index < 20 for index in indexes)


@pytest.mark.parametrize(
    "ranges",
    [((3, 3),), ((4, 2),), ((-1, 2),), ((0, 21),), ((0, 5), (4, 6)), ((5, 6), (0, 1))],
)
def test_nonsense_ranges_are_refused(ranges):
    with pytest.raises(Unreadable):
        indexes_in(ranges, 20)


def test_too_many_ranges_are_refused_before_they_are_walked():
    with pytest.raises(Unreadable, match="at most 64"):
        indexes_in(tuple((2 * n, 2 * n + 1) for n in range(RANGES_MAX + 1)), 1000)


@given(st.binary(min_size=1, max_size=5000), st.integers(1024, 2048))
def test_every_chunk_is_described_by_its_own_digest(data, chunk_bytes):
    manifest = manifest_of(data, chunk_bytes)
    check_manifest(manifest)
    assert manifest.digest == sha256(data).hexdigest()
    for index in range(chunk_count(manifest)):
        chunk = data[index * chunk_bytes : (index + 1) * chunk_bytes]
        assert chunk_digest(manifest, index) == sha256(chunk).digest()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"digest": "../../etc/passwd"}, "not a SHA-256"),
        ({"digest": "A" * 64}, "not a SHA-256"),
        ({"name": "Digits/1"}, "name or version"),
        ({"version": "1\n2"}, "name or version"),
        ({"size_bytes": 0}, "the limit"),
        ({"size_bytes": 1 << 40}, "the limit"),
        ({"chunk_bytes": 0}, "chunks of 0 bytes"),
        ({"chunk_bytes": 1 << 20}, "chunks of"),
        ({"chunk_digests": b"\0" * 32}, "does not match the size"),
    ],
)
def test_an_inconsistent_manifest_is_refused_with_the_reason(change, complaint):
    with pytest.raises(Unreadable, match=complaint):
        check_manifest(msgspec.structs.replace(manifest_of(), **change))


@pytest.mark.parametrize("field", [name for name in Manifest.__struct_fields__ if name != "signature"])
def test_the_signature_covers_every_field(field):
    manifest = manifest_of()
    value = getattr(manifest, field)
    other = {int: 7, bytes: b"x", str: "x"}.get(type(value), ModuleKind.WASI)
    assert signed_bytes(msgspec.structs.replace(manifest, **{field: other})) != signed_bytes(manifest)


def test_the_signature_does_not_cover_itself():
    manifest = manifest_of()
    assert signed_bytes(msgspec.structs.replace(manifest, signature=b"s" * 64)) == signed_bytes(manifest)


def test_fields_can_not_run_into_one_another_in_what_is_signed():
    one = msgspec.structs.replace(manifest_of(), name="ab", version="c")
    two = msgspec.structs.replace(manifest_of(), name="a", version="bc")
    assert signed_bytes(one) != signed_bytes(two)


def test_an_agent_version_is_compared_by_its_numbers():
    assert runs_on("0.10.0", "0.9")
    assert runs_on("1.0", "1")
    assert not runs_on("0.9.9", "0.10")
    for nonsense in ("", "1.x", "1..2", "9" * 40, "-1"):
        with pytest.raises(Unreadable):
            runs_on("1.0", nonsense)


def test_only_plain_digits_are_a_chunk_index():
    assert chunk_index("0") == 0
    assert chunk_index("5461") == 5461
    for nonsense in ("", "-1", "1_0", "٣", "12345678", "x"):
        with pytest.raises(Unreadable):
            chunk_index(nonsense)


def test_only_lower_case_hex_of_the_right_length_is_a_digest():
    assert is_digest("0" * 64)
    for nonsense in ("0" * 63, "0" * 65, "g" * 64, "0" * 64 + "\n", "../" + "0" * 61):
        assert not is_digest(nonsense)
