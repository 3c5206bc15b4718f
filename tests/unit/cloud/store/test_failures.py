"""Storage that fails: full, read-only, torn, flipped, and processes that die between any two statements.

What was acknowledged is there, what was not is not claimed, and it goes on by itself when the cause is gone.
"""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import count

import pytest
from sqlalchemy import event

from cloud.rollout.events import NodeDesired
from cloud.rollout.rules import Rule
from cloud.store.backup import Choice, back_up
from cloud.store.database import StoreDamaged, StoreFailed
from cloud.store.store import Store
from cloud.tasks.core import Task, TaskSpec
from cloud.telemetry.ledger import exact
from cloud.telemetry.store import BatchItem, Letter, StreamKey
from shared.errors import ConfigError
from shared.messages import DesiredModel, DesiredModels
from tests.support.tmpfs import small_disk

KEY = StreamKey("berlin", 1, "s")
CHUNKS = 250


def batch(first, size=200):
    samples = b"\x91\xc4" + bytes([size]) + random.Random(first).randbytes(size)
    return BatchItem(KEY, first, 1, float(first), float(first), samples, 5.0)


def stored(store):
    """Sequences that are there, after a look that they add up."""
    chunks = store.telemetry.chunks("berlin", "s", -1.0, 1e12, limit=10**6)
    held = [number for chunk in chunks for number in range(chunk.first, chunk.end)]
    for position in store.telemetry.ledger():
        assert exact(position)
        assert position.stored == len(held) == len(set(held))
    return held


# Full -----------------------------------------------------------------------------------------------


def test_a_full_disk_takes_nothing_half_and_goes_on_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "small", 2 << 20) as disk:
        store = Store.open(f"sqlite:///{disk.folder / 'shoal.db'}")
        acknowledged = written_until_it_fails(store)
        assert acknowledged > 10
        assert stored(store) == list(range(acknowledged * 10))
        with pytest.raises(StoreFailed):
            store.telemetry.ingest([batch(acknowledged * 10 + n) for n in range(500)])
        store.close()
        again = Store.open(f"sqlite:///{disk.folder / 'shoal.db'}")
        assert stored(again) == list(range(acknowledged * 10))
        again.close()


def written_until_it_fails(store):
    """Transactions of ten that were acknowledged."""
    for acknowledged in range(10_000):
        try:
            store.telemetry.ingest([batch(acknowledged * 10 + n) for n in range(10)])
        except StoreFailed as error:
            assert "full" in str(error) or "I/O" in str(error)  # noqa: PT017
            return acknowledged
    raise AssertionError("the disk has no end")


def test_the_same_connection_works_again_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "small", 4 << 20) as disk:
        store = Store.open(f"sqlite:///{disk.folder / 'shoal.db'}")
        store.telemetry.ingest([batch(0)])
        disk.fill()
        with pytest.raises(StoreFailed, match=r"full|I/O"):
            store.telemetry.ingest([batch(n) for n in range(1, 1000)])
        assert stored(store) == [0]
        disk.clear()
        store.telemetry.ingest([batch(n) for n in range(1, 1000)])
        assert stored(store) == list(range(1000))
        store.close()


