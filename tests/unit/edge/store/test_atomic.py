"""The storage against what happens to files: kills, torn writes, flipped bits, full and missing disks."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.store.atomic import AtomicStorage, StoreFull, StoreUnwritable

OLD = {"models": {"desired": {"value": {"version": 1}}}}
NEW = {"models": {"desired": {"value": {"version": 2}}}}


def kept(folder: Path) -> Path:
    """A store of two generations: OLD, then NEW."""
    storage = AtomicStorage(folder / "state.json")
    storage.write(OLD)
    storage.write(NEW)
    return folder / "state.json"


def child(source: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_what_was_written_is_read_by_the_next_boot(tmp_path):
    reopened = AtomicStorage(kept(tmp_path))
    assert reopened.read() == NEW
    assert reopened.damage == ()


def test_a_first_boot_is_empty_and_nothing_is_wrong_with_it(tmp_path):
    storage = AtomicStorage(tmp_path / "new" / "state.json")
    assert storage.read() is None
    assert storage.damage == ()


def test_only_the_owner_can_read_the_state(tmp_path):
    path = kept(tmp_path / "private")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_torn_at_any_byte_falls_back_to_the_previous_generation(tmp_path):
    path = kept(tmp_path)
    whole, previous = path.read_bytes(), path.with_name("state.json.1").read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        path.with_name("state.json.1").write_bytes(previous)
        storage = AtomicStorage(path)
        assert storage.read() == OLD
        (damage,) = storage.damage
        assert (damage.file, damage.used_generation) == ("state.json", 1)
        assert path.with_name("state.json.bad").read_bytes() == whole[:length]


def test_no_flipped_bit_is_ever_believed(tmp_path):
    path = kept(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            storage = AtomicStorage(path)
            assert storage.read() == OLD, f"bit {bit} of byte {place}"
            assert len(storage.damage) == 1


def test_a_fallback_is_repaired_by_the_next_write_and_never_pushes_out_the_good_generation(tmp_path):
    path = kept(tmp_path)
    path.write_bytes(b"")
    storage = AtomicStorage(path)
    storage.write(NEW)
    assert AtomicStorage(path).read() == NEW
    path.write_bytes(b"torn again")
    assert AtomicStorage(path).read() == OLD


def test_a_kill_between_the_two_renames_loses_nothing_and_is_no_damage(tmp_path):
    path = kept(tmp_path)
    os.replace(path, path.with_name("state.json.1"))
    storage = AtomicStorage(path)
    assert storage.read() == NEW
    assert storage.damage == ()
    storage.write(OLD)
    assert AtomicStorage(path).read() == OLD


def test_two_bad_generations_start_empty_and_say_so_loudly(tmp_path):
    path = kept(tmp_path)
    path.write_bytes(b"newest")
    path.with_name("state.json.1").write_bytes(b"previous")
    storage = AtomicStorage(path)
    assert storage.read() is None
    assert [(one.file, one.used_generation) for one in storage.damage] == [
        ("state.json", None),
        ("state.json.1", None),
    ]
    assert path.with_name("state.json.bad").read_bytes() == b"newest"
    storage.write(NEW)
    assert AtomicStorage(path).read() == NEW


def test_a_transaction_is_one_write_or_none(tmp_path):
    path = kept(tmp_path)
    storage = AtomicStorage(path)
    with storage.transaction():
        storage.write(OLD)
        assert storage.read() == OLD
        storage.write({"both": {}})
    assert path.read_bytes().startswith(b"shoal-state 1 3 ")


def test_a_transaction_that_raises_leaves_no_trace(tmp_path):
    path = kept(tmp_path)
    storage = AtomicStorage(path)

    def changes_its_mind() -> None:
        with storage.transaction():
            storage.write(OLD)
            raise KeyError

    with pytest.raises(KeyError):
        changes_its_mind()
    assert storage.read() == AtomicStorage(path).read() == NEW


def test_what_json_cannot_say_is_refused_before_the_disk_is_touched(tmp_path):
    path = kept(tmp_path)
    storage = AtomicStorage(path)
    for nonsense in ({"t": {"k": float("nan")}}, {"t": {"k": b"bytes"}}):
        with pytest.raises((ValueError, TypeError)):
            storage.write(nonsense)
    assert storage.read() == AtomicStorage(path).read() == NEW


# The disk refuses -----------------------------------------------------------------------------------


def test_a_full_disk_is_a_typed_error_and_the_old_state_stays(tmp_path):
    path = kept(tmp_path)
    storage = AtomicStorage(path)
    path.with_name("state.json.tmp").symlink_to("/dev/full")  # the kernel's own ENOSPC
    with pytest.raises(StoreFull, match="No space left"):
        storage.write(OLD)
    assert storage.read() == AtomicStorage(path).read() == NEW
    storage.write(OLD)  # the failed draft is gone, so there is room again
    assert AtomicStorage(path).read() == OLD


WRITE_MORE_THAN_FITS = """
import resource, sys
from edge.store.atomic import AtomicStorage, StoreFull
storage = AtomicStorage(sys.argv[1])
before = storage.read()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    storage.write({"big": {"k": "x" * 10_000}})
except StoreFull:
    assert storage.read() == before
    storage.write({"small": {}})
    sys.exit(7)
"""


def test_a_write_that_stops_in_the_middle_of_the_file_leaves_the_old_state(tmp_path):
    path = kept(tmp_path)
    process = child(WRITE_MORE_THAN_FITS, path)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 7, errors.decode()
    assert AtomicStorage(path).read() == {"small": {}}
    assert not path.with_name("state.json.tmp").exists()


def test_a_draft_that_cannot_be_made_is_a_typed_error_and_the_old_state_stays(tmp_path):
    path = kept(tmp_path)
    storage = AtomicStorage(path)
    path.with_name("state.json.tmp").mkdir()
    with pytest.raises(StoreUnwritable):
        storage.write(OLD)
    assert storage.read() == AtomicStorage(path).read() == NEW


def test_a_folder_that_nobody_can_write_is_refused_at_the_door(tmp_path):
    (tmp_path / "file").write_text("in the way of the folder")
    for path in (tmp_path / "file" / "state.json", Path("/proc/shoal/state.json")):
        with pytest.raises(StoreUnwritable, match="can't keep"):
            AtomicStorage(path)


# kill -9 --------------------------------------------------------------------------------------------

WRITE_FOR_EVER = """
import sys
from edge.store.atomic import AtomicStorage
storage = AtomicStorage(sys.argv[1])
n = (storage.read() or {"t": {"n": 0}})["t"]["n"]
while True:
    n += 1
    storage.write({"t": {"n": n, "padding": "x" * (n * 37 % 9000)}})
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""
KILLS = 30


def test_kill_9_at_any_moment_loses_at_most_the_record_nobody_was_told_of(tmp_path):
    path, moments = tmp_path / "state.json", random.Random(4)
    acknowledged = 0
    for _ in range(KILLS):
        process = child(WRITE_FOR_EVER, path)
        assert process.stdout is not None
        first = process.stdout.readline()  # it is writing now
        time.sleep(moments.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        told, errors = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL, errors.decode()
        acknowledged = max(int(line) for line in (first + told).split())
        storage = AtomicStorage(path)
        found = (storage.read() or {})["t"]
        assert found["n"] in (acknowledged, acknowledged + 1)
        assert found["padding"] == "x" * (found["n"] * 37 % 9000)
        assert storage.damage == ()
    assert acknowledged > KILLS
