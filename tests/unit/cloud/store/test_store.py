"""What the cloud keeps, on a real SQLite file and in a real PostgreSQL."""

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import psycopg
import pytest

from cloud.artifacts.entry import Entry
from cloud.rollout.events import NodeDesired
from cloud.rollout.rules import Rule
from cloud.store.database import StoreFailed
from cloud.store.store import Store
from cloud.tasks.core import Task, TaskSpec, TaskState
from shared.messages import Birth, Capabilities, DesiredModel, DesiredModels, Manifest
from shared.package import ModuleKind, PackageInfo

CAT = Entry(
    manifest=Manifest(
        digest="ab" * 32,
        name="cat",
        version="1",
        kind=ModuleKind.WASI,
        size_bytes=1 << 33,
        chunk_bytes=96 * 1024,
        chunk_digests=bytes(range(256)),
        signature=b"\x00\xff" * 32,
    ),
    info=PackageInfo(name="cat", operators={"conv": 3}),
    created_at_unix_s=1_700_000_000.5,
)
BERLIN = Birth(
    epoch=1_700_000_000,
    agent_version="0.1",
    address="10.0.0.1",
    labels={"region": "eu"},
    capabilities=Capabilities(cores=4, memory_bytes=1 << 30),
)
ALL = Rule(1, "cat", "all", "1", "ab" * 32, 1_700_000_000.5, "cli-1")
SITE = Rule(2, "cat", "site=a", "2", "cd" * 32, 1_700_000_001.5, "cli-2")


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'cloud' / 'cloud.sqlite'}"


@pytest.fixture
def sqlite_store(sqlite_url):
    store = Store.open(sqlite_url)
    yield store
    store.close()


def orders(node: str, version: int) -> NodeDesired:
    models = {"cat": DesiredModel(digest="ab" * 32, version="1")}
    return NodeDesired(node, DesiredModels(version=version, models=models))


def test_everything_is_there_after_a_restart(store, url):
    store.save_entry(CAT)
    store.save_birth("berlin", BERLIN, 1.0)
    store.save_rollout([ALL, SITE], [], [orders("berlin", 3), orders("amsterdam", 2**53)])
    term = store.next_term(0.0)
    store.close()
    again = Store.open(url)
    assert again.load_catalog() == (CAT,)
    assert again.load_births() == {"berlin": BERLIN}
    assert again.load_rollout() == ((ALL, SITE), (orders("amsterdam", 2**53), orders("berlin", 3)))
    assert again.next_term(0.0) == term + 1
    again.close()


def test_terms_only_grow_even_when_the_clock_jumps_back_or_the_store_was_lost(store):
    assert [store.next_term(unix_s) for unix_s in (100.9, 100.9, 0.0, 200.0, 50.0)] == [
        100,
        101,
        102,
        200,
        201,
    ]


def test_a_rule_is_replaced_by_its_model_and_target_and_withdrawn_by_them(store):
    store.save_rollout([ALL, SITE], [], [])
    newer = replace(ALL, number=3, version="3")
    store.save_rollout([newer], [SITE.key, ("dog", "never was")], [])
    assert store.load_rollout() == ((newer,), ())


def test_the_same_save_twice_is_the_same_as_once(store):
    for _ in range(2):
        store.save_rollout([ALL, SITE], [("dog", "all")], [orders("berlin", 3)])
        store.save_entry(CAT)
    assert store.load_rollout() == ((ALL, SITE), (orders("berlin", 3),))
    assert store.load_catalog() == (CAT,)


def test_a_node_keeps_the_day_it_was_first_seen_and_its_newest_birth(store):
    store.save_birth("berlin", BERLIN, 1.0)
    newer = msgspec.structs.replace(BERLIN, epoch=BERLIN.epoch + 1, labels={})
    store.save_birth("berlin", newer, 9.0)
    assert store.load_births() == {"berlin": newer}
    with store._database._engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT first_seen_unix_s FROM nodes").scalar() == 1.0


def test_a_transaction_that_breaks_leaves_nothing_behind(store):
    store.save_rollout([ALL], [], [orders("berlin", 1)])
    twice = [SITE, replace(ALL, number=SITE.number)]
    with pytest.raises(StoreFailed, match=r"(?i)unique"):
        store.save_rollout(twice, [ALL.key], [orders("berlin", 2), orders("oslo", 1)])
    assert store.load_rollout() == ((ALL,), (orders("berlin", 1),))


