"""Logs that lose nothing they confirmed, and the folder of the coordinator."""

import errno
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.federated import journal
from cloud.federated.events import Load, Write
from cloud.federated.executor import MODELS_KEPT, Executor
from cloud.federated.journal import Log, answer_record, read_answer
from cloud.federated.records import Answer, Entry
from shared.core import Failed
from shared.errors import ConfigError, Unreadable
from shared.learning import Phase
from tests.unit.cloud.federated.test_round import header
from tests.unit.cloud.federated.world import JOB_NAME, SERVE, World, digest_of, learner


def quiet(_: int) -> None:
    """A disk that is never cut off."""


@given(
    records=st.lists(st.binary(max_size=50), max_size=8), cut=st.integers(0, 400), flip=st.integers(0, 400)
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_torn_off_or_flipped_the_records_before_it_are_read(tmp_path_factory, records, cut, flip):
    path = tmp_path_factory.mktemp("log") / "a.log"
    log, ends = Log(path, quiet), [0]
    for one in records:
        log.append([one])
        ends.append(log.length)
    if not records:
        return
    whole = bytearray(path.read_bytes())
    at = flip % len(whole)
    whole[at] ^= 1
    path.write_bytes(whole[: max(cut % (len(whole) + 1), 0)])
    sound = sum(end <= min(at, cut % (len(whole) + 1)) for end in ends[1:])
    assert list(Log(path, quiet).payloads())[:sound] == records[:sound]
    again = Log(path, quiet)
    kept = list(again.payloads())
    again.append([b"next"])
    assert list(Log(path, quiet).payloads()) == [*kept, b"next"]


def test_a_record_is_synced_before_it_counts_and_a_failed_one_leaves_nothing(tmp_path):
    synced: list[int] = []
    log = Log(tmp_path / "a.log", synced.append)
    log.append([b"one", b"two"])
    assert len(synced) == 2, "the file once, whatever it holds, and its folder, because it is new"
    log.append([b"three"])
    assert len(synced) == 3

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    log._sync = full
    with pytest.raises(OSError, match="No space left"):
        log.append([b"four"])
    log._sync = quiet
    log.append([b"five"])
    assert list(Log(tmp_path / "a.log", quiet).payloads()) == [b"one", b"two", b"three", b"five"]


def test_more_records_than_one_call_takes_are_one_append(tmp_path, monkeypatch):
    log, records = Log(tmp_path / "a.log", quiet), [str(number).encode() for number in range(2500)]
    log.append(records)
    assert list(log.payloads()) == records
    calls: list[int] = []

    def breaks_off(descriptor: int, pieces: list[bytes], offset: int) -> int:
        calls.append(offset)
        return sum(map(len, pieces)) if len(calls) == 1 else 0

    monkeypatch.setattr(os, "pwritev", breaks_off)
    with pytest.raises(OSError, match="only 0 of"):
        log.append(records)
    monkeypatch.undo()
    assert list(Log(tmp_path / "a.log", quiet).payloads()) == records, "none of them counts"


def test_a_log_is_rewritten_whole_or_not_at_all(tmp_path):
    log = Log(tmp_path / "a.log", quiet)
    log.append([b"x" * 1000, b"y"])
    log.rewrite([b"y"])
    log.append([b"z"])
    assert list(Log(tmp_path / "a.log", quiet).payloads()) == [b"y", b"z"]
    assert not (tmp_path / "a.tmp").exists()


def test_an_answer_comes_back_with_its_bytes_and_nonsense_is_refused():
    answer = Answer(client="a", asked=5, header=header(), norm=1.5, seconds=2.0)
    assert read_answer(answer_record(answer, b"bytes")) == (answer, b"bytes")
    for nonsense in (b"", b"\xff\xff\xff\xff", b"\x01\0\0\0\xc1rest"):
        with pytest.raises(Unreadable):
            read_answer(nonsense)


# The folder ---------------------------------------------------------------------------------------------


def test_two_clouds_can_not_have_the_same_folder(tmp_path):
    world = World(tmp_path)
    other = Executor(tmp_path, world.shelf, lambda one: one, lambda: 0.0)
    with pytest.raises(ConfigError, match="in use by another cloud"):
        other.open()
    world.executor.close()
    other.open()
    other.close()


def test_a_folder_that_was_given_back_is_not_touched_any_more(tmp_path):
    world = World(tmp_path)
    world.create()
    world.send("a", work=False)
    world.executor.close()
    (answer,) = world.executor.perform(list(world.works))
    assert isinstance(answer, Failed)
    assert not list((tmp_path / "jobs" / JOB_NAME).glob("1-train-0.log"))


def test_a_job_that_was_being_made_when_the_process_ended_is_cleared_away(tmp_path):
    world = World(tmp_path)
    world.create()
    (tmp_path / "jobs" / JOB_NAME / "job.log").unlink()
    world.crash()
    assert not world.core.jobs
    assert not list((tmp_path / "jobs").iterdir())
    assert not list(world.executor.artifacts.iterdir())
    world.executor.close()


def test_a_job_that_can_not_be_read_is_left_as_it_is_and_the_others_go_on(tmp_path):
    world = World(tmp_path)
    world.create()
    world.feed_learners(learner(room=2))
    world.create(job="other")
    log = Log(tmp_path / "jobs" / JOB_NAME / "job.log", quiet)
    log.rewrite([b"\xc1 this is no entry"])
    before = log.path.read_bytes()
    world.crash()
    assert set(world.core.jobs) == {"other"}
    assert any("job digits can't be read" in said for said in world.ignored)
    assert log.path.read_bytes() == before
    assert (tmp_path / "jobs" / JOB_NAME / "version-0.state").exists()
    world.executor.close()


def test_an_artifact_that_a_power_cut_took_is_made_again(tmp_path):
    world = World(tmp_path)
    world.create()
    world.everybody()
    ref = world.state().version.ref
    for path in world.executor.artifacts.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    world.crash()
    again = world.state().version.ref
    assert (again.check, again.snapshot) == (ref.check, ref.snapshot)
    assert again.delta == "", "the way by the snapshot is left"
    assert world.vector().tobytes() == world.downloaded(ref.snapshot).tobytes()
    world.run()
    assert world.state().closed
    world.executor.close()


@pytest.mark.parametrize("strategy", ["fedavg", "fedyogi", "median", "fedbuff"])
def test_a_version_that_a_power_cut_took_is_made_again_to_the_bit(tmp_path, strategy):
    world, plain = World(tmp_path / "cut"), World(tmp_path / "plain")
    for one in (world, plain):
        one.create(strategy=strategy, rounds=4)
        one.everybody()
        one.everybody()
    ref, file = world.state().version.ref, world.folder / "jobs" / JOB_NAME / "version-2.state"
    file.write_bytes(file.read_bytes()[:30])
    world.crash()
    assert world.state().version.ref == ref
    for one in (world, plain):
        one.run()
        one.executor.close()
    assert world.state().version.ref.check == plain.state().version.ref.check


def test_a_version_is_synced_before_the_one_it_was_made_from_goes(tmp_path):
    synced: list[str] = []
    world = World(tmp_path)
    world.executor.sync = lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    world.create(rounds=3)
    for number in (1, 2, 3):
        synced.clear()
        world.everybody()
        assert f"{tmp_path}/jobs/{JOB_NAME}/version-{number}.tmp" in synced
        kept = sorted(path.name for path in (tmp_path / "jobs" / JOB_NAME).glob("version-*"))
        assert kept == [f"version-{number - 1}.state", f"version-{number}.state"]
    world.executor.close()


def test_a_version_makes_room_in_memory_by_way_of_the_disk(tmp_path, monkeypatch):
    endings = set()
    for kept in (0, MODELS_KEPT):
        monkeypatch.setattr("cloud.federated.executor.MODELS_KEPT", kept)
        world = World(tmp_path / f"{kept}")
        world.create(serve=digest_of(SERVE), rounds=3)
        world.run()
        assert not world.executor.unsaved
        world.executor.close()
        endings.add(world.state().version.ref.check)
    assert len(endings) == 1


def test_a_version_that_the_disk_refused_is_written_before_the_next_one_is_made(tmp_path):
    world = World(tmp_path)
    world.create(rounds=3)
    folder = tmp_path / "jobs" / JOB_NAME

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("version-1.tmp"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    world.executor.sync = full
    world.everybody()
    assert world.executor.unsaved
    assert not (folder / "version-1.state").exists()
    world.executor.sync = lambda _: None
    world.everybody()
    assert {path.name for path in folder.glob("*.state")} == {"version-1.state", "version-2.state"}
    world.executor.close()


def test_a_version_that_can_not_be_made_again_is_said_to_be_gone(tmp_path):
    world = World(tmp_path)
    world.create()
    (tmp_path / "jobs" / JOB_NAME / "version-0.state").unlink()
    world.crash()
    assert not world.core.jobs
    assert any("version 0 is gone" in said for said in world.ignored)
    world.executor.close()


def test_a_long_journal_is_rewritten_and_says_the_same(tmp_path, monkeypatch):
    def lived(name: str) -> World:
        world = World(tmp_path / name)
        world.create(rounds=12, evaluate_every=3, serve=digest_of(SERVE))
        world.run()
        world.crash()
        world.executor.close()
        return world

    plain = lived("plain")
    monkeypatch.setattr("cloud.federated.disk.REWRITE_BYTES", 2000)
    short = lived("short")
    sizes = [(w.folder / "jobs" / JOB_NAME / "job.log").stat().st_size for w in (plain, short)]
    assert sizes[1] < sizes[0] / 2
    assert short.state() == plain.state()
    assert [v.row.round for v in short.core.jobs[JOB_NAME].views] == list(range(1, 13))


def test_a_disk_that_refuses_is_an_answer_and_not_a_crash(tmp_path):
    world = World(tmp_path)
    world.create()
    os.rename(tmp_path / "jobs", tmp_path / "gone")
    entry = Entry(state=msgspec.structs.replace(world.state(), phase=Phase.ERROR))
    (answer,) = world.executor.perform([Write("nobody", entry)])
    assert isinstance(answer, Failed)
    assert answer.reason == "the disk refuses: No such file or directory"
    (loaded,) = world.executor.perform([Load()])
    assert loaded.jobs == ()
    world.executor.close()


def test_a_whole_file_replaces_the_one_before_or_leaves_it(tmp_path):
    path = tmp_path / "state"
    journal.write_whole(path, b"one", quiet)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        journal.write_whole(path, b"two", full)
    assert path.read_bytes() == b"one"
    assert Path(path).parent.exists()