def test_a_limit_of_file_sizes_is_a_full_disk_too(tmp_path):
    """For everybody who can't mount: the kernel refuses what is beyond 400 KB."""
    source = f"""
import resource, signal, sys
sys.path.insert(0, {str(os.getcwd())!r})
from tests.unit.cloud.store.test_failures import batch, stored, Store, StoreFailed
store = Store.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
done = 0
try:
    while done < 10_000:
        store.telemetry.ingest([batch(done)])
        done += 1
except StoreFailed as error:
    assert stored(store) == list(range(done)), "what was acknowledged"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.telemetry.ingest([batch(done)])
    assert stored(store) == list(range(done + 1)), "it goes on"
    print(done)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", source, f"sqlite:///{tmp_path / 'shoal.db'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_a_backup_that_finds_no_room_leaves_no_file(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    store.telemetry.ingest([batch(n) for n in range(1000)])
    store.close()
    (tmp_path / "data").mkdir()
    with small_disk(tmp_path / "small", 64 << 10) as disk:
        url, target = f"sqlite:///{tmp_path / 'shoal.db'}", disk.folder / "monday"
        with pytest.raises(ConfigError, match=r"can't make the backup .* No space left"):
            back_up(url, tmp_path / "data", target, Choice(), lambda *_: None)
        assert list(disk.folder.iterdir()) == []


def test_a_read_only_disk_is_said_at_the_start(tmp_path):
    with small_disk(tmp_path / "small", 4 << 20) as disk:
        url = f"sqlite:///{disk.folder / 'shoal.db'}"
        Store.open(url).close()
        disk.read_only()
        with pytest.raises(ConfigError, match="can't open the cloud's store"):
            Store.open(url)


def test_a_file_that_became_read_only_is_a_typed_error(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    store.telemetry.ingest([batch(0)])
    with store._database._engine.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreFailed, match="readonly"):
        store.telemetry.ingest([batch(1)])
    assert stored(store) == [0]
    store.close()


# Damaged --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A database file with all that a flipped bit may hit, everything in it and nothing beside it."""
    path = tmp_path_factory.mktemp("whole") / "shoal.db"
    store = Store.open(f"sqlite:///{path}")
    store.telemetry.ingest([batch(n * 2) for n in range(CHUNKS)])  # with gaps: a chunk for each
    store.close()
    assert not path.with_name("shoal.db-wal").exists()
    return path


def looked_at(path):
    """Every chunk that can be read, as it was read; or the typed error."""
    store = Store.open(f"sqlite:///{path}")
    try:
        return store.telemetry.chunks("berlin", "s", -1e300, 1e300, limit=10**6)
    finally:
        store.close()


def test_a_flipped_bit_is_never_told_as_a_sample(whole, tmp_path):
    good = {chunk.first: chunk for chunk in looked_at(whole)}
    assert len(good) == CHUNKS
    data, rng, outcomes = whole.read_bytes(), random.Random(7), {"error": 0, "found": 0, "nothing": 0}
    path = tmp_path / "shoal.db"
    for _ in range(150):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            told = [chunk for chunk in looked_at(path) if chunk.samples != b"\x90"]
        except (StoreFailed, ConfigError):
            outcomes["error"] += 1
        else:
            assert all(good.get(chunk.first) == chunk for chunk in told)
            outcomes["nothing" if len(told) == CHUNKS else "found"] += 1
        for beside in tmp_path.glob("shoal.db-*"):
            beside.unlink()
    assert outcomes["found"] > 20, outcomes
    assert outcomes["error"] > 0, outcomes


def test_a_torn_file_is_a_typed_error_or_tells_what_is_true(whole, tmp_path):
    good = {chunk.first: chunk for chunk in looked_at(whole)}
    data, rng, path = whole.read_bytes(), random.Random(8), tmp_path / "shoal.db"
    refused = 0
    for cut in [1, 100, 4096, *(rng.randrange(len(data)) for _ in range(40))]:
        path.write_bytes(data[:cut])
        try:
            assert all(good.get(chunk.first) == chunk for chunk in looked_at(path))
        except (StoreFailed, ConfigError):
            refused += 1
        for beside in tmp_path.glob("shoal.db-*"):
            beside.unlink()
    assert refused > 35


def test_rows_that_nobody_wrote_are_a_typed_error(store):
    store.save_task(Task("t", TaskSpec(model="cat", inputs=b""), 1.0))
    store.save_rollout([], [], [NodeDesired("n", DesiredModels(version=1, models={}))])
    store.telemetry.ingest([batch(0)])
    with store._database.transaction() as connection:
        connection.exec_driver_sql("UPDATE tasks SET state = 'sleeping'")
        connection.exec_driver_sql("UPDATE desired SET models = '[7]'")
        connection.exec_driver_sql("UPDATE telemetry_positions SET ahead = samples FROM telemetry_chunks")
    for read in (store.tasks, store.load_rollout, store.telemetry.ledger):
        with pytest.raises(StoreDamaged, match="can't be read"):
            read()
    with pytest.raises(StoreDamaged):
        store.telemetry.ingest([batch(1)])


