"""What was promised is read back after any tear, flip or refusal, and what was not is known to be missing."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.store.atomic import StoreFull, StoreUnwritable
from edge.store.segments import Lot, Segment, Segments
from shared.ranges import size

LOG = "room.7.normal"


def payloads(first: int, end: int) -> list[bytes]:
    return [f"sample {number}".encode() * (1 + number % 3) for number in range(first, end)]


def written(folder: Path, *ends: int, segment_bytes: int = 400) -> Segments:
    """One log, appended to in as many writes as there are ends."""
    segments, first = Segments(folder, segment_bytes), 0
    segments.recover()
    for end in ends:
        segments.append([Lot(LOG, first, payloads(first, end))])
        first = end
    return segments


def reopened(folder: Path):
    segments = Segments(folder)
    return segments, segments.recover()


def held(found) -> list[tuple[int, int]]:
    return [(one.first, one.end) for one in found.segments]


def test_what_was_appended_is_there_after_a_restart(tmp_path):
    written(tmp_path, 3, 10, 30, 40).shut()
    segments, found = reopened(tmp_path)
    assert held(found)[0][0] == 0
    assert held(found)[-1][1] == 40
    assert len(found.segments) > 1, "a full file is followed by a new one"
    assert (found.damaged, found.torn_bytes, found.gone) == ({}, 0, ())
    assert segments.read(LOG, 0, 40) == dict(enumerate(payloads(0, 40)))
    assert segments.read(LOG, 5, 7) == {5: payloads(5, 6)[0], 6: payloads(6, 7)[0]}
    assert segments.read("other.1.bulk", 0, 9) == {}


def test_several_logs_are_written_together(tmp_path):
    segments, _ = reopened(tmp_path)
    facts = segments.append([Lot("a.1.bulk", 0, [b"x"]), Lot("b.1.bulk", 5, [b"y", b"z"])])
    assert facts == (Segment("a.1.bulk", 0, 1, 17), Segment("b.1.bulk", 5, 7, 34))
    assert segments.read("b.1.bulk", 0, 9) == {5: b"y", 6: b"z"}


def test_what_the_cloud_has_is_deleted_file_by_file(tmp_path):
    segments = written(tmp_path, *range(1, 60))
    segments.forget(LOG, 30)
    segments.shut()
    _, found = reopened(tmp_path)
    first = held(found)[0][0]
    assert 0 < first <= 30, "a file goes only when all of it may go"
    assert held(found)[-1][1] == 59
    assert found.damaged == {}


def test_the_newest_file_is_emptied_in_place_and_goes_on(tmp_path):
    segments = written(tmp_path, 3)
    segments.forget(LOG, 3)
    assert segments.read(LOG, 0, 3) == {}
    segments.append([Lot(LOG, 3, payloads(3, 5))])
    segments.shut()
    segments, found = reopened(tmp_path)
    assert held(found) == [(3, 5)]
    assert found.damaged == {}, "the beginning is not lost: it was settled"
    assert segments.read(LOG, 0, 9) == dict(enumerate(payloads(3, 5), 3))


def test_a_piece_that_was_given_up_is_remembered_as_such(tmp_path):
    segments = written(tmp_path, *range(1, 60))
    second = reopened(tmp_path)[1].segments[1]
    assert segments.discard(LOG, second.first) == second
    assert segments.discard(LOG, 12345) is None
    segments.shut()
    segments, found = reopened(tmp_path)
    assert [(one.first, one.end) for one in found.gone] == [(second.first, second.end)]
    assert found.damaged == {}, "dropped is not damaged"
    segments.forget(LOG, second.end)
    assert reopened(tmp_path)[1].gone == (), "the cloud knows: nobody has to remember any more"


def test_a_log_that_is_over_leaves_nothing(tmp_path):
    segments = written(tmp_path, *range(1, 60))
    segments.discard(LOG, 0)
    segments.close(LOG)
    assert list(tmp_path.iterdir()) == []


# Damage -------------------------------------------------------------------------------------------------


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.seg")
    return path


def test_a_torn_write_is_cut_off_wherever_it_tore(tmp_path):
    written(tmp_path / "whole", 4, 9, segment_bytes=1 << 20).shut()
    data = only_file(tmp_path / "whole").read_bytes()
    promised = len(data) - sum(16 + len(one) for one in payloads(4, 9))
    for cut in range(promised, len(data) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / only_file(tmp_path / "whole").name).write_bytes(data[:cut])
        segments, found = reopened(folder)
        ((first, end),) = held(found)
        assert (first, found.damaged) == (0, {})
        assert 4 <= end <= 9
        assert segments.read(LOG, 0, 9) == dict(enumerate(payloads(0, end)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**30), st.integers(0, 7), st.integers(2, 40))
def test_a_flipped_bit_costs_the_record_that_it_is_in_and_is_known(tmp_path_factory, place, bit, count):
    folder = tmp_path_factory.mktemp("flip")
    written(folder, count, segment_bytes=1 << 20).shut()
    path = only_file(folder)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    segments, found = reopened(folder)
    good = segments.read(LOG, 0, count)
    assert len(good) == count - 1
    assert all(good[number] == payloads(number, number + 1)[0] for number in good)
    lost = next(number for number in range(count) if number not in good)
    known = found.damaged.get(LOG, ())
    if lost < count - 1:
        assert known == ((lost, lost + 1),)
    else:  # the last record may as well be a torn write
        assert known in (((lost, lost + 1),), ())
        assert known or found.torn_bytes


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_bytes_whatever_make_it_fail_or_invent_a_record(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("noise")
    written(folder, 20, segment_bytes=1 << 20).shut()
    path = only_file(folder)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut] + data.draw(st.binary(max_size=200)) + whole[cut:])
    segments, found = reopened(folder)
    good = segments.read(LOG, 0, 1 << 20)
    assert all(good[number] == payloads(number, number + 1)[0] for number in good)
    assert len(good) >= 18, "what is whole before and behind is found"
    assert size(found.damaged.get(LOG, ())) <= 2


def test_a_file_that_vanished_is_missed(tmp_path):
    written(tmp_path, *range(1, 60)).shut()
    paths = sorted(tmp_path.glob("*.seg"))
    spans = held(reopened(tmp_path)[1])
    paths[1].unlink()
    assert reopened(tmp_path)[1].damaged == {LOG: (spans[1],)}


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "README").write_text("hello")
    (tmp_path / "room.7.normal.5.seg").write_text("not our name")
    _, found = reopened(tmp_path)
    assert found.segments == ()
    assert len(list(tmp_path.iterdir())) == 2


# A disk that refuses --------------------------------------------------------------------------------------


def refusing(monkeypatch: pytest.MonkeyPatch, code: int, after_bytes: int) -> None:
    """``os.write`` takes so many bytes more, and then fails."""
    left, write = [after_bytes], os.write

    def half(handle: int, data) -> int:
        if left[0] <= 0:
            raise OSError(code, os.strerror(code))
        count = write(handle, bytes(data[: left[0]]))
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", half)


@pytest.mark.parametrize("room", [0, 1, 16, 20, 40, 100])
def test_a_full_disk_leaves_what_was_there_and_goes_on_afterwards(tmp_path, monkeypatch, room):
    segments = written(tmp_path, 5)
    with monkeypatch.context() as patch:
        refusing(patch, errno.ENOSPC, room)
        with pytest.raises(StoreFull, match="No space left"):
            segments.append([Lot(LOG, 5, payloads(5, 30))])
        assert segments.read(LOG, 0, 99) == dict(enumerate(payloads(0, 5)))
    segments.append([Lot(LOG, 5, payloads(5, 7))])
    segments.shut()
    segments, found = reopened(tmp_path)
    assert segments.read(LOG, 0, 99) == dict(enumerate(payloads(0, 7)))
    assert (found.damaged, found.torn_bytes) == ({}, 0)


def test_a_sync_that_fails_promises_nothing(tmp_path, monkeypatch):
    segments = written(tmp_path, 5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        with pytest.raises(StoreUnwritable, match="I/O error"):
            segments.append([Lot(LOG, 5, payloads(5, 9))])
    assert segments.read(LOG, 0, 99) == dict(enumerate(payloads(0, 5)))


def test_what_can_not_be_cut_off_is_overruled_by_the_next_file(tmp_path, monkeypatch):
    segments = written(tmp_path, 5)
    with monkeypatch.context() as patch:
        refusing(patch, errno.ENOSPC, 60)
        patch.setattr(os, "ftruncate", lambda handle, size: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        with pytest.raises(StoreFull):
            segments.append([Lot(LOG, 5, [b"never", b"promised", b"to", b"anybody"])])
    segments.append([Lot(LOG, 5, payloads(5, 7))])
    segments.shut()
    segments, found = reopened(tmp_path)
    assert segments.read(LOG, 0, 99) == dict(enumerate(payloads(0, 7)))
    assert found.damaged == {}


def test_a_folder_that_can_not_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnwritable, match="can't keep telemetry"):
        Segments(tmp_path / "file" / "folder").recover()


def filled(segments: Segments) -> int:
    """Append until the disk is full; how many records it took."""
    first = 0
    while True:
        try:
            segments.append([Lot(LOG, first, [bytes(1000)] * 7)])
        except StoreFull:
            return first
        first += 7


def test_a_disk_that_is_really_full(tmp_path):
    """A file system of its own, where the tests may mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        segments, _ = reopened(tmp_path)
        first = filled(segments)
        assert len(segments.read(LOG, 0, first + 7)) == first
        segments.discard(LOG, 0)
        segments.append([Lot(LOG, first, [bytes(1000)] * 7)])
        segments.shut()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        segments, found = reopened(tmp_path)
        assert len(found.gone) == 1
        with pytest.raises(StoreUnwritable, match="Read-only"):
            segments.append([Lot(LOG, first + 7, [b"x"])])
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


