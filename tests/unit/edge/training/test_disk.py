"""Versions and updates on the disk: what a power cut leaves, and what is never believed."""

import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.training.answered import Answered
from edge.training.events import Stored, UpdateKey
from edge.training.slots import REUSED_BYTES_MAX, REUSED_MAX
from edge.training.updates import Updates
from edge.training.versions import Versions
from shared.codecs import decode, encode
from shared.errors import Unavailable, Unreadable
from shared.learning import PART_BYTES, Codec, CodecName, ModelRef, Task, UpdateHeader
from shared.vectors import F32, VectorFile, check_of, pack_vector

FIRST = np.array([1, 2, 3], F32)
STEP = np.array([0.5, -1, 0], F32)
SECOND = FIRST + STEP


def artifact(folder: Path, version: int, base: int, data: np.ndarray) -> Path:
    data = encode(Codec(name=CodecName.F32), data, None, np.random.default_rng()).data
    file = VectorFile(version=version, base=base, codec="f32", n_params=3, layout_hash="l", data=data)
    path = folder / f"{version}.{base}"
    path.write_bytes(pack_vector(file))
    return path


def ref(version: int, vector: np.ndarray) -> ModelRef:
    return ModelRef(version=version, layout_hash="l", n_params=3, check=check_of(vector), snapshot="")


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    held = Versions(tmp_path / "versions", decode)
    held.open("job", ref(1, FIRST), artifact(tmp_path, 1, -1, FIRST), -1)
    held.keep()
    return held


def test_a_snapshot_and_a_difference_give_the_same_bits(versions: Versions, tmp_path: Path):
    versions.open("job", ref(2, SECOND), artifact(tmp_path, 2, 1, STEP), 1)
    by_step = versions.read("job", ref(2, SECOND))
    versions.open("other", ref(2, SECOND), artifact(tmp_path, 2, -1, SECOND), -1)
    np.testing.assert_array_equal(by_step, versions.read("other", ref(2, SECOND)))
    versions.keep()
    assert versions.held()["job"] == {1: check_of(FIRST), 2: check_of(SECOND)}
    versions.drop("job", 1)
    versions.forget("other")
    assert versions.held() == {"job": {2: check_of(SECOND)}}


def test_what_is_not_what_was_announced_is_not_kept(versions: Versions, tmp_path: Path):
    whole, step = artifact(tmp_path, 2, -1, SECOND), artifact(tmp_path, 2, 1, STEP)
    for model, path, base, why in [
        (ref(2, FIRST), whole, -1, "not the one that was announced"),
        (ref(3, SECOND), whole, -1, "another version, base or layout"),
        (ref(2, SECOND), step, -1, "another version, base or layout"),
        (ref(2, SECOND), tmp_path / "none", -1, "can't be read"),
    ]:
        with pytest.raises(Unreadable, match=why):
            versions.open("job", model, path, base)
    with pytest.raises(Unreadable, match="which this one is added to, is gone"):
        versions.open("other", ref(2, SECOND), step, 1)
    whole.write_bytes(b"nonsense")
    with pytest.raises(Unreadable, match="not a model vector"):
        versions.open("job", ref(2, SECOND), whole, -1)
    assert list(versions.held()) == ["job"]


def test_a_damaged_version_is_noticed_and_removed(versions: Versions, tmp_path: Path):
    (path,) = (tmp_path / "versions" / "job").iterdir()
    path.write_bytes(path.read_bytes()[:-2])
    np.testing.assert_array_equal(versions.read("job", ref(1, FIRST)), FIRST)  # it is in memory still
    restarted = Versions(tmp_path / "versions", decode)
    with pytest.raises(Unreadable, match="damaged"):
        restarted.read("job", ref(1, FIRST))
    with pytest.raises(Unreadable, match="gone"):
        restarted.read("job", ref(1, FIRST))


def test_the_version_in_memory_goes_with_the_one_on_the_disk(versions: Versions, tmp_path: Path):
    assert not versions.read("job", ref(1, FIRST)).flags.writeable
    versions.drop("job", 2)
    versions.forget("other")
    np.testing.assert_array_equal(versions.read("job", ref(1, FIRST)), FIRST)
    versions.drop("job", 1)
    with pytest.raises(Unreadable, match="gone"):
        versions.read("job", ref(1, FIRST))
    versions.open("job", ref(1, FIRST), artifact(tmp_path, 1, -1, FIRST), -1)
    versions.forget("job")
    with pytest.raises(Unreadable, match="gone"):
        versions.read("job", ref(1, FIRST))


