"""Replicated keys in both databases: saved together, restored as they were, fenced by the term."""

import threading

import pytest

from cloud.store.store import Store
from cloud.sync.events import Fenced, Restored, Save, Saved
from cloud.sync.records import NodeMemory, Record, Sharing, SyncKind, SyncTask, TaskStatus
from shared.sync import ConsistencyLevel, SyncStrategy
from shared.versions import Entry, fields_in, written


def record(name: str, value: object, *targets: str) -> Record:
    entry = written(Entry(name), ("@", 5, 1), 1 << 60, fields_in(value))
    return Record(entry, Sharing(targets, 7, b"tag"))


def task(task_id: str, status: TaskStatus = TaskStatus.SYNCING) -> SyncTask:
    return SyncTask(
        task_id=task_id,
        sync_type=SyncStrategy.HYBRID,
        level=ConsistencyLevel.STRONG,
        kind=SyncKind.DATA,
        key="k",
        source="app",
        targets=("n1", "n2"),
        status=status,
        acked=("n1",),
        refused={"n2": "no"},
    )


def test_everything_of_a_save_is_there_after_a_restart_and_nothing_that_was_forgotten(store, url):
    term = store.next_term(5.0)
    assert store.sync.load_sync() == Restored()
    one, two = record("a", {"x": 1, "y": b"\0"}, "n1"), record("b/c", None)
    nodes = {"n1": NodeMemory(3, 9, (11, 12), 2)}
    save = Save(term, (one, two), (), (task("t1"), task("t2")), (), nodes, 4)
    assert store.sync.save_sync(save) == Saved()
    assert store.sync.save_sync(save) == Saved()  # a save that nobody heard of is done again
    changed = record("a", [1], "n1", "n2")
    assert store.sync.save_sync(Save(term, (changed,), ("b/c",), (), ("t2",), {}, 5)) == Saved()
    store.close()
    again = Store.open(url)
    assert again.sync.load_sync() == Restored((changed,), (task("t1"),), nodes, 5)
    again.close()


def test_a_save_of_an_older_term_writes_nothing_and_says_whose_the_store_is(store):
    old = store.next_term(5.0)
    store.sync.save_sync(Save(old, (record("a", 1),)))
    new = store.next_term(5.0)
    assert store.sync.save_sync(Save(old, (record("a", 2), record("b", 2)))) == Fenced(new)
    assert store.sync.save_sync(Save(old)) == Fenced(new), "a read is fenced too"
    assert store.sync.load_sync().records == (record("a", 1),)
    assert store.sync.save_sync(Save(new)) == Saved()


def test_a_new_term_waits_for_a_save_or_fences_it_but_never_both(store):
    """One comes first: what was told Saved is in what the new term loads."""
    term = store.next_term(5.0)
    told: list[object] = []
    begun = threading.Event()

    def save_on_and_on() -> None:
        for number in range(200):
            told.append(store.sync.save_sync(Save(term, (record(f"k{number:03d}", number),))))
            begun.set()
            if isinstance(told[-1], Fenced):
                return

    thread = threading.Thread(target=save_on_and_on)
    thread.start()
    begun.wait(10.0)
    store.next_term(5.0)
    loaded = store.sync.load_sync()
    thread.join(30.0)
    saved = sum(isinstance(one, Saved) for one in told)
    assert [one.entry.name for one in loaded.records] == [f"k{number:03d}" for number in range(saved)]


@pytest.mark.parametrize("name", ["a", "room/0001/state", "desired/n1/rate", "z" * 200])
def test_keys_of_any_form_are_kept(store, name):
    term = store.next_term(5.0)
    store.sync.save_sync(Save(term, (record(name, "ä\0"),)))
    assert store.sync.load_sync().records == (record(name, "ä\0"),)