def test_threads_share_a_store(store):
    terms: list[int] = []
    threads = [
        threading.Thread(target=lambda: terms.extend(store.next_term(0.0) for _ in range(5)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(terms) == list(range(1, 41))


def test_two_processes_of_one_store_see_each_others_rows(store, url):
    other = Store.open(url)
    store.save_birth("berlin", BERLIN, 1.0)
    assert other.load_births() == {"berlin": BERLIN}
    assert other.next_term(0.0) == 1
    assert store.next_term(0.0) == 2
    other.close()


def test_a_commit_means_on_the_disk(sqlite_store):
    pragmas = {}
    with sqlite_store._database._engine.begin() as connection:
        for name in ("journal_mode", "synchronous", "foreign_keys"):
            pragmas[name] = connection.exec_driver_sql(f"PRAGMA {name}").scalar()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_commit_means_on_the_disk_also_where_the_server_would_rather_not(postgres):
    url = postgres.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    store = Store.open(url)
    with store._database._engine.begin() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    store.close()


def test_a_text_may_hold_any_character_but_nul_becomes_another(store):
    task = Task("t-1", TaskSpec(model="cat", inputs=b"\x00"), 2.0, detail="a\0b 🐟")
    store.save_task(task)
    assert store.tasks() == [replace(task, detail="a\ufffdb 🐟")]
    named = DesiredModels(version=1, models={"cat": DesiredModel(digest="ab", version="\0 🐟")})
    store.save_rollout([], [], [NodeDesired("berlin", named)])
    assert store.load_rollout()[1] == (NodeDesired("berlin", named),)


def test_a_number_beyond_64_bits_is_a_typed_error(store):
    with pytest.raises(StoreFailed):
        store.save_birth("berlin", msgspec.structs.replace(BERLIN, epoch=2**64 - 1), 1.0)
    assert store.load_births() == {}


def test_a_full_disk_is_a_typed_error_and_what_was_stored_stays(sqlite_store):
    store = sqlite_store
    store.save_birth("berlin", BERLIN, 1.0)
    with store._database._engine.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    store._database._engine.dispose()
    store._database._engine.pool.connect().driver_connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFailed, match="full"):
        store.save_entry(
            msgspec.structs.replace(CAT, info=PackageInfo(name="cat", description="x" * 100_000))
        )
    assert store.load_births() == {"berlin": BERLIN}
    assert store.load_catalog() == ()


def test_a_locked_store_is_a_typed_error(sqlite_store, tmp_path):
    store = sqlite_store
    with store._database._engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 1")
    blocker = sqlite3.connect(tmp_path / "cloud" / "cloud.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed, match="locked"):
        store.save_entry(CAT)
    blocker.execute("ROLLBACK")
    store.save_entry(CAT)
    assert store.load_catalog() == (CAT,)


def test_tasks_are_kept_replaced_and_forgotten(store):
    task = Task("t-1", TaskSpec(model="cat", inputs=b"\x00\xff", idempotent=False), 2.0)
    older = Task("t-2", TaskSpec(model="dog", inputs=b""), 1.0)
    done = replace(
        task, state=TaskState.DONE, attempts=2, node="n1", outputs=b"\x93\x00", code="c", detail="d"
    )
    for one in (task, older, done):
        store.save_task(one)
    assert store.tasks() == [older, done]
    assert type(store.tasks()[0].state) is TaskState
    store.forget_task("t-1")
    store.forget_task("t-1")
    assert store.tasks() == [older]


def test_the_catalog_is_read_oldest_first(store):
    for age in (2.0, 3.0, 1.0):
        manifest = msgspec.structs.replace(CAT.manifest, digest=f"{age}")
        store.save_entry(Entry(manifest=manifest, info=CAT.info, created_at_unix_s=age))
    assert [entry.created_at_unix_s for entry in store.load_catalog()] == [1.0, 2.0, 3.0]


# kill -9 --------------------------------------------------------------------------------------------

WRITE_FOR_EVER = """
import sys
from cloud.rollout.events import NodeDesired
from cloud.store.store import Store
from shared.messages import Birth, Capabilities, DesiredModels
store = Store.open(sys.argv[1])
n = len(store.load_rollout()[1])
while True:
    n += 1
    able = Capabilities(cores=1, memory_bytes=1)
    store.save_birth(f"n{n}", Birth(epoch=n, agent_version="1", capabilities=able), n)
    store.save_rollout([], [], [NodeDesired(f"n{n}", DesiredModels(version=n, models={}))])
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


def test_kill_9_at_any_moment_keeps_every_row_that_was_acknowledged(url):
    moments = random.Random(4)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, url], stdout=subprocess.PIPE)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        told, _ = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        acknowledged = max(int(line) for line in (first + told).split())
        store = Store.open(url)
        nodes, (_, desired) = store.load_births(), store.load_rollout()
        store.close()
        assert {birth.epoch for birth in nodes.values()} >= set(range(1, acknowledged + 1))
        assert {one.desired.version for one in desired} >= set(range(1, acknowledged + 1))
        assert len(desired) <= len(nodes) <= acknowledged + 1


def test_the_folder_is_private(sqlite_store, tmp_path):
    assert Path(tmp_path / "cloud").stat().st_mode & 0o077 == 0
