"""The audit log on disk: what it survives, and what nobody can do to it unnoticed."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from cloud.residency import files
from cloud.residency.files import SEGMENT_RECORDS, AuditDamaged
from cloud.residency.log import AuditLog
from cloud.residency.verify import Verdict, verify
from shared.audit import record_bytes, record_of
from shared.transparency import Head, consistent, included, leaf_hash, root_of
from tests.support.audit import KEY, MUTATIONS, OTHER_KEY, PUBLIC, filled, record

QUICK_MUTATIONS, ALL_MUTATIONS = 220, 10_000


def checked(folder: Path, witness: Head | None = None) -> Verdict:
    return verify(folder, PUBLIC, [("a device", witness)] if witness else [])


def test_what_was_appended_is_there_after_a_restart(tmp_path: Path) -> None:
    log = filled(tmp_path, 20)
    again = AuditLog(tmp_path, KEY)
    assert (again.size, again.head, again.log) == (20, log.head, log.log)
    assert [record_of(line).task for line in again.lines(18, 10)] == ["t18", "t19"]
    assert again.append([record(20)]) == 21
    again.sign(3_000.0)
    assert checked(tmp_path) == Verdict(log=log.log, records=21, heads=4, covered=21, witnesses=0)


def test_a_record_has_one_form(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    for index, line in enumerate(files.all_lines(tmp_path)):
        assert record_bytes(record_of(line)) == line
        assert record_of(line).index == index


def test_a_log_of_several_segments_proves_everything(tmp_path: Path) -> None:
    size = 2 * SEGMENT_RECORDS + 100
    log = AuditLog(tmp_path, KEY)
    log.append([record(number) for number in range(5)])
    old = log.sign(1.0).head
    log.append([record(number) for number in range(5, size)])
    head = log.sign(2.0).head
    assert len(files.segments(tmp_path)) == 3
    leaves = [leaf_hash(line) for line in log.lines(0, size)]
    assert head.root == root_of(leaves)
    for index in (0, 4095, 4096, 8191, 8192, size - 1):
        assert included(leaves[index], index, size, head.root, log.inclusion(index, size))
    for first in (1, 5, 4096, 5000, 8192, size):
        assert consistent(first, root_of(leaves[:first]), size, head.root, log.consistency(first, size))
    again = AuditLog(tmp_path, KEY)
    assert again.consistency(5, size) == log.consistency(5, size)
    assert consistent(5, old.root, size, head.root, again.consistency(5, size))


def test_a_head_comes_with_the_proof_from_the_one_before(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, KEY)
    log.append([record(0)])
    first = log.sign(1.0)
    log.append([record(1), record(2)])
    second = log.sign(2.0)
    assert (first.previous_size, first.path) == (0, ())
    assert second.previous_size == 1
    assert consistent(1, first.head.root, 3, second.head.root, second.path)
    assert log.fact() == second


def test_a_crash_in_the_middle_of_a_write_costs_only_what_nobody_was_told(tmp_path: Path) -> None:
    """Cut points all over the last batch."""
    log = filled(tmp_path / "log", 3, every=3)
    path = files.segment_file(log.folder, 0)
    signed = path.stat().st_size
    log.append([record(3), record(4)])
    whole = path.read_bytes()
    ends = [number + 1 for number, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(signed, len(whole), 3):
        path.write_bytes(whole[:cut])
        again = AuditLog(log.folder, KEY)
        assert again.size == sum(end <= cut for end in ends)
        assert again.cut == cut - max(end for end in ends if end <= cut)
        assert again.append([record(9)]) == again.size
        assert record_of(again.lines(again.size - 1, 1)[0]).task == "t9"


def test_garbage_behind_the_last_head_is_cut_off(tmp_path: Path) -> None:
    log = filled(tmp_path, 3, every=3)
    path = files.segment_file(log.folder, 0)
    whole = path.read_bytes()
    for garbage in (b"\0" * 512 + b"\n", b'{"index": 3}\n', whole[: whole.index(b"\n") + 1]):
        path.write_bytes(whole + garbage)
        assert AuditLog(tmp_path, KEY).size == 3
    assert path.with_suffix(".torn").exists()


def test_a_write_that_failed_half_way_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(tmp_path, 3, every=3)
    path = files.segment_file(log.folder, 0)
    before, write_all = path.read_bytes(), files._write_all

    def full(handle: int, at: int, data: bytes) -> None:
        write_all(handle, at, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "_write_all", full)
        with pytest.raises(OSError, match="No space"):
            log.append([record(3), record(4)])
    assert path.read_bytes() == before
    assert log.size == 3
    assert log.append([record(3), record(4)]) == 5
    log.sign(5.0)
    assert checked(tmp_path).good


def test_a_log_that_was_changed_under_its_heads_is_not_continued(tmp_path: Path) -> None:
    filled(tmp_path, 10)
    path = files.segment_file(tmp_path, 0)
    path.write_bytes(path.read_bytes().replace(b'"us"', b'"eu"', 1))
    with pytest.raises(AuditDamaged, match="audit verify"):
        AuditLog(tmp_path, KEY)


def test_a_log_of_another_key_is_not_continued(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with pytest.raises(AuditDamaged, match=r"signing\.key"):
        AuditLog(tmp_path, OTHER_KEY)


def test_records_behind_the_last_head_are_counted_and_not_vouched_for(tmp_path: Path) -> None:
    log = filled(tmp_path, 7)
    log.append([record(7)])
    verdict = checked(tmp_path)
    assert verdict.good
    assert (verdict.records, verdict.covered) == (8, 7)


def test_an_empty_folder_is_no_good_log(tmp_path: Path) -> None:
    assert not checked(tmp_path).good


def mutated(tmp_path: Path, rounds: int) -> Counter[str]:
    """Every mutation is found, with the newest head in the hands of a device. Returns how often each was."""
    log = filled(tmp_path / "good", 40)
    assert checked(log.folder, log.head).good
    rng, folder, done = random.Random(rounds), tmp_path / "bad", Counter[str]()
    while done.total() < rounds:
        shutil.copytree(log.folder, folder)
        mutate = MUTATIONS[done.total() % len(MUTATIONS)]
        if mutate(folder, rng):
            assert not checked(folder, log.head).good, mutate.__name__
            done[mutate.__name__] += 1
        shutil.rmtree(folder)
    return done


def test_each_of_many_mutations_is_found(tmp_path: Path) -> None:
    assert len(mutated(tmp_path, QUICK_MUTATIONS)) == len(MUTATIONS)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_each_of_ten_thousand_mutations_is_found(tmp_path: Path) -> None:
    assert mutated(tmp_path, ALL_MUTATIONS).total() == ALL_MUTATIONS
