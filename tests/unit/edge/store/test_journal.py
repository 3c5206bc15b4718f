"""A snapshot and the changes since: what was promised is there after any cut, flip, full disk or crash."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from edge.store.atomic import StoreFull, StoreUnwritable
from edge.store.journal import StateJournal


def opened(folder: Path) -> tuple[StateJournal, list[bytes]]:
    journal = StateJournal(folder, "state")
    found = journal.recover()
    return journal, [*([found.snapshot] if found.snapshot is not None else []), *found.changes]


def log_of(folder: Path) -> Path:
    (path,) = folder.glob("*.log")
    return path


def test_what_was_appended_is_there_after_a_restart(tmp_path):
    journal, found = opened(tmp_path / "new")
    assert found == []
    for number in range(10):
        journal.append(b"%d" % number)
    journal.close()
    journal, found = opened(tmp_path / "new")
    assert found == [b"%d" % number for number in range(10)]
    journal.replace(b"all of it")
    journal.append(b"more")
    journal.close()
    assert opened(tmp_path / "new")[1] == [b"all of it", b"more"]
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_two_hundred_cuts_leave_a_prefix_with_everything_that_was_promised(tmp_path):
    chance = Random(1)
    journal, _ = opened(tmp_path / "a")
    payloads = [chance.randbytes(chance.randrange(1, 80)) for _ in range(50)]
    ends = []
    for payload in payloads:
        journal.append(payload)
        ends.append(journal.log_bytes)
    journal.close()
    whole = log_of(tmp_path / "a").read_bytes()
    name = log_of(tmp_path / "a").name
    for number in range(200):
        cut = chance.randrange(len(whole) + 1)
        folder = tmp_path / f"cut{number}"
        folder.mkdir()
        (folder / name).write_bytes(whole[:cut])
        promised = sum(end <= cut for end in ends)
        again, found = opened(folder)
        assert found == payloads[:promised]
        again.append(b"after")
        again.close()
        assert opened(folder)[1] == [*payloads[:promised], b"after"]


def test_a_flipped_bit_costs_its_record_and_is_reported(tmp_path):
    chance = Random(2)
    for _ in range(50):
        folder = tmp_path / str(_)
        journal, _found = opened(folder)
        payloads = [chance.randbytes(20) for _ in range(10)]
        for payload in payloads:
            journal.append(payload)
        journal.close()
        data = bytearray(log_of(folder).read_bytes())
        at = chance.randrange(len(data) - 28)  # not in the last record: that would be a torn end
        data[at] ^= 1 << chance.randrange(8)
        log_of(folder).write_bytes(data)
        recovered = StateJournal(folder, "state").recover()
        lost = payloads[at // 28]
        assert list(recovered.changes) == [one for one in payloads if one is not lost]
        assert recovered.damaged == 1


def test_a_crash_around_a_new_snapshot_leaves_the_newest_that_is_whole(tmp_path):
    journal, _ = opened(tmp_path)
    journal.append(b"one")
    journal.replace(b"first")
    journal.append(b"two")
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    journal.replace(b"second")
    journal.close()
    for name, data in old.items():  # as if the old files were not removed, and the new one is torn
        (tmp_path / name).write_bytes(data)
    newest = sorted(tmp_path.glob("*.snap"))[-1]
    good = newest.read_bytes()
    newest.write_bytes(good[:-3])
    again = StateJournal(tmp_path, "state")
    found = again.recover()
    again.close()
    assert (found.snapshot, found.changes, found.damaged) == (b"first", (b"two",), 1)
    newest.write_bytes(good)
    assert opened(tmp_path)[1] == [b"second"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StoreFull), (errno.EROFS, StoreUnwritable), (errno.EIO, StoreUnwritable)],
)
@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_disk_that_refuses_is_typed_and_costs_nothing_of_before_or_after(
    tmp_path, monkeypatch, number, kind, call
):
    journal, _ = opened(tmp_path)
    journal.append(b"before")

    def refuse(*_: object) -> int:
        raise OSError(number, "no")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, refuse)
        with pytest.raises(kind):
            journal.append(b"lost")
    journal.append(b"after")
    journal.close()
    assert opened(tmp_path)[1] == [b"before", b"after"]


def test_half_a_record_on_a_full_disk_does_not_hide_what_comes_after(tmp_path, monkeypatch):
    journal, _ = opened(tmp_path)
    write = os.write

    def half(handle: int, data: memoryview) -> int:
        if len(data) < 30:
            raise OSError(errno.ENOSPC, "full")
        return write(handle, data[: len(data) // 2])

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        with pytest.raises(StoreFull):
            journal.append(b"x" * 100)
    journal.append(b"after")
    journal.close()
    assert opened(tmp_path)[1] == [b"after"]


def test_a_folder_that_can_not_be_made_is_typed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnwritable):
        StateJournal(tmp_path / "file" / "sub", "state").recover()


WRITER = """
import sys
from pathlib import Path
from edge.store.journal import StateJournal
journal = StateJournal(Path(sys.argv[1]), "state")
found = journal.recover()
number = int((found.changes or [found.snapshot or b"0"])[-1])
while True:
    number += 1
    if number % 7:
        journal.append(b"%d" % number)
    else:
        journal.replace(b"%d" % number)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.long)])
def test_a_process_killed_while_it_writes_has_kept_all_that_it_said(tmp_path, kills):
    chance = Random(3)
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 40)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.stdout.read().split() if line.isdigit()]
        process.wait()
        journal, found = opened(tmp_path)
        journal.close()
        numbers = [int(one) for one in found]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert not said or numbers[-1] in (said[-1], said[-1] + 1)