# A process that dies --------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from edge.store.segments import Lot, Segments
segments = Segments(Path(sys.argv[1]), 4000)
found = segments.recover()
first = max([one.end for one in (*found.segments, *found.gone)], default=0)
while True:
    segments.append([Lot("s.1.normal", first, [b"%d" % number * 9 for number in range(first, first + 5)])])
    first += 5
    print(first, flush=True)
    if first % 200 == 0:
        segments.forget("s.1.normal", first - 100)
"""


@pytest.mark.parametrize("times", [8, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_a_process_killed_while_it_writes_keeps_what_it_promised(tmp_path, times):
    chance, promised = random.Random(1), 0
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        deadline = time.monotonic() + chance.random() * 0.05
        while line and time.monotonic() < deadline:
            promised, line = int(line), process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        promised = max(
            [promised, *(int(one) for one in (line + process.stdout.read()).split("\n")[:-1] if one)]
        )
        process.wait()
        segments, found = reopened(tmp_path)
        spans = held(found)
        assert spans[-1][1] >= promised, "a promise was broken"
        assert found.damaged == {}
        good = segments.read("s.1.normal", spans[0][0], spans[-1][1])
        assert sorted(good) == list(range(spans[0][0], spans[-1][1]))
        assert all(good[number] == b"%d" % number * 9 for number in good)