def test_a_difference_is_added_to_a_version_that_an_earlier_boot_left(versions: Versions, tmp_path: Path):
    restarted = Versions(tmp_path / "versions", decode)
    restarted.open("job", ref(2, SECOND), artifact(tmp_path, 2, 1, STEP), 1)
    np.testing.assert_array_equal(restarted.read("job", ref(2, SECOND)), SECOND)
    restarted.keep()
    assert versions.held() == {"job": {1: check_of(FIRST), 2: check_of(SECOND)}}


def test_a_version_that_no_round_waited_to_keep_is_only_fetched_again(versions: Versions, tmp_path: Path):
    versions.open("job", ref(2, SECOND), artifact(tmp_path, 2, 1, STEP), 1)
    killed = Versions(tmp_path / "versions", decode)
    assert killed.held() == {"job": {1: check_of(FIRST)}}
    with pytest.raises(Unreadable, match="gone"):
        killed.read("job", ref(2, SECOND))
    versions.keep()
    np.testing.assert_array_equal(killed.read("job", ref(2, SECOND)), SECOND)


def test_a_version_makes_room_in_memory_by_way_of_the_disk(
    versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    versions.open("job", ref(2, SECOND), artifact(tmp_path, 2, 1, STEP), 1)
    versions.open("other", ref(1, FIRST), artifact(tmp_path, 1, -1, FIRST), -1)
    assert 2 in versions.held()["job"]
    monkeypatch.setattr("edge.training.versions.RECENT_BYTES_MAX", 0)
    versions.open("large", ref(1, FIRST), artifact(tmp_path, 1, -1, FIRST), -1)
    assert versions.held().keys() == {"job", "other", "large"}
    np.testing.assert_array_equal(versions.read("large", ref(1, FIRST)), FIRST)


def test_a_check_from_the_network_is_no_path(versions: Versions):
    model = ModelRef(version=1, layout_hash="l", n_params=3, check="../../../etc/passwd", snapshot="")
    with pytest.raises(Unreadable, match="can't be a version"):
        versions.read("job", model)
    with pytest.raises(ValueError, match="not a usable id"):
        versions.forget("../..")


# Updates ----------------------------------------------------------------------------------------------


def stored(data: bytes, job: str = "job", number: int = 1) -> Stored:
    digest = sha256(data).hexdigest()
    header = UpdateHeader(
        task=Task.TRAIN,
        version=1,
        codec="f32",
        n_params=3,
        layout_hash="l",
        size_bytes=len(data),
        digest=digest,
        weight=10,
        steps=2,
        metrics={"loss": 1.5},
    )
    return Stored(UpdateKey(job, number, digest), header, "ask")


def test_an_update_is_there_after_a_restart_part_by_part(tmp_path: Path):
    data = bytes(range(256)) * (PART_BYTES // 100)  # three parts
    one = stored(data)
    Updates(tmp_path).put(one, data, None)
    again = Updates(tmp_path)
    (found,) = again.restore(unix_s=0.0)
    assert found == one
    pieces = [again.part(one.key, index) for index in range(3)]
    assert b"".join(piece for _, piece in pieces) == data
    assert pieces[0][0] == one.header
    assert [len(piece) for _, piece in pieces] == [PART_BYTES, PART_BYTES, len(data) - 2 * PART_BYTES]
    again.settle(one.key, True)
    again.settle(one.key, True)
    assert again.restore(0.0) == ()
    with pytest.raises(Unavailable, match="can't be read"):
        again.part(one.key, 0)


def test_the_rest_is_that_of_the_last_accepted_update(tmp_path: Path):
    updates = Updates(tmp_path)
    first, second, third = stored(b"1", number=1), stored(b"2", number=2), stored(b"3", number=3)
    assert updates.rest("job", 3) is None
    updates.put(first, b"1", FIRST)
    assert updates.rest("job", 3) is None, "no receipt yet"
    updates.settle(first.key, True)
    updates.put(second, b"2", SECOND)
    updates.settle(second.key, False)
    np.testing.assert_array_equal(updates.rest("job", 3), FIRST)
    updates.put(third, b"3", SECOND)
    updates.settle(third.key, True)
    np.testing.assert_array_equal(updates.rest("job", 3), SECOND)
    updates.keep()
    np.testing.assert_array_equal(Updates(tmp_path).rest("job", 3), SECOND)
    assert updates.rest("job", 4) is None, "of another model"
    assert updates.rest("other", 3) is None
    updates.forget("job")
    assert updates.rest("job", 3) is None


def test_a_crash_before_the_rest_has_its_place_is_made_good_by_the_receipt_that_comes_again(tmp_path: Path):
    updates, first, second = Updates(tmp_path), stored(b"1", number=1), stored(b"2", number=2)
    updates.put(first, b"1", FIRST)
    updates.settle(first.key, True)
    updates.put(second, b"2", SECOND)
    updates.keep()
    (tmp_path / "job.rest").unlink()
    again = Updates(tmp_path)
    assert [one.key for one in again.restore(0.0)] == [second.key]
    assert again.rest("job", 3) is None
    again.settle(second.key, True)
    np.testing.assert_array_equal(again.rest("job", 3), SECOND)


def test_what_an_update_said_is_never_said_again_by_a_rest_from_before_it(tmp_path: Path):
    """The process dies before the rest of the second update reached the disk. The rest of the first one did,
    and the second update has said it."""
    updates, first, second = Updates(tmp_path), stored(b"1", number=1), stored(b"2", number=2)
    updates.put(first, b"1", FIRST)
    updates.settle(first.key, True)
    updates.keep()
    updates.put(second, b"2", SECOND)
    refused, accepted = Updates(tmp_path), Updates(tmp_path)
    np.testing.assert_array_equal(refused.rest("job", 3), FIRST)
    assert [one.key for one in accepted.restore(0.0)] == [second.key]
    accepted.settle(second.key, True)
    assert accepted.rest("job", 3) is None
    updates.settle(second.key, True)
    assert Updates(tmp_path).rest("job", 3) is None, "it is in memory only"
    updates.keep()
    np.testing.assert_array_equal(Updates(tmp_path).rest("job", 3), SECOND)


def test_an_update_to_which_no_rest_is_added_leaves_it_alone(tmp_path: Path):
    updates, one, evaluation = Updates(tmp_path), stored(b"1"), stored(b"")
    updates.put(one, b"1", FIRST)
    updates.settle(one.key, True)
    updates.put(evaluation, b"", None)
    updates.keep()
    again = Updates(tmp_path)
    again.restore(0.0)
    for held in (updates, again):
        held.settle(evaluation.key, True)
        np.testing.assert_array_equal(held.rest("job", 3), FIRST)


def test_a_rest_makes_room_in_memory_by_way_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    updates, one, other = Updates(tmp_path), stored(b"1"), stored(b"2", job="other")
    updates.put(one, b"1", FIRST)
    updates.put(other, b"2", SECOND)  # the first one still waits for its receipt
    updates.settle(one.key, True)
    updates.settle(other.key, True)
    monkeypatch.setattr("edge.training.updates.MEMORY_BYTES_MAX", 0)
    large = stored(b"3", job="large")
    updates.put(large, b"3", STEP)
    assert updates.part(large.key, 0)[1] == b"3"
    updates.settle(large.key, True)
    updates.keep()
    for held in (updates, Updates(tmp_path)):
        for job, rest in (("job", FIRST), ("other", SECOND), ("large", STEP)):
            np.testing.assert_array_equal(held.rest(job, 3), rest)


def test_a_rest_that_a_power_cut_spoiled_is_none(tmp_path: Path):
    updates, one = Updates(tmp_path), stored(b"1")
    updates.put(one, b"1", FIRST)
    updates.settle(one.key, True)
    updates.keep()
    whole = (tmp_path / "job.rest").read_bytes()
    for spoiled in (b"", whole[:-4], bytes(len(whole)), whole[:-1] + bytes([whole[-1] ^ 1])):
        (tmp_path / "job.rest").write_bytes(spoiled)
        assert Updates(tmp_path).rest("job", 3) is None


def test_a_power_cut_between_the_rest_and_the_update_leaves_neither(tmp_path: Path):
    updates, one = Updates(tmp_path), stored(b"data")
    updates.put(one, b"data", FIRST)
    updates.keep()
    (tmp_path / "0.slot").unlink()
    (tmp_path / "job.9.tmp").write_bytes(b"half")
    assert Updates(tmp_path).restore(0.0) == ()
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_update_is_never_sent(data: st.DataObject):
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder, body = Path(name), b"some bytes of an update"
        Updates(folder).put(stored(body), body, None)
        (path,) = folder.iterdir()
        whole = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            del whole[data.draw(st.integers(0, len(whole) - 1)) :]
        else:
            whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1
        path.write_bytes(whole)
        again = Updates(folder)
        assert again.restore(0.0) == ()
        again.put(stored(b"another"), b"another", None)
        assert [one.key for one in Updates(folder).restore(0.0)] == [stored(b"another").key]
        assert [path.name for path in folder.iterdir()] == ["0.slot"]


def test_updates_take_turns_in_few_files_and_a_long_one_leaves_none(tmp_path: Path):
    updates, ones = Updates(tmp_path), [stored(f"{number}".encode(), number=number) for number in range(7)]
    for one in ones[:6]:
        updates.put(one, f"{one.key.round}".encode(), None)
    assert len(list(tmp_path.iterdir())) == 6
    again = Updates(tmp_path)
    assert {one.key for one in again.restore(0.0)} == {one.key for one in ones[:6]}
    for one in ones[:6]:
        assert again.part(one.key, 0)[1] == f"{one.key.round}".encode()
        again.settle(one.key, True)
    assert len(list(tmp_path.iterdir())) == REUSED_MAX
    again.put(ones[6], b"6", None)
    (found,) = Updates(tmp_path).restore(0.0)
    assert found.key == ones[6].key
    long = stored(bytes(REUSED_BYTES_MAX))
    again.put(long, bytes(REUSED_BYTES_MAX), None)
    again.settle(long.key, True)
    assert len(list(tmp_path.iterdir())) == REUSED_MAX - 1


def test_a_full_disk_keeps_no_half_of_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    updates, one = Updates(tmp_path), stored(b"1")
    monkeypatch.setattr("os.writev", lambda descriptor, pieces: os.write(descriptor, pieces[0]))
    with pytest.raises(Unavailable, match="No space left"):
        updates.put(one, b"1", None)
    monkeypatch.undo()
    with pytest.raises(Unavailable, match="can't be read"):
        updates.part(one.key, 0)
    assert Updates(tmp_path).restore(0.0) == ()
    updates.put(one, b"1", None)
    assert updates.part(one.key, 0)[1] == b"1"


# Answered asks ------------------------------------------------------------------------------------------


def test_what_was_answered_is_known_after_a_restart_and_forgotten_when_it_is_told_to(tmp_path):
    answered = Answered(tmp_path)
    answered.remember("one", "1/train/abc/7")
    answered.remember("two", "1/train/abc/7")
    answered.remember("one", "2/train/def/7")
    answered.remember("two", "2/evaluate/long/7")
    answered.remember("two", "1/train/abc/7")
    assert Answered(tmp_path).all() == {"one": "2/train/def/7", "two": "1/train/abc/7"}
    answered.remember("one", "")
    answered.remember("one", "")
    assert Answered(tmp_path).all() == {"two": "1/train/abc/7"}


def test_what_a_power_cut_left_of_it_counts_as_nothing_or_as_an_ask_that_nobody_makes(tmp_path):
    Answered(tmp_path).remember("one", "1/train/abc/7")
    (tmp_path / "one.answered").write_bytes(b"")
    (tmp_path / "two.answered").write_bytes(b"\xff\xfe")
    (tmp_path / "three.tmp").write_bytes(b"1/train/abc/7")
    (tmp_path / "Not An Id.answered").write_bytes(b"1/train/abc/7")
    assert Answered(tmp_path).all() == {}
    with pytest.raises(ValueError, match="not a usable id"):
        Answered(tmp_path).remember("../up", "1")