# Killed between any two statements ------------------------------------------------------------------


@dataclass
class Death:
    """Counts the points that a process passes, and kills it at one of them."""

    at: int
    passed: int = 0

    def point(self, *_args, **_keywords):
        self.passed += 1
        if self.passed == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, store):
        """Every begin, every statement before and after, every commit."""
        engine = store._database._engine
        for name in ("begin", "before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(engine, name, self.point)
        writes = store.telemetry._writes
        for name in ("locked", "put_positions", "add_chunks"):
            setattr(writes, name, self._surrounded(getattr(writes, name)))

    def _surrounded(self, method):
        def surrounded(*arguments):
            self.point()
            result = method(*arguments)
            self.point()
            return result

        return surrounded


def lives_until(url, at, story):
    """A child that plays the story and dies at that point: what it acknowledged, and whether it died."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store, death = Store.open(url), Death(at)
            death.watch(store)
            for number, step in enumerate(story):
                step(store)
                death.point()  # committed, and not yet said
                os.write(write_end, bytes([number]))
                death.point()
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return len(said), os.WIFSIGNALED(status)


def rule(number, version):
    return Rule(number, "cat", "all", version, version * 8, 1.0, "cli")


def orders(version):
    models = {"cat": DesiredModel(digest="ab", version=str(version))}
    return [NodeDesired(node, DesiredModels(version=version, models=models)) for node in ("a", "b", "c")]


STORY = (
    lambda store: store.save_rollout([rule(1, "1")], [], orders(1)),
    lambda store: store.telemetry.ingest([batch(0), batch(1), Letter("n", "s", "why", b"", 1.0)]),
    lambda store: store.save_rollout([rule(2, "2")], [], orders(2)),
    lambda store: store.telemetry.ingest([batch(1), batch(2), batch(3)]),
    lambda store: store.telemetry.trim("berlin", "s", 1.5, 0),
    lambda store: store.telemetry.trim_letters(0),
)


def state(store):
    """What the story leaves, step by step."""
    rules, desired = store.load_rollout()
    position = store.telemetry.ledger()
    return (
        [one.version for one in rules],
        [one.desired.version for one in desired],
        [(one.settled, one.duplicates) for one in position],
        [(chunk.first, chunk.end) for chunk in store.telemetry.chunks("berlin", "s", -1.0, 1e12)],
        len(store.telemetry.letters()),
    )


@pytest.fixture
def copies(engine_name, tmp_path, request):
    """Makes the URL of another empty store, by copying one that is migrated already."""
    if engine_name == "postgresql":
        postgres = request.getfixturevalue("postgres")
        template = postgres.new_database()
        Store.open(template).close()
        return lambda: postgres.new_database(template)
    Store.open(f"sqlite:///{tmp_path / 'template'}").close()
    numbers = count()

    def copied():
        path = tmp_path / f"copy-{next(numbers)}"
        shutil.copy(tmp_path / "template", path)
        return f"sqlite:///{path}"

    return copied


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.long)])
def test_a_process_killed_between_any_two_statements_leaves_whole_transactions(copies, every):
    """At every point: what it acknowledged is there, and at most the transaction after it, all of that."""
    clean = Store.open(copies())
    after = [state(clean)]
    for step in STORY:
        step(clean)
        after.append(state(clean))
    clean.close()
    at, died = 1, True
    while died:
        url = copies()
        acknowledged, died = lives_until(url, at, STORY)
        store = Store.open(url)
        found = state(store)
        assert found in after[acknowledged : acknowledged + 2], at
        # A repeat of what was not acknowledged leads to the same end.
        for step in STORY[acknowledged:]:
            step(store)
        end = state(store)
        assert (end[0], end[1], end[3]) == (after[-1][0], after[-1][1], after[-1][3]), at
        store.close()
        at += every
    assert acknowledged == len(STORY)
    assert at > 40
