"""The blob folder: real files, cut, torn and flipped."""

import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.artifacts.blobs import Blobs
from shared.artifacts import chunk_count, make_manifest
from shared.errors import Unavailable, Unreadable
from shared.messages import Manifest
from shared.package import ModuleKind

CHUNK = 1024
DATA = bytes((n * 7 + n // 251) % 256 for n in range(5 * CHUNK + 100))


def manifest() -> Manifest:
    return make_manifest(DATA, name="digits", version="1", kind=ModuleKind.PLAIN, chunk_bytes=CHUNK)


ONE = manifest()


def piece(index: int) -> bytes:
    return DATA[index * CHUNK : (index + 1) * CHUNK]


def fill(blobs: Blobs, *indexes: int) -> None:
    for index in indexes:
        blobs.write(ONE.digest, index * CHUNK, piece(index))


def test_chunks_in_any_order_become_a_blob(tmp_path):
    blobs = Blobs(tmp_path)
    assert blobs.open(ONE) == frozenset()
    fill(blobs, 5, 0, 3, 1, 4, 2)
    assert blobs.held() == ({}, {ONE.digest: len(DATA)})
    assert blobs.land(ONE.digest) == len(DATA)
    assert blobs.path(ONE.digest).read_bytes() == DATA
    assert blobs.held() == ({ONE.digest: len(DATA)}, {})


def test_after_a_restart_only_what_is_missing_is_missing(tmp_path):
    blobs = Blobs(tmp_path)
    blobs.open(ONE)
    fill(blobs, 0, 2, 5)
    assert Blobs(tmp_path).open(ONE) == {0, 2, 5}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_power_failure_did_to_the_part_only_good_chunks_count(tmp_path_factory, data):
    blobs = Blobs(tmp_path_factory.mktemp("blobs"))
    there = data.draw(st.sets(st.integers(0, chunk_count(ONE) - 1)))
    fill(blobs, *there)
    part = blobs.folder / f"{ONE.digest}.part"
    hurt = bytearray(part.read_bytes() if part.exists() else b"")
    for at in data.draw(st.lists(st.integers(0, len(DATA) - 1), max_size=3)):
        if at < len(hurt):
            hurt[at] ^= 0x10
    part.write_bytes(
        hurt[: data.draw(st.integers(0, len(DATA)))] + b"!" * data.draw(st.integers(0, 2 * CHUNK))
    )
    have = blobs.open(ONE)
    lying = part.read_bytes()
    expected = {n for n in range(chunk_count(ONE)) if lying[n * CHUNK : (n + 1) * CHUNK] == piece(n)}
    assert have == expected
    fill(blobs, *(set(range(chunk_count(ONE))) - have))
    assert blobs.land(ONE.digest) == len(DATA)


def test_a_flipped_bit_in_the_whole_keeps_it_from_its_place(tmp_path):
    blobs = Blobs(tmp_path)
    fill(blobs, *range(6))
    blobs.write(ONE.digest, 2000, b"\0")
    with pytest.raises(Unreadable):
        blobs.land(ONE.digest)
    assert not blobs.path(ONE.digest).exists()


def test_a_crash_before_the_rename_leaves_no_blob_in_place(tmp_path, monkeypatch):
    blobs = Blobs(tmp_path)
    fill(blobs, *range(6))

    def power_failure(_: int) -> None:
        raise OSError("the power went")

    monkeypatch.setattr(os, "fsync", power_failure)
    with pytest.raises(OSError, match="power"):
        blobs.land(ONE.digest)
    monkeypatch.undo()
    assert Blobs(tmp_path).held() == ({}, {ONE.digest: len(DATA)})
    assert Blobs(tmp_path).open(ONE) == set(range(6))


def test_a_disk_without_room_is_said_before_anything_is_fetched(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(Unavailable, match=rf"^no room: need {len(DATA)} bytes, have 0$"):
        Blobs(tmp_path, free_bytes_min=2 * free).open(ONE)


def test_a_disk_that_fills_up_meanwhile_is_said_with_both_numbers(tmp_path, monkeypatch):
    blobs = Blobs(tmp_path, free_bytes_min=0)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Unavailable, match=r"^no room: need 1024 bytes, have \d+$"):
        blobs.write(ONE.digest, 0, piece(0))


def test_a_blob_is_verified_once_and_again_after_a_restart(tmp_path):
    blobs = Blobs(tmp_path)
    fill(blobs, *range(6))
    blobs.land(ONE.digest)
    assert blobs.verify(ONE.digest)
    path = blobs.path(ONE.digest)
    path.write_bytes(DATA[:-1] + b"\0")
    assert not Blobs(tmp_path).verify(ONE.digest)
    path.unlink()
    assert not Blobs(tmp_path).verify(ONE.digest)


def test_a_blob_that_was_deleted_is_verified_anew_when_it_comes_back(tmp_path):
    blobs = Blobs(tmp_path)
    fill(blobs, *range(6))
    blobs.land(ONE.digest)
    blobs.delete(ONE.digest)
    blobs.path(ONE.digest).write_bytes(b"something else")
    assert not blobs.verify(ONE.digest)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 63, "A" * 64, "a" * 64 + "/x"])
def test_no_path_is_made_from_anything_but_a_digest(tmp_path, name):
    blobs = Blobs(tmp_path)
    for use in (blobs.path, blobs.delete, blobs.verify, blobs.land):
        with pytest.raises(ValueError, match="not a digest"):
            use(name)


def test_files_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / "notes.shoal").write_text("mine")
    (tmp_path / "lost+found").mkdir()
    blobs = Blobs(tmp_path)
    assert blobs.held() == ({}, {})
    blobs.delete(ONE.digest)
    assert (tmp_path / "notes.shoal").exists()
